"""Generated data that several test files read. ``eomt_mm`` comes first: it makes the hosts importable."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

import eomt_mm  # noqa: F401
from eomt_mm.datasets.generate import write_ade20k, write_coco

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # small operations: waiting for a second thread costs more than it brings


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO tree: 6 training and 4 validation images of about 96 x 96, with crowds, void and unannotated images."""
    root = tmp_path_factory.mktemp('coco') / 'root'
    return write_coco(root, num_train=6, num_val=4, size=(96, 96), progress=False)


@pytest.fixture(scope='session')
def ade20k_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ADE20K tree: 6 training and 4 validation images of about 96 x 96, one of each split all void."""
    root = tmp_path_factory.mktemp('ade') / 'root'
    return write_ade20k(root, num_train=6, num_val=4, size=(96, 96), progress=False)


@pytest.fixture(autouse=True)
def no_default_scope_left() -> Iterator[None]:
    """A runner sets mmengine's default scope for the whole process; the next test starts without."""
    yield
    DefaultScope._instance_dict.clear()
