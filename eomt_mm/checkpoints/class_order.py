"""Order of ADE20K's panoptic classes: released models keep the data set's, mmdet's data set has things first."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from eomt_mm.checkpoints.files import State

ClassOrder = Literal['auto', 'as_stored', 'ade20k']

NUM_CLASSES = 150
NUM_THINGS = 100
# Stuff among ADE20K's 150 classes (SceneParsing order); the list of the official configs.
# fmt: off
STUFF = (
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77, 79,
    84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
)
# fmt: on
# Row m of mmdet's order is row PERMUTATION[m] of ADE20K's.
PERMUTATION = (*(c for c in range(NUM_CLASSES) if c not in STUFF), *STUFF)


def is_ade20k_panoptic(classes: Iterable[str], num_things: int | None) -> bool:
    """Whether class names are those of mmdet's ``ADE20KPanopticDataset``: 100 things, bed first, then 50 stuff."""
    names = list(classes)
    return len(names) == NUM_CLASSES and num_things == NUM_THINGS and names[0] == 'bed' and names[NUM_THINGS] == 'wall'


def class_order_for(classes: Iterable[str] | None, num_things: int | None) -> ClassOrder:
    """The ``class_order`` to import with, where the model's class names are known: other sets stay as stored."""
    names = list(classes or ())
    return 'auto' if not names or is_ade20k_panoptic(names, num_things) else 'as_stored'


def to_mmdet_order(weights: Mapping[str, Tensor]) -> State:
    """Class rows of ``head.class_predictor`` from ADE20K's order to mmdet's; "no object" stays last."""
    return _reorder(weights, [*PERMUTATION, NUM_CLASSES])


def to_ade20k_order(weights: Mapping[str, Tensor]) -> State:
    """The inverse of :func:`to_mmdet_order`."""
    inverse = torch.argsort(torch.tensor([*PERMUTATION, NUM_CLASSES]))
    return _reorder(weights, inverse.tolist())


def _reorder(weights: Mapping[str, Tensor], rows: list[int]) -> State:
    return {name: value[rows] if name.startswith('head.class_predictor.') else value for name, value in weights.items()}
