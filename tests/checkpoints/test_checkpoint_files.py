"""Reading never executes anything, never passes over damage, and writing leaves nothing half done."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from eomt_mm.checkpoints.files import check_finite, read_checkpoint, read_names

STATE = {'a.weight': torch.arange(4.0), 'b': torch.ones(2, 2)}


class Exploit:
    """Unpickling it would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth does not exist: give a file, a folder'):
        read_checkpoint(tmp_path / 'nowhere.pth')


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    torch.save(dict(state_dict=STATE, evil=Exploit(tmp_path / 'done')), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth holds more than weights.*save its state_dict'):
        read_checkpoint(tmp_path / 'x.pth')
    (tmp_path / 'plain.bin').write_bytes(pickle.dumps(Exploit(tmp_path / 'done'), protocol=2))
    with pytest.raises(ValueError, match=r'plain\.bin'):
        read_checkpoint(tmp_path / 'plain.bin')
    assert not (tmp_path / 'done').exists()


@pytest.mark.parametrize('new', [True, False])
def test_names_are_those_of_the_weights(new: bool, tmp_path: Path) -> None:
    content = dict(state_dict={f'module._orig_mod.{name}': value for name, value in STATE.items()}, meta=dict(epoch=1))
    torch.save(content, tmp_path / 'x.pth', _use_new_zipfile_serialization=new)
    assert read_names(tmp_path / 'x.pth') == list(read_checkpoint(tmp_path / 'x.pth').state)
    (tmp_path / 'x.pth').write_bytes((tmp_path / 'x.pth').read_bytes()[:-100])
    with pytest.raises(ValueError, match=r'x\.pth'):
        read_names(tmp_path / 'x.pth')


@pytest.mark.parametrize('name', ['x.pth', 'x.bin', 'x.ckpt', 'x.safetensors'])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    torch.save(STATE, tmp_path / 'whole.pth')
    if name.endswith('.safetensors'):
        save_file(STATE, tmp_path / 'whole.pth')
    (tmp_path / name).write_bytes((tmp_path / 'whole.pth').read_bytes()[:-100])
    with pytest.raises(ValueError, match=name.replace('.', r'\.')):
        read_checkpoint(tmp_path / name)
    (tmp_path / name).write_bytes(b'')
    with pytest.raises(ValueError, match=name.replace('.', r'\.')):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize('content', [[1, 2], dict(epoch=3), dict(state_dict={}), torch.zeros(2)])
def test_files_without_weights_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth holds (a \w+, not a dict|no weights)'):
        read_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s), lambda s: dict(model=dict(state_dict=s))])
@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.'])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrap: Any, prefix: str) -> None:
    torch.save(wrap({f'{prefix}{name}': value for name, value in STATE.items()}), tmp_path / 'x.ckpt')
    assert set(read_checkpoint(tmp_path / 'x.ckpt').state) == set(STATE)


def test_compilation_inside_names_comes_off_and_clashes_are_refused(tmp_path: Path) -> None:
    torch.save({'network._orig_mod.q': torch.ones(1)}, tmp_path / 'x.pth')
    assert set(read_checkpoint(tmp_path / 'x.pth').state) == {'network.q'}
    torch.save({'network._orig_mod.q': torch.ones(1), 'network.q': torch.zeros(1)}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match="'network.q' twice"):
        read_checkpoint(tmp_path / 'x.pth')


def test_meta_of_our_files_is_kept(tmp_path: Path) -> None:
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a',))), state_dict=STATE), tmp_path / 'x.pth')
    assert read_checkpoint(tmp_path / 'x.pth').meta == dict(dataset_meta=dict(classes=('a',)))


@pytest.mark.parametrize(
    ('stated', 'message'),
    [
        (5, 'dataset_meta is a int, not a dict'),
        ([1], 'dataset_meta is a list, not a dict'),
        (dict(classes=5), r'dataset_meta\.classes is 5, not a list of names'),
        (dict(classes=(1, 2)), r'dataset_meta\.classes is \(1, 2\), not a list of names'),
        (dict(classes='a'), r"dataset_meta\.classes is 'a', not a list of names"),
        (dict(classes=('a',), thing_classes=[None]), r'dataset_meta\.thing_classes is \[None\], not a list of names'),
        (dict(palette='red'), r"dataset_meta\.palette is 'red', not a list of \(R, G, B\)"),
        (dict(palette=[(1, 2, 256)]), r'dataset_meta\.palette is .*, not a list of \(R, G, B\)'),
    ],
)
def test_meta_of_another_form_is_refused(tmp_path: Path, stated: Any, message: str) -> None:
    torch.save(dict(meta=dict(dataset_meta=stated), state_dict=STATE), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=rf'x\.pth: meta\.{message}'):
        read_checkpoint(tmp_path / 'x.pth')


def test_folder_without_weights_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / 'other.bin').write_bytes(b'x')
    with pytest.raises(FileNotFoundError, match=r'model\.safetensors\.index\.json.*found other\.bin'):
        read_checkpoint(tmp_path)


def test_folder_prefers_safetensors_and_reads_config(tmp_path: Path) -> None:
    torch.save({'from': torch.tensor(0.0)}, tmp_path / 'pytorch_model.bin')
    (tmp_path / 'config.json').write_text('{"image_size": 640}')
    read = read_checkpoint(tmp_path)
    assert set(read.state) == {'from'} and read.config == dict(image_size=640)
    save_file(STATE, tmp_path / 'model.safetensors')
    assert set(read_checkpoint(tmp_path).state) == set(STATE)
    for text in ('{', '[' * 100_000):
        (tmp_path / 'config.json').write_text(text)
        with pytest.raises(ValueError, match=r'config\.json is no JSON'):
            read_checkpoint(tmp_path)
    (tmp_path / 'config.json').write_text('{"id2label": ["wall"]}')
    with pytest.raises(ValueError, match=r'config\.json: id2label is a list, not an object'):
        read_checkpoint(tmp_path)


def write_shards(folder: Path, weight_map: dict[str, Any]) -> None:
    save_file({'a.weight': STATE['a.weight']}, folder / 'one.safetensors')
    save_file({'b': STATE['b']}, folder / 'two.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps(dict(weight_map=weight_map)))


def test_shards_join(tmp_path: Path) -> None:
    write_shards(tmp_path, {'a.weight': 'one.safetensors', 'b': 'two.safetensors'})
    state = read_checkpoint(tmp_path).state
    assert set(state) == set(STATE) and all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    ('weight_map', 'message'),
    [
        ({}, 'no weight_map'),
        ({'a.weight': 'three.safetensors'}, r'three\.safetensors, which is missing'),
        ({'a.weight': '../one.safetensors'}, 'lies elsewhere'),
        ({'a.weight': ['one.safetensors']}, r"index\.json names the shard \['one.*'\], which is no file name"),
        ({'a.weight': 'one.safetensors', 'c': 'one.safetensors'}, 'no shard holds: c'),
    ],
)
def test_incomplete_shards_are_refused(tmp_path: Path, weight_map: dict[str, Any], message: str) -> None:
    folder = tmp_path / 'inner'
    folder.mkdir()
    write_shards(tmp_path, {})
    write_shards(folder, weight_map)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize('address', ['hf:owner/name', 'hf://name', 'hf://a/b/c', 'hf://a/b@', 'hf://a/../b'])
def test_malformed_addresses_are_refused_without_network(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda *args, **kwargs: pytest.fail('called'))
    with pytest.raises(ValueError, match=r'hf://owner/name\[@revision\]'):
        read_checkpoint(address)


def test_download_asks_for_weights_and_configs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(STATE, tmp_path / 'model.safetensors')
    calls = []

    def download(repo: str, **kwargs: Any) -> str:
        calls.append((repo, kwargs))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert set(read_checkpoint('hf://tue-mps/coco_x').state) == set(STATE)
    read_checkpoint('hf://tue-mps/coco_x@refs/pr/1')
    patterns = ['*.json', '*.safetensors', 'pytorch_model.bin']
    assert calls == [
        ('tue-mps/coco_x', dict(revision=None, allow_patterns=patterns)),
        ('tue-mps/coco_x', dict(revision='refs/pr/1', allow_patterns=patterns)),
    ]


def test_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise OSError('401 Client Error.\n\nCannot access gated repo\nfor url')

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fail)
    with pytest.raises(ConnectionError, match='gated repo for url') as error:
        read_checkpoint('hf://facebook/dinov3-vitl16-pretrain-lvd1689m')
    assert '\n' not in str(error.value) and "'hf://facebook/dinov3-vitl16-pretrain-lvd1689m'" in str(error.value)


def test_offline_takes_the_cache_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = 'a' * 40
    repository = tmp_path / 'models--tue-mps--cached'
    (repository / 'snapshots' / revision).mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text(revision)
    save_file(STATE, repository / 'snapshots' / revision / 'model.safetensors')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert set(read_checkpoint('hf://tue-mps/cached').state) == set(STATE)
    with pytest.raises(ConnectionError, match="'hf://tue-mps/not_cached' could not be downloaded"):
        read_checkpoint('hf://tue-mps/not_cached')


def test_all_weights_that_are_not_finite_are_named() -> None:
    check_finite(dict(a=torch.ones(2), count=torch.tensor(3)), 'x.pth')
    state = dict(good=torch.ones(2), nan=torch.tensor([1, float('nan')]), inf=torch.tensor(float('-inf')).half())
    with pytest.raises(ValueError, match=r'x\.pth: 2 weights hold NaN or infinity:\n  nan\n  inf\n'):
        check_finite(state, 'x.pth')


@pytest.mark.slow
def test_everything_runs_without_hosts() -> None:
    program = (
        'import sys, eomt_mm.checkpoints.importing, eomt_mm.checkpoints.exporting\n'
        "hosts = {name.partition('.')[0] for name in sys.modules} & {'mmcv', 'mmengine', 'mmdet', 'mmseg'}\n"
        "sys.exit(f'imported {hosts}' if hosts else 0)"
    )
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
