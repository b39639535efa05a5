"""The one reader of files of ``torch.save``: nothing in them is executed, and no damage passes. No host.

torch writes a zip archive with a checksum for each member, and does not compare them when it reads. Its older format
has none.
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

ZIP_START = b'PK\3\4'
ENCRYPTED = 0x1  # flag bit 0: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.4.4
MAX_NAME = 120  # characters of a tensor's name in a message
MAX_DEPTH = 64  # of containers in containers; training checkpoints have about 8
# What weights, counters and optimiser states consist of.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = {*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
HTML = re.compile(rb'\s*<(!doctype|html|head|\?xml)', re.IGNORECASE)
# The one allowed class that takes any size as its argument, and memory for it.
BYTEARRAY = re.compile(rb'(__builtin__|builtins)\nbytearray\n')
GLOBAL = re.compile(r'(?:GLOBAL|global|function) (\S+)')


def read_torch(path: str | Path, mmap: bool = False) -> Any:
    """Reads a file of ``torch.save`` onto the CPU, with ``weights_only`` on every version of torch.

    Args:
        path: of the file. Of a zip archive every checksum is compared, so the whole file is read.
        mmap: map weights into memory instead of copying them; of no effect on files of the older format.

    Returns:
        what was saved: tensors, plain values, containers of them, and what ``add_safe_globals`` allows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: in one line: the file is damaged, of another kind, would execute code, contains itself, or holds a
            tensor that weights cannot be.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    fault = file_fault(path)
    if fault:
        raise ValueError(f'{path} {fault}')
    is_zip = _start(path, 4) == ZIP_START
    if BYTEARRAY.search(_pickle_of(path, is_zip)):
        raise ValueError(f'{path} is no file of weights: it holds a bytearray, which a few bytes make of any size')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        raise ValueError(_reason(path, error)) from error
    _Walk(path).check(content, '', 0)
    return content


def file_fault(path: Path) -> str | None:
    """Why a file can be none of weights, and the fix, in words that follow its name; None where it may be.

    Nothing is unpickled. Files of safetensors pass where they have that name.
    """
    if not path.is_file():
        return 'is no regular file: give a file of weights'
    start = _start(path, 512)
    if not start:
        return 'is no file of weights: it is empty. Download or copy it again'
    if start.startswith(b'version https://git-lfs'):
        return 'is a pointer of Git LFS, not the file itself: run `git lfs pull`'
    if HTML.match(start):
        return 'is a web page: the download led to a page of the site, take the link to the file itself'
    if start.startswith(b'\x1f\x8b'):
        return 'is compressed by gzip: unpack it with gunzip'
    if path.suffix == '.safetensors':
        return None
    if start[8:9] == b'{' and int.from_bytes(start[:8], 'little') < path.stat().st_size:
        return 'is a file of safetensors: give it a name that ends in .safetensors'
    fault = zip_damage(path) if start.startswith(ZIP_START) or zipfile.is_zipfile(path) else None
    return f'is no file of weights that torch reads: it {fault}. Download or copy it again' if fault else None


def zip_damage(path: str | Path | BinaryIO) -> str | None:
    """What is wrong with an archive of ``torch.save``, in words that follow its name; None where nothing is.

    Args:
        path: of the file, or an open one.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _layout_fault(archive) or _checksum_fault(archive)
    except (zipfile.BadZipFile, EOFError) as error:
        return f'is cut short or damaged ({error})'
    except (NotImplementedError, RuntimeError, ValueError, zlib.error) as error:  # flipped flags, methods, offsets
        return f'is damaged ({error})'


def _layout_fault(archive: zipfile.ZipFile) -> str | None:
    """torch stores its members one after the other, uncompressed and under different names; nothing else is needed."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    if archive.comment or not members or members[0].header_offset:
        return 'is damaged (its directory is not that of torch)'
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir]
    names = set()
    for member, end in zip(members, ends, strict=True):
        name = member.filename.lower()  # torch looks names up without regard to case
        if name in names:
            return f'is damaged ({member.filename} is there twice)'
        names.add(name)
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            return f'is damaged ({member.filename} is compressed, which torch never does)'
        if member.flag_bits & ENCRYPTED:
            return f'is damaged ({member.filename} is encrypted)'
        if member.header_offset + member.file_size > end:
            return f'is damaged ({member.filename} reaches into what follows it)'
    return None


def _checksum_fault(archive: zipfile.ZipFile) -> str | None:
    member = archive.testzip()  # compares the names beside the members with those of the directory, too
    return None if member is None else f'is damaged (bad checksum of {member})'


def _start(path: Path, count: int) -> bytes:
    with path.open('rb') as file:
        return file.read(count)


def _pickle_of(path: Path, is_zip: bool) -> bytes:
    """The pickle of a file: of an archive its member, of the older format the file, whose weights follow in it."""
    if not is_zip:
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith('data.pkl')]
        return b''.join(archive.read(name) for name in names)


def _reason(path: Path, error: Exception) -> str:
    reason = ' '.join(str(error).split())
    if 'weights_only' in reason or 'Unsupported' in reason:
        found = GLOBAL.search(reason)
        what = f' (it refers to {found[1]})' if found else ''
        return (
            f'{path} holds more than weights{what}, and reading that could execute code. Where you trust it, load '
            f'it yourself and save its state_dict alone with torch.save'
        )
    return (
        f'{path} is no file of weights that torch reads ({type(error).__name__}: {reason[:200]}). '
        f'Give a .safetensors file, or a whole .pth, .bin or .ckpt file'
    )


class _Walk:
    """Checks all tensors of what a file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unread = path.stat().st_size
        self._storages: set[int] = set()
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}  # keeps what it names alive, so that no id is used again

    def check(self, value: Any, name: str, depth: int) -> None:
        """Raises ValueError; see :func:`read_torch`."""
        if isinstance(value, Tensor):
            self._check_tensor(value, name)
        elif isinstance(value, Mapping | list | tuple | set | frozenset) and id(value) not in self._done:
            if id(value) in self._open or depth > MAX_DEPTH:
                raise ValueError(
                    f"{self.path} is no file of weights: '{name}' contains itself, or {MAX_DEPTH} containers in "
                    f'each other'
                )
            self._open.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                self.check(item, f'{name}.{key}'.lstrip('.')[-MAX_NAME:], depth + 1)
            self._open.remove(id(value))
            self._done[id(value)] = value

    def _check_tensor(self, tensor: Tensor, name: str) -> None:
        check_tensor(tensor, name, self.path)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self._unread -= storage.nbytes()
        if self._unread < 0:  # the older format lets a file claim what it does not hold
            raise ValueError(f"{self.path}: tensor '{name}' is larger than what is left of the file: save it again")


def check_tensor(tensor: Tensor, name: str, path: str | Path) -> None:
    """Raises ValueError, naming file and tensor, where :func:`tensor_fault` finds something."""
    fault = tensor_fault(tensor)
    if fault:
        raise ValueError(f"{path}: tensor '{name}' {fault}: save it as a dense tensor that holds its values")


def tensor_fault(tensor: Tensor) -> str | None:
    """Why a tensor cannot be weights, in words that follow its name; None where it can.

    Weights are dense tensors on the CPU, of floats, integers or bools, whose memory holds each of their values.
    """
    if tensor.is_nested:
        return 'is nested'
    if tensor.is_quantized:
        return 'is quantised'
    if tensor.layout != torch.strided:
        return f'is sparse ({tensor.layout})'
    if tensor.device.type != 'cpu':
        return f"has no values (device '{tensor.device}')"
    if tensor.dtype not in DTYPES:
        return f'is of {tensor.dtype}'
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        return f'of shape {tuple(tensor.shape)} repeats its values'
    held = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if tensor.numel() > held:
        return f'of shape {tuple(tensor.shape)} has only {held} values'
    return None
