"""The same small model on both sides, with the same weights, and the same samples for both."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from contract import ArchitectureContract, tiny
from detectron2.config import instantiate
from detectron2.structures import Instances
from omegaconf import DictConfig
from paths import ROOT
from random_weights import randomise

from eomt_mm.apis import init_model, load_config
from eomt_mm.detectron2 import apply_overrides, lazy_config

TOY = ROOT / 'configs' / 'eomt' / 'toy'
CONFIGS = dict(
    panoptic=TOY / 'eomt_tiny_shapes-panoptic-128.py',
    instance=TOY / 'eomt_tiny_coco-instance-256.py',
    semantic=TOY / 'eomt_tiny_ade20k-semantic-256.py',
)
HEADS = dict(panoptic='panoptic_head', instance='panoptic_head', semantic='decode_head')
SMALL = [
    'model.backbone.depth=2', 'model.backbone.embed_dim=48', 'model.backbone.num_heads=3',
    'model.backbone.patch_size=16', 'model.head.num_blocks=1', 'model.head.num_queries=10',
    'model.criterion.num_points=64', 'optimizer.params.layer_decay=0.8',
]  # fmt: skip


def small_lazy(config: str | Path, *overrides: str, **options: Any) -> DictConfig:
    """LazyConfig of a tiny model, as `contract.tiny` makes them on the mm side."""
    return apply_overrides(lazy_config(config, dict(img_size=64) | options), [*SMALL, *overrides])


def pair(task: str) -> tuple[Any, Any, DictConfig]:
    """Model of the mm side, of detectron2, both with random weights of order 1, and the LazyConfig of the second."""
    thresholds = dict(score_thr=0.0, overlap_thr=0.0) if task == 'panoptic' else {}
    options = tiny(HEADS[task]) | {f'model.{HEADS[task]}.{name}': value for name, value in thresholds.items()}
    options['optim_wrapper.paramwise_cfg.layer_decay'] = 0.8
    torch.manual_seed(0)  # results have segments
    ours = init_model(load_config(CONFIGS[task], options))
    randomise(ours)
    cfg = small_lazy(CONFIGS[task], *(f'model.rules.{name}={value}' for name, value in thresholds.items()))
    theirs = instantiate(cfg.model).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, cfg


def samples(task: str, number: int = 2) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same images and ground truth as a batch of the mm side and as detectron2's dicts."""
    found = [ArchitectureContract.example(SimpleNamespace(task=task), seed) for seed in range(number)]  # type: ignore[arg-type]
    images, mm_samples = zip(*found, strict=True)
    items = []
    for image in images:
        ids = torch.zeros(image.shape[-2:], dtype=torch.int32)
        ids[:20, :20], ids[20:] = 1, 2
        instances = Instances(
            ids.shape, gt_classes=torch.tensor([0, 1]), gt_masks=ids == torch.tensor([1, 2])[:, None, None]
        )
        items.append(dict(image=image[[2, 1, 0]], instances=instances, height=80, width=120, file_name='a.jpg'))
    return dict(inputs=list(images), data_samples=list(mm_samples)), items
