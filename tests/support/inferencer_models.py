"""Small models with random weights and confident classes, for the tests of inference."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from tool_runs import CONFIGS, HEAD, ROOT

from eomt_mm.apis import init_model, load_config
from eomt_mm.synthetic.shapes import SHAPES_METAINFO


def small_config(task: str) -> Config:
    options: dict[str, Any] = {
        'img_size': 64,
        'model.backbone.depth': 2,
        'model.backbone.embed_dim': 48,
        'model.backbone.num_heads': 3,
        'model.backbone.patch_size': 16,
        f'model.{HEAD[task]}.num_queries': 5,
    }
    if task == 'instance':
        options['metainfo.classes'] = SHAPES_METAINFO['thing_classes']
    if task == 'semantic':
        options['metainfo.classes'] = SHAPES_METAINFO['classes']
    if task == 'panoptic':
        options['model.panoptic_head.overlap_thr'] = 0.0
    return load_config(CONFIGS[task], options)


def saved_model(task: str, folder: Path, **meta: Any) -> tuple[Path, Path]:
    """Config and checkpoint as files; ``meta`` becomes ``dataset_meta``."""
    torch.manual_seed(0)
    cfg = small_config(task)
    model = init_model(cfg)
    head = getattr(model, HEAD[task])
    with torch.no_grad():
        head.queries.weight.mul_(10)  # queries that differ
        head.class_predictor.weight.mul_(30)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=meta)), folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'model.pth'


def video_config(task: str) -> Config:
    """The demo's model of videos, smaller."""
    (toy,) = (ROOT / 'projects' / 'videomt' / 'configs').glob('videomt_tiny_*.py')
    options: dict[str, Any] = {
        'model.backbone.depth': 2,
        'model.backbone.embed_dim': 48,
        'model.backbone.num_heads': 3,
        'model.backbone.patch_size': 16,
        'model.panoptic_head.num_queries': 6,
        'model.panoptic_head.num_blocks': 1,
        'model.panoptic_head.task': task,
    }
    if task == 'panoptic':
        options |= {
            'model.panoptic_head.num_things_classes': 2,
            'model.panoptic_head.num_stuff_classes': 2,
            'model.panoptic_head.overlap_thr': 0.0,
            'model.panoptic_head.score_thr': 0.3,
            'metainfo': dict(thing_classes=('turtle', 'train'), stuff_classes=('shark', 'frog')),
        }
    return load_config(toy, options)


def saved_video_model(task: str, folder: Path) -> tuple[Path, Path]:
    """Config and checkpoint as files; queries differ, and classes change from frame to frame."""
    torch.manual_seed(0)
    cfg = video_config(task)
    model = init_model(cfg)
    with torch.no_grad():
        model.panoptic_head.queries.weight.mul_(10)
        model.panoptic_head.class_predictor.weight.mul_(30)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'model.pth'
