"""Imports with mmcv-lite, checkpoints under ``weights_only``, and the message for version clashes."""

import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from paths import ROOT
from smoke import noise_of
from torch import Tensor, nn

from eomt_mm import compat
from eomt_mm.hosts.checkpoint_reading import allow_checkpoint_globals

GOOD = {
    'torch': '2.14.1+cu130',
    'torchvision': '0.29.1',
    'timm': '1.0.31',
    'mmengine': '0.10.7',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'mmcv-lite': '2.1.0',
    'opencv-python': '5.0.0.93',
    'ftfy': '6.3.1',
    'regex': '2026.1.1',
}
OPENMMLAB = ('mmengine', 'mmcv-lite', 'mmdet', 'mmsegmentation')
ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}
FORKS = dict.fromkeys(OPENMMLAB) | ONEDL  # changes that turn one good stack into the other


def run_python(code: str, *flags: str, paths: tuple[Path, ...] = ()) -> str:
    """Runs ``code`` in a fresh interpreter that sees the repository; its output, errors included."""
    env = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, (ROOT, *paths)))}
    done = subprocess.run(
        [sys.executable, *flags, '-c', code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Returns a function that lets the good stack with changes (None removes a package) appear installed."""

    def appear(changes: dict[str, str | None], importable: tuple[str, ...] = ()) -> None:
        there = {name: version for name, version in (GOOD | changes).items() if version is not None}

        def version(name: str) -> str:
            if name not in there:
                raise importlib.metadata.PackageNotFoundError(name)
            return there[name]

        monkeypatch.setattr(importlib.metadata, 'version', version)
        monkeypatch.setattr(importlib.metadata, 'requires', lambda name: ['numpy', 'torch==2.14.1', 'pillow!=8.3.*'])
        monkeypatch.setattr(compat, '_importable', lambda module: module in importable)

    return appear


# The finder -----------------------------------------------------------------------------------------------------------


def test_without_any_dependency_the_package_imports_and_mmcv_stays_missing() -> None:
    # -S: no site-packages, so neither torch nor mmcv exists.
    code = """
import sys
before = set(sys.modules)
import eomt_mm
for name in ('mmcv', 'mmcv._ext', 'mmdet', 'mmdet._ext'):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error.name)
"""
    assert run_python(code, '-S').split() == ['mmcv', 'mmcv', 'mmdet', 'mmdet']


def test_importing_the_package_imports_no_host() -> None:
    hosts = ('torch', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm')
    assert run_python(f'import sys, eomt_mm; print([m for m in {hosts} if m in sys.modules])').strip() == '[]'


def test_a_compiled_extension_wins(tmp_path: Path) -> None:
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    (tmp_path / 'mmcv' / '_ext.py').write_text('def nms():\n    return "compiled"\n')
    code = 'import eomt_mm, mmcv._ext; print(mmcv._ext.nms(), mmcv._ext.__file__)'
    assert run_python(code, '-S', paths=(tmp_path,)).split() == ['compiled', str(tmp_path / 'mmcv' / '_ext.py')]


def test_installing_twice_leaves_one_finder_at_the_end() -> None:
    before = list(sys.meta_path)
    compat.make_hosts_importable()
    assert sys.meta_path == before
    assert [type(finder) for finder in before].count(compat._ExtensionFinder) == 1


def test_only_the_extension_is_answered_for() -> None:
    finder = compat._ExtensionFinder()
    assert finder.find_spec('mmcv._ext') is not None
    assert [finder.find_spec(name) for name in ('mmcv', '_ext', 'mmdet._ext', 'mmcv._ext.nms')] == [None] * 4


@pytest.mark.parametrize('python_314', [False, True])
def test_mmengine_finds_the_stand_in(monkeypatch: pytest.MonkeyPatch, python_314: bool) -> None:
    from mmengine.utils.dl_utils import mmcv_full_available

    if python_314:
        monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
        compat.make_hosts_importable()
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    assert mmcv_full_available()
    importlib.import_module('mmcv._ext')
    assert mmcv_full_available()  # from the module's own spec this time
    assert pkgutil.find_loader('mmcv._no_such_module') is None


@pytest.mark.parametrize(
    ('changes', 'command'),
    [
        ({}, r'see "mmcv with compiled ops" in docs/installation\.md$'),
        (FORKS, r'onedl-mmcv==2\.3\.6 .*/c\+\+20/.*pip install --no-build-isolation .*onedl_mmcv-2\.3\.6$'),
    ],
    ids=['OpenMMLab', 'onedl'],
)
def test_a_called_op_names_itself_the_reason_and_the_hint(installed, changes: dict[str, str], command: str) -> None:
    from mmcv.ops import nms

    installed(changes)
    message = f"'nms' was called.*no compiled ops.*EoMT needs none.*{command}"
    with pytest.raises(RuntimeError, match=message):
        nms(torch.rand(2, 4), torch.rand(2), 0.5)


def test_the_stand_in_has_ops_but_no_dunder_names() -> None:
    extension = importlib.import_module('mmcv._ext')
    assert extension.roi_align_forward is extension.roi_align_forward
    assert extension.roi_align_forward.__name__ == 'roi_align_forward'
    assert not hasattr(extension, '__path__') and not hasattr(extension, '__all__')


@pytest.mark.slow
def test_hosts_import_without_noise() -> None:
    code = """
import eomt_mm
import mmdet, mmseg, mmdet.apis, mmseg.apis
import mmdet.models, mmseg.models, mmdet.datasets, mmseg.datasets, mmdet.evaluation, mmseg.evaluation
"""
    assert noise_of(run_python(code)) == []


@pytest.mark.filterwarnings('ignore')  # of the hosts, about each other
def test_stock_mask2former_learns_on_the_cpu() -> None:
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmengine.structures import InstanceData, PixelData

    packaged = Path(mmdet.__file__).parent / '.mim/configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
    config = Config.fromfile(packaged)
    config.merge_from_dict(
        {
            'model.backbone.depth': 18,
            'model.backbone.init_cfg': None,
            'model.panoptic_head.in_channels': [64, 128, 256, 512],
            'model.panoptic_head.pixel_decoder.encoder.num_layers': 1,
            'model.panoptic_head.transformer_decoder.num_layers': 1,
            'model.data_preprocessor.batch_augments': None,
        }
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64), pad_shape=(64, 64)))
    masks = BitmapMasks(np.ones((1, 64, 64), np.uint8), 64, 64)
    sample.gt_instances = InstanceData(labels=torch.tensor([3]), masks=masks, bboxes=torch.tensor([[0.0, 0, 64, 64]]))
    sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, 64, 64), 255))
    losses = model.loss(torch.rand(1, 3, 64, 64), [sample])
    total = sum(value for value in losses.values() if isinstance(value, Tensor))
    total.backward()
    assert torch.isfinite(total)


# Checkpoints ----------------------------------------------------------------------------------------------------------


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def train_step(self, data: Tensor, optim_wrapper: object) -> dict[str, Tensor]:
        loss = (self.weight - 1).square().sum()
        optim_wrapper.update_params(loss)  # type: ignore[attr-defined]
        return {'loss': loss}


def make_runner(work_dir: Path, max_iters: int, **kwargs: object):
    from mmengine.runner import Runner

    return Runner(
        OneWeight(),
        str(work_dir),
        train_dataloader=dict(
            dataset=torch.utils.data.TensorDataset(torch.zeros(8, 1)),
            sampler=dict(type='DefaultSampler'),
            batch_size=2,
        ),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW')),
        param_scheduler=dict(type='PolyLR', by_epoch=False, end=4),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
        ),
        log_level='ERROR',
        experiment_name=f'{work_dir.name}_{max_iters}',
        **kwargs,
    )


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mmengine's runner saves after two steps."""
    work_dir = tmp_path_factory.mktemp('run')
    make_runner(work_dir, max_iters=2).train()
    return work_dir / 'iter_2.pth'


@pytest.fixture
def allowed():
    """Exactly the globals that ``allow_checkpoint_globals`` allows."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    allow_checkpoint_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_mmengine_checkpoint_is_refused_without_the_globals(checkpoint: Path, allowed: None) -> None:
    torch.serialization.clear_safe_globals()
    with pytest.raises(UnpicklingError, match='Unsupported global'):
        torch.load(checkpoint)


def test_mmengine_checkpoint_loads(checkpoint: Path, allowed: None) -> None:
    assert torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint) == []
    history = torch.load(checkpoint, weights_only=True)['message_hub']['log_scalars']['train/loss']
    assert len(history.data[0]) == 2
    assert history.statistics('max') == history.max() == 1.0


def test_mmengine_resumes(checkpoint: Path, allowed: None) -> None:
    runner = make_runner(checkpoint.parent, max_iters=4, resume=True, load_from=str(checkpoint))
    runner.train()
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


@pytest.mark.parametrize('core', ['core', '_core'])
def test_arrays_of_either_numpy_load(tmp_path: Path, allowed: None, core: str) -> None:
    values = {
        'bool': np.array([True]),
        'byte': np.arange(3, dtype=np.uint8),
        'int': np.arange(3),
        'float32': np.ones((2, 2), np.float32),
        'scalar': np.float64(0.5),
    }
    torch.save(values, tmp_path / 'new.pth', _use_new_zipfile_serialization=False)
    data = (tmp_path / 'new.pth').read_bytes()
    assert b'core.multiarray\n' in data
    for there in (b'numpy._core.', b'numpy.core.'):
        data = data.replace(there, f'numpy.{core}.'.encode())
    (tmp_path / 'either.pth').write_bytes(data)
    loaded = torch.load(tmp_path / 'either.pth', weights_only=True)
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value, strict=True)


class Reduced:
    """Pickles as the call of any function."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    'payload',
    [
        Path('anything'),
        Reduced(eval, '1'),
        Reduced(getattr, np.ndarray, 'tofile'),
        Reduced(getattr, Reduced(np.dtype, 'f8'), '__class__'),
        Reduced(np.zeros(0).__reduce__()[0], dict, (0,), b'b'),
    ],
    ids=['class', 'eval', 'getattr of an allowed class', 'getattr of an object', 'reconstruct another class'],
)
def test_anything_else_is_still_refused(tmp_path: Path, allowed: None, payload: object) -> None:
    torch.save(payload, tmp_path / 'x.pth')
    with pytest.raises((UnpicklingError, TypeError)):
        torch.load(tmp_path / 'x.pth')


@pytest.mark.parametrize('name', ['update', '__init__', '__globals__', 'register_statistics'])
def test_only_statistics_of_the_history_buffer_are_reachable(tmp_path: Path, allowed: None, name: str) -> None:
    from mmengine.logging.history_buffer import HistoryBuffer

    torch.save(Reduced(getattr, HistoryBuffer, name), tmp_path / 'x.pth')
    with pytest.raises(UnpicklingError, match=f"attribute '{name}'"):
        torch.load(tmp_path / 'x.pth')


# Versions -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clash(installed):
    """Returns a function that gives the message for the good stack with changes (None removes a package)."""

    def message(changes: dict[str, str | None], importable: tuple[str, ...] = ()) -> str:
        installed(changes, importable)
        try:
            compat.check_versions()
        except ImportError as error:
            return str(error)
        return ''

    return message


def test_the_installed_stack_fits() -> None:
    compat.check_versions()


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'mmcv-lite': None, 'mmcv': '2.1.0'},
        {'opencv-python': None, 'opencv-python-headless': '4.9.0.80'},
        {'opencv-python-headless': GOOD['opencv-python']},
        {'mmengine': '0.10.6', 'mmdet': '3.3.1', 'mmsegmentation': '1.2.1', 'timm': '1.0.26'},
        {'torchvision': None},
        FORKS,
    ],
    ids=str,
)
def test_good_stacks_pass(clash, changes: dict[str, str | None]) -> None:
    assert clash(changes) == ''


def test_source_checkouts_pass(clash) -> None:
    gone = dict.fromkeys(('mmdet', 'mmsegmentation', 'mmcv-lite', 'opencv-python'))
    assert clash(gone, importable=('mmdet', 'mmseg', 'mmcv', 'cv2')) == ''


@pytest.mark.parametrize(
    ('changes', 'row', 'command'),
    [
        ({'mmengine': None}, 'mmengine missing mmengine>=0.10.6,<1.0', 'pip install "mmengine>=0.10.6,<1.0"'),
        (
            {'mmengine': '0.10.5'},
            'mmengine mmengine 0.10.5 mmengine>=0.10.6,<1.0',
            'pip uninstall -y mmengine && pip install "mmengine>=0.10.6,<1.0"',
        ),
        (
            {'mmdet': '3.2.0'},
            'mmdet mmdet 3.2.0 mmdet>=3.3.0,<3.4',
            'pip uninstall -y mmdet && pip install "mmdet>=3.3.0,<3.4"',
        ),
        (
            {'mmsegmentation': '1.3.0'},
            'mmseg mmsegmentation 1.3.0 mmsegmentation>=1.2.1,<1.3',
            'pip uninstall -y mmsegmentation && pip install "mmsegmentation>=1.2.1,<1.3"',
        ),
        ({'timm': '0.9.16'}, 'timm 0.9.16 >=1.0.26', 'pip install "timm>=1.0.26"'),
        ({'ftfy': None}, 'ftfy missing >=6.0', 'pip install "ftfy>=6.0"'),
        (
            {'torch': '2.13.0+cpu'},
            'torchvision 0.29.1 the release for torch 2.13.0+cpu',
            'pip install "torch==2.13.0+cpu" "torchvision"',
        ),
        (
            {'mmcv-lite': '2.2.0'},
            'mmcv mmcv-lite 2.2.0 mmcv-lite==2.1.0 or mmcv==2.1.0',
            'pip uninstall -y mmcv-lite && pip install "mmcv-lite==2.1.0"',
        ),
        (
            {'mmcv': '2.1.0'},
            'mmcv mmcv-lite 2.1.0 and mmcv 2.1.0 mmcv-lite==2.1.0 or mmcv==2.1.0, only one',
            'pip uninstall -y mmcv-lite mmcv && pip install "mmcv-lite==2.1.0"',
        ),
        (
            {'mmcv-lite': None, 'mmcv-full': '1.7.2'},
            'mmcv mmcv-full 1.7.2 mmcv-lite==2.1.0 or mmcv==2.1.0',
            'pip uninstall -y mmcv-full && pip install "mmcv-lite==2.1.0"',
        ),
        (
            {'onedl-mmcv': '2.3.6'},
            'mmcv mmcv-lite 2.1.0 and onedl-mmcv 2.3.6 mmcv-lite==2.1.0 or mmcv==2.1.0, only one',
            'pip uninstall -y mmcv-lite onedl-mmcv && pip install "mmcv-lite==2.1.0"',
        ),
        (
            {'mmdet': None, 'onedl-mmdetection': '3.5.1'},
            'mmdet onedl-mmdetection 3.5.1 mmdet>=3.3.0,<3.4',
            'pip uninstall -y onedl-mmdetection && pip install "mmdet>=3.3.0,<3.4"',
        ),
        (
            FORKS | {'mmengine': '0.10.7'},
            'mmengine mmengine 0.10.7 and onedl-mmengine 0.10.12 onedl-mmengine>=0.10.12,<0.11, only one',
            'pip uninstall -y mmengine onedl-mmengine && pip install "onedl-mmengine>=0.10.12,<0.11"',
        ),
        (
            FORKS | {'onedl-mmdetection': None},
            'mmdet missing onedl-mmdetection>=3.5.1,<3.6',
            'pip install "onedl-mmdetection>=3.5.1,<3.6"',
        ),
        (
            FORKS | {'onedl-mmsegmentation': '1.4.1'},
            'mmseg onedl-mmsegmentation 1.4.1 onedl-mmsegmentation>=1.4.2,<1.5',
            'pip uninstall -y onedl-mmsegmentation && pip install "onedl-mmsegmentation>=1.4.2,<1.5"',
        ),
        (
            {'opencv-python-headless': '4.9.0.80'},
            'opencv opencv-python 5.0.0.93 and opencv-python-headless 4.9.0.80 its distributions in one version',
            'pip uninstall -y opencv-python opencv-python-headless && pip install "opencv-python"',
        ),
        (
            {'opencv-python': None},
            'opencv missing its distributions in one version',
            'pip install "opencv-python"',
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_clash_shows_what_is_there_what_is_needed_and_the_hint(clash, changes, row: str, command: str) -> None:
    lines = clash(changes).splitlines()
    assert len(lines) == 5  # one clash, one row; the good packages are not listed
    assert ' '.join(lines[2].split()) == row
    assert lines[-1].strip() == command


def test_all_clashes_come_in_one_message_with_one_command(clash) -> None:
    lines = clash({'mmdet': None, 'mmcv': '2.2.0', 'regex': None, 'torch': '2.3.1'}).splitlines()
    assert [line.split()[0] for line in lines[2:-2]] == ['torch', 'regex', 'torchvision', 'mmcv', 'mmdet']
    assert lines[-1].count('pip install') == lines[-1].count('pip uninstall') == 1


@pytest.mark.parametrize(
    ('changes', 'removed', 'added'),
    [
        (ONEDL, {*OPENMMLAB, *ONEDL}, set(OPENMMLAB)),
        (FORKS | {'mmengine': '0.10.7', 'mmcv': '2.1.0'}, {'mmengine', 'mmcv', 'onedl-mmengine', 'onedl-mmcv'},
         {'onedl-mmengine', 'onedl-mmcv'}),
        ({'mmcv-lite': None, 'onedl-mmcv': '2.3.6', 'onedl-mmengine': '0.10.12'},
         {'mmengine', 'onedl-mmengine', 'onedl-mmcv'}, {'mmengine', 'mmcv-lite'}),
    ],
    ids=['all of both', 'two beside onedl', 'two beside OpenMMLab'],
)  # fmt: skip
def test_of_two_families_the_larger_one_stays(
    clash, changes: dict[str, str], removed: set[str], added: set[str]
) -> None:
    remove, _, add = clash(changes).splitlines()[-1].partition(' && ')
    assert set(remove.split()[3:]) == removed
    assert {re.split('[=>]', text)[0] for text in re.findall('"(.*?)"', add)} == added


def test_a_missing_system_library_of_cv2_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlimContainer:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == 'cv2':
                raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')

    monkeypatch.delitem(sys.modules, 'cv2', raising=False)
    monkeypatch.setattr(sys, 'meta_path', [SlimContainer(), *sys.meta_path])
    with pytest.raises(ImportError, match=r'libGL\.so\.1.*apt-get install -y libgl1.*opencv-python-headless'):
        compat.check_versions()
