"""Generated data that several test files read. ``eomt_mm`` comes first: it makes the hosts importable.

The process that starts pytest-xdist's workers reads this file, too, and they wait for it: what takes seconds to import
is imported in fixtures.
"""

import gc
import importlib
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detectron2_tree import missing_packages
from paths import ROOT

os.environ['OMP_NUM_THREADS'] = '1'  # before torch and numpy: a second thread waits longer than it computes here

sys.path.append(str(ROOT / 'tools'))  # the package benchmark; last, for the standard library has a module test too

import eomt_mm  # noqa: F401  isort: skip
import pytest

# The first import of yapf, by mmengine, writes its grammar to the user's cache, and a second process that imports it at
# that moment reads half a file: done here before the workers start. A run writes its configuration out five times, and
# each time yapf would lay it out anew for most of a second; mmengine takes this function over when it is imported.
setattr(importlib.import_module('yapf.yapflib.yapf_api'), 'FormatCode', lambda text, **_: (text, False))  # noqa: B010

WITHOUT_DETECTRON2 = missing_packages()
collect_ignore = ['tests/detectron2', 'projects/detectron2/tests'] if WITHOUT_DETECTRON2 else []

pytest.register_assert_rewrite('contract')  # of tests/support: its assertions explain themselves, too


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if WITHOUT_DETECTRON2:
        names = ', '.join(WITHOUT_DETECTRON2)
        terminalreporter.write_line(f'tests of detectron2 were left out: no {names}; `make detectron2` brings them')


def pytest_collection() -> None:
    """While test modules are imported nothing becomes garbage, and the collector looks at ever more objects."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope='module', autouse=True)
def cheap_collections() -> None:
    """Data sets of the hosts collect garbage when they are built: half a second each for all modules ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO tree: 6 training and 4 validation images of about 96 x 96, with crowds, void and unannotated images."""
    from eomt_mm.synthetic.generate import write_coco

    root = tmp_path_factory.mktemp('coco') / 'root'
    return write_coco(root, num_train=6, num_val=4, size=(96, 96), progress=False)


@pytest.fixture(scope='session')
def ade20k_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ADE20K tree: 6 training and 4 validation images of about 96 x 96, one of each split all void."""
    from eomt_mm.synthetic.generate import write_ade20k

    root = tmp_path_factory.mktemp('ade') / 'root'
    return write_ade20k(root, num_train=6, num_val=4, size=(96, 96), progress=False)


@pytest.fixture(autouse=True)
def no_settings_left() -> Iterator[None]:
    """A runner sets mmengine's default scope for the whole process, a tool the threads; the next test starts anew."""
    yield
    import torch
    from mmengine.registry import DefaultScope

    DefaultScope._instance_dict.clear()
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def tool() -> Callable[..., None]:
    """Runs a tool with arguments, in this process."""

    def run(name: str, *arguments: Any) -> None:
        from mmdet.visualization import DetLocalVisualizer
        from mmengine.logging import MessageHub, MMLogger
        from mmengine.visualization import Visualizer
        from mmseg.visualization import SegLocalVisualizer

        # mmengine keeps these per process; a user's next run is a new one
        for manager in (MMLogger, MessageHub, Visualizer, DetLocalVisualizer, SegLocalVisualizer):
            manager._instance_dict.clear()
        script = ROOT / 'tools' / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [name, *map(str, arguments)])
            patch.setattr(sys, 'path', [str(script.parent), *sys.path])  # as Python does
            patch.setattr(warnings, 'formatwarning', warnings.formatwarning)  # which tools set
            runpy.run_path(str(script), run_name='__main__')

    return run
