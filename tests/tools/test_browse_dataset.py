"""What a model is fed, in pictures: every task, training and validation."""

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import MODELS
from PIL import Image
from tool_runs import CONFIGS, ROOT, small

from eomt_mm.apis import load_config
from eomt_mm.visualization import with_palette


def module() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / 'tools' / 'browse_dataset.py'))


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('task', CONFIGS)
def test_pictures_of_every_task(
    task: str, split: str, tool: Callable, coco_root: Path, ade20k_root: Path, tmp_path: Path
) -> None:
    root = ade20k_root if task == 'semantic' else coco_root
    arguments = ['--data-root', root, '--split', split, '--num', 3, '--out-dir', tmp_path / 'out']
    tool('browse_dataset.py', CONFIGS[task], *arguments, '--cfg-options', *small(task))
    written = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert {name[:5] for name in written} == {'00000', '00001', '00002'}
    assert all(Image.open(tmp_path / 'out' / name).width == 2 * 320 + 8 for name in written)  # 64 pixels, enlarged


def test_training_draws_again_and_validation_ends(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    whole = '--no-augmentation'
    for folder, split, num, *more in (
        ('a', 'train', 8), ('b', 'train', 8), ('c', 'train', 8, '--seed', 1), ('d', 'val', 9),
        ('e', 'train', 9, whole), ('f', 'train', 9, whole, '--seed', 1),
    ):  # fmt: skip
        arguments = ['--data-root', coco_root, '--split', split, '--num', num, '--out-dir', tmp_path / folder, *more]
        tool('browse_dataset.py', CONFIGS['panoptic'], *arguments, '--cfg-options', *small('panoptic'))
    a, b, c, e, f = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in 'abcef')
    assert len(a) == 8
    assert a == b != c
    assert len(list((tmp_path / 'd').iterdir())) == 4
    assert len(e) == 5
    assert e == f


def items(task: str, root: Path, split: str) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    tool = module()
    options = {'img_size': 64, 'val_dataloader.num_workers': 0}
    if task == 'instance':
        options['metainfo.classes'] = ('circle', 'square', 'triangle', 'star')
    cfg = load_config(CONFIGS[task], options, root)
    dataset = tool['build_dataset'](cfg, split, 0)
    return dataset, MODELS.build(cfg.model.data_preprocessor), with_palette(dataset.metainfo), tool


@pytest.mark.parametrize('task', CONFIGS)
def test_inputs_are_what_the_pipeline_made(task: str, coco_root: Path, ade20k_root: Path) -> None:
    dataset, preprocessor, _, tool = items(task, ade20k_root if task == 'semantic' else coco_root, 'train')
    item = dataset[0, 1]
    mask = np.zeros((64, 64), bool)
    mask[3, 5] = True
    ((image, (drawn,)),) = tool['fed'](preprocessor, item, [mask], True)
    assert np.array_equal(image[..., ::-1], item['inputs'].permute(1, 2, 0).numpy())  # BGR before, once normalised
    assert (drawn == mask).all()


def test_masks_of_validation_follow_the_image(coco_root: Path, ade20k_root: Path) -> None:
    dataset, preprocessor, _, tool = items('panoptic', coco_root, 'val')
    item = dataset[0, 0]
    h, w = item['data_samples'].ori_shape
    ((image, (drawn,)),) = tool['fed'](preprocessor, item, [np.ones((h, w), bool)], False)
    new_h, new_w = item['inputs'].shape[-2:]
    assert image.shape == (64, 64, 3)
    assert drawn[:new_h, :new_w].all()
    assert drawn.sum() == new_h * new_w  # the padding belongs to nothing
    dataset, preprocessor, _, tool = items('semantic', ade20k_root, 'val')
    windows = [len(list(tool['fed'](preprocessor, dataset[0, k], [], False))) for k in range(4)]
    assert max(windows) > 1


def test_errors_are_clear(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIGS['panoptic'], data_root=coco_root)
    cfg.val_dataloader = None
    with pytest.raises(ValueError, match='--split val'):
        module()['build_dataset'](cfg, 'val', 0)
    arguments = [CONFIGS['panoptic'], '--out-dir', tmp_path / 'out']
    with pytest.raises(SystemExit):
        tool('browse_dataset.py', *arguments, '--num', 0)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        tool('browse_dataset.py', *arguments, '--data-root', tmp_path / 'nowhere')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_labels_that_are_no_class_end_it_as_they_end_training(
    split: str, tool: Callable, ade20k_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(ade20k_root, tmp_path / 'root')
    folder = root / 'annotations' / {'train': 'training', 'val': 'validation'}[split]
    for path in folder.iterdir():
        labels = np.asarray(Image.open(path)).copy()
        labels[::2] = 200
        Image.fromarray(labels).save(path)
    arguments = ['--data-root', root, '--split', split, '--num', 2, '--out-dir', tmp_path / 'out']
    message = r'label map .*/annotations/.*\.png holds label\(s\) \[199\], outside the 150 classes .*label_ids=\('
    with pytest.raises(ValueError, match=message):
        tool('browse_dataset.py', CONFIGS['semantic'], *arguments, '--cfg-options', *small('semantic'))


def test_absent_classes_are_named(
    tool: Callable, ade20k_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ['--data-root', ade20k_root, '--split', 'val', '--num', 4, '--out-dir', tmp_path / 'out']
    tool('browse_dataset.py', CONFIGS['semantic'], *arguments, '--cfg-options', *small('semantic'))
    last = capsys.readouterr().out.splitlines()[-1]
    assert '143 of 150 classes do not occur in these 4 images: building, tree, ceiling' in last
    assert 'label_ids=(0, 255)' in last
