"""Zip files read in place: an index that is parsed once, and reads that share no position.

The standard library's ``zipfile`` parses the directory of a zip; members are then read with ``os.pread``, which takes
its offset as an argument, so that threads and forked processes can use one descriptor at the same time.
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
from dataclasses import dataclass
from typing import NamedTuple

FIX = 'download it again, or unzip it'
CHUNK = 1 << 20
Report = Callable[[str], None]
# Deeper folders than any data set has; walking them takes one Python call each.
MAX_DEPTH = 100
# Beyond this size in bytes, and so much larger than packed, a member is neither image nor json: those pack 20 to 1.
BOMB_SIZE, BOMB_RATIO = 1 << 28, 100
# APPNOTE.TXT, 4.3.7: signature and size of what precedes a member's name, extra field and content.
LOCAL_HEADER = b'PK\3\4'
LOCAL_HEADER_SIZE = 30
UTF8, CP437 = 'utf-8', 'cp437'  # of names: appendix D
METHODS = {9: 'Deflate64', 12: 'bzip2', 14: 'LZMA', 93: 'Zstandard', 95: 'XZ'}  # 4.4.5, for messages


class Member(NamedTuple):
    """Where a file of a zip is, sizes in bytes."""

    offset: int  # of its local header
    packed_size: int
    size: int
    crc: int
    method: int  # as in zipfile
    is_encrypted: bool
    encoding: str  # of its name; '' where another field of the zip gives the name


class Children(NamedTuple):
    """Names directly below a folder."""

    folders: set[str]
    files: list[str]


class Descriptor:
    """An open file that is closed when nothing refers to it any more."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


@dataclass(frozen=True)
class Part:
    """Bytes ``start`` to ``start + size`` of an open file."""

    file: Descriptor
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Reads ``count`` bytes from ``offset`` of the part; fewer where part or file end."""
        count = max(0, min(count, self.size - offset))
        start = self.start + offset
        content = os.pread(self.file.number, count, start)
        # A call may give less than asked for, on Linux 2 GiB at most.
        while len(content) < count and (more := os.pread(self.file.number, count - len(content), start + len(content))):
            content += more
        return content


class _PartFile(io.RawIOBase):
    """A part as the file object that ``zipfile`` parses."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._part.size}[whence]
        if position < 0:
            raise OSError(f'position {position} is before the start')
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        """Not by ``readinto``: that takes room for as many bytes as a damaged directory asks for."""
        content = self._part.read(self._position, self._part.size if size < 0 else size)
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
        members: what is known of each file, by its name in the zip; names of folders, where listed, end with '/'.

    Raises:
        ValueError: it is not a zip file, or damaged.
    """

    def __init__(self, path: str, part: Part, nested: bool = False, report: Report = print) -> None:
        self.path = path
        self._report = report
        self.members = _read_index(path, part)
        self._part = part
        self._stem = os.path.splitext(os.path.basename(path))[0]
        tops = {name.split('/', 1)[0] for name in self.members}
        self._has_top = tops == {self._stem} and self._stem not in self.members
        self._zips = set() if nested else {name for name in self.members if is_zip_name(name)}
        self._nested: dict[str, Archive] = {}
        self._folders: dict[str, Children] | None = None

    @property
    def folders(self) -> dict[str, Children]:
        """What is in each folder, by its name in the zip; '' is the zip itself. Made when first needed."""
        if self._folders is None:  # two threads may both make it, to the same result
            self._folders = _index_folders(self.members)
        return self._folders

    def places(self, name: str) -> Iterator[tuple['Archive', str]]:
        """Where to look for a file or folder.

        Args:
            name: in the zip, without slashes at its ends. A single top folder named like the zip may be left out of
                it, or be there although the zip has none; a folder may stand for a nested zip of that name.

        Yields:
            this archive or one nested in it, and the name to look for there; the likeliest first.
        """
        names = [name]
        if self._has_top:
            names.append(f'{self._stem}/{name}'.rstrip('/'))
        elif f'{name}/'.startswith(f'{self._stem}/'):
            names.append(name[len(self._stem) + 1 :])
        for full in names:
            yield self, full
        for full in names if self._zips else ():
            parts = full.split('/')
            for count in range(1, len(parts) + 1):
                folder = '/'.join(parts[:count])
                for zipped in self._zips.intersection((folder, f'{folder}.zip')):
                    yield from self._open_nested(zipped).places('/'.join(parts[count:]))

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
        pieces = self._packed(name, member)
        crc = size = 0
        try:
            for content in inflated(pieces) if member.method == zipfile.ZIP_DEFLATED else pieces:
                size += len(content)
                if size > member.size:
                    raise self._damaged(name, f'it holds more than the {member.size} bytes that it declares')
                crc = zlib.crc32(content, crc)
                yield content
        except zlib.error as error:
            raise self._damaged(name, str(error)) from error
        if (size, crc) != (member.size, member.crc):
            raise self._damaged(name, f'{size} bytes of {member.size}, checksum {crc:08x} instead of {member.crc:08x}')

    def _packed(self, name: str, member: Member) -> Iterator[bytes]:
        """Bytes of a member as they are in the zip."""
        start = self._content_offset(name, member)
        for done in range(0, member.packed_size, CHUNK):
            content = self._part.read(start + done, min(CHUNK, member.packed_size - done))
            if not content:  # the file was cut off since its directory was read
                return
            yield content

    def _check_readable(self, name: str, member: Member) -> None:
        if member.is_encrypted:
            raise ValueError(f'{self.path}: member {name} is encrypted: unzip it with its password')
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = METHODS.get(member.method, 'unknown')
            raise ValueError(
                f'{self.path}: member {name} is compressed by method {member.method} ({method}), only stored and '
                'deflated ones can be read in place: unzip it'
            )
        if member.size > max(BOMB_SIZE, BOMB_RATIO * member.packed_size):
            raise ValueError(
                f'{self.path}: member {name} declares {member.size / 1e6:.0f} MB in {member.packed_size} bytes, more '
                f'than {BOMB_RATIO} to 1: {FIX}'
            )
        if member.packed_size > self._part.size:
            raise self._damaged(name, f'{member.packed_size} bytes in a file of {self._part.size}')

    def _content_offset(self, name: str, member: Member) -> int:
        # Where bytes are missing before the directory, zipfile counts offsets from before the file.
        header = self._part.read(member.offset, LOCAL_HEADER_SIZE) if member.offset >= 0 else b''
        if len(header) < LOCAL_HEADER_SIZE or not header.startswith(LOCAL_HEADER):
            raise self._damaged(name, 'its header is not where the directory says')
        # Lengths of name and extra field; the directory's own copy of the extra field may differ.
        lengths = struct.unpack('<HH', header[26:30])
        found = self._part.read(member.offset + LOCAL_HEADER_SIZE, lengths[0])
        if member.encoding and found != name.encode(member.encoding, 'replace'):
            raise self._damaged(name, f'it is named {found!r:.100} where its content is')
        return member.offset + LOCAL_HEADER_SIZE + sum(lengths)

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(f'{self.path}: member {name} is damaged ({reason}): {FIX}')

    def _open_nested(self, name: str) -> 'Archive':
        archive = self._nested.get(name)
        if archive is None:
            with _lock:
                archive = self._nested.get(name)
                if archive is None:
                    archive = Archive(f'{self.path}/{name}', self._content(name), True, self._report)
                    self._nested[name] = archive
        return archive

    def _content(self, name: str) -> Part:
        """A member's bytes: those of the zip itself or, where they are compressed there, of a temporary file."""
        member = self.members[name]
        if member.method == zipfile.ZIP_STORED and not member.is_encrypted:
            start = self._content_offset(name, member)
            return Part(self._part.file, self._part.start + start, min(member.size, self._part.size - start))
        # It has no name, so that nothing is left behind however the process ends.
        with tempfile.TemporaryFile() as file:
            room = f'{member.size / 1e6:.0f} MB in {tempfile.gettempdir()}'
            self._report(f'{self.path}: unpacking {name}, {room}; unzip it to save this at every start')
            try:
                for content in self.chunks(name):
                    file.write(content)
                file.flush()
            except OSError as error:
                raise OSError(
                    error.errno,
                    f'{self.path}: member {name} is compressed and needs {room} ({error}): unzip it, or set TMPDIR to '
                    'a folder with more room',
                ) from error
            return Part(Descriptor(os.dup(file.fileno())), 0, member.size)


def inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Inflates raw deflate data, in pieces of at most `CHUNK` bytes however well they are packed.

    Raises:
        zlib.error: the data are damaged.
    """
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in pieces:
        packed, content = piece, None
        while packed or content is None or len(content) == CHUNK:
            content = inflate.decompress(packed, CHUNK)
            packed = inflate.unconsumed_tail
            yield content
        if inflate.eof:
            return


def is_zip_name(name: str) -> bool:
    """Whether a file of this name counts as a zip."""
    return name.lower().endswith('.zip')


def open_archive(path: str, report: Report = print) -> Archive:
    """Returns the index of a zip file, parsed at the first call of a process and again when the file has changed.

    Args:
        path: absolute. Two names of one file are two archives: a link may give it the stem that its folder has.
        report: see :class:`Archive`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a zip file, or damaged.
        OSError: the system has no ``os.pread`` (Windows).
    """
    version = _version(os.stat(path))
    known = _archives.get(path)
    if known and known[0] == version:
        return known[1]
    if not hasattr(os, 'pread'):
        raise OSError(f'{path}: this system cannot read zip files in place: unzip them')
    with _lock:
        known = _archives.get(path)
        if known and known[0] == version:  # by another thread
            return known[1]
        file = Descriptor(os.open(path, os.O_RDONLY))
        status = os.fstat(file.number)  # that of the opened file, whatever has its name now
        archive = Archive(path, Part(file, 0, status.st_size), report=report)
        _archives[path] = (_version(status), archive)
        return archive


def _version(status: os.stat_result) -> tuple[int, ...]:
    # The inode tells two files of one size and tick of the clock; while one is open, no other gets its number.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _read_index(path: str, part: Part) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(_PartFile(part)) as file:
            entries = file.infolist()
    # zipfile raises whatever its codecs and structs do.
    except Exception as error:
        raise ValueError(f'{path} is not a complete zip file ({error}): {FIX}') from error
    members = {}
    for entry in entries:
        if entry.filename.startswith('__MACOSX/') or entry.filename.endswith('.DS_Store'):  # what macOS adds
            continue
        _check_name(path, entry.orig_filename)  # not yet cut at a NUL
        if entry.filename in members and not entry.is_dir():
            raise ValueError(f'{path}: two members are named {entry.filename[:100]!r}: {FIX}')
        members[entry.filename] = Member(
            entry.header_offset,
            entry.compress_size,
            entry.file_size,
            entry.CRC,
            entry.compress_type,
            bool(entry.flag_bits & 1),
            encoding='' if entry.filename != entry.orig_filename else UTF8 if entry.flag_bits & 0x800 else CP437,
        )
    return members


def _check_name(path: str, name: str) -> None:
    parts = name.removesuffix('/').split('/')
    reason = ''
    if '\0' in name:
        reason = 'holds a NUL'
    elif '' in parts:
        reason = 'is absolute or has an empty folder'
    elif '..' in parts:
        reason = 'leads out of the zip'
    elif len(parts) > MAX_DEPTH:
        reason = f'lies {len(parts) - 1} folders deep, more than {MAX_DEPTH - 1}'
    if reason:
        raise ValueError(f'{path}: the name of member {name[:100]!r} {reason}: {FIX}')


def _index_folders(names: dict[str, Member]) -> dict[str, Children]:
    folders = {'': Children(set(), [])}
    for path in names:
        folder, _, name = path.rpartition('/')
        if folder not in folders:
            parts = folder.split('/')
            for count in range(len(parts)):
                above = folders.setdefault('/'.join(parts[:count]), Children(set(), []))
                above.folders.add(parts[count])
            folders[folder] = Children(set(), [])
        if name:  # not the entry of the folder itself
            folders[folder].files.append(name)
    return folders


def _after_fork() -> None:
    """A lock that another thread of the parent held would never be released in the child."""
    global _lock
    _lock = threading.RLock()


_archives: dict[str, tuple[tuple[int, ...], Archive]] = {}
_lock = threading.RLock()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
