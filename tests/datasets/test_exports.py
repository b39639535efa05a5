"""Exports of annotation tools, read as docs/custom_data.md says: a step of training, and AP or mIoU 100."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_files import (
    CLASSES,
    IMAGES,
    SIZE,
    VALUES,
    coco_annotator,
    cvat,
    fiftyone,
    fiftyone_masks,
    label_studio,
    labelme,
    labelme_voc,
    roboflow,
    roboflow_masks,
    via,
)
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from paths import ROOT

from eomt_mm.annotations.masks import decode
from eomt_mm.apis import load_config

PAGE = (ROOT / 'docs' / 'custom_data.md').read_text()
CONFIG = re.findall(r'`configs/own/facades\.py`:\n\n```python\n(.*?)```', PAGE, flags=re.S)[0]
SPLIT_SCRIPT = re.findall(r'### One json for everything\n.*?```python\n(.*?)```', PAGE, flags=re.S)[0]
TOOLS: dict[str, Callable[[Path], None]] = {
    'Roboflow': roboflow,
    'CVAT': cvat,
    'Label Studio': partial(label_studio, split_script=SPLIT_SCRIPT),
    'labelme': labelme,
    'FiftyOne': fiftyone,
    'COCO Annotator': coco_annotator,
    'VGG (VIA 2)': via,
}


def rows(title: str) -> dict[str, list[str]]:
    """Cells by the tool, of the table whose first line has this title."""
    table = PAGE[PAGE.index(title) :].split('\n\n')[0]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]]
    return {cells[0]: cells[1:] for cells in lines}


EXPORTS = rows('| tool | export | in `data_root` |')


def config_of(tool: str, folder: Path) -> Path:
    """The page's config with the two lines of a tool."""
    text = CONFIG
    for split, cell in zip(('train', 'valid'), EXPORTS[tool][2:], strict=True):
        ann_file, images = re.findall(r'`([^`]+)`', cell)
        text = text.replace(f'{split}/_annotations.coco.json', ann_file).replace(f"img='{split}/'", f"img='{images}'")
    return own_config(folder, text)


def own_config(folder: Path, text: str) -> Path:
    path = folder / 'configs' / 'own' / 'mine.py'
    path.parent.mkdir(parents=True)
    (folder / 'configs' / 'eomt').symlink_to(ROOT / 'configs' / 'eomt')
    path.write_text(text)
    return path


@pytest.fixture(scope='module')
def models() -> dict[str, Any]:
    """One for all exports of a task."""
    return {}


def train_a_step(cfg: Config, models: dict[str, Any]) -> None:
    np.random.seed(0)  # crops
    torch.manual_seed(0)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == len(IMAGES['train'])
    model = models.setdefault(cfg.default_scope, None) or MODELS.build(cfg.model)
    models[cfg.default_scope] = model.train()
    batch = model.data_preprocessor(pseudo_collate([dataset[k] for k in range(len(dataset))]), True)
    total, logged = model.parse_losses(model(**batch, mode='loss'))
    total.backward()
    assert total.isfinite() and logged['loss_mask'] > 0 and logged['loss_dice'] > 0


SMALL = {'img_size': 32, 'model.backbone.depth': 1}


@pytest.mark.parametrize('tool', TOOLS)
def test_instances(tool: str, models: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / 'export'
    TOOLS[tool](root)
    cfg = load_config(config_of(tool, tmp_path), SMALL, data_root=root)
    DefaultScope.get_instance('exports', scope_name=cfg.default_scope)
    train_a_step(cfg, models)

    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    assert len(dataset) == 1
    sample = dataset[0]['data_samples'].to_dict()
    (drawn,) = IMAGES['val']
    sample['pred_instances'] = dict(
        labels=torch.tensor([CLASSES.index(name) for name, _ in drawn.objects]),
        masks=torch.from_numpy(np.stack([decode([ring], SIZE) for _, ring in drawn.objects])).bool(),
        scores=torch.tensor([0.9, 0.8]),
    )
    metric.process(None, [sample])
    assert metric.evaluate(1)['coco/segm_mAP'] == 1


SEMANTIC_CONFIG = re.findall(r'`configs/own/streets_semantic\.py`:\n\n```python\n(.*?)```', PAGE, flags=re.S)[0]
SEMANTIC_EXPORTS = rows('| tool | export | `data_root`, `img_path` and `seg_map_path` |')
SEMANTIC_TOOLS = dict(Roboflow=roboflow_masks, labelme=labelme_voc, FiftyOne=fiftyone_masks)


def test_table_and_imitations_go_together() -> None:
    assert list(EXPORTS) == list(TOOLS) and list(SEMANTIC_EXPORTS) == list(SEMANTIC_TOOLS)


@pytest.mark.parametrize('tool', SEMANTIC_TOOLS)
def test_label_maps(tool: str, models: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / 'export'
    lines = SEMANTIC_TOOLS[tool](root)
    assert all(
        folder in ''.join(SEMANTIC_EXPORTS[tool]) for folder in re.findall(r"path='([^']+)'", lines.split('val_')[0])
    )
    head = SEMANTIC_CONFIG[: SEMANTIC_CONFIG.index('data_root')]
    text = f'{head}metainfo = dict(classes={CLASSES})\n{lines}\nmodel = dict(backbone=_base_.backbone)\n'
    cfg = load_config(own_config(tmp_path, text), SMALL, data_root=root)
    DefaultScope.get_instance('exports', scope_name=cfg.default_scope)
    train_a_step(cfg, models)

    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    expected = torch.from_numpy(VALUES.astype(np.int64))
    sample = dataset[0]['data_samples'].to_dict()
    assert torch.equal(sample['gt_sem_seg']['data'][0].long(), torch.where(expected == 0, 255, expected - 1))
    sample['pred_sem_seg'] = dict(data=(expected - 1).clamp(min=0)[None])
    metric.process(None, [sample])
    assert metric.evaluate(1)['mIoU'] == 100
