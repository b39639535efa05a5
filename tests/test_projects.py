"""The example of another backbone and another data set builds, and its data comes through."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from paths import ROOT
from PIL import Image

from eomt_mm.apis import load_config

EXAMPLES = ROOT / 'projects' / 'example_backbone' / 'configs'


@pytest.mark.parametrize(
    'name, depth, classes',
    [('eomt_eva02-b_31e_ade20k-semantic-512', 12, 150), ('eomt_dinov3-b_80ki_loveda-semantic-512', 12, 7)],
)
def test_example_builds(name: str, depth: int, classes: int) -> None:
    cfg = load_config(EXAMPLES / f'{name}.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.backbone.depth == depth
    assert model.decode_head.class_predictor.out_features == classes + 1
    assert model.backbone.patch_size == 16


def test_another_data_set_comes_through(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        for kind in ('img_dir', 'ann_dir'):
            (tmp_path / kind / split).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 8, (64, 64), dtype=np.uint8)
        Image.fromarray(np.repeat(pixels[..., None] * 30, 3, 2)).save(tmp_path / 'img_dir' / split / '0.png')
        Image.fromarray(pixels).save(tmp_path / 'ann_dir' / split / '0.png')
    cfg = load_config(EXAMPLES / 'eomt_dinov3-b_80ki_loveda-semantic-512.py', data_root=tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert tuple(train[0]['inputs'].shape) == (3, 512, 512)
    truth = val[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert ((truth + 1) % 256 == np.asarray(Image.open(tmp_path / 'ann_dir' / 'val' / '0.png'))).all()
