"""Read zip files in place.

``zipfile`` parses the directory. Members are read with ``os.pread``, which takes its offset as an argument, so that
threads and forked processes can share one descriptor. ``zipfile.ZipFile.open`` does not fit: forked processes inherit
its lock and file position (a worker hangs, or reads wrong bytes), and a member that holds more than it declares is
accepted if the checksum fits the beginning.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

import io
import os
import struct
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

FIX = 'download it again, or unzip it'
CHUNK = 1 << 20  # bytes
MAX_DEPTH = 99  # folders; no data set has as many
# Beyond this size in bytes, and so much larger than packed, a member is neither image nor json: those pack 20 to 1.
BOMB_SIZE, BOMB_RATIO = 1 << 28, 100
# APPNOTE.TXT, 4.3.7: signature of what precedes a member's content, and its size without name and extra field.
LOCAL_HEADER, LOCAL_HEADER_SIZE = b'PK\3\4', 30
ENCRYPTED, UTF8 = 1, 0x800  # flags, 4.4.4
METHODS = {9: 'Deflate64', 12: 'bzip2', 14: 'LZMA', 93: 'Zstandard', 95: 'XZ'}  # 4.4.5, for messages
Report = Callable[[str], None]


class Member(NamedTuple):
    """Fields of `zipfile.ZipInfo` in half of its memory, which the garbage collector does not visit; sizes in bytes."""

    header_offset: int
    compress_size: int
    file_size: int
    CRC: int
    compress_type: int
    flag_bits: int
    orig_filename: str


class Descriptor:
    """An open file that is closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


class Part(io.RawIOBase):
    """Bytes ``start`` to ``start + size`` of an open file. The position of `seek` and `read` is for ``zipfile``."""

    def __init__(self, file: Descriptor, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self._position = 0

    def read_at(self, offset: int, count: int) -> bytes:
        """Read ``count`` bytes from ``offset`` of the part; fewer where part or file end."""
        # Where bytes are missing before the directory, zipfile counts offsets from before the file.
        count = max(0, min(count, self.size - offset)) if offset >= 0 else 0
        content = os.pread(self.file.number, count, self.start + offset) if count else b''
        # A call may give less than asked for, on Linux 2 GiB at most.
        if content and len(content) < count:
            content += self.read_at(offset + len(content), count - len(content))
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if position < 0:
            raise OSError(f'position {position} is before the start')
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        # Not `readinto`, which allocates as many bytes as a damaged directory asks for.
        content = self.read_at(self._position, self.size if size < 0 else size)
        self._position += len(content)
        return content


class Archive:
    """A zip file, or one that is a member of another.

    Args:
        path: of the zip file; for a nested one that of the outer file and the member's name.
        part: its bytes.
        nested: whether this one is a member of another; zips in it are then not looked into.
        report: takes a line on what takes long.

    Attributes:
        members: what is known of each file, by its name in the zip with '/' for backslashes and without './'; names of
            folders, where listed, end with '/'.

    Raises:
        ValueError: it is not a zip file, or damaged.
    """

    def __init__(self, path: str, part: Part, nested: bool = False, report: Report = print) -> None:
        self.path = path
        self.members = _read_index(path, part)
        self._part = part
        self._report = report
        self._stem = os.path.splitext(os.path.basename(path))[0]
        tops = {name.partition('/')[0] for name in self.members if '/' in name}
        self._top = tops.pop() if len(tops) == 1 else ''
        self._is_in_top = self._top == self._stem and all('/' in name for name in self.members)
        self._zips = set() if nested else {name for name in self.members if is_zip_name(name)}
        self._nested: dict[str, Archive] = {}
        self._folders: set[str] | None = None

    @property
    def folders(self) -> set[str]:
        """Names of all folders; '' is the zip itself."""
        if self._folders is None:  # two threads may both make it, to the same result
            folders = {''}
            for name in self.members:
                while (name := name.rpartition('/')[0]) not in folders:
                    folders.add(name)
            self._folders = folders
        return self._folders

    def places(self, name: str, any_top: bool = False) -> Iterator[tuple['Archive', str]]:
        """Where to look for a file or folder.

        Args:
            name: in the zip, without slashes at its ends. A single top folder named like the zip may be left out of
                it, or be there although the zip has none; a folder may stand for a nested zip of that name.
            any_top: whether the only top folder may be left out whatever its name, and whatever files lie beside it.

        Yields:
            this archive or one nested in it, and the name to look for there; the likeliest first.
        """
        name = name.replace('\\', '/')
        names = [name]
        if self._is_in_top:
            names.append(f'{self._stem}/{name}'.rstrip('/'))
        elif f'{name}/'.startswith(f'{self._stem}/'):
            names.append(name[len(self._stem) + 1 :])
        if any_top and self._top:
            names += [f'{self._top}/{inside}'.rstrip('/') for inside in names]
        for full in names:
            yield self, full
        for full in names if self._zips else ():
            parts = full.split('/')
            for count in range(1, len(parts) + 1):
                folder = '/'.join(parts[:count])
                for zipped in self._zips.intersection((folder, f'{folder}.zip')):
                    yield from self._open_nested(zipped).places('/'.join(parts[count:]), any_top)

    def summary(self) -> str:
        """What the zip holds, in one line for messages."""
        tops = sorted({top + slash for top, slash, _ in (name.partition('/') for name in self.members)})
        more = f' and {len(tops) - 5} more' if len(tops) > 5 else ''
        first = next((name for name in self.members if not name.endswith('/')), 'none')
        return (
            f'{self.path} holds {", ".join(tops[:5])}{more}, first file: {first}' if tops else f'{self.path} is empty'
        )

    def read(self, name: str) -> bytes:
        """Content of a member; raises as `chunks`."""
        return b''.join(self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Content of a member in pieces of at most `CHUNK` bytes, together no more than its declared size.

        Raises:
            ValueError: it is damaged, encrypted, compressed by another method than deflate, or a bomb.
        """
        member = self.members[name]
        self._check_readable(name, member)
        start, packed = self._content_offset(name, member), member.compress_size
        pieces = (self._part.read_at(start + i, min(CHUNK, packed - i)) for i in range(0, packed, CHUNK))
        crc = size = 0
        try:
            for content in _inflated(pieces) if member.compress_type else pieces:
                size += len(content)
                if size > member.file_size:
                    raise self._damaged(name, f'it holds more than the {member.file_size} bytes that it declares')
                crc = zlib.crc32(content, crc)
                yield content
        except zlib.error as error:
            raise self._damaged(name, str(error)) from error
        if (size, crc) != (member.file_size, member.CRC):
            found = f'{size} bytes of {member.file_size}, checksum {crc:08x} instead of {member.CRC:08x}'
            raise self._damaged(name, found)

    def _check_readable(self, name: str, member: Member) -> None:
        method, size, packed = member.compress_type, member.file_size, member.compress_size
        reason = ''
        if member.flag_bits & ENCRYPTED:
            reason = 'is encrypted: unzip it with its password'
        elif method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            named = METHODS.get(method, 'unknown')
            reason = f'is compressed by method {method} ({named}), and only stored and deflated ones are read: unzip it'
        elif size > max(BOMB_SIZE, BOMB_RATIO * packed):
            reason = f'declares {size / 1e6:.0f} MB in {packed} bytes, more than {BOMB_RATIO} to 1: {FIX}'
        elif packed > self._part.size:
            raise self._damaged(name, f'{packed} bytes in a file of {self._part.size}')
        if reason:
            raise ValueError(f'{self.path}: member {name} {reason}')

    def _content_offset(self, name: str, member: Member) -> int:
        header = self._part.read_at(member.header_offset, LOCAL_HEADER_SIZE)
        if len(header) < LOCAL_HEADER_SIZE or not header.startswith(LOCAL_HEADER):
            raise self._damaged(name, 'its header is not where the directory says')
        # Lengths of name and extra field; the directory's own copy of the extra field may differ.
        lengths = struct.unpack('<HH', header[26:30])
        found = self._part.read_at(member.header_offset + LOCAL_HEADER_SIZE, lengths[0])
        if found.decode('utf-8' if member.flag_bits & UTF8 else 'cp437', 'replace') != member.orig_filename:
            raise self._damaged(name, f'it is named {found!r:.100} where its content is')
        return member.header_offset + LOCAL_HEADER_SIZE + sum(lengths)

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(f'{self.path}: member {name} is damaged ({reason}): {FIX}')

    def _open_nested(self, name: str) -> 'Archive':
        if name not in self._nested:
            with _lock:
                if name not in self._nested:  # not opened by another thread
                    self._nested[name] = Archive(f'{self.path}/{name}', self._content(name), True, self._report)
        return self._nested[name]

    def _content(self, name: str) -> Part:
        """A member's bytes: those of the zip itself or, where they are compressed there, of a temporary file."""
        member = self.members[name]
        if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & ENCRYPTED:
            start = self._content_offset(name, member)
            return Part(self._part.file, self._part.start + start, min(member.file_size, self._part.size - start))
        room = f'{member.file_size / 1e6:.0f} MB in {tempfile.gettempdir()}'
        self._report(f'{self.path}: unpacking {name}, {room}; unzip it to save this at every start')
        try:
            # It has no name, so that nothing is left behind however the process ends.
            with tempfile.TemporaryFile() as file:
                file.writelines(self.chunks(name))
                file.flush()
                return Part(Descriptor(os.dup(file.fileno())), 0, member.file_size)
        except OSError as error:
            fix = 'unzip it, or set TMPDIR to a folder with more room'
            reason = f'{self.path}: member {name} is compressed and needs {room} ({error}): {fix}'
            raise OSError(error.errno, reason) from error


def open_archive(path: str, report: Report = print) -> Archive:
    """Open a zip file. Its index is parsed once per process, and again when the file has changed.

    Args:
        path: absolute. Two names of one file are two archives: a link may give it the stem that its folder has.
        report: see :class:`Archive`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a zip file, or damaged.
        OSError: the system has no ``os.pread`` (Windows).
    """
    known = _archives.get(path)
    if known and known[0] == _version(os.stat(path)):
        return known[1]
    if not hasattr(os, 'pread'):
        raise OSError(f'{path}: this system cannot read zip files in place: unzip them')
    with _lock:
        file = Descriptor(os.open(path, os.O_RDONLY))
        status = os.fstat(file.number)  # that of the opened file, whatever has its name now
        known = _archives.get(path)
        if not known or known[0] != _version(status):  # not opened by another thread
            known = _version(status), Archive(path, Part(file, 0, status.st_size), report=report)
            _archives[path] = known
        return known[1]


def is_zip_name(name: str) -> bool:
    """Whether a file of this name counts as a zip."""
    return name.lower().endswith('.zip')


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Inflate raw deflate data, in pieces of at most `CHUNK` bytes however well they are packed."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in pieces:
        while content := inflate.decompress(packed, CHUNK):
            yield content
            packed = inflate.unconsumed_tail
        if inflate.eof:
            return


def _version(status: os.stat_result) -> tuple[int, ...]:
    # The inode tells two files of one size and tick of the clock; while one is open, no other gets its number.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _read_index(path: str, part: Part) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(part) as file:
            entries = file.infolist()
    # zipfile raises whatever its codecs and structs do.
    except Exception as error:
        raise ValueError(f'{path} is not a complete zip file ({error}): {FIX}') from error
    fields = attrgetter(*Member._fields)
    members: dict[str, Member] = {}
    for entry in entries:
        written = entry.filename.replace('\\', '/')
        parts = [part for part in written.split('/') if part != '.']
        name = '/'.join(parts)
        is_rubbish = name.startswith('__MACOSX/') or name.endswith('.DS_Store')  # what macOS adds
        if is_rubbish or written == './':
            continue
        if reason := _fault(parts, entry.orig_filename):
            raise ValueError(f'{path}: the name of member {entry.orig_filename[:100]!r} {reason}: {FIX}')
        if name in members and not name.endswith('/'):
            raise ValueError(f'{path}: two members are named {name[:100]!r}: {FIX}')
        members[name] = Member._make(fields(entry))
    return members


def _fault(parts: list[str], name: str) -> str:
    """What is wrong with a member's name, of these parts; '' if nothing is."""
    if '\0' in name:  # zipfile cuts the name there
        return 'holds a NUL'
    if '' in parts[:-1] or not any(parts):
        return 'is absolute or has an empty folder'
    if '..' in parts:
        return 'leads out of the zip'
    depth = len(parts) - 1
    return f'lies {depth} folders deep, more than {MAX_DEPTH}' if depth > MAX_DEPTH else ''


def _after_fork() -> None:
    """Replace the lock, which another thread of the parent may have held."""
    global _lock
    _lock = threading.RLock()


_archives: dict[str, tuple[tuple[int, ...], Archive]] = {}
_lock = threading.RLock()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
