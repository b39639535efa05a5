"""A file that is no checkpoint is refused with what it is, by every reader."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inferencer_models import small_config
from mmengine.runner import CheckpointLoader
from PIL import Image
from safetensors.torch import save, save_file

from eomt_mm.apis import init_model
from eomt_mm.checkpoints.files import local_path, read_checkpoint, read_names
from eomt_mm.engine.resuming import check_whole
from eomt_mm.hosts.install import install

STATE = {'a.weight': torch.arange(4.0)}
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1266\n'


def torch_file() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file)
    return file.getvalue()


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as opened:
        for name in names:
            opened.writestr(name, b'content')
    return file.getvalue()


def tar(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as opened:
        for name in names:
            opened.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file.getvalue()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (8, 8)).save(file, 'PNG')
    return file.getvalue()


def script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), file)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    'LFS': (lambda: LFS, 'pointer of Git LFS.*git lfs pull'),
    'HTML': (lambda: b'\n<!DOCTYPE html><html>Not Found</html>', 'web page'),
    'XML': (lambda: b'<?xml version="1.0"?><Error>AccessDenied</Error>', 'web page'),
    'gzip': (lambda: gzip.compress(torch_file()), 'compressed by gzip: unpack it with gunzip'),
    'bz2': (lambda: bz2.compress(torch_file()), 'compressed by bzip2'),
    'xz': (lambda: lzma.compress(torch_file()), 'compressed by xz'),
    'tar': (lambda: tar('model.pth'), 'tar archive: unpack it'),
    'tar of old torch': (lambda: tar('storages', 'tensors', 'pickle'), 'torch before 0.1.10'),
    'zip': (
        lambda: archive('weights/model.pth', 'README'),
        r'zip archive of other files \(weights/model.pth, README\)',
    ),
    'npz': (npz, r'zip archive of other files \(weight.npy\)'),
    'TorchScript': (script, 'TorchScript program'),
    'HDF5': (lambda: b'\x89HDF\r\n\x1a\n' + bytes(600), 'HDF5 file'),
    'picture': (picture, 'PNG image'),
    'JSON': (lambda: json.dumps(dict(error='Repository not found')).encode(), 'is JSON, .*begins with .*not found'),
    'text': (lambda: b'404: Not Found', "is text, .*begins with '404: Not Found'"),
    'long text': (lambda: 'wärme '.encode() * 300, 'is text, '),
    'empty': (lambda: b'', 'empty'),
    'noise': (lambda: np.random.default_rng(0).bytes(2000), 'no file of weights that torch can read'),
    'pickled array': (lambda: pickle.dumps(dict(a=np.zeros(3))), 'no file of weights that torch can read'),
}
READERS: dict[str, Callable[[Path], object]] = {
    'read_checkpoint': read_checkpoint,
    'read_names': read_names,
    'hosts': lambda path: CheckpointLoader.load_checkpoint(str(path)),
}


@pytest.mark.parametrize('kind', KINDS)
def test_files_of_other_kinds_are_named(kind: str, tmp_path: Path) -> None:
    install()
    make, message = KINDS[kind]
    for suffix in ('.pth', '.bin', '.ckpt'):
        path = tmp_path / f'x{suffix}'
        path.write_bytes(make())
        for reader, read in READERS.items():
            with pytest.raises(ValueError, match=message) as error:
                read(path)
            text = str(error.value)
            assert text.startswith(str(path)) and '\n' not in text, reader
            assert 'execute code' not in text and 'weights_only' not in text, reader


@pytest.mark.parametrize('kind', ['LFS', 'HTML', 'gzip', 'tar', 'JSON', 'text', 'zip'])
def test_the_suffix_of_safetensors_changes_nothing(kind: str, tmp_path: Path) -> None:
    make, message = KINDS[kind]
    (tmp_path / 'model.safetensors').write_bytes(make())
    for source in (tmp_path / 'model.safetensors', tmp_path):
        with pytest.raises(ValueError, match=rf'model\.safetensors .*{message}|is a file of torch'):
            read_checkpoint(source)


def test_weights_under_the_suffix_of_another_format(tmp_path: Path) -> None:
    (tmp_path / 'x.pth').write_bytes(save(STATE))
    with pytest.raises(ValueError, match=r'x\.pth is a safetensors file: give it a name that ends in \.safetensors'):
        read_checkpoint(tmp_path / 'x.pth')
    (tmp_path / 'x.safetensors').write_bytes(torch_file())
    with pytest.raises(ValueError, match=r'x\.safetensors is a file of torch.*ends in \.pth'):
        read_checkpoint(tmp_path / 'x.safetensors')


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json'])
def test_pointers_in_a_hugging_face_folder(name: str, tmp_path: Path) -> None:
    if name == 'config.json':
        save_file(STATE, tmp_path / 'model.safetensors')
    (tmp_path / name).write_bytes(LFS)
    with pytest.raises(ValueError, match=rf'{name} is a pointer of Git LFS'):
        read_checkpoint(tmp_path)


def test_other_kinds_are_named_when_a_run_is_resumed(tmp_path: Path) -> None:
    for kind in ('LFS', 'HTML', 'gzip'):
        (tmp_path / 'iter_1.pth').write_bytes(KINDS[kind][0]())
        with pytest.raises(ValueError, match=rf'iter_1\.pth .*{KINDS[kind][1]}.*no whole one'):
            check_whole(tmp_path / 'iter_1.pth')


def test_inference_says_the_same(tmp_path: Path) -> None:
    (tmp_path / 'x.pth').write_bytes(LFS)
    with pytest.raises(ValueError, match='pointer of Git LFS') as error:
        init_model(small_config('panoptic'), tmp_path / 'x.pth')
    assert '\n' not in str(error.value)


def test_folders_are_no_files(tmp_path: Path) -> None:
    install()
    (tmp_path / 'x.pth').mkdir()
    with pytest.raises(ValueError, match=r'x\.pth is not a regular file'):
        CheckpointLoader.load_checkpoint(str(local_path(tmp_path / 'x.pth')))
    with pytest.raises(FileNotFoundError, match=r'x\.pth has no weights.*found nothing'):
        read_checkpoint(tmp_path / 'x.pth')
