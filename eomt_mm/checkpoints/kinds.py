"""What a file is that was given as a checkpoint but is none: from its first bytes, nothing is decoded."""

import zipfile
from pathlib import Path

from eomt_mm.fileio import foreign_files
from eomt_mm.fileio.foreign_files import NUM_BYTES

ZIP_START = b'PK\3\4'
PICKLE_START = b'\x80'  # protocol 2 and later
TAR_PLACE, TAR_NAME = 257, b'ustar'  # POSIX.1-1988, the header's magic
# First bytes of formats that lie around where weights are expected, and what to do with them.
SIGNATURES = {
    b"7z\xbc\xaf'\x1c": 'is a 7z archive: unpack it and give the file of weights in it',
    b'Rar!': 'is a rar archive: unpack it and give the file of weights in it',
    b'\x89HDF': 'is an HDF5 file, as of Keras: weights of PyTorch are needed',
    b'GGUF': 'is a GGUF file: weights of PyTorch are needed',
    b'\x93NUMPY': 'is a numpy array: weights of PyTorch are needed',
    b'\x89PNG': 'is a PNG image: a file of weights is needed',
    b'\xff\xd8\xff': 'is a JPEG image: a file of weights is needed',
    b'%PDF': 'is a PDF document: a file of weights is needed',
    b'\x7fELF': 'is a program: a file of weights is needed',
}
SHOWN = 60  # characters of a text


def foreign_kind(path: Path) -> str | None:
    """Describe what a file is, and the fix, as a predicate to its name; None if it is of no kind that is known here."""
    if not path.is_file():
        return 'is not a regular file: give a file of weights'
    start = first_bytes(path)
    if kind := foreign_files.foreign_kind(start):
        return kind
    if start[TAR_PLACE : TAR_PLACE + len(TAR_NAME)] == TAR_NAME:
        return (
            'is a tar archive: unpack it and give the file of weights in it; files of torch before 0.1.10 are tar '
            'archives, too: save their state_dict again'
        )
    return next((kind for signature, kind in SIGNATURES.items() if start.startswith(signature)), None)


def text_kind(path: Path) -> str | None:
    """The same for text, such as the message of a server in place of a file."""
    start = first_bytes(path)
    try:
        text = start.decode('utf-8', 'strict' if len(start) < NUM_BYTES else 'ignore')
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    kind = 'JSON' if text.lstrip().startswith(('{', '[')) else 'text'
    shown = ' '.join(text.split())[:SHOWN]
    return f'is {kind}, not a file of weights; it begins with {shown!r}. Download it again, from the link to the file'


def archive_kind(path: Path) -> str | None:
    """The same for zip archives of other programs; None for archives of torch, damaged ones, and other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return None
    if any(name.endswith('constants.pkl') for name in names):
        return 'is a TorchScript program: load it with torch.jit.load, and save its state_dict with torch.save'
    if not names or any(name.lower().endswith('data.pkl') for name in names):
        return None
    shown = ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')
    return f'is a zip archive of other files ({shown}): unpack it and give the file of weights in it'


def is_safetensors(path: Path) -> bool:
    """Whether a file has the layout of safetensors: the length of a header in JSON, then the header."""
    start = first_bytes(path)
    return start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < path.stat().st_size


def first_bytes(path: Path) -> bytes:
    """The bytes of a file by which its kind is recognised."""
    with path.open('rb') as file:
        return file.read(NUM_BYTES)
