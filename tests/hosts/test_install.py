"""One call protects mmengine and both hosts, by whichever of their names a user enters."""

import subprocess
import sys

import pytest
from mmdet.registry import TRANSFORMS as MMDET_TRANSFORMS
from mmengine import fileio
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
