"""Test sets without annotations: result files, and no evaluation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tool_runs import shrunk

from eomt_mm.apis import init_model, load_config
from eomt_mm.synthetic.generate import write_cityscapes

CONFIGS = ROOT / 'configs' / 'eomt'


@pytest.fixture(scope='module')
def cityscapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only images, below leftImg8bit/test."""
    root = tmp_path_factory.mktemp('cityscapes') / 'root'
    write_cityscapes(root, num_train=1, num_val=2, size=(64, 128), progress=False)
    (root / 'leftImg8bit' / 'val').rename(root / 'leftImg8bit' / 'test')
    shutil.rmtree(root / 'gtFine')
    return root


def checkpoint(config: Path, task: str, folder: Path) -> Path:
    import torch
    from mmengine.config import DictAction

    options = {key: DictAction._parse_iterable(value) for key, value in (x.split('=', 1) for x in shrunk(task))}
    path = folder / 'model.pth'
    torch.save(dict(state_dict=init_model(load_config(config, options)).state_dict(), meta={}), path)
    return path


@pytest.mark.parametrize('task, key', [('panoptic', 'img'), ('instance', 'img'), ('semantic', 'img_path')])
def test_cityscapes(task: str, key: str, tool: Callable, cityscapes_root: Path, tmp_path: Path) -> None:
    config = CONFIGS / 'cityscapes' / f'eomt_dinov3-s_107e_cityscapes-{task}-1024.py'
    arguments = ['--data-root', cityscapes_root, '--work-dir', tmp_path, '--out', tmp_path / 'out', '--format-only']
    prefix = f'test_dataloader.dataset.data_prefix.{key}=leftImg8bit/test'
    tool('test.py', config, checkpoint(config, task, tmp_path), *arguments, '--cfg-options', *shrunk(task), prefix)
    assert len(list((tmp_path / 'out').rglob('frankfurt*'))) + len(list((tmp_path / 'out').rglob('lindau*'))) >= 2


def test_results_keep_the_path_below_the_prefix(tool: Callable, tmp_path: Path) -> None:
    """Label maps and pictures of four cameras whose images have the same names."""
    config = CONFIGS / 'toy' / 'eomt_tiny_ade20k-semantic-256.py'
    for k in range(4):
        path = tmp_path / 'root' / 'pictures' / f'cam{k}' / 'frame_0001.jpg'
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((20, 30, 3), 60 * k, np.uint8)).save(path)
    arguments = ['--data-root', tmp_path / 'root', '--work-dir', tmp_path, '--out', tmp_path / 'out', '--format-only']
    arguments += ['--show-dir', tmp_path / 'shown']
    prefix = 'test_dataloader.dataset.data_prefix.img_path=pictures'
    tool('test.py', config, checkpoint(config, 'semantic', tmp_path), *arguments, '--cfg-options',
         *shrunk('semantic'), prefix)  # fmt: skip
    for folder in (tmp_path / 'out', tmp_path / 'shown'):
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))
        assert found == [f'cam{k}/frame_0001.png' for k in range(4)]


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_coco_json_without_annotations(task: str, tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    toy = {'panoptic': 'eomt_tiny_shapes-panoptic-128', 'instance': 'eomt_tiny_coco-instance-256'}[task]
    kind = {'panoptic': 'panoptic', 'instance': 'instances'}[task]
    root = tmp_path / 'root'
    shutil.copytree(coco_root / 'val2017', root / 'val2017')
    data = json.loads((coco_root / 'annotations' / f'{kind}_val2017.json').read_text())
    if task == 'instance':  # the names of COCO's classes are not those of the shapes
        data['categories'] = [dict(id=k, name=n) for k, n in enumerate(load_names(CONFIGS / 'toy' / f'{toy}.py'), 1)]
    del data['annotations']
    (root / 'annotations').mkdir()
    (root / 'annotations' / f'{kind}_val2017.json').write_text(json.dumps(data))
    config = CONFIGS / 'toy' / f'{toy}.py'
    arguments = ['--data-root', root, '--work-dir', tmp_path, '--out', tmp_path / 'out', '--format-only']
    tool('test.py', config, checkpoint(config, task, tmp_path), *arguments, '--cfg-options', *shrunk(task))
    assert (tmp_path / 'out' / f'{task}_results.json').is_file()


def load_names(config: Path) -> tuple[str, ...]:
    from eomt_mm.apis.classes import config_meta

    return config_meta(load_config(config))['classes']


def test_folder_for_the_files_is_needed(tool: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        tool('test.py', CONFIGS / 'toy' / 'eomt_tiny_shapes-panoptic-128.py', tmp_path / 'x.pth', '--format-only')
    assert '--out' in capsys.readouterr().err
