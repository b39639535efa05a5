"""The example of another backbone keeps the contract of architectures; that of another data set is read."""

from pathlib import Path

import numpy as np
import torch
from contract import ArchitectureContract, tiny
from mmengine.registry import DATASETS, MODELS, DefaultScope
from paths import ROOT
from PIL import Image

from eomt_mm.apis import load_config

EXAMPLES = ROOT / 'projects' / 'example_backbone' / 'configs'
LOVEDA = EXAMPLES / 'eomt_dinov3-b_80ki_loveda-semantic-512.py'


class TestEVA02(ArchitectureContract):
    config = EXAMPLES / 'eomt_eva02-b_31e_ade20k-semantic-512.py'
    options = tiny('decode_head')
    task = 'semantic'


def test_classes_follow_from_the_data_set() -> None:
    cfg = load_config(LOVEDA)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.decode_head.class_predictor.out_features == 7 + 1


def test_another_data_set_comes_through(tmp_path: Path) -> None:
    for split in ('train', 'val'):
        for kind in ('img_dir', 'ann_dir'):
            (tmp_path / kind / split).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 8, (64, 64), dtype=np.uint8)
        Image.fromarray(np.repeat(pixels[..., None] * 30, 3, 2)).save(tmp_path / 'img_dir' / split / '0.png')
        Image.fromarray(pixels).save(tmp_path / 'ann_dir' / split / '0.png')
    cfg = load_config(LOVEDA, data_root=tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert tuple(train[0]['inputs'].shape) == (3, 512, 512)
    truth = val[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert ((truth + 1) % 256 == np.asarray(Image.open(tmp_path / 'ann_dir' / 'val' / '0.png'))).all()
