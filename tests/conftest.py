"""Generated data that several test files read. ``eomt_mm`` comes first: it makes the hosts importable."""

import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer

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


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a tool with arguments, in this process."""

    def run(name: str, *arguments: Any) -> None:
        # mmengine keeps these per process; a user's next run is a new one
        for manager in (MMLogger, MessageHub, Visualizer, DetLocalVisualizer, SegLocalVisualizer):
            manager._instance_dict.clear()
        script = ROOT / 'tools' / name
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        monkeypatch.setattr(sys, 'path', [str(script.parent), *sys.path])  # as Python does
        monkeypatch.setattr(warnings, 'formatwarning', warnings.formatwarning)  # which tools set
        runpy.run_path(str(script), run_name='__main__')

    return run
