"""Faults in data and workers: the file is named, nothing hangs, what was saved stays, and resuming goes on.

More of the fault matrix: test_tools.py (missing and corrupt files, labels outside), test_guard.py (NaN in a batch).
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tool_runs import CONFIGS, ROOT, losses, small
from torch._utils import ExceptionWrapper

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.datasets.loading import LoadImage

LOOP, SAFE = 'train_cfg.type=eomt_mm.TrainLoop', 'default_hooks.checkpoint.type=eomt_mm.SafeCheckpointHook'
NO_VALIDATION = ['val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']


@pytest.fixture
def root(request: pytest.FixtureRequest, coco_root: Path, ade20k_root: Path, tmp_path: Path) -> Path:
    """A copy of the data to be damaged: ADE20K's for tests of the semantic task, otherwise COCO's."""
    semantic = 'semantic' in request.node.name
    return shutil.copytree(ade20k_root if semantic else coco_root, tmp_path / 'root')


def command(task: str, root: Path, work_dir: Path, *flags: str, max_iters: int = 2, **options: Any) -> list[Any]:
    """Arguments of tools/train.py for a run without validation."""
    overrides = [*small(task, max_iters, **options), LOOP, SAFE, *NO_VALIDATION]
    return [CONFIGS[task], '--data-root', root, '--work-dir', work_dir, *flags, '--cfg-options', *overrides]


def train(tool: Callable, *arguments: Any, **options: Any) -> None:
    """Trains in this process; see `command`."""
    tool('train.py', *command(*arguments, **options))


LABEL_MAPS = dict(semantic='annotations/training', panoptic='annotations/panoptic_train2017')


@pytest.mark.parametrize('task', LABEL_MAPS)
@pytest.mark.parametrize('damage', ['of another size', 'empty', 'cut short'])
def test_damaged_label_map_is_named(task: str, damage: str, tool: Callable, root: Path, tmp_path: Path) -> None:
    paths = sorted((root / LABEL_MAPS[task]).iterdir())
    for path in paths:
        if damage == 'of another size':
            image = Image.open(path)
            image.crop((0, 0, image.width - 1, image.height)).save(path)
        else:
            path.write_bytes(path.read_bytes()[: 0 if damage == 'empty' else -40])
    with pytest.raises(ValueError) as error:
        train(tool, task, root, tmp_path / 'work')
    assert any(path.name in str(error.value) for path in paths)
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
@pytest.mark.parametrize('content', ['', '{}', 'no annotations', 'no images'])
def test_empty_annotation_file_is_named(task: str, content: str, tool: Callable, root: Path, tmp_path: Path) -> None:
    """Before anything is trained or written."""
    kind = 'panoptic' if task == 'panoptic' else 'instances'
    path = root / 'annotations' / f'{kind}_train2017.json'
    if content.startswith('no '):
        whole = json.loads(path.read_text())
        content = json.dumps({**whole, content.removeprefix('no '): []})
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        train(tool, task, root, tmp_path / 'work')
    assert path.name in str(error.value)
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize('content', [None, b'', b'no image'])
def test_errors_of_loading_cross_from_worker_to_trainer(content: bytes | None, tmp_path: Path) -> None:
    """torch builds the error anew from its text, which not every type of error allows."""
    path = tmp_path / 'a.jpg'
    if content is not None:
        path.write_bytes(content)
    kind = FileNotFoundError if content is None else ValueError
    try:
        LoadImage()(dict(img_path=str(path)))
    except kind:
        crossing = ExceptionWrapper(where='in DataLoader worker process 0')  # as the worker does
    with pytest.raises(kind, match=f'(?s)Caught .* in DataLoader worker process 0.*image {path} '):
        crossing.reraise()


@pytest.mark.slow  # torch waits 5 seconds for a worker that met an error
def test_corrupt_image_is_named_through_the_worker(tool: Callable, root: Path, tmp_path: Path) -> None:
    paths = sorted((root / 'train2017').iterdir())
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError) as error:
        train(tool, 'panoptic', root, tmp_path / 'work', train_dataloader__num_workers=1)
    text = str(error.value)
    assert 'Caught ValueError in DataLoader worker process 0' in text
    assert any(f'image {path} cannot be decoded' in text for path in paths)
    assert not list((tmp_path / 'work').glob('*.pth'))


# Runs tools/train.py; when step 3 begins, its worker is killed as the kernel does it when memory is out.
KILLING = """
import multiprocessing, os, runpy, signal, sys
import eomt_mm
from mmengine.hooks import IterTimerHook
before_iter = IterTimerHook._before_iter

def kill(self, runner, *args, **kwargs):
    if runner.iter == 2:
        [worker] = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
    before_iter(self, runner, *args, **kwargs)

IterTimerHook._before_iter = kill
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow
def test_killed_worker_ends_the_run_and_resuming_goes_on(tool: Callable, root: Path, tmp_path: Path) -> None:
    """The error is torch's; resumed, the run is the one without the fault."""
    options = dict(train_dataloader__num_workers=1, default_hooks__checkpoint__interval=1, max_iters=5)
    train(tool, 'panoptic', root, tmp_path / 'whole', **options)

    arguments = command('panoptic', root, tmp_path / 'work', **options)
    killing = [sys.executable, '-c', KILLING, ROOT / 'tools' / 'train.py', *arguments]
    ended = subprocess.run(list(map(str, killing)), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ended.returncode == 1
    assert re.search(r'RuntimeError: DataLoader worker \(pid.*\) (is killed by signal: Killed|exited)', ended.stderr)
    saved = sorted(path.name for path in (tmp_path / 'work').glob('iter_*.pth'))
    assert saved and 'iter_5.pth' not in saved

    train(tool, 'panoptic', root, tmp_path / 'work', '--resume', **options)
    assert sorted(losses(tmp_path / 'work')) == [1, 2, 3, 4, 5]
    weights, expected = (
        torch.load(tmp_path / name / 'iter_5.pth', weights_only=True)['state_dict'] for name in ('work', 'whole')
    )
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_images_without_any_segment_do_not_stop_training(tool: Callable, root: Path, tmp_path: Path) -> None:
    """Annotated, with an empty list of segments and a black PNG."""
    path = root / 'annotations' / 'panoptic_train2017.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        annotation['segments_info'] = []
        png = root / LABEL_MAPS['panoptic'] / annotation['file_name']
        Image.fromarray(np.zeros_like(np.asarray(Image.open(png)))).save(png)
    path.write_text(json.dumps(content))
    train(tool, 'panoptic', root, tmp_path / 'work', train_dataloader__dataset__filter_cfg__filter_empty_gt=False)
    assert all(np.isfinite(value) for value in losses(tmp_path / 'work').values())
