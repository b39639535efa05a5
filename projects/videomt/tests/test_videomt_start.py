"""What a VidEoMT is loaded from: its own formats in every tool, an EoMT as a start of training."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import State, equal
from first_weights import first_weights
from mmengine.config import Config
from tool_runs import CONFIGS, ROOT, metrics, shrunk
from videomt.checkpoints import export_huggingface
from videomt.datasets.generate import write_youtube_vis

from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import import_for, init_model, local_checkpoint

(VIDEO,) = (ROOT / 'projects' / 'videomt' / 'configs').glob('videomt_tiny_*.py')
VIT = dict(model_name='vit_small_patch14_reg4_dinov2', depth=2, embed_dim=48, num_heads=3, patch_size=16, img_size=64)
SMALL = {
    **{f'model.backbone.{key}': value for key, value in VIT.items()},
    'model.panoptic_head.num_queries': 10,
    'model.panoptic_head.criterion.num_points': 64,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'test_dataloader.num_workers': 0,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 9,
    'param_scheduler.0.warmup_steps': (0, 0),
}
OPTIONS = ['--cfg-options', *(f'{key}={value}' for key, value in SMALL.items())]
UPDATER = {f'panoptic_head.query_updater.{name}' for name in ('weight', 'bias')}
CLASS_ROWS = {f'panoptic_head.class_predictor.{name}' for name in ('weight', 'bias')}


@pytest.fixture(scope='module')
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('videos') / 'root'
    return write_youtube_vis(root, num_videos=2, num_frames=3)


def config(work_dir: Path, **more: Any) -> Config:
    cfg = load_config(VIDEO, SMALL | more)
    cfg.work_dir = str(work_dir)
    return cfg


def trained(cfg: Config) -> State:
    """Weights of which none is what a new model has."""
    state = init_model(cfg).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.zeros_like(value) if 'attn_mask_probs' in name else torch.rand(value.shape, generator=generator) / 9
        for name, value in state.items()
    }


def official(state: State) -> State:
    """The official program's names for a DINOv2 model of ours (spec, section 5)."""
    parts = {
        'backbone.vit.': 'backbone.encoder.backbone.', 'panoptic_head.queries': 'backbone.q',
        'panoptic_head.class_predictor': 'backbone.class_head', 'panoptic_head.mask_mlp': 'backbone.mask_head',
        'panoptic_head.query_updater': 'backbone.query_updater', 'panoptic_head.upscale': 'backbone.upscale',
    }  # fmt: skip
    found = {}
    for name, value in state.items():
        start = next((part for part in parts if name.startswith(part)), None)
        if start is not None:
            name = name.replace(start, parts[start], 1)
            if 'upscale' in name:
                name = name.replace('.up.', '.conv1.').replace('.conv.', '.conv2.')
            found[name] = value
    return found


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """One VidEoMT in every form, below ``state`` its weights."""
    cfg = config(tmp_path / 'work')
    state = trained(cfg)
    export_huggingface(state, tmp_path / 'hf', num_heads=3, classes=cfg.metainfo.classes)
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda *_, **__: str(tmp_path / 'hf'))
    torch.save(dict(model=official(state), iteration=3), tmp_path / 'model_final.pth')
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'iter_1.pth')
    return dict(
        state=state, hub='hf://somebody/videomt', folder=tmp_path / 'hf', official=tmp_path / 'model_final.pth',
        ours=tmp_path / 'iter_1.pth',
    )  # fmt: skip


def test_every_form_is_a_model_and_what_the_runner_reads(saved: dict[str, Any], tmp_path: Path) -> None:
    cfg, state = config(tmp_path / 'work'), saved.pop('state')
    for form, source in saved.items():
        assert equal(init_model(cfg, source).state_dict(), state), form
        path = local_checkpoint(cfg, source)
        assert (path == str(source)) == (form == 'ours')
        assert equal(torch.load(path, weights_only=True)['state_dict'], state), form


def test_another_number_of_queries_is_named_with_the_override(saved: dict[str, Any], tmp_path: Path) -> None:
    cfg = config(tmp_path / 'work', **{'model.panoptic_head.num_queries': 9})
    with pytest.raises(ValueError, match=r'queries: 10 in the file, 9 .*num_queries=10') as error:
        init_model(cfg, saved['folder'])
    assert 'convert_' not in str(error.value)  # nothing that a flag of the converter would change


def test_models_of_images_do_not_read_those_of_videos(saved: dict[str, Any]) -> None:
    cfg = load_config(CONFIGS['panoptic'])
    with pytest.raises(ValueError, match='the format of this file is not known'):
        import_for(cfg, saved['official'], {})


def test_what_only_starts_a_training_is_no_model(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    state = trained(cfg)
    torch.save({name: value for name, value in state.items() if name not in UPDATER}, tmp_path / 'eomt.bin')
    with pytest.raises(ValueError, match=r'lacks 2 weights, such as panoptic_head\.query_updater.*load_from'):
        init_model(cfg, tmp_path / 'eomt.bin')


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> State:
    return first_weights(monkeypatch)


def test_tools_evaluate_released_files(
    tool: Callable, videos: Path, saved: dict[str, Any], begun: State, tmp_path: Path
) -> None:
    for form in ('hub', 'official'):
        begun.clear()
        tool('test.py', VIDEO, saved[form], '--data-root', videos, '--work-dir', tmp_path / form, *OPTIONS)
        assert equal(begun, saved['state']) and 'vis/AR@10' in metrics(tmp_path / form)


def eomt(folder: Path, task: str) -> tuple[Path, State]:
    """A checkpoint of a tiny EoMT of ours for other classes, and its weights under the names of a VidEoMT."""
    options = dict(option.split('=') for option in shrunk(task) if option.startswith(('img_size', 'model.')))
    options |= {'model.backbone.model_name': VIT['model_name']}
    cfg = load_config(CONFIGS[task], {key: int(value) if value.isdigit() else value for key, value in options.items()})
    state = trained(cfg)
    torch.save(dict(state_dict=state, meta=dict(epoch=0, iter=1)), folder / 'eomt.pth')
    return folder / 'eomt.pth', {name.replace('decode_head', 'panoptic_head'): value for name, value in state.items()}


@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_training_starts_from_an_eomt(task: str, tool: Callable, videos: Path, begun: State, tmp_path: Path) -> None:
    source, state = eomt(tmp_path, task)
    start = [f'load_from={source}', 'default_hooks.checkpoint_fit.class_head=auto']
    tool('train.py', VIDEO, '--data-root', videos, '--work-dir', tmp_path / 'work', *OPTIONS, *start)
    new = {name for name, value in begun.items() if name not in state or not torch.equal(value, state[name])}
    assert new == UPDATER | CLASS_ROWS
    assert all(bool(begun[name].any()) for name in UPDATER)
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert re.search(r'lacks 4 of the \d+ weights, which keep their initial values: .*query_updater\.weight', log)


def test_training_keeps_classes_that_are_as_many(tmp_path: Path) -> None:
    """An EoMT for videos' own classes: only the updater is new."""
    cfg = config(tmp_path)
    state = trained(cfg)
    rows = {name: value for name, value in state.items() if name not in UPDATER}
    torch.save(dict(state_dict=rows), tmp_path / 'eomt.pth.tar')
    found = torch.load(local_checkpoint(cfg, tmp_path / 'eomt.pth.tar', class_head='auto'), weights_only=True)
    assert equal(found['state_dict'], rows)
