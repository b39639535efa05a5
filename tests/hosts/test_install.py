"""One call protects mmengine and both hosts, by whichever of their names a user enters."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from inferencer_models import saved_model
from mmdet.registry import TRANSFORMS as MMDET_TRANSFORMS
from mmengine import fileio
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS
from paths import ROOT

from eomt_mm.hosts.install import install

# What mmengine does for a config of its own tools that names one of our types; nothing of ours is imported before.
PROGRAM = """
import eomt_mm  # mmcv-lite becomes importable
import sys
import torch
from mmengine import fileio
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader

assert 'eomt_mm.registry' not in sys.modules
assert type(fileio.get_file_backend('x')).__name__ == 'LocalBackend'
DefaultScope.get_instance('host', scope_name=sys.argv[1])
assert MODELS.get('eomt_mm.EoMTDetector') is not None
print(type(fileio.get_file_backend('x')).__name__, type(fileio.get_file_backend('zip://x')).__name__)
print({loader.__name__ for loader in CheckpointLoader._schemes.values()})
print(any('HistoryBuffer' in str(known) for known in torch.serialization.get_safe_globals()))
from mmdet.registry import TRANSFORMS as DET
from mmseg.registry import TRANSFORMS as SEG
print(*(type(registry.build(dict(type='LoadImageFromFile'))).__name__ for registry in (SEG, DET)))
"""


@pytest.mark.parametrize('scope', ['mmdet', pytest.param('mmseg', marks=pytest.mark.slow)])
def test_the_first_type_of_ours_installs_everything(scope: str) -> None:
    result = subprocess.run(
        [sys.executable, '-c', PROGRAM, scope], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        'AtomicLocalBackend ZipBackend', "{'load_from_eomt_mm'}", 'True', 'LoadImage LoadImage',
    ]  # fmt: skip


def test_a_second_call_changes_nothing() -> None:
    def state() -> tuple[object, ...]:
        return (
            type(fileio.get_file_backend('x')),
            type(fileio.get_file_backend('zip://x')),
            sorted(CheckpointLoader._schemes),
            [registry.get('LoadImageFromFile') for registry in (MMDET_TRANSFORMS, MMSEG_TRANSFORMS)],
        )

    install()
    before = state()
    install()
    assert state() == before


# Nothing of ours is imported before; each way is the first one of its process.
WAYS = """
import os, sys
from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import import_for, init_model, local_checkpoint
from mmengine.config import Config
config, checkpoint, folder = sys.argv[1:]
assert 'eomt_mm.registry' not in sys.modules
ways = dict(
    test=lambda: local_checkpoint(load_config(config), checkpoint),
    bare=lambda: local_checkpoint(Config.fromfile(config), checkpoint),
    model=lambda: init_model(config, checkpoint),
)
for name, way in ways.items():
    child = os.fork()
    if not child:
        try:
            way()
        except Exception as error:
            print(name, error, flush=True)
            os._exit(1)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_files_of_our_trainings_are_read_whatever_came_first(tmp_path: Path) -> None:
    """They hold mmengine's log; a semantic config builds types of mmseg before one of ours."""
    config, checkpoint = saved_model('semantic', tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, 'message_hub': dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))}, checkpoint)
    command = [sys.executable, '-c', WAYS, str(config), str(checkpoint), str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines() == ['test 0', 'bare 0', 'model 0'], result.stdout + result.stderr
