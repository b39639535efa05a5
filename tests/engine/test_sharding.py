"""Sharded training (fully_shard) with one process; test_sharding_processes.py has two."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
import torch.distributed as dist
from mmengine.runner import Runner
from sharding_runs import (
    CLASSES,
    VARIANTS,
    DDPRunner,
    assert_same,
    build,
    config,
    load,
    record,
    trained,
    whole_state,
)
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from eomt_mm.apis import init_model
from eomt_mm.engine.sharding.runner import ShardedRunner, Sharding
from eomt_mm.engine.sharding.state import merge_folder, put_in_place
from eomt_mm.registry import RUNNERS


@contextmanager
def group_of_one() -> Iterator[None]:
    """A group of this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', '0')
        dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


@pytest.fixture
def process_group() -> Iterator[None]:
    with group_of_one():
        yield


class Seen:
    """A run of 6 steps and what it left; its checkpoints, after steps 3 and 6, are not to be changed."""

    def __init__(self, kind: type[Runner], folder: Path, **changes: Any) -> None:
        runner = trained(kind, folder, **changes)
        self.folder, self.model = folder, runner.model
        self.losses, self.norms = record(runner).losses, record(runner).norms
        self.states = [dict(runner.model.state_dict()), runner.optim_wrapper.state_dict()]
        self.weights = whole_state(runner)


FOLDERS = {'default_hooks.checkpoint.filename_tmpl': 'iter_{}.dcp'}


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """An ordinary run, and sharded ones whose checkpoints are files or folders."""
    folder = tmp_path_factory.mktemp('runs')
    with group_of_one():
        return dict(
            plain=Seen(DDPRunner, folder / 'plain'),
            pth=Seen(ShardedRunner, folder / 'pth'),
            dcp=Seen(ShardedRunner, folder / 'dcp', **FOLDERS),
        )


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(param_dtype='half'), "sharding.param_dtype='half'"),
        (dict(reduce_dtype=None), "sharding.reduce_dtype='None'"),
        (dict(offload=True), "unknown keys \\['offload'\\]"),
    ],
)
def test_settings_that_do_not_exist_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sharding.from_cfg(settings)


def test_configs_choose_the_runner_by_type(tmp_path: Path) -> None:
    cfg = config(tmp_path, launcher='none', runner_type='eomt_mm.ShardedRunner')
    assert type(RUNNERS.build(cfg)) is ShardedRunner


@pytest.mark.parametrize(
    'variant', [name if name == 'plain' else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_a_sharded_run_equals_an_ordinary_one_and_leaves_the_same_file(
    tmp_path: Path, runs: dict[str, Seen], process_group: None, variant: str
) -> None:
    plain, sharded = runs['plain'], runs['pth']
    if VARIANTS[variant]:
        plain = Seen(DDPRunner, tmp_path / 'plain', **VARIANTS[variant])
        sharded = Seen(ShardedRunner, tmp_path / 'sharded', **VARIANTS[variant])
    assert all(isinstance(param, DTensor) for param in sharded.model.parameters())
    assert all(isinstance(unit, FSDPModule) for unit in [sharded.model, *sharded.model.backbone.vit.blocks])
    assert sharded.losses == pytest.approx(plain.losses, abs=1e-6)
    assert sharded.norms == pytest.approx(plain.norms, abs=1e-5)
    ours, theirs = (load(run.folder / 'iter_6.pth') for run in (sharded, plain))
    assert ours.keys() == theirs.keys()
    assert ours['meta']['iter'] == 6
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], tolerance=1e-6)


@pytest.mark.parametrize('name', ['pth', 'dcp'])
def test_a_run_resumed_from_file_or_folder_goes_on_as_if_never_stopped(
    tmp_path: Path, runs: dict[str, Seen], process_group: None, name: str
) -> None:
    through = runs[name]
    template = FOLDERS if name == 'dcp' else {}
    start = str(through.folder / f'iter_3.{name}')
    again = Seen(ShardedRunner, tmp_path, load_from=start, resume=True, **template)
    assert list(again.losses) == [3, 4, 5]
    assert again.losses == {i: through.losses[i] for i in (3, 4, 5)}
    assert_same(again.states, through.states)
    assert again.norms == {i: through.norms[i] for i in (3, 4, 5)}


@pytest.mark.parametrize(('name', 'kind'), [('pth', Runner), ('dcp', ShardedRunner)])
def test_an_unsharded_run_goes_on_where_a_sharded_one_stopped(
    tmp_path: Path, runs: dict[str, Seen], name: str, kind: type[Runner]
) -> None:
    sharded = runs[name]
    plain = Seen(kind, tmp_path, launcher='none', load_from=str(sharded.folder / f'iter_3.{name}'), resume=True)
    assert not any(isinstance(param, DTensor) for param in plain.model.parameters())
    assert plain.losses == pytest.approx({i: sharded.losses[i] for i in (3, 4, 5)}, abs=1e-6)


def test_a_sharded_run_goes_on_where_an_unsharded_one_stopped(
    tmp_path: Path, runs: dict[str, Seen], process_group: None
) -> None:
    plain = runs['plain']
    sharded = Seen(ShardedRunner, tmp_path, load_from=str(plain.folder / 'iter_3.pth'), resume=True)
    assert sharded.losses == pytest.approx({i: plain.losses[i] for i in (3, 4, 5)}, abs=1e-6)


def test_pretrained_weights_reach_the_sharded_model(
    tmp_path: Path, process_group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('eomt_mm.models.backbone.TimmViT.init_weights', lambda self: self.vit.pos_embed.data.fill_(7))
    runner = build(ShardedRunner, tmp_path)
    before = dict(runner.model.state_dict())
    same = before['backbone.vit.cls_token'].full_tensor().clone()
    runner._init_model_weights()
    assert (before['backbone.vit.pos_embed'].full_tensor() == 7).all()
    assert torch.equal(before['backbone.vit.cls_token'].full_tensor(), same)
    runner.load_or_resume()
    assert runner._whole_model is None


def test_buffers_that_no_checkpoint_holds_are_filled(tmp_path: Path, process_group: None) -> None:
    model = build(ShardedRunner, tmp_path).model
    assert 'data_preprocessor.mean' not in model.state_dict()
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert model.decode_head.attn_mask_probs.tolist() == [1, 1]


def test_load_from_starts_anew_and_may_leave_the_class_predictor_out(
    tmp_path: Path, runs: dict[str, Seen], process_group: None
) -> None:
    path = runs['plain'].folder / 'iter_6.pth'
    saved = load(path)
    options = {'load_from': str(path), 'default_hooks.checkpoint_fit.class_head': False}
    runner = build(ShardedRunner, tmp_path, **options)
    fresh = runner.model.state_dict()['decode_head.class_predictor.weight'].full_tensor().clone()
    runner._train_loop = runner.build_train_loop(runner._train_loop)  # the hook asks whether this is training
    runner.load_or_resume()
    state = whole_state(runner)
    assert torch.equal(state['decode_head.class_predictor.weight'], fresh)
    assert torch.equal(state['backbone.vit.pos_embed'], saved['state_dict']['backbone.vit.pos_embed'])
    assert runner.iter == 0


def test_loaded_keep_probabilities_are_noticed(tmp_path: Path, process_group: None) -> None:
    """Sharded tensors are written in place."""
    runner = build(ShardedRunner, tmp_path, **{'default_hooks.checkpoint_fit.type': 'IterTimerHook'})
    head = runner.model.decode_head.train()
    assert head.masks_block(0) and head.masks_block(1)
    probs = torch.tensor([0.0, 0.5])
    state = dict(init_model(config(tmp_path)).state_dict(), **{'decode_head.attn_mask_probs': probs})
    torch.save(dict(state_dict=state), tmp_path / 'annealed.pth')
    runner.load_checkpoint(str(tmp_path / 'annealed.pth'))
    assert torch.equal(head.attn_mask_probs, probs) and not head.masks_block(0) and head.masks_block(1)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path, process_group: None) -> None:
    runner = build(ShardedRunner, tmp_path, **{'default_hooks.checkpoint_fit.type': 'IterTimerHook'})
    state = dict(init_model(config(tmp_path)).state_dict(), **{'decode_head.queries.weight': torch.zeros(4, 24)})
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r"another shape \['decode_head.queries.weight'\]"):
        runner.load_checkpoint(str(tmp_path / 'other.pth'))


def test_strict_loading_names_what_is_missing(tmp_path: Path, process_group: None) -> None:
    runner = build(ShardedRunner, tmp_path, **{'default_hooks.checkpoint_fit.type': 'IterTimerHook'})
    state = dict(init_model(config(tmp_path)).state_dict())
    del state['decode_head.queries.weight']
    torch.save(dict(state_dict=state), tmp_path / 'less.pth')
    runner.load_checkpoint(str(tmp_path / 'less.pth'))
    with pytest.raises(ValueError, match=r"missing \['decode_head.queries.weight'\]"):
        runner.load_checkpoint(str(tmp_path / 'less.pth'), strict=True)


def test_resuming_with_other_frozen_parts_is_refused(
    tmp_path: Path, runs: dict[str, Seen], process_group: None
) -> None:
    runner = build(ShardedRunner, tmp_path, load_from=str(runs['pth'].folder / 'iter_3.pth'), resume=True)
    runner.model.backbone.vit.pos_embed.requires_grad_(False)
    with pytest.raises(ValueError, match='other trained parameters, such as backbone.vit.pos_embed'):
        runner.train()


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        (dict(custom_hooks=[dict(type='EMAHook')]), 'EMAHook copies the whole model'),
        (dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel')), 'model_wrapper_cfg.type'),
        (dict(sharding=dict(offload=True)), 'sharding has unknown keys'),
    ],
)
def test_what_cannot_be_sharded_is_refused_when_built(
    tmp_path: Path, process_group: None, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        build(ShardedRunner, tmp_path, **changes)


def test_a_folder_becomes_a_file_for_the_other_tools(tmp_path: Path, runs: dict[str, Seen]) -> None:
    merge_folder(runs['dcp'].folder / 'iter_6.dcp', tmp_path / 'merged.pth')
    model = init_model(config(tmp_path), tmp_path / 'merged.pth')
    assert_same(dict(model.state_dict()), runs['dcp'].weights)
    meta: Any = model.dataset_meta
    assert meta['classes'] == CLASSES


def test_old_folders_are_removed_as_old_files_are(tmp_path: Path, process_group: None) -> None:
    options = dict(filename_tmpl='iter_{}.dcp', interval=2, max_keep_ckpts=1)
    trained(ShardedRunner, tmp_path, **{f'default_hooks.checkpoint.{key}': value for key, value in options.items()})
    assert [path.name for path in tmp_path.iterdir() if 'dcp' in path.name] == ['iter_6.dcp']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_6.dcp')


@pytest.mark.parametrize('name', ['iter_6.pth', 'iter_6.dcp'])
def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path: Path, process_group: None, name: str) -> None:
    runner = build(ShardedRunner, tmp_path)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # bytes of a file: writing more is an error
    try:
        with pytest.raises(OSError, match='File too large'):
            runner.save_checkpoint(str(tmp_path), name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any('iter' in path.name for path in tmp_path.iterdir())
    (tmp_path / '.iter_4.dcp.part').mkdir()  # of a run that was killed
    runner.save_checkpoint(str(tmp_path), name)
    left = [] if name.endswith('.dcp') else ['.iter_4.dcp.part']
    assert sorted(path.name for path in tmp_path.iterdir() if 'iter' in path.name) == [*left, name]
    runner.load_checkpoint(str(tmp_path / name))


def test_a_folder_without_its_last_part_is_no_checkpoint(tmp_path: Path, process_group: None) -> None:
    (tmp_path / 'iter_3.dcp').mkdir()
    with pytest.raises(FileNotFoundError, match=r'iter_3\.dcp does not exist, or is no folder that'):
        build(ShardedRunner, tmp_path).load_checkpoint(str(tmp_path / 'iter_3.dcp'))


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for name, text in (('new', 'b'), ('iter_1.dcp', 'a')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').write_text(text)
    put_in_place(tmp_path / 'new', tmp_path / 'iter_1.dcp')
    assert [path.name for path in tmp_path.iterdir()] == ['iter_1.dcp']
    assert (tmp_path / 'iter_1.dcp' / 'file').read_text() == 'b'


def test_half_precision_computes_in_it_and_keeps_float32(
    tmp_path: Path, runs: dict[str, Seen], process_group: None
) -> None:
    seen: dict[str, torch.dtype] = {}
    runner = build(ShardedRunner, tmp_path, sharding=dict(param_dtype='bfloat16'))
    norm = runner.model.backbone.vit.blocks[1].norm1
    norm.register_forward_hook(lambda module, args, out: seen.update(out=out.dtype, weight=module.weight.dtype))
    runner.train()
    assert seen == dict(out=torch.bfloat16, weight=torch.bfloat16)
    assert {param.dtype for param in runner.model.parameters()} == {torch.float32}
    assert record(runner).losses == pytest.approx(runs['plain'].losses, rel=0.02)
    assert record(runner).losses != pytest.approx(runs['plain'].losses, rel=1e-6)


def test_rotary_positions_keep_their_precision_in_half_precision(tmp_path: Path, process_group: None) -> None:
    backbone = dict(model_name='vit_small_patch16_dinov3_qkvb', embed_dim=32, num_heads=2)
    changes = {f'model.backbone.{key}': value for key, value in backbone.items()}
    changes['train_cfg.max_iters'] = 1
    runner = build(ShardedRunner, tmp_path, sharding=dict(param_dtype='bfloat16'), **changes)
    seen: list[torch.dtype] = []
    attention = runner.model.backbone.vit.blocks[2].attn
    attention.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs['rope'].dtype), with_kwargs=True)
    runner.train()
    assert set(seen) == {torch.float32}


def test_the_runner_that_deepspeed_needs_trains_our_models(tmp_path: Path) -> None:
    cfg = config(tmp_path, launcher='none', runner_type='FlexibleRunner')
    runner = RUNNERS.build(cfg)
    runner.train()
    assert list(record(runner).losses) == [0, 1, 2, 3, 4, 5]
