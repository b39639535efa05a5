"""Files that mmengine writes: whole, or as they were."""

import errno
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import eomt_mm  # noqa: F401  isort: skip
import mmengine.fileio.io
import pytest
from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.runner import save_checkpoint

from eomt_mm.fileio.leftovers import remove_unfinished
from eomt_mm.hosts import local_backend
from eomt_mm.hosts.local_backend import AtomicLocalBackend
from eomt_mm.hosts.zip_backend import ZipBackend


@contextmanager
def small_disk(limit: int = 10_000) -> Iterator[int]:
    """No file may grow beyond so many bytes: the file system's own error, without filling a disk.

    Only around the write: pytest's own output may go to a file as well.
    """
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # write() then fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def backend() -> AtomicLocalBackend:
    return AtomicLocalBackend()


def test_mmengine_writes_through_it(tmp_path: Path) -> None:
    for args in (None, dict(backend='local')):
        for singleton in (False, True):
            found = fileio.get_file_backend(str(tmp_path), backend_args=args, enable_singleton=singleton)
            assert type(found) is AtomicLocalBackend
            assert isinstance(found, LocalBackend)


def test_instances_made_before_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    zipped = ZipBackend()
    monkeypatch.setattr(mmengine.fileio.io, 'backend_instances', before := {':{}': LocalBackend(), 'zip:{}': zipped})
    monkeypatch.setattr(local_backend, 'backend_instances', before)
    local_backend.replace_local_backend()
    assert before == {'zip:{}': zipped}
    assert type(fileio.get_file_backend('x', enable_singleton=True)) is AtomicLocalBackend


def test_other_backends_are_untouched() -> None:
    assert type(fileio.get_file_backend('zip://x')) is ZipBackend
    assert type(fileio.get_file_backend('http://x')) is fileio.HTTPBackend


def test_bytes_and_text_come_back_and_folders_are_made(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    backend.put(b'\0\r\n\xff', tmp_path / 'a' / 'b' / 'bytes')
    backend.put_text('Zürich\n', str(tmp_path / 'text'), encoding='latin-1')
    assert backend.get(tmp_path / 'a' / 'b' / 'bytes') == b'\0\r\n\xff'
    assert (tmp_path / 'text').read_bytes() == 'Zürich\n'.encode('latin-1')


def test_relative_path_without_folder(
    backend: AtomicLocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend.put(b'here', 'name')
    assert os.listdir(tmp_path) == ['name']


def test_name_of_the_greatest_length(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    name = 'ü' * 125 + '.pth'  # 254 bytes
    backend.put(b'x', tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_permissions_are_those_of_any_new_file(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        backend.put(b'x', tmp_path / 'file')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'file').stat().st_mode) == 0o640


def test_link_stays_a_link(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere' / 'file')
    backend.put(b'new', tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'elsewhere' / 'file').read_bytes() == b'new'
    assert sorted(os.listdir(tmp_path)) == ['elsewhere', 'link']


def test_pipe_is_written_to_and_not_replaced(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    backend.put(b'through', pipe)
    assert os.read(reader, 100) == b'through'
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_folder_in_the_place_of_the_file_is_an_error(backend: AtomicLocalBackend, tmp_path: Path) -> None:
    (tmp_path / 'taken').mkdir()
    with pytest.raises(IsADirectoryError, match='taken'):
        backend.put(b'x', tmp_path / 'taken')
    assert os.listdir(tmp_path) == ['taken']


@pytest.mark.parametrize('old', [None, b'old'])
def test_full_disk_leaves_the_old_file_and_no_part(
    old: bytes | None, backend: AtomicLocalBackend, tmp_path: Path
) -> None:
    file = tmp_path / 'iter_2.pth'
    if old:
        file.write_bytes(old)
    with pytest.raises(OSError, match=r'iter_2\.pth') as error, small_disk() as limit:
        backend.put(b'x' * (limit + 1), file)
    assert error.value.errno == errno.EFBIG
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([old] if old else [])
    with small_disk() as limit:
        backend.put(b'x' * limit, file)
    assert file.stat().st_size == limit


@pytest.mark.parametrize('at', ['fsync', 'replace'])
@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
def test_failure_at_any_moment_leaves_the_old_file(
    at: str, error: BaseException, backend: AtomicLocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / 'last_checkpoint').write_text('old')
    monkeypatch.setattr(os, at, fail)
    with pytest.raises(type(error)) as raised:
        backend.put_text('new', tmp_path / 'last_checkpoint')
    if isinstance(error, OSError):
        assert raised.value.filename == str(tmp_path / 'last_checkpoint')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'last_checkpoint': 'old'}


def test_content_is_on_the_disk_before_it_gets_its_name(
    backend: AtomicLocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(os, 'fsync', lambda number: calls.append(('fsync', os.fstat(number).st_size)))
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda a, b: (calls.append(('replace', os.stat(a).st_size)), replace(a, b)))
    backend.put(b'12345', tmp_path / 'file')
    assert calls == [('fsync', 5), ('replace', 5)]


def test_process_killed_before_the_rename_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(dict(step=1), str(tmp_path / 'iter_1.pth'))
    old = (tmp_path / 'iter_1.pth').read_bytes()
    process = os.fork()
    if process == 0:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(dict(step=2), str(tmp_path / 'iter_1.pth'))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / 'iter_1.pth').read_bytes() == old
    left = [name for name in os.listdir(tmp_path) if name != 'iter_1.pth']
    assert len(left) == 1
    assert left[0].startswith('.iter_1.pth.')
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ['iter_1.pth']
