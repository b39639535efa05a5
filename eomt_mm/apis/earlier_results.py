"""Recognise files that earlier calls wrote, so that they are not read as inputs of a folder.

Pictures and videos carry a mark that decoders skip: a text chunk of PNG (https://www.w3.org/TR/png-3, 11.3.3.3) and a
free box at the end of an MP4 (ISO/IEC 14496-12, 8.1.2). Result files are recognised by their folders' names.
"""

import struct
import zlib
from pathlib import Path

from eomt_mm.fileio.image_headers import PNG_SIGNATURE
from eomt_mm.options import PICTURES, PREDICTIONS, TASKS

HEADER_END = len(PNG_SIGNATURE) + 25  # of the chunk IHDR, which is the first
_TEXT = b'tEXtSoftware\0eomt_mm'
PNG_MARK = struct.pack('>I', len(_TEXT) - 4) + _TEXT + struct.pack('>I', zlib.crc32(_TEXT))
MP4_MARK = struct.pack('>I', 15) + b'freeeomt_mm'
RESULTS = tuple(f'{task}_results' for task in TASKS)


def marked_png(content: bytes) -> bytes:
    """A PNG file with the mark."""
    return content[:HEADER_END] + PNG_MARK + content[HEADER_END:]


def mark_mp4(path: Path) -> None:
    """Add the mark to an MP4 file."""
    with open(path, 'ab') as file:
        file.write(MP4_MARK)


def is_earlier_result(file: Path, base: Path) -> bool:
    """Whether an earlier call wrote a file, as its mark and its folders below ``base`` show."""
    parents = [parent for parent in file.parents if parent.is_relative_to(base) and parent != base]
    maps = [parent for parent in parents if parent.name in RESULTS and parent.parent in parents]
    pictures = [parent for parent in parents if parent.name == PICTURES]
    return (
        any(parent.parent.name == PREDICTIONS for parent in maps)
        or (file.suffix == '.json' and file.parent in parents and file.parent.name == PREDICTIONS)
        or any(_has_results(parent.with_name(PREDICTIONS)) for parent in pictures)
        or (bool(pictures) and _is_marked(file))
    )


def _has_results(folder: Path) -> bool:
    return any((folder / name).is_dir() or (folder / f'{name}.json').is_file() for name in RESULTS)


def _is_marked(path: Path) -> bool:
    try:
        with open(path, 'rb') as file:
            start = file.read(HEADER_END + len(PNG_MARK))
            file.seek(-min(len(MP4_MARK), file.seek(0, 2)), 2)
            return start.endswith(PNG_MARK) or file.read() == MP4_MARK
    except OSError:
        return False  # reading it as an image will say why
