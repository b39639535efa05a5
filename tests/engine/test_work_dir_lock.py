"""Two trainings never write into one work dir."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tool_runs import CONFIGS, small

from eomt_mm.engine.work_dir_lock import HOLDER, work_dir_lock

HOLD = """
import os, sys, time
from eomt_mm.engine.work_dir_lock import work_dir_lock
with work_dir_lock(sys.argv[1]):
    {}
"""
WAIT = 'print("held", flush=True); input()'


def holding(work_dir: Path, then: str = WAIT) -> subprocess.Popen:
    command = [sys.executable, '-c', HOLD.format(then), str(work_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == 'held\n'
    return process


def test_the_second_of_two_is_refused(tmp_path: Path) -> None:
    first = holding(tmp_path / 'run')
    with (
        pytest.raises(RuntimeError, match=rf'run is in use by process {first.pid} on .* since 2.*--work-dir'),
        work_dir_lock(tmp_path / 'run'),
    ):
        pytest.fail('held twice')
    with work_dir_lock(tmp_path / 'another'):
        pass
    first.communicate('\n')
    assert first.returncode == 0
    with work_dir_lock(tmp_path / 'run'):
        assert str(os.getpid()) in (tmp_path / 'run' / HOLDER).read_text()
    assert not (tmp_path / 'run' / HOLDER).exists()


def test_a_killed_run_blocks_nobody(tmp_path: Path) -> None:
    first = holding(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / HOLDER).exists()
    with work_dir_lock(tmp_path):
        pass


def test_workers_of_a_killed_run_are_waited_for(tmp_path: Path) -> None:
    first = holding(tmp_path, f'if os.fork(): {WAIT}\n    time.sleep(2); os._exit(0)')
    first.send_signal(signal.SIGKILL)
    first.wait()
    with work_dir_lock(tmp_path):
        pass


def test_training_holds_its_work_dir(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    command = ['train.py', CONFIGS['panoptic'], '--data-root', coco_root, '--work-dir', tmp_path]
    with work_dir_lock(tmp_path), pytest.raises(RuntimeError, match='is in use by process'):
        tool(*command, '--cfg-options', *small('panoptic', 1))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == '.pth'] == []
    tool(*command, '--cfg-options', *small('panoptic', 1))
    tool(*command, '--cfg-options', *small('panoptic', 1), 'load_from=None')
