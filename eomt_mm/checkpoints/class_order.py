"""Reorder ADE20K's panoptic classes: released models use the original order, mmdet's data set has things first."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from eomt_mm.annotations.class_tables import ADE20K_NUM_CLASSES, ADE20K_NUM_THINGS, ADE20K_THINGS_FIRST
from eomt_mm.checkpoints.files import State

ClassOrder = Literal['auto', 'as_stored', 'ade20k']


def is_ade20k_panoptic(classes: Iterable[str], num_things: int | None) -> bool:
    """Return whether classes are those of mmdet's ``ADE20KPanopticDataset``: 100 things, 'bed' first, then 50 stuff."""
    names = list(classes)
    is_size = (len(names), num_things) == (ADE20K_NUM_CLASSES, ADE20K_NUM_THINGS)
    return is_size and names[0] == 'bed' and names[ADE20K_NUM_THINGS] == 'wall'


def class_order_for(classes: Iterable[str] | None, num_things: int | None) -> ClassOrder:
    """Return the ``class_order`` for an import: 'as_stored' if the model's classes are known not to be ADE20K's."""
    names = list(classes or ())
    return 'auto' if not names or is_ade20k_panoptic(names, num_things) else 'as_stored'


def to_mmdet_order(weights: Mapping[str, Tensor]) -> State:
    """Reorder the rows of ``head.class_predictor`` from ADE20K's order to mmdet's; "no object" stays last."""
    return _reorder(weights, [*ADE20K_THINGS_FIRST, ADE20K_NUM_CLASSES])


def to_ade20k_order(weights: Mapping[str, Tensor]) -> State:
    """Invert :func:`to_mmdet_order`."""
    inverse = torch.argsort(torch.tensor([*ADE20K_THINGS_FIRST, ADE20K_NUM_CLASSES]))
    return _reorder(weights, inverse.tolist())


def _reorder(weights: Mapping[str, Tensor], rows: list[int]) -> State:
    return {name: value[rows] if name.startswith('head.class_predictor.') else value for name, value in weights.items()}
