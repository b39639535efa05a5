"""One call protects mmengine and both hosts, by whichever of their names a user enters."""

import subprocess
import sys

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

# One new interpreter and a copy of it for each way in, the first one of its process: libraries are imported before, for
# the second kind of ways also the hosts, but nothing of ours that installs. It prints a line per way.
PROGRAM = """
import contextlib
import os
import sys

import eomt_mm  # mmcv-lite becomes importable
import matplotlib.pyplot, scipy.optimize, timm, torch
from mmengine import fileio
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
with contextlib.suppress(ImportError):
    from transformers import BertModel  # mmdet imports it where it is installed
config, checkpoint = sys.argv[1:]

def first_type(scope):  # what mmengine does for a config of its own tools that names one of our types
    assert type(fileio.get_file_backend('x')).__name__ == 'LocalBackend'
    DefaultScope.get_instance('host', scope_name=scope)
    assert MODELS.get('eomt_mm.EoMTDetector') is not None
    from mmdet.registry import TRANSFORMS as DET
    from mmseg.registry import TRANSFORMS as SEG
    return [
        *(type(fileio.get_file_backend(path)).__name__ for path in ('x', 'zip://x')),
        *{loader.__name__ for loader in CheckpointLoader._schemes.values()},
        any('HistoryBuffer' in str(known) for known in torch.serialization.get_safe_globals()),
        *(type(registry.build(dict(type='LoadImageFromFile'))).__name__ for registry in (SEG, DET)),
    ]

def tried(name, way, *arguments):
    assert 'eomt_mm.registry' not in sys.modules
    child = os.fork()
    if not child:
        try:
            found = way(*arguments)
        except BaseException as error:
            found = [type(error).__name__, error]
        print(name, *found, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

for scope in ('mmdet', 'mmseg'):
    tried(scope, first_type, scope)

import mmdet.datasets, mmdet.models, mmseg.datasets, mmseg.models
from mmengine.config import Config
from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import init_model, local_checkpoint

def read(way):
    way()
    return ['read']

tried('test', read, lambda: local_checkpoint(load_config(config), checkpoint))
tried('bare', read, lambda: local_checkpoint(Config.fromfile(config), checkpoint))
tried('model', read, lambda: init_model(config, checkpoint))
"""


@pytest.fixture(scope='module')
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each way in printed. The checkpoint holds mmengine's log; its config builds types of mmseg before ours."""
    config, checkpoint = saved_model('semantic', tmp_path_factory.mktemp('saved'))
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, 'message_hub': dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))}, checkpoint)
    command = [sys.executable, '-c', PROGRAM, str(config), str(checkpoint)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {name: words for name, _, words in (line.partition(' ') for line in result.stdout.splitlines())}


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_the_first_type_of_ours_installs_everything(scope: str, said: dict[str, str]) -> None:
    assert said[scope] == 'AtomicLocalBackend ZipBackend load_from_eomt_mm True LoadImage LoadImage'


@pytest.mark.parametrize('way', ['test', 'bare', 'model'])
def test_files_of_our_trainings_are_read_whatever_came_first(way: str, said: dict[str, str]) -> None:
    assert said[way] == 'read'


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
