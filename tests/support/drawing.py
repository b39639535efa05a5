"""A data set that shows which random numbers a sample draws."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset

import eomt_mm  # noqa: F401  before the hosts


class Drawing(Dataset):
    """Each sample is its index and a number of each global generator."""

    metainfo = dict(classes=('a', 'b'))

    def __init__(self, size: int = 5) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        if index >= self.size:
            raise IndexError(index)
        return index, np.random.rand(), random.random(), float(torch.rand(()))
