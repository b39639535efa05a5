"""Configurations, overrides and results of short runs through tools/, for the tests of several subjects."""

import json
from pathlib import Path
from typing import Any

from paths import ROOT

from eomt_mm.synthetic.shapes import SHAPES_METAINFO

TOY = ROOT / 'configs' / 'eomt' / 'toy'
CLASSES = repr(list(SHAPES_METAINFO['classes']))
THINGS = repr(list(SHAPES_METAINFO['thing_classes']))
CONFIGS = {
    'panoptic': TOY / 'eomt_tiny_shapes-panoptic-128.py',
    'instance': TOY / 'eomt_tiny_coco-instance-256.py',
    'semantic': TOY / 'eomt_tiny_ade20k-semantic-256.py',
}
HEAD = dict(panoptic='panoptic_head', instance='panoptic_head', semantic='decode_head')
METRIC = dict(panoptic='coco_panoptic/PQ', instance='coco/segm_mAP', semantic='mIoU')


def shrunk(task: str, max_iters: int = 2) -> list[str]:
    """Overrides for a model of any leaf and a run that take a second."""
    options = {
        'img_size': 64,
        'model.backbone.pretrained': False,
        'model.backbone.depth': 2,
        'model.backbone.embed_dim': 48,
        'model.backbone.num_heads': 3,
        'model.backbone.patch_size': 16,
        f'model.{HEAD[task]}.num_queries': 10,
        f'model.{HEAD[task]}.criterion.num_points': 64,
        'train_dataloader.batch_size': 3,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'test_dataloader.num_workers': 0,
        'param_scheduler.0.warmup_steps': '(0,0)',
        'train_cfg.max_iters': max_iters,
        'default_hooks.logger.interval': 1,
    }
    return [f'{key}={value}' for key, value in options.items()]


def small(task: str, max_iters: int = 2, **more: Any) -> list[str]:
    """`shrunk`, for the toy configs and the classes of generated data."""
    options: dict[str, Any] = {}
    if task == 'instance':
        options['metainfo.classes'] = THINGS
    options.update({key.replace('__', '.'): value for key, value in more.items()})
    return [*shrunk(task, max_iters), *(f'{key}={value}' for key, value in options.items())]


def metrics(work_dir: Path) -> dict[str, float]:
    return json.loads(max(f for f in work_dir.glob('*/*.json') if f.stem == f.parent.name).read_text())


def losses(work_dir: Path) -> dict[int, float]:
    lines = [line for file in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in file.open()]
    return {r['step']: r['loss'] for r in map(json.loads, lines) if 'loss' in r}
