"""Names with the prefixes of wrappers, and nested weights: one reader for our tools, mmengine and the hosts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import dinov2, hf_dinov2, official_from_hf
from inferencer_models import saved_model
from mmdet.apis import init_detector
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from tool_runs import CONFIGS, small
from torch import Tensor, nn

from benchmark.models import build_model
from eomt_mm.apis import init_model
from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import local_checkpoint
from eomt_mm.checkpoints.files import plain_names, read_checkpoint
from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.hosts.install import install
from eomt_mm.options import read_options

State = dict[str, Tensor]
PREFIXES = [
    '_orig_mod.', 'module.', 'model.', 'module._orig_mod.', '_orig_mod.module.', 'model._orig_mod.', '_orig_mod.model.',
    'model.module.', 'module.model.', 'module.module.', 'model.model.', 'module.model._orig_mod.',
]  # fmt: skip


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, State]:
    config, checkpoint = saved_model('panoptic', tmp_path_factory.mktemp('model'))
    return load_config(config), torch.load(checkpoint, weights_only=True)['state_dict']


def same(found: nn.Module, state: State) -> bool:
    own = found.state_dict()
    return set(own) == set(state) and all(torch.equal(own[name], state[name]) for name in state)


def by_hosts_detector(cfg: Config, path: Path) -> nn.Module:
    return init_detector(cfg, str(path), device='cpu')


def by_test(cfg: Config, path: Path) -> nn.Module:
    """As tools/test.py and load_from of tools/train.py load."""
    model = init_model(cfg)
    model.load_state_dict(CheckpointLoader.load_checkpoint(local_checkpoint(cfg, path))['state_dict'])
    return model


READERS = dict(
    demo_and_export=init_model, benchmark=lambda cfg, path: build_model(cfg, str(path), 'cpu'), test=by_test,
    detector=by_hosts_detector,
)  # fmt: skip


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('prefix', ['_orig_mod.', 'model.module._orig_mod.', 'inside'])
def test_prefixes_of_our_own_files(reader: str, prefix: str, saved: tuple[Config, State], tmp_path: Path) -> None:
    cfg, state = saved
    parts = {'inside': lambda name: name.replace('backbone.', 'backbone._orig_mod.', 1)}
    rename = parts.get(prefix, lambda name: prefix + name)
    torch.save(dict(state_dict={rename(name): value for name, value in state.items()}), tmp_path / 'x.pth')
    assert same(READERS[reader](cfg, tmp_path / 'x.pth'), state)


@pytest.mark.parametrize('key', [None, 'model', 'model_state_dict', 'module'])
def test_nested_weights(key: str | None, saved: tuple[Config, State], tmp_path: Path) -> None:
    cfg, state = saved
    wrapped = {f'module.{name}': value for name, value in state.items()}
    torch.save(wrapped if key is None else {key: wrapped, 'epoch': 3}, tmp_path / 'x.pth')
    for read in READERS.values():
        assert same(read(cfg, tmp_path / 'x.pth'), state)


def test_all_combinations_of_prefixes() -> None:
    for name in ('backbone.vit.norm.weight', 'panoptic_head.queries.weight', 'network.q.weight', 'pos_embed'):
        for prefix in PREFIXES:
            assert plain_names([prefix + name]) == {prefix + name: name}
    mixed = ['model.backbone.vit.norm.weight', 'criterion.empty_weight']
    assert list(plain_names(mixed).values()) == ['backbone.vit.norm.weight', 'criterion.empty_weight']
    kept = ['embeddings.cls_token', 'model.layer.0.norm.weight']  # Hugging Face's DINOv3
    assert list(plain_names(kept).values()) == kept


@pytest.mark.parametrize('prefix', PREFIXES)
def test_prefixes_of_other_formats(prefix: str, tmp_path: Path) -> None:
    model = hf_dinov2()
    for state in (model.state_dict(), official_from_hf(model), dinov2().backbone.vit.state_dict()):
        torch.save({prefix + name: value for name, value in state.items()}, tmp_path / 'x.ckpt')
        assert set(read_checkpoint(tmp_path / 'x.ckpt').state) == set(state)


def test_clashes_are_refused_by_the_hosts_too(saved: tuple[Config, State], tmp_path: Path) -> None:
    install()
    _, state = saved
    torch.save({**state, **{f'model.{name}': value for name, value in state.items()}}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth holds .* twice'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))


def test_files_of_other_models_are_unchanged(tmp_path: Path) -> None:
    install()
    for content in ({'model.layer.weight': torch.ones(1), 'module.a': torch.ones(1)}, dict(epoch=1), [1]):
        torch.save(content, tmp_path / 'x.pth')
        found: Any = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
        assert list(found) == list(content) and 'meta' not in found


def test_files_of_other_programs_are_refused_by_the_hosts(tmp_path: Path) -> None:
    install()
    model = hf_dinov2()
    for state in (model.state_dict(), official_from_hf(model)):
        torch.save(state, tmp_path / 'x.pth')
        import_checkpoint(tmp_path / 'x.pth', head='panoptic_head')
        with pytest.raises(ValueError, match=r'x\.pth is of the format .*convert_checkpoint\.py.*init_model'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['_orig_mod.', 'module.model.'])
def test_tools_load_files_with_prefixes(prefix: str, tool: Any, coco_root: Path, tmp_path: Path) -> None:
    common = ['--data-root', coco_root, '--work-dir', tmp_path]
    options = ['--cfg-options', *small('panoptic')]
    model = init_model(load_config(CONFIGS['panoptic'], read_options(options[1:])))
    names = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(names, tmp_path / 'x.pth')
    tool('test.py', CONFIGS['panoptic'], tmp_path / 'x.pth', *common, *options)
    tool('train.py', CONFIGS['panoptic'], *common, *options, f'load_from={tmp_path / "x.pth"}')
