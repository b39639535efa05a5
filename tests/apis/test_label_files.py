"""What label maps hold, stated once at the top of a semantic config."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from paths import ROOT
from PIL import Image

from eomt_mm.apis import load_config
from eomt_mm.registry import DATASETS

CONFIGS = ROOT / 'configs' / 'eomt'
CITYSCAPES = CONFIGS / 'cityscapes' / 'eomt_dinov2-s_107e_cityscapes-semantic-1024.py'
PANOPTIC = CONFIGS / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py'
BASES = [CONFIGS / '_base_' / name for name in ('recipes/own_semantic.py', 'backbones/tiny_scratch.py')]
BASES.append(CONFIGS / '_base_' / 'schedules' / 'own_10000i.py')


def own(folder: Path, text: str) -> Path:
    """A config of one's own with two classes."""
    head = f"_base_ = {[str(base) for base in BASES]}\nmetainfo = dict(classes=('cat', 'dog'))\n"
    path = folder / 'own.py'
    path.write_text(f'{head}model = dict(backbone=_base_.backbone)\n{text}\n')
    return path


def stated(cfg: Config) -> dict[str, Any]:
    """``label_ids`` of the three pipelines and two metrics."""
    loading = {
        name: next(step for step in cfg[f'{name}_dataloader'].dataset.pipeline if 'LoadSemanticMap' in step.type)
        for name in ('train', 'val', 'test')
    }
    parts = loading | dict(val_files=cfg.val_evaluator, test_files=cfg.test_evaluator)
    return {name: part.get('label_ids') for name, part in parts.items()}


def test_values_and_suffixes_reach_all_that_reads_or_writes_files(tmp_path: Path) -> None:
    path = own(tmp_path, "label_ids = (0, 255)\nimg_suffix = '.bmp'\nseg_map_suffix = '_mask.png'")
    for cfg in (load_config(path), load_config(own(tmp_path, ''), {
        'label_ids': (0, 255), 'img_suffix': '.bmp', 'seg_map_suffix': '_mask.png',
    })):  # fmt: skip
        assert set(stated(cfg).values()) == {(0, 255)} and len(stated(cfg)) == 5
        for name in ('train', 'val', 'test'):
            dataset = cfg[f'{name}_dataloader'].dataset
            assert (dataset.img_suffix, dataset.seg_map_suffix) == ('.bmp', '_mask.png')


def test_data_set_reads_what_the_config_says(tmp_path: Path) -> None:
    for folder in ('images/train', 'labels/train'):
        (tmp_path / folder).mkdir(parents=True)
    Image.new('RGB', (3, 2)).save(tmp_path / 'images' / 'train' / 'a.bmp')
    Image.fromarray(np.array([[0, 255, 7]] * 2, np.uint8)).save(tmp_path / 'labels' / 'train' / 'a_mask.png')
    text = "label_ids = (255, 0)\nimg_suffix = '.bmp'\nseg_map_suffix = '_mask.png'\nimg_size = 32"
    dataset = load_config(own(tmp_path, text), data_root=tmp_path).train_dataloader.dataset
    dataset.pipeline = dataset.pipeline[:2]
    assert DATASETS.build(dataset)[0]['gt_seg_map'].tolist() == [[1, 0, 255]] * 2


def test_values_of_16_bits_are_not_those_of_result_files(tmp_path: Path) -> None:
    found = stated(load_config(own(tmp_path, 'label_ids = (7, 4000)')))
    assert found == dict(train=(7, 4000), val=(7, 4000), test=(7, 4000), val_files=None, test_files=None)


def test_an_override_at_the_top_wins_and_one_below_stays(tmp_path: Path) -> None:
    ids = list(range(19))
    assert list(stated(load_config(CITYSCAPES, {'label_ids': ids})).values()) == [ids] * 5
    below = {
        'label_ids': (1, 2),
        'test_evaluator.label_ids': [5, 6],
        'val_dataloader.dataset.pipeline.2.label_ids': None,
    }
    found = stated(load_config(own(tmp_path, ''), below))
    assert found == dict(train=(1, 2), val=None, test=(1, 2), val_files=(1, 2), test_files=[5, 6])


def test_what_is_threaded_by_hand_stays(tmp_path: Path) -> None:
    text = """
ids = (3, 4)
train_pipeline = [dict(s, label_ids=ids) if 'LoadSemanticMap' in s['type'] else s for s in _base_.train_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, img_suffix='.bmp'))
"""
    found = stated(load_config(own(tmp_path, text)))
    assert found == dict(train=(3, 4), val=None, test=None, val_files=None, test_files=None)
    with pytest.raises(
        ValueError, match=r'label_ids is stated in different ways: \(1, 2\) at the top, \(3, 4\) in train_'
    ):
        load_config(own(tmp_path, f'{text}label_ids = (1, 2)'))
    with pytest.raises(
        ValueError, match=r"img_suffix is .*'\.png' at the top, '\.bmp' in train_dataloader\.dataset\.img"
    ):
        load_config(own(tmp_path, f"{text}img_suffix = '.png'"))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('label_ids = 255', r'label_ids=255: a tuple of different whole numbers in 0 \.\. 65535.*\(value,\)'),
        ('label_ids = ()', r'label_ids=\(\): a tuple'),
        ('label_ids = (0, 1.5)', 'whole numbers'),
        ('label_ids = (0, True)', 'whole numbers'),
        ('label_ids = (0, 70000)', r'0 \.\. 65535'),
        ('label_ids = (4, 4)', 'different'),
        ('label_ids = (0, 1, 2)', r'3 values for 2 classes \(cat, dog\): give one per class'),
        ("img_suffix = ('.png',)", r"img_suffix=\('\.png',\): the end of the files' names"),
        ("seg_map_suffix = ''", "seg_map_suffix=''"),
    ],
)
def test_wrong_values_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(own(tmp_path, text))


def test_other_tasks_have_none() -> None:
    with pytest.raises(ValueError, match=r"img_suffix='\.png': for label maps of semantic.*this config is of panoptic"):
        load_config(PANOPTIC, {'img_suffix': '.png'})
