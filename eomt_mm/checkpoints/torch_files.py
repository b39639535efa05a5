"""Safe reader of ``torch.save`` files: it executes nothing in them and detects damage. This module imports no host.

torch writes a zip archive with a checksum for each member, but does not verify the checksums when it reads. Its older
format has no checksums.
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from eomt_mm.checkpoints.kinds import (
    PICKLE_START,
    ZIP_START,
    archive_kind,
    first_bytes,
    foreign_kind,
    is_safetensors,
    text_kind,
)
from eomt_mm.checkpoints.mmengine_types import mmengine_files_readable

ENCRYPTED = 0x1  # flag bit 0: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.4.4
MAX_NAME = 120  # characters of a tensor's name in a message
MAX_DEPTH = 64  # nesting depth of containers; training checkpoints have about 8
# Data types of weights, counters and optimiser states.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = {*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
# The one class allowed by torch whose argument can make it allocate any amount of memory.
BYTEARRAY = re.compile(rb'(__builtin__|builtins)\nbytearray\n')
GLOBAL = re.compile(r'(?:GLOBAL|global|function) (\S+)')


def read_torch(path: str | Path, mmap: bool = False) -> Any:
    """Read a ``torch.save`` file onto the CPU, with ``weights_only`` in every version of torch.

    Args:
        path: path of the file. All checksums of a zip archive are verified, so the whole file is read.
        mmap: map weights into memory instead of copying them; has no effect on files of the older format.

    Returns:
        the saved content: tensors, plain values, containers of them, and types that mmengine's checkpoints need or that
        ``add_safe_globals`` allows.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, is of a different kind, would execute code, contains itself, or holds a tensor
            that cannot be a weight; the message is one line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    fault = file_fault(path)
    if fault:
        raise ValueError(f'{path} {fault}')
    is_zip = first_bytes(path).startswith(ZIP_START)
    if BYTEARRAY.search(_pickle_of(path, is_zip)):
        raise ValueError(
            f'{path} is no file of weights: it holds a bytearray, which could allocate any amount of memory'
        )
    try:
        with mmengine_files_readable():
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap and is_zip)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        raise ValueError(_reason(path, error)) from error
    _Walk(path).check(content, '', 0)
    return content


def file_fault(path: Path) -> str | None:
    """Describe why a file cannot be a file of weights, and the fix, as a predicate to its name; None if it can be one.

    Nothing is unpickled. safetensors files are accepted if their name ends in ``.safetensors``.
    """
    if path.is_file() and path.stat().st_size == 0:
        return 'is no file of weights: it is empty. Download or copy it again'
    if fault := foreign_kind(path) or text_kind(path) or archive_kind(path):
        return fault
    start = first_bytes(path)
    is_torch = start.startswith((ZIP_START, PICKLE_START))
    if path.suffix == '.safetensors':
        return 'is a file of torch, not of safetensors: give it a name that ends in .pth' if is_torch else None
    if is_safetensors(path):
        return 'is a safetensors file: give it a name that ends in .safetensors'
    if not start.startswith(ZIP_START) and not zipfile.is_zipfile(path):
        return None
    fault = zip_damage(path)
    return f'is no file of weights that torch can read: it {fault}. Download or copy it again' if fault else None


def zip_damage(path: str | Path | BinaryIO) -> str | None:
    """Describe the damage of a ``torch.save`` archive as a predicate to its name; None if there is no damage.

    Args:
        path: path of the file, or an open file.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _layout_fault(archive) or _checksum_fault(archive)
    except (zipfile.BadZipFile, EOFError) as error:
        return f'is cut short or damaged ({error})'
    except (NotImplementedError, RuntimeError, ValueError, zlib.error) as error:  # flipped flags, methods, offsets
        return f'is damaged ({error})'


def _layout_fault(archive: zipfile.ZipFile) -> str | None:
    """Describe deviations from torch's layout: members in sequence, uncompressed, names unique; None if it matches."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    if archive.comment or not members or members[0].header_offset:
        return 'is damaged (its directory is not that of torch)'
    ends = [member.header_offset for member in members[1:]] + [archive.start_dir]
    names = set()
    for member, end in zip(members, ends, strict=True):
        name = member.filename.lower()  # torch ignores case when it looks up names
        if name in names:
            return f'is damaged ({member.filename} is there twice)'
        names.add(name)
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            return f'is damaged ({member.filename} is compressed, which torch never does)'
        if member.flag_bits & ENCRYPTED:
            return f'is damaged ({member.filename} is encrypted)'
        if member.header_offset + member.file_size > end:
            return f'is damaged ({member.filename} overlaps the data after it)'
    return None


def _checksum_fault(archive: zipfile.ZipFile) -> str | None:
    member = archive.testzip()  # also compares the names in the members' headers with those in the directory
    return None if member is None else f'is damaged (bad checksum of {member})'


def _pickle_of(path: Path, is_zip: bool) -> bytes:
    """Return the pickle of a file: the member of an archive, or the whole file in the older format."""
    if not is_zip:
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith('data.pkl')]
        return b''.join(archive.read(name) for name in names)


def _reason(path: Path, error: Exception) -> str:
    reason = ' '.join(str(error).split())
    is_pickle = first_bytes(path).startswith((ZIP_START, PICKLE_START)) and 'Unsupported operand' not in reason
    if is_pickle and ('weights_only' in reason or 'Unsupported' in reason):
        found = GLOBAL.search(reason)
        what = f' (it refers to {found[1]})' if found else ''
        return (
            f'{path} holds more than weights{what}, and reading that could execute code. If you trust it, load '
            f'it yourself and save its state_dict alone with torch.save'
        )
    detail = (
        '' if 'weights_only' in reason else f' ({type(error).__name__}: {reason[:200]})'
    )  # torch's advice is unsafe
    return (
        f'{path} is no file of weights that torch can read{detail}. Give a .safetensors file, or a complete .pth, .bin '
        f'or .ckpt file'
    )


class _Walk:
    """Recursive check of all tensors in the content of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unread = path.stat().st_size
        self._storages: set[int] = set()
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}  # keeps checked objects alive, so that no id is reused

    def check(self, value: Any, name: str, depth: int) -> None:
        """Check a value and everything in it; raise ValueError as :func:`read_torch`."""
        if isinstance(value, Tensor):
            self._check_tensor(value, name)
        elif isinstance(value, Mapping | list | tuple | set | frozenset) and id(value) not in self._done:
            if id(value) in self._open or depth > MAX_DEPTH:
                raise ValueError(
                    f"{self.path} is no file of weights: '{name}' contains itself, or more than {MAX_DEPTH} nested "
                    f'containers'
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
        if self._unread < 0:  # in the older format, a file can declare more data than it has
            raise ValueError(f"{self.path}: tensor '{name}' is larger than the rest of the file: save it again")


def check_tensor(tensor: Tensor, name: str, path: str | Path) -> None:
    """Raise ValueError, naming file and tensor, if :func:`tensor_fault` finds a fault."""
    fault = tensor_fault(tensor)
    if fault:
        raise ValueError(f"{path}: tensor '{name}' {fault}: save it as a dense tensor that holds its values")


def tensor_fault(tensor: Tensor) -> str | None:
    """Describe why a tensor cannot be a weight as a predicate to its name; None if it can be one.

    Weights are dense tensors on the CPU, of floats, integers or bools, whose memory holds every value.
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
