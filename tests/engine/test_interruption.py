"""A run that was interrupted and resumed is, bit for bit, the run that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tool_runs import CONFIGS, ROOT, small

from eomt_mm.engine.train_loop import TrainLoop

TIMES = {'time', 'data_time'}


def command(root: Path, work_dir: Path, steps: int, workers: int = 0, resume: bool = False, **more: Any) -> list[Any]:
    """Arguments of tools/train.py; colour jitter beside the recipe's flip and crop."""
    options = {
        'train_cfg__val_interval': steps // 3,
        'default_hooks__logger__log_metric_by_epoch': False,
        'train_dataloader__num_workers': workers,
        'train_dataloader__persistent_workers': workers > 0,
        **more,
    }
    settings = ['--data-root', root, '--cfg-options', *small('panoptic', steps, **options)]
    return [CONFIGS['panoptic'], '--work-dir', work_dir, *(['--resume'] if resume else []), *settings]


def interval(steps: int) -> dict[str, int]:
    return {'default_hooks__checkpoint__interval': steps}


def logged(work_dir: Path) -> list[dict[str, Any]]:
    """All scalars of all parts of a run but times; a last line that the kill cut short is left out."""
    records = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith('\n'):
                records.append({name: value for name, value in json.loads(line).items() if name not in TIMES})
    return records


def check_same(one: Any, other: Any, where: str) -> None:
    """Bit for bit, NaN being itself."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            check_same(value, other[key], f'{where}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            check_same(a, b, f'{where}.{i}')
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert one == other or (one != one and other != other), where


def check_same_run(whole: Path, parts: Path, steps: int) -> None:
    """Weights, buffers, optimiser, schedule, position, and every loss and metric that was ever logged."""
    end, other_end = (torch.load(path / f'iter_{steps}.pth', weights_only=True) for path in (whole, parts))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        check_same(end[part], other_end[part], part)
    assert any('attn_mask_probs' in name for name in end['state_dict'])
    seen, other_seen = (x['message_hub']['runtime_info']['samples_seen'] for x in (end, other_end))
    assert seen == other_seen
    records = {(record['step'], 'loss' in record): record for record in logged(whole)}
    assert len(records) == steps + 3  # validations
    found = [((record['step'], 'loss' in record), record) for record in logged(parts)]
    assert {key for key, _ in found} == records.keys()
    for key, record in found:
        check_same(records[key], record, f'logged at {key}')


class KilledError(Exception):
    pass


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run is over when ``step`` steps are done."""
    run_iter = TrainLoop.run_iter

    def until(self: TrainLoop, batches: Any) -> None:
        if self.iter == step:
            monkeypatch.setattr(TrainLoop, 'run_iter', run_iter)
            raise KilledError
        run_iter(self, batches)

    monkeypatch.setattr(TrainLoop, 'run_iter', until)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [(0, 1, 2), (2, 0, 0)])
def test_interrupted_run_is_the_whole_run(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: tuple[int, ...]
) -> None:
    """The step after the last checkpoint, and the prefetched samples, are lost and made again."""
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    tool('train.py', *command(coco_root, whole, 6, workers[0], **interval(2)))
    killed_at(5, monkeypatch)
    with pytest.raises(KilledError):
        tool('train.py', *command(coco_root, parts, 6, workers[1], **interval(2)))
    time.sleep(1)  # mmengine names the folders of a run by the second
    tool('train.py', *command(coco_root, parts, 6, workers[2], resume=True, **interval(2)))
    check_same_run(whole, parts, 6)
    assert [record['step'] for record in logged(parts) if 'loss' in record] == [1, 2, 3, 4, 5, 5, 6]


@pytest.mark.slow
def test_resumed_with_half_the_batch_and_twice_the_parts_it_sees_the_same_samples(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[float]]] = {}
    run_iter = TrainLoop.run_iter

    def recording(self: TrainLoop, batches: Any) -> None:
        images = [float(image.double().sum()) for batch in batches for image in batch['inputs']]
        seen.setdefault(Path(self.runner.work_dir).name, []).append(images)
        run_iter(self, batches)

    monkeypatch.setattr(TrainLoop, 'run_iter', recording)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    batch = {'train_dataloader__batch_size': 4}
    tool('train.py', *command(coco_root, whole, 3, **batch, **interval(1)))
    killed_at(1, monkeypatch)
    with pytest.raises(KilledError):
        tool('train.py', *command(coco_root, parts, 3, **batch, **interval(1)))
    halves = {'train_dataloader__batch_size': 2, 'optim_wrapper__accumulative_counts': 2}
    tool('train.py', *command(coco_root, parts, 3, resume=True, **halves, **interval(1)))
    assert seen['parts'] == seen['whole']
    assert len({image for step in seen['whole'] for image in step}) == 12  # of 5 images: never cut the same way


def run_killed(arguments: list[Any], steps: int, delay: float) -> int:
    """Runs tools/train.py in a process of its own, with a SIGKILL after so many logged steps and seconds."""
    work_dir = arguments[2]
    before = len(logged(work_dir))
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools' / 'train.py', *map(str, arguments)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and len(logged(work_dir)) < before + steps:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # with its workers
    return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize('seed, workers', [(0, (0, 0)), (1, (0, 2)), (2, (2, 0)), (3, (2, 2))])
def test_run_killed_twice_at_random_moments_is_the_whole_run(
    tool: Callable, coco_root: Path, tmp_path: Path, seed: int, workers: tuple[int, int]
) -> None:
    whole, parts, steps = tmp_path / 'whole', tmp_path / 'parts', 60
    random = np.random.default_rng(seed)
    tool('train.py', *command(coco_root, whole, steps, **interval(4)))
    for kill in range(2):
        arguments = command(coco_root, parts, steps, workers[kill], resume=kill > 0, **interval(4))
        assert run_killed(arguments, int(random.integers(5, 22)), random.uniform(0, 0.05)) == -signal.SIGKILL
    tool('train.py', *command(coco_root, parts, steps, workers[1], resume=True, **interval(4)))
    check_same_run(whole, parts, steps)
