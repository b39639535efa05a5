"""Registered data sets of the tests of detectron2, and predictions that are near their ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import ROOT

from eomt_mm.apis.config import load_config
from eomt_mm.detectron2.data_sets import register_config
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

SIDES = {
    'coco': ('12e', 640, 640, 512),
    'ade20k': ('31e', 640, 640, 512),
    'cityscapes': ('107e', 1024, 1024, 1024),
}
LEAVES = {
    f'{data}-{task}': ROOT / f'configs/eomt/{data}/eomt_dinov2-s_{epochs}_{data}-{task}-{side}.py'
    for data, (epochs, *sides) in SIDES.items()
    for task, side in zip(('panoptic', 'instance', 'semantic'), sides, strict=True)
}


def leaf_config(name: str, root: Path, img_size: Any = 64) -> Config:
    """A leaf on generated data; what stands for COCO has the classes of the shapes."""
    options: dict[str, Any] = dict(img_size=img_size)
    if name == 'coco-panoptic':
        options |= {f'metainfo.{key}': SHAPES_METAINFO[key] for key in ('thing_classes', 'stuff_classes')}
    if name == 'coco-instance':
        options['metainfo.classes'] = SHAPES_METAINFO['thing_classes']
    cfg = load_config(LEAVES[name], options, root)
    init_default_scope(cfg.default_scope)
    return cfg


def registered(dataset: Any, task: str, name: str = 'test_data') -> list[dict[str, Any]]:
    """Register the data set of a config of mmengine, and return its dicts."""
    register_config(name, dataset.to_dict(), task)
    items: list[dict[str, Any]] = DatasetCatalog.get(name)
    return items


def forget_test_sets() -> None:
    """Remove the data sets whose names begin with test_ from detectron2's catalogs."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [name for name in catalog.list() if name.startswith('test_')]:
            catalog.remove(name)


def shifted(maps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Maps (..., H, W) rolled by up to three pixels: most segments match, with an IoU below 1."""
    return np.roll(maps, rng.integers(-3, 4, 2), axis=(-2, -1))
