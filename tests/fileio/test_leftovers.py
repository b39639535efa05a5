"""Unfinished files go with the process that wrote them, whatever they were to become."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eomt_mm.fileio.leftovers import HOST, LONGEST_WRITE, part_of, remove_unfinished, started_at
from eomt_mm.fileio.writing import written_aside
from eomt_mm.hosts.local_backend import AtomicLocalBackend

GONE = 2**22 + 1  # above every number that Linux gives a process


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    yield process
    process.communicate(b'\n')


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(
    'name',
    [
        f'.last_checkpoint.{HOST}-{GONE}-0a1b2c3d.part',
        f'.results.json.{HOST}-{GONE}-0a1b2c3d.part',
        f'.last_checkpoint.{GONE}-0a1b2c3d.part',  # as before hosts had names
        f'.scalars.json.{HOST}-{os.getpid()}-0a1b2c3d.part',  # in a container every run may be process 7
    ],
    ids=['pointer', 'results', 'old name', 'own number'],  # a process number would differ between workers of pytest
)
def test_parts_of_any_file_go_with_their_process(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert remove_unfinished(tmp_path) == [tmp_path / name]
    assert names(tmp_path) == []


def test_parts_of_a_living_process_stay(tmp_path: Path, other: subprocess.Popen) -> None:
    part = tmp_path / f'.results.json.{HOST}-{other.pid}-0a1b2c3d.part'
    part.touch()
    assert remove_unfinished(tmp_path) == []
    os.utime(part, times=(time.time() - 3600, time.time() - 3600))  # the number was another process's then
    assert remove_unfinished(tmp_path) == [part]


def test_parts_of_another_host_stay_while_they_may_be_written(tmp_path: Path) -> None:
    part = tmp_path / f'.results.json.node-7-{os.getpid()}-0a1b2c3d.part'
    part.touch()
    assert remove_unfinished(tmp_path) == []
    long_ago = time.time() - LONGEST_WRITE - 60
    os.utime(part, times=(long_ago, long_ago))
    assert remove_unfinished(tmp_path) == [part]


def test_other_files_stay(tmp_path: Path) -> None:
    kept = ['.iter_1.dcp.part', '.iter_1.pth.part', 'iter_2.pth', f'x.{HOST}-{GONE}-0a1b2c3d.part']
    for name in kept:
        (tmp_path / name).touch()
    assert remove_unfinished(tmp_path) == []
    assert names(tmp_path) == sorted(kept)
    assert remove_unfinished(tmp_path / 'nowhere') == []


def test_folders_below_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / 'a' / 'b' / 'c').mkdir(parents=True)
    parts = [part_of(folder / 'x') for folder in (tmp_path, tmp_path / 'a', tmp_path / 'a' / 'b' / 'c')]
    for part in parts:
        part.touch()
    assert set(remove_unfinished(tmp_path, depth=1)) == set(parts[:2])
    assert parts[2].exists()


class KilledError(BaseException):
    pass


def killed(*_: object, **__: object) -> None:
    raise KilledError


@pytest.mark.parametrize('folder', [True, False])
def test_what_is_written_aside_is_found_after_a_kill(
    tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr('shutil.rmtree', lambda *_, **__: None)
        patch.setattr(os, 'replace', killed)
        with written_aside(tmp_path / 'model', folder) as path:
            (path / 'weights' if folder else path).write_text('x')
    (left,) = names(tmp_path)
    assert left.startswith('.model.')
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []


def test_what_the_backend_writes_is_found_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'replace', killed)
    monkeypatch.setattr(Path, 'unlink', lambda *_, **__: None)
    with pytest.raises(KilledError):
        AtomicLocalBackend().put_text('x', tmp_path / 'last_checkpoint')
    monkeypatch.undo()
    assert re.fullmatch(rf'\.last_checkpoint\.{HOST}-{os.getpid()}-\w{{8}}\.part', names(tmp_path)[0])
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []


def test_start_of_a_process(other: subprocess.Popen) -> None:
    started = started_at(other.pid)
    assert started is not None and abs(time.time() - started) < 5
    assert started_at(GONE) is None
