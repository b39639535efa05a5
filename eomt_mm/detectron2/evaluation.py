"""Build the evaluator of a data set: ours, or detectron2's own."""

import difflib
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)

from eomt_mm.detectron2.evaluators import (
    CityscapesAPEvaluator,
    ImageEvaluator,
    InstanceAPEvaluator,
    PanopticQualityEvaluator,
    SemanticIoUEvaluator,
)
from eomt_mm.detectron2.ground_truth import Item, read_label_map

TASK_OF_TYPE = {
    'coco': 'instance', 'coco_panoptic_seg': 'panoptic', 'ade20k_panoptic_seg': 'panoptic',
    'cityscapes_panoptic_seg': 'panoptic', 'sem_seg': 'semantic',
}  # fmt: skip
OWN: dict[str, type[ImageEvaluator]] = {
    'panoptic': PanopticQualityEvaluator,
    'instance': InstanceAPEvaluator,
    'semantic': SemanticIoUEvaluator,
}


def build_evaluator(
    name: str, output_dir: str | None = None, own: bool = True, task: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator of a registered data set.

    Args:
        name: of the data set.
        output_dir: folder for the files of detectron2's own evaluators; ours write none.
        own: True: ours; False: detectron2's own (mean IoU there leaves out classes without ground truth, and its
            panoptic evaluator needs panopticapi).
        task: 'panoptic', 'instance' or 'semantic'; None: that of the data set.

    Raises:
        ValueError: there is no such data set, its task is not known, or detectron2's own evaluator cannot read it.
    """
    found = task_of_data(name)
    task, meta = task or found, MetadataCatalog.get(name)
    if task not in OWN:
        raise ValueError(f'data set {name!r} does not state its task: give task, one of {", ".join(OWN)}')
    if not own:
        return _build_theirs(name, task, output_dir)
    if getattr(meta.get('spec'), 'kind', '') == 'CityscapesInstance':
        return DatasetEvaluators([CityscapesAPEvaluator(name), InstanceAPEvaluator(name)])
    return OWN[task](name)


def task_of_data(name: str) -> str | None:
    """Return the task of a registered data set, None if it states none; raise ValueError if there is no such set."""
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
        hint = f'did you mean {close[0]!r}?' if close else 'register it with eomt_mm.detectron2.data_sets'
        raise ValueError(f'data set {name!r} is not registered: {hint}')
    meta = MetadataCatalog.get(name)
    found: str | None = meta.get('task') or TASK_OF_TYPE.get(meta.get('evaluator_type', ''))
    return found


def _build_theirs(name: str, task: str, output_dir: str | None) -> DatasetEvaluator:
    """Build detectron2's own evaluator; arguments and errors: see `build_evaluator`."""
    items, meta = DatasetCatalog.get(name), MetadataCatalog.get(name)  # loading states the category ids
    if task == 'semantic':
        read = partial(_label_map_of, {item['sem_seg_file_name']: item for item in items})
        return SemSegEvaluator(name, output_dir=output_dir, sem_seg_loading_fn=read)
    key = 'json_file' if task == 'instance' else 'panoptic_json'
    if not meta.get(key):
        raise ValueError(f"data set {name!r} is not in COCO's format, which detectron2's own evaluator needs: own=True")
    if task == 'instance':
        return COCOEvaluator(name, tasks=('segm',), output_dir=output_dir)
    if find_spec('panopticapi') is None:
        raise ValueError("detectron2's own panoptic evaluator needs panopticapi: install it, or use ours (own=True)")
    return COCOPanopticEvaluator(name, output_dir)


def _label_map_of(items: Mapping[str, Item], path: str, dtype: Any = None) -> np.ndarray:
    """Read a label map in place of detectron2's reader, which knows no values of classes."""
    return read_label_map(items[path]).astype(dtype)
