"""Zip files read in place: what is damaged or cannot be read is named, and one index serves all readers."""

import gc
import io
import os
import shutil
import struct
import tempfile
import threading
import zipfile
import zlib
from functools import partial
from pathlib import Path

import pytest

import eomt_mm  # noqa: F401
from eomt_mm.fileio import zip_archive
from eomt_mm.fileio.zip_archive import open_archive

CONTENT = bytes(range(256)) * 40
FLAGS, METHOD = 8, 10  # bytes after the signature of a directory's entry; two less in a local header


def write_zip(path: Path | io.BytesIO, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, 'w', method) as file:
        for name, content in members.items():
            file.writestr(name, content)


def patch(path: Path, field: int, value: int) -> None:
    """Sets a 16-bit field of the first entry, in the directory and in the local header."""
    content = bytearray(path.read_bytes())
    for start in (content.index(b'PK\1\2') + field, field - 2):
        content[start : start + 2] = struct.pack('<H', value)
    path.write_bytes(content)


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize('size', [0, 1, 1000, zip_archive.CHUNK, 2 * zip_archive.CHUNK + 7])
def test_members_come_back_whatever_their_size(tmp_path: Path, method: int, size: int) -> None:
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    write_zip(tmp_path / 'a.zip', {'before': b'x', 'b/c.bin': content, 'after': b'y'}, method)
    archive = open_archive(str(tmp_path / 'a.zip'))
    assert archive.read('b/c.bin') == content
    assert (archive.read('before'), archive.read('after')) == (b'x', b'y')


def test_pieces_of_large_members_are_small(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'b': bytes(3 * zip_archive.CHUNK)}, zipfile.ZIP_STORED)
    sizes = [len(piece) for piece in open_archive(str(tmp_path / 'a.zip')).chunks('b')]
    assert sizes == [zip_archive.CHUNK] * 3


def test_zip_behind_other_bytes_and_with_comment_and_extra_fields(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    path.write_bytes(b'#!/bin/sh\n')
    entry = zipfile.ZipInfo('b')
    entry.extra = struct.pack('<HH4s', 0xCAFE, 4, b'more')
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr(entry, CONTENT)
        file.comment = b'comment'
    assert path.read_bytes().startswith(b'#!')
    assert open_archive(str(path)).read('b') == CONTENT


def test_members_beyond_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    path.touch()
    os.truncate(path, 5 << 30)  # takes no room
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr('b', CONTENT)
    archive = open_archive(str(path))
    assert archive.members['b'].header_offset == 5 << 30
    assert archive.read('b') == CONTENT


def test_streamed_zip_with_sizes_behind_the_content(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *args: int) -> int:
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(pipe, 'w', zipfile.ZIP_DEFLATED) as file, file.open('b', 'w') as member:
        member.write(CONTENT)
    (tmp_path / 'a.zip').write_bytes(pipe.getvalue())
    assert open_archive(str(tmp_path / 'a.zip')).read('b') == CONTENT


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_truncated_zip(tmp_path: Path, kept: float) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {f'{i}.bin': CONTENT for i in range(20)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match='a.zip is not a complete zip file .*: download it again, or unzip it'):
        open_archive(str(path))


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_damaged_byte_of_a_member_is_noticed(tmp_path: Path, method: int) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b.bin': CONTENT[:300], 'c.bin': CONTENT}, method)
    whole = path.read_bytes()
    start = whole.index(b'b.bin') + len(b'b.bin')
    for position in range(start, whole.index(b'PK\3\4', 4), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        archive = open_archive(str(path))
        with pytest.raises(ValueError, match='a.zip: member b.bin is damaged .*: download it again'):
            archive.read('b.bin')
        assert archive.read('c.bin') == CONTENT


def test_directory_that_does_not_fit_the_members(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b.bin': CONTENT})
    content = bytearray(path.read_bytes())
    content[:4] = b'\0\0\0\0'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.zip: member b.bin is damaged .its header'):
        open_archive(str(path)).read('b.bin')


def test_file_cut_off_after_its_index_was_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b.bin': CONTENT}, zipfile.ZIP_STORED)
    archive = open_archive(str(path))
    os.truncate(path, 1000)
    with pytest.raises(ValueError, match='b.bin is damaged .9[0-9]+ bytes of 10240'):
        archive.read('b.bin')


def test_encrypted_member(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'b.bin': CONTENT})
    patch(tmp_path / 'a.zip', FLAGS, 1)
    with pytest.raises(ValueError, match='a.zip: member b.bin is encrypted: unzip it'):
        open_archive(str(tmp_path / 'a.zip')).read('b.bin')


@pytest.mark.parametrize(('method', 'name'), [(9, 'Deflate64'), (12, 'bzip2'), (77, 'unknown')])
def test_other_compression_is_named(tmp_path: Path, method: int, name: str) -> None:
    write_zip(tmp_path / 'a.zip', {'b.bin': CONTENT})
    patch(tmp_path / 'a.zip', METHOD, method)
    with pytest.raises(ValueError, match=f'a.zip: member b.bin is compressed by method {method} .{name}.*unzip it'):
        open_archive(str(tmp_path / 'a.zip')).read('b.bin')


def declare(path: Path, field: int, value: int) -> None:
    """Sets a 32-bit field of the first entry of the directory: 16 checksum, 20 packed size, 24 size."""
    content = bytearray(path.read_bytes())
    start = content.index(b'PK\1\2') + field
    content[start : start + 4] = struct.pack('<I', value)
    path.write_bytes(content)


def test_inflating_stops_at_the_declared_size(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b.bin': bytes(1 << 26)})
    declare(path, 24, 100)
    sizes = []
    with pytest.raises(ValueError, match='a.zip: member b.bin is damaged .it holds more than the 100 bytes'):
        for piece in open_archive(str(path)).chunks('b.bin'):
            sizes.append(len(piece))
    assert sum(sizes) <= 100
    write_zip(path, {'b.bin': bytes(1 << 26)})
    assert max(map(len, open_archive(str(path)).chunks('b.bin'))) <= zip_archive.CHUNK
    assert open_archive(str(path)).read('b.bin') == bytes(1 << 26)


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_content_beyond_the_declared_size_whose_beginning_has_the_checksum(tmp_path: Path, method: int) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b.bin': CONTENT}, method)
    declare(path, 24, 100)
    declare(path, 16, zlib.crc32(CONTENT[:100]))
    with pytest.raises(ValueError, match='a.zip: member b.bin is damaged .it holds more than the 100 bytes'):
        open_archive(str(path)).read('b.bin')


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_declared_sizes_beyond_the_file(tmp_path: Path, method: int) -> None:
    path = tmp_path / 'a.zip'
    for field, message in ((20, 'damaged'), (24, 'declares 4295 MB in [0-9]+ bytes, more than 100 to 1')):
        write_zip(path, {'b.bin': CONTENT[:500]}, method)
        declare(path, field, (1 << 32) - 2)
        with pytest.raises(ValueError, match=f'a.zip: member b.bin .*{message}'):
            open_archive(str(path)).read('b.bin')


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('//x.jpg', 'is absolute'),
        ('/etc/passwd', 'is absolute'),
        ('a//x.jpg', 'has an empty folder'),
        ('../x.jpg', 'leads out of the zip'),
        ('a/../../x.jpg', 'leads out of the zip'),
        ('a/' * 9000 + 'x.jpg', 'lies 9000 folders deep'),
        ('a\0.jpg', 'holds a NUL'),
        ('.', 'is absolute or has an empty folder'),
        ('\\\\host\\x.jpg', 'is absolute'),
        ('a\\..\\..\\x.jpg', 'leads out of the zip'),
        ('a/./' * 100 + 'x.jpg', 'lies 100 folders deep'),
    ],
)
def test_dangerous_names_of_members_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / 'a.zip'
    if '\0' in name:  # zipfile does not write it
        write_zip(path, {name.replace('\0', '#'): CONTENT})
        path.write_bytes(path.read_bytes().replace(b'a#.jpg', b'a\0.jpg'))
    else:
        write_zip(path, {name: CONTENT})
    with pytest.raises(ValueError, match=f'a.zip: the name of member .* {reason}.*: download it again'):
        open_archive(str(path))


def test_damaged_name_does_not_give_another_files_content(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'2.png': b'second', '3.png': b'third', 'ü.png': CONTENT})
    content = path.read_bytes()
    start = content.rindex(b'3.png')
    path.write_bytes(content[:start] + b'1' + content[start + 1 :])  # one bit of the directory
    archive = open_archive(str(path))
    with pytest.raises(ValueError, match="member 1.png is damaged .it is named b'3.png' where its content is"):
        archive.read('1.png')
    assert archive.read('ü.png') == CONTENT


def test_folders_of_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'b/c/d.txt': b'1', 'b/e.txt': b'2', 'f.txt': b'3', 'b/empty/': b''})
    assert open_archive(str(tmp_path / 'a.zip')).folders == {'', 'b', 'b/c', 'b/empty'}


@pytest.mark.parametrize(
    ('written', 'name'),
    [
        ('./b/c.bin', 'b/c.bin'),
        ('b/./c.bin', 'b/c.bin'),
        ('b\\c.bin', 'b/c.bin'),
        ('.\\b\\c.bin', 'b/c.bin'),
        ("b/ä ✓ #%?*:'[1].bin", "b/ä ✓ #%?*:'[1].bin"),
        ('C:/c.bin', 'C:/c.bin'),
        ('...', '...'),
    ],
)
def test_names_as_other_tools_write_them(tmp_path: Path, written: str, name: str) -> None:
    write_zip(tmp_path / 'a.zip', {'./': b'', '.\\': b'', written: CONTENT})
    archive = open_archive(str(tmp_path / 'a.zip'))
    assert list(archive.members) == [name]
    assert archive.read(name) == CONTENT
    assert all(next(archive.places(asked)) == (archive, name) for asked in (name, name.replace('/', '\\')))


def test_names_that_are_one_and_the_same_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'b/c.bin': b'1', 'b\\c.bin': b'2'})
    with pytest.raises(ValueError, match="a.zip: two members are named 'b/c.bin'"):
        open_archive(str(tmp_path / 'a.zip'))


def test_summary_names_top_folders_and_the_first_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    for members, summary in (
        ([], 'is empty'),
        (['b/', 'b/c/', 'b/c/1.png', 'd.txt'], 'holds b/, d.txt, first file: b/c/1.png'),
        ([f'{i}.png' for i in range(8)], 'holds 0.png, 1.png, 2.png, 3.png, 4.png and 3 more, first file: 0.png'),
    ):
        write_zip(path, dict.fromkeys(members, b''))
        assert open_archive(str(path)).summary() == f'{path} {summary}'


def test_index_is_parsed_once_and_again_when_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    read_index = zip_archive._read_index
    monkeypatch.setattr(zip_archive, '_read_index', lambda *args: parsed.append(1) or read_index(*args))
    path = tmp_path / 'a.zip'
    write_zip(path, {'b': b'old'})
    for _ in range(3):
        assert open_archive(str(path)).read('b') == b'old'
    assert len(parsed) == 1
    status = path.stat()
    write_zip(tmp_path / 'new.zip', {'b': b'new'})
    os.utime(tmp_path / 'new.zip', ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (tmp_path / 'new.zip').stat().st_size == status.st_size
    os.replace(tmp_path / 'new.zip', path)  # of the same size and time
    assert open_archive(str(path)).read('b') == b'new'
    write_zip(path, {'b': b'newer'})
    assert open_archive(str(path)).read('b') == b'newer'
    assert len(parsed) == 3
    path.unlink()
    with pytest.raises(FileNotFoundError):
        open_archive(str(path))


def test_descriptors_of_replaced_zips_are_closed_when_their_readers_are_done(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'b': b'first'})
    reader = open_archive(str(path))
    gc.collect()  # what other tests left, before it is counted
    before = len(os.listdir('/dev/fd'))
    for i in range(5):
        write_zip(tmp_path / 'new.zip', {'b': b'%d' % i})
        os.replace(tmp_path / 'new.zip', path)
        open_archive(str(path))
    assert reader.read('b') == b'first'
    gc.collect()
    assert len(os.listdir('/dev/fd')) == before + 1


def test_threads_parse_an_index_once_and_read_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    read_index = zip_archive._read_index
    monkeypatch.setattr(zip_archive, '_read_index', lambda *args: parsed.append(1) or read_index(*args))
    members = {f'{i}.bin': os.urandom(20000 + i) for i in range(50)}
    write_zip(tmp_path / 'a.zip', members)
    start = threading.Barrier(4)
    wrong = []

    def read() -> None:
        start.wait()
        for name, content in members.items():
            if open_archive(str(tmp_path / 'a.zip')).read(name) != content:
                wrong.append(name)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, len(parsed)) == ([], 1)


def test_fork_while_another_thread_opens_a_zip(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'b': b'content'})
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with zip_archive._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:  # would wait for ever if it had the parent's lock
        os._exit(0 if open_archive(str(tmp_path / 'a.zip')).read('b') == b'content' else 1)
    done.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_parent_and_child_of_a_fork_each_continue_a_member(tmp_path: Path, method: int) -> None:
    content = os.urandom(3 * zip_archive.CHUNK)
    write_zip(tmp_path / 'a.zip', {'b': content}, method)
    pieces = open_archive(str(tmp_path / 'a.zip')).chunks('b')
    first = next(pieces)
    child = os.fork()
    rest = b''.join(pieces)
    if child == 0:
        os._exit(0 if first + rest == content else 1)
    assert first + rest == content
    assert os.waitpid(child, 0)[1] == 0


def test_repeated_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'1.png': b'first', '3.png': b'third', 'b/': b''})
    with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning, match='Duplicate name'):
        file.writestr('b/', b'')
    assert open_archive(str(path)).read('1.png') == b'first'
    with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning, match='Duplicate name'):
        file.writestr('1.png', b'other')
    with pytest.raises(ValueError, match="a.zip: two members are named '1.png'"):
        open_archive(str(path))


def test_bytes_missing_before_the_directory(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'1.png': CONTENT, '3.png': CONTENT})
    content = path.read_bytes()
    path.write_bytes(content[:100] + content[250:])
    with pytest.raises(ValueError, match=r'a.zip(: member 1.png is damaged| is not a complete zip file)'):
        open_archive(str(path)).read('1.png')


# Zips in zips


def write_nested(path: Path, method: int) -> None:
    inner = io.BytesIO()
    write_zip(inner, {'masks/b.png': CONTENT})
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('annotations/first.json', b'{}')
        file.writestr('annotations/masks.zip', inner.getvalue(), method)


@pytest.mark.parametrize('name', ['masks/b.png', 'masks/masks/b.png', 'masks.zip/b.png', 'masks.zip/masks/b.png'])
@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_folder_stands_for_a_nested_zip(tmp_path: Path, method: int, name: str) -> None:
    write_nested(tmp_path / 'a.zip', method)
    outer = open_archive(str(tmp_path / 'a.zip'))
    places = [place for place in outer.places(f'annotations/{name}') if place[1] in place[0].members]
    assert [archive.read(name) for archive, name in places] == [CONTENT]


@pytest.mark.parametrize(('method', 'times'), [(zipfile.ZIP_STORED, 0), (zipfile.ZIP_DEFLATED, 1)])
def test_only_compressed_nested_zips_are_unpacked_once_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int, times: int
) -> None:
    unpacked = []
    make = tempfile.TemporaryFile
    monkeypatch.setattr(zip_archive.tempfile, 'TemporaryFile', lambda: unpacked.append(1) or make(dir=tmp_path))
    write_nested(tmp_path / 'a.zip', method)
    for _ in range(2):
        outer = open_archive(str(tmp_path / 'a.zip'))
        *_, (nested, name) = outer.places('annotations/masks/b.png')
        assert nested.read(name) == CONTENT
    assert len(unpacked) == times
    assert os.listdir(tmp_path) == ['a.zip']


def test_damaged_nested_zip_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', {'annotations/masks.zip': CONTENT})
    with pytest.raises(ValueError, match='a.zip/annotations/masks.zip is not a complete zip file'):
        list(open_archive(str(tmp_path / 'a.zip')).places('annotations/masks/b.png'))
    write_nested(tmp_path / 'b.zip', zipfile.ZIP_DEFLATED)
    content = bytearray((tmp_path / 'b.zip').read_bytes())
    content[content.index(b'masks.zip') + 40] ^= 0xFF
    (tmp_path / 'b.zip').write_bytes(content)
    with pytest.raises(ValueError, match='b.zip: member annotations/masks.zip is damaged'):
        list(open_archive(str(tmp_path / 'b.zip')).places('annotations/masks/b.png'))


def test_nested_zip_that_inflates_beyond_its_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_zip(path, {'masks.zip': bytes(1 << 26)})
    declare(path, 24, 100)
    with pytest.raises(ValueError, match='a.zip: member masks.zip is damaged .it holds more than the 100 bytes'):
        list(open_archive(str(path)).places('masks/b.png'))


def test_no_room_for_a_nested_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nested(tmp_path / 'a.zip', zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zip_archive.tempfile, 'TemporaryFile', partial(open, '/dev/full', 'r+b', buffering=0))
    with pytest.raises(OSError, match='masks.zip is compressed and needs 0 MB in .*No space left.*set TMPDIR'):
        list(open_archive(str(tmp_path / 'a.zip')).places('annotations/masks/b.png'))


def test_system_without_positioned_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / 'a.zip', {'b': b''})
    monkeypatch.delattr(os, 'pread')
    with pytest.raises(OSError, match='a.zip: this system cannot read zip files in place: unzip them'):
        open_archive(str(tmp_path / 'a.zip'))


def test_link_lends_the_zip_its_name(tmp_path: Path) -> None:
    write_zip(tmp_path / '5ca1ab1e.zip', {'masks/b.png': CONTENT})
    (tmp_path / 'masks.zip').symlink_to('5ca1ab1e.zip')
    shutil.copy(tmp_path / '5ca1ab1e.zip', tmp_path / 'other.zip')
    found = {
        name: any(place in archive.members for archive, place in open_archive(str(tmp_path / name)).places('b.png'))
        for name in ('masks.zip', '5ca1ab1e.zip', 'other.zip')
    }
    assert found == {'masks.zip': True, '5ca1ab1e.zip': False, 'other.zip': False}
