"""Configs and checkpoints as files for the hosts' inference interfaces: shipped models, and models of own data."""

from pathlib import Path
from typing import Any

import torch
from inferencer_models import small_config
from tool_runs import HEAD, ROOT

from eomt_mm.apis import init_model, load_config

RECIPES = ROOT / 'configs' / 'eomt' / '_base_'
CLASSES = {
    'panoptic': dict(thing_classes=('cat', 'dog'), stuff_classes=('sky', 'grass')),
    'instance': dict(classes=('cat', 'dog')),
    'semantic': dict(classes=('road', 'tree', 'water')),
}
SMALL: dict[str, Any] = dict(depth=2, embed_dim=48, num_heads=3)


def own_config(task: str, folder: Path) -> Path:
    """Write a config of own data, as docs/custom_data.md shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    bases = [f'recipes/own_{task}_small.py', 'backbones/tiny_scratch.py', 'schedules/own_300i.py']
    lines = [
        f'_base_ = {[str(RECIPES / base) for base in bases]}',
        f'metainfo = {CLASSES[task]}',
        'img_size = 64',
        f'model = dict(backbone=dict(_base_.backbone, **{SMALL}), {HEAD[task]}=dict(num_queries=5))',
    ]
    path = folder / 'own.py'
    path.write_text('\n'.join(lines) + '\n')
    return path


def saved(task: str, folder: Path, own: bool) -> tuple[Path, Path]:
    """Config, as training saves it, and a checkpoint with class names and a confident class."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    cfg = load_config(own_config(task, folder)) if own else small_config(task)
    model = init_model(cfg)
    with torch.no_grad():
        getattr(model, HEAD[task]).class_predictor.bias[1] = 30
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'model.pth'
