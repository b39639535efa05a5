"""A checkpoint runs no code, whichever way it is given, and damage never passes."""

import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_samples import hf_dinov3, official_from_hf, split_delta
from hostile_files import Hostile, served, write_hostile
from inferencer_models import saved_model, video_config
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from tool_runs import CONFIGS, small

import eomt_mm.registry  # noqa: F401  as configs with the prefix eomt_mm import it
from benchmark.models import build_model
from eomt_mm.apis import EoMTInferencer, init_inferencer, init_model
from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import local_checkpoint
from eomt_mm.checkpoints.addresses import cache_path
from eomt_mm.checkpoints.files import local_path, read_checkpoint
from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.engine.resuming import check_whole
from eomt_mm.engine.sharding.state import merge_folder, read_folder
from eomt_mm.hosts.checkpoint_reading import read_checkpoints_safely
from eomt_mm.models.backbone import TimmViT
from eomt_mm.web.results import load_models

Tool = Callable[..., None]
REFUSED = (ValueError, OSError, RuntimeError, SystemExit)
VIT = dict(model_name='vit_small_patch16_224', depth=1, embed_dim=48, num_heads=3, img_size=32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as found:
        yield found


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and checkpoint of a small panoptic model."""
    return saved_model('panoptic', tmp_path_factory.mktemp('model'))


class Ways:
    """Every public way to give a checkpoint: methods take its path or address."""

    def __init__(self, config: Path, tool: Tool, data_root: Path, folder: Path) -> None:
        self.config, self.run, self.data_root, self.folder = config, tool, data_root, folder

    def init_model(self, source: str) -> None:
        init_model(self.config, source)

    def inferencer(self, source: str) -> None:
        EoMTInferencer(self.config, source)

    def web(self, source: str) -> None:
        load_models([(str(self.config), source)], 'cpu')

    def benchmark(self, source: str) -> None:
        build_model(load_config(self.config), source, 'cpu')

    def backbone(self, source: str) -> None:
        TimmViT(**VIT, weights=source).init_weights()  # type: ignore[arg-type]

    def runner(self, source: str) -> None:
        CheckpointLoader.load_checkpoint(source, map_location='cpu')

    def video(self, source: str) -> None:
        init_inferencer(video_config('instance'), source)

    def convert(self, source: str) -> None:
        self.run('convert_checkpoint.py', source, self.folder / 'out.pth', '--config', self.config)

    def convert_video(self, source: str) -> None:
        self.run('../projects/videomt/tools/convert_videomt.py', source, self.folder / 'out.pth')

    def demo(self, source: str) -> None:
        self.run('demo.py', self.data_root, self.config, source, '--out-dir', self.folder / 'out')

    def export(self, source: str) -> None:
        self.run('export.py', self.config, source, '--out', self.folder / 'out.onnx')

    def test(self, source: str) -> None:
        self.run('test.py', self.config, source, *self._common())

    def load_from(self, source: str) -> None:
        common = self._common()
        self.run('train.py', CONFIGS['panoptic'], *common, '--cfg-options', *small('panoptic'), f'load_from={source}')

    def resume(self, source: str) -> None:
        self.run(
            'train.py', CONFIGS['panoptic'], '--resume', source, *self._common(), '--cfg-options', *small('panoptic')
        )

    def _common(self) -> list[Any]:
        return ['--data-root', self.data_root, '--work-dir', self.folder / 'work']


WAYS = [name for name in vars(Ways) if not name.startswith('_')]


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'older'])
@pytest.mark.parametrize('place', ['local', 'http', 'redirected'])
@pytest.mark.parametrize('way', WAYS)
def test_hostile_checkpoint_runs_nothing(
    way: str, place: str, legacy: bool, saved: tuple[Path, Path], tool: Tool, coco_root: Path, tmp_path: Path,
    address: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    marker = tmp_path / 'marker'
    path = write_hostile(tmp_path / 'evil.pth', marker, legacy)
    source = dict(local=str(path), http=f'{address}/evil.pth', redirected=f'{address}/moved/evil.pth')[place]
    with pytest.raises(REFUSED) as caught:
        getattr(Ways(saved[0], tool, coco_root, tmp_path), way)(source)
    assert not marker.exists()
    text = str(caught.value) + capsys.readouterr().err
    assert 'evil.pth' in text and ('more than weights' in text or 'damaged' in text), text
    assert not (tmp_path / 'out.pth').exists() and not (tmp_path / 'out.onnx').exists()


def test_loader_of_the_fork_that_unpickles_without_limits_is_not_reached(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onedl-mmengine's falls back where weights_only refuses; its place is taken as mmengine's is."""

    def fallback(filename: str, map_location: Any = None) -> Any:
        try:
            return torch.load(filename, weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(filename, weights_only=False)

    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme(['', 'http://', 'pavi://', 's3://'], fallback, force=True)
    read_checkpoints_safely()
    write_hostile(tmp_path / 'evil.pth', tmp_path / 'marker')
    for source in (str(tmp_path / 'evil.pth'), f'{address}/evil.pth', 'pavi://evil.pth', 's3://b/evil.pth'):
        with pytest.raises(ValueError, match=r'evil\.pth'):
            CheckpointLoader.load_checkpoint(source)
    assert not (tmp_path / 'marker').exists()


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls'])
def test_names_of_the_hosts_lead_to_our_reader(
    scheme: str, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.runner import checkpoint

    for function in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(checkpoint, function, lambda: dict(net=f'{address}/net.pth'))
    read_checkpoints_safely()
    torch.save(dict(state_dict={'backbone.a': torch.ones(2)}), tmp_path / 'net.pth')
    (value,) = CheckpointLoader.load_checkpoint(f'{scheme}://net')['state_dict'].values()
    assert torch.equal(value, torch.ones(2))
    with pytest.raises(ValueError, match=f"'{scheme}://other': there is no model"):
        CheckpointLoader.load_checkpoint(f'{scheme}://other')


@pytest.mark.parametrize('source', ['s3://b/x.pth', 'ftp://h/x.pth', 'file:///etc/x.pth', 'cluster:s3://b/x.pth'])
def test_other_addresses_are_refused(source: str, saved: tuple[Path, Path]) -> None:
    for give in (read_checkpoint, check_whole, lambda s: local_checkpoint(load_config(saved[0]), s),
                 lambda s: TimmViT(**VIT, weights=s), CheckpointLoader.load_checkpoint):  # fmt: skip
        with pytest.raises(ValueError, match='addresses of checkpoints begin with'):
            give(source)


def test_two_addresses_with_one_name_stay_two(tmp_path: Path, address: str) -> None:
    for name, value in (('a', 1.0), ('b', 2.0)):
        (tmp_path / name).mkdir()
        torch.save(dict(w=torch.full((2,), value)), tmp_path / name / 'x.pth')
    found = [read_checkpoint(f'{address}/{name}/x.pth').state['w'][0].item() for name in 'abab']
    assert found == [1, 2, 1, 2]


@pytest.mark.parametrize('place', ['short/x.pth', 'nowhere.pth', 'away.pth', 'page.pth'])
def test_failed_download_leaves_nothing(place: str, tmp_path: Path, address: str, cache: Path) -> None:
    torch.save(dict(w=torch.ones(1000)), tmp_path / 'x.pth')
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html><html>sign in</html>')
    with pytest.raises((ConnectionError, ValueError), match=f'{address}/{place}'):
        local_path(f'{address}/{place}')
    assert not [path for path in cache.rglob('*') if path.is_file() and path.suffix != '.lock']


def test_a_download_is_kept(tmp_path: Path, address: str, cache: Path) -> None:
    torch.save(dict(w=torch.ones(10)), tmp_path / 'x.pth')
    path = local_path(f'{address}/x.pth')
    assert path == cache_path(f'{address}/x.pth') and path.is_relative_to(cache)
    (tmp_path / 'x.pth').unlink()
    assert local_path(f'{address}/x.pth').read_bytes() == path.read_bytes()


def flip(path: Path, target: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    target.write_bytes(content)


def test_flipped_bits_are_refused_or_change_nothing(saved: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = saved
    wanted = torch.load(whole, weights_only=True)['state_dict']
    num_bits, refused = 8 * whole.stat().st_size, 0
    rng = random.Random(0)
    for _ in range(150):
        flip(whole, tmp_path / 'x.pth', rng.randrange(num_bits))
        try:
            found = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))['state_dict']
        except ValueError as error:
            assert 'x.pth' in str(error)
            refused += 1
        else:
            assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert refused > 120
    flip(whole, tmp_path / 'x.pth', num_bits // 2)
    for give in (init_model, EoMTInferencer):
        with pytest.raises(ValueError, match=r'x\.pth.*damaged'):
            give(config, tmp_path / 'x.pth')


@pytest.mark.parametrize('way', ['test', 'load_from', 'resume'])
def test_tools_name_the_file_with_a_flipped_bit(
    way: str, saved: tuple[Path, Path], tool: Tool, coco_root: Path, tmp_path: Path
) -> None:
    flip(saved[1], tmp_path / 'x.pth', 4 * saved[1].stat().st_size)
    with pytest.raises(ValueError, match=r'x\.pth.*damaged \(bad checksum'):
        getattr(Ways(saved[0], tool, coco_root, tmp_path), way)(str(tmp_path / 'x.pth'))


def rewritten(
    path: Path, target: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]], **kwargs: Any
) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(target, 'w', **kwargs) as archive:
        for name, content in change(members):
            archive.writestr(name, content)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_archives_that_are_not_torchs_are_refused(tmp_path: Path) -> None:
    path, target = tmp_path / 'x.pth', tmp_path / 'y.pth'
    torch.save(dict(a=torch.zeros(4), b=torch.ones(4)), path)
    rewritten(path, target, lambda members: [*members, members[-1]])
    with pytest.raises(ValueError, match='is there twice'):
        read_torch(target)
    rewritten(path, target, lambda members: members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match='is compressed'):
        read_torch(target)
    content = path.read_bytes()
    at = content.rindex(b'x/data/0')  # in the directory alone: the two members swap their names
    swapped = content[:at] + content[at:].replace(b'x/data/1', b'x/data/?')
    swapped = swapped[:at] + swapped[at:].replace(b'x/data/0', b'x/data/1').replace(b'x/data/?', b'x/data/0')
    target.write_bytes(swapped)
    with pytest.raises(ValueError, match='is damaged'):
        read_torch(target)
    target.write_bytes(b'something before' + content)
    with pytest.raises(ValueError, match=r'y\.pth'):
        read_torch(target)


@pytest.mark.parametrize(('content', 'found'), [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', 'pointer of Git LFS'),
    (b'<!DOCTYPE html><html></html>', 'web page'),
    (b'\x1f\x8b\x08\x00', 'gzip'),
    (b'', 'empty'),
])  # fmt: skip
def test_files_of_other_kinds_are_named(content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(ValueError, match=rf'x\.pth is .*{found}'):
        read_checkpoint(tmp_path / 'x.pth')


def test_safetensors_by_another_name_and_headers_without_end(tmp_path: Path) -> None:
    save_file(dict(w=torch.ones(2)), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth is a safetensors file'):
        read_checkpoint(tmp_path / 'x.pth')
    (tmp_path / 'y.safetensors').write_bytes((2**40).to_bytes(8, 'little') + b'{}')
    with pytest.raises(ValueError, match=r'y\.safetensors is no complete safetensors file'):
        read_checkpoint(tmp_path / 'y.safetensors')


def odd_tensors() -> dict[str, Any]:
    return {
        'repeats its values': torch.zeros(1).expand(10**6, 10**6),
        'float8': torch.zeros(2).to(torch.float8_e4m3fn),
        'sparse': torch.zeros(2, 2).to_sparse(),
        'complex64': torch.zeros(2, dtype=torch.complex64),
        'has no values': torch.zeros(2, device='meta'),
        'quantised': torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
        'nested': torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    }


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', list(odd_tensors()))
def test_odd_tensors_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    for legacy in (False, True):
        try:
            torch.save(
                dict(state_dict={'backbone.w': odd_tensors()[kind]}), tmp_path / 'x.pth',
                _use_new_zipfile_serialization=not legacy,
            )  # fmt: skip
        except (RuntimeError, NotImplementedError):
            assert legacy
            continue
        # The older format cannot be read back by torch itself for some kinds.
        named = r'x\.pth' if legacy else rf"x\.pth.*(state_dict\.backbone\.w' .*{kind}|more than weights)"
        with pytest.raises(ValueError, match=named):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))


def test_integers_are_no_weights(saved: tuple[Path, Path], tmp_path: Path) -> None:
    content = torch.load(saved[1], weights_only=True)
    name = 'backbone.vit.norm.weight'
    content['state_dict'][name] = content['state_dict'][name].int()
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=rf"x\.pth: tensor '{name}' is of torch\.int32"):
        init_model(saved[0], tmp_path / 'x.pth')


def test_a_dict_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = dict(w=torch.ones(1))
    content['state_dict'] = content
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r"x\.pth is no file of weights: 'state_dict' contains itself"):
        read_checkpoint(tmp_path / 'x.pth')
    deep: Any = torch.ones(1)
    for _ in range(300):
        deep = [deep]
    torch.save(dict(state_dict=deep), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='nested containers'):
        read_checkpoint(tmp_path / 'x.pth')


def folder_of(path: Path) -> Path:
    """A small checkpoint folder as ShardedRunner writes it."""
    dcp.save(dict(state_dict=dict(w=torch.ones(3))), checkpoint_id=str(path), no_dist=True)
    torch.save(dict(state_dict={}, meta={}, message_hub={}), path / 'runner.pth')
    return path


@pytest.mark.filterwarnings('ignore:torch.distributed is')
def test_hostile_folders_run_nothing(tmp_path: Path) -> None:
    marker, whole = tmp_path / 'marker', folder_of(tmp_path / 'iter_1.dcp')
    merge_folder(whole, tmp_path / 'merged.pth')
    assert torch.equal(read_checkpoint(tmp_path / 'merged.pth').state['w'], torch.ones(3))
    index = pickle.loads((whole / '.metadata').read_bytes())
    index.planner_data = Hostile(marker)
    (whole / '.metadata').write_bytes(pickle.dumps(index))
    for read in (read_folder, lambda folder: merge_folder(folder, tmp_path / 'out.pth')):
        with pytest.raises(ValueError, match=r'\.metadata cannot be read \(it refers to posix\.system'):
            read(str(whole))
    shutil.rmtree(whole)
    write_hostile(folder_of(whole) / 'runner.pth', marker)
    with pytest.raises(ValueError, match=r'runner\.pth holds more than weights'):
        read_folder(str(whole))
    assert not marker.exists() and not (tmp_path / 'out.pth').exists()


@pytest.mark.filterwarnings('ignore:torch.distributed is')
@pytest.mark.parametrize('change', ['bytes', 'size', 'elsewhere'])
def test_indices_that_lie_are_refused(change: str, tmp_path: Path) -> None:
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    folder = folder_of(tmp_path / 'iter_1.dcp')
    index = pickle.loads((folder / '.metadata').read_bytes())
    if change == 'bytes':  # torch unpickles these without limits
        index.state_dict_metadata['optimizer.w.step'] = BytesStorageMetadata()
    elif change == 'size':
        index.state_dict_metadata['state_dict.w'].size = torch.Size([10**12])
    else:
        for info in index.storage_data.values():
            info.relative_path = '../x'
    (folder / '.metadata').write_bytes(pickle.dumps(index))
    found = dict(
        bytes='refers to .*BytesStorageMetadata', size='names tensors of', elsewhere='names files elsewhere, or places'
    )[change]
    with pytest.raises(ValueError, match=found):
        read_folder(str(folder))


def test_hostile_predictions_run_nothing(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / 'dump.pkl').write_bytes(pickle.dumps([dict(gt_sem_seg=Hostile(tmp_path / 'marker'))]))
    with pytest.raises(REFUSED, match=r'dump\.pkl cannot be read \(it refers to posix\.system'):
        tool('analysis/confusion_matrix.py', CONFIGS['semantic'], tmp_path / 'dump.pkl', '--out', tmp_path / 'm.png')
    assert not (tmp_path / 'marker').exists()


def test_hostile_base_runs_nothing(
    tool: Tool, tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    difference, _ = split_delta(official_from_hf(hf_dinov3()))
    torch.save(difference, tmp_path / 'x.bin')
    path = write_hostile(tmp_path / 'evil.pth', tmp_path / 'marker')
    for base in (path, f'{address}/evil.pth'):
        with pytest.raises(SystemExit, match=r'evil\.pth holds more than weights'):
            tool('convert_checkpoint.py', tmp_path / 'x.bin', tmp_path / 'out.pth', '--base', base)
    assert not (tmp_path / 'marker').exists() and not (tmp_path / 'out.pth').exists()


@pytest.mark.filterwarnings('ignore:torch.distributed is')
def test_flipped_bits_in_folders_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / 'iter_1.dcp')
    check_whole(folder)
    file = next(folder.glob('*.distcp'))
    content = file.read_bytes()
    file.write_bytes(content.replace(torch.ones(3).numpy().tobytes(), torch.full((3,), 1.5).numpy().tobytes()))
    assert file.read_bytes() != content
    with pytest.raises(ValueError, match=r'iter_1\.dcp holds __0_0\.distcp, which is damaged \(bad checksum'):
        check_whole(folder)
    with pytest.raises(ValueError, match=r'iter_1\.dcp.*__0_0\.distcp, which is damaged \(bad checksum'):
        merge_folder(folder, tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_memory_for_nothing_is_refused(tmp_path: Path) -> None:
    """A bytearray takes its size from a number."""

    class Large:
        def __reduce__(self) -> tuple[Any, ...]:
            return bytearray, (2**40,)

    for legacy in (False, True):
        torch.save(dict(a=Large()), tmp_path / 'x.pth', _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r'x\.pth .*bytearray'):
            read_checkpoint(tmp_path / 'x.pth')


def test_older_files_hold_what_they_claim(tmp_path: Path) -> None:
    """Its numbers can be changed: no checksum."""
    torch.save(dict(w=torch.ones(2**10)), tmp_path / 'x.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'x.pth').read_bytes()
    number = b'M' + (2**10).to_bytes(2, 'little')  # BININT2
    assert content.count(number) == 2  # of the storage and of the shape
    for count in (1, 2):
        (tmp_path / 'x.pth').write_bytes(content.replace(number, b'J' + (2**31 - 1).to_bytes(4, 'little'), count))
        with pytest.raises(ValueError, match=r'x\.pth'):
            read_checkpoint(tmp_path / 'x.pth')
