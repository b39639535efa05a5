"""Configurations and runs for the tests of sharded training, in this process or in each of two."""

import os
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from torch import nn
from torch.distributed.tensor import DTensor

from eomt_mm.engine.sharding.runner import ShardedRunner
from eomt_mm.engine.sharding.state import from_main_process

VARIANTS: dict[str, dict[str, Any]] = {
    'plain': {},
    'checkpointing': {'model.backbone.with_cp': True},
    'frozen': {'model.backbone.frozen_stages': 2},
    'accumulated': {'train_cfg.type': 'eomt_mm.TrainLoop', 'optim_wrapper.accumulative_counts': 2},
}


SIDE, CLASSES = 32, ('sky', 'sea', 'land')


@DATASETS.register_module(force=True)
class ShardingTestImages(torch.utils.data.Dataset):
    """Eight images of noise with three labels, equal at every reading."""

    metainfo = dict(classes=CLASSES, palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 3, (1, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
        shape = (SIDE, SIDE)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape), gt_sem_seg=PixelData(data=labels))
        return dict(inputs=image, data_samples=sample)


@HOOKS.register_module(force=True)
class ShardingTestHook(Hook):
    """Equal random points in each step of every run, and the losses and gradient norms of all steps."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.norms: dict[int, float] = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        torch.manual_seed(10 * runner.iter + runner.rank)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses[runner.iter] = float(outputs['loss'])
        self.norms[runner.iter] = float(runner.message_hub.get_scalar('train/grad_norm').current())


class DDPRunner(Runner):
    """What the sharded runs are compared with."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return MMDistributedDataParallel(module=model, broadcast_buffers=False)


def config(work_dir: Path, launcher: str = 'pytorch', **changes: Any) -> Config:
    backbone = dict(
        type='eomt_mm.TimmViT', model_name='vit_tiny_patch16_224', img_size=SIDE, patch_size=8, depth=3, embed_dim=24,
        num_heads=3,
    )  # fmt: skip
    cfg = Config(
        dict(
            default_scope='mmseg',
            work_dir=str(work_dir),
            launcher=launcher,
            model=dict(
                type='eomt_mm.EoMTSegmentor',
                data_preprocessor=dict(type='eomt_mm.EoMTSegDataPreprocessor', img_size=SIDE),
                backbone=backbone,
                decode_head=dict(
                    type='eomt_mm.EoMTSegHead',
                    num_classes=3,
                    num_queries=5,
                    num_blocks=2,
                    criterion=dict(num_points=32),
                ),
            ),
            train_dataloader=dict(
                dataset=dict(type='ShardingTestImages'),
                sampler=dict(type='InfiniteSampler', shuffle=True),
                batch_size=2,
                num_workers=0,
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=100),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
                clip_grad=dict(max_norm=1.0),
                constructor='eomt_mm.LayerDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay=0.8),
            ),
            param_scheduler=[dict(type='eomt_mm.TwoStagePolyLR', warmup_steps=(1, 1), by_epoch=False, max_warmup=0.5)],
            default_hooks=dict(
                checkpoint=dict(type='eomt_mm.SafeCheckpointHook', by_epoch=False, interval=3),
                checkpoint_fit=dict(type='eomt_mm.CheckpointFitHook'),
            ),
            custom_hooks=[dict(type='eomt_mm.MaskAnnealingHook'), dict(type='ShardingTestHook')],
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            randomness=dict(seed=3),
            log_level='WARNING',
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def build(kind: type[Runner], work_dir: Path, **changes: Any) -> Any:
    for manager in (MMLogger, MessageHub, Visualizer, SegLocalVisualizer):
        manager._instance_dict.clear()  # mmengine keeps these per process; a user's next run is a new one
    return kind.from_cfg(config(work_dir, **changes))


def trained(kind: type[Runner], work_dir: Path, **changes: Any) -> Any:
    runner = build(kind, work_dir, **changes)
    runner.train()
    return runner


def record(runner: Any) -> ShardingTestHook:
    return next(hook for hook in runner.hooks if isinstance(hook, ShardingTestHook))


def flat(state: Any, prefix: str = '') -> dict[str, Any]:
    """Leaves of a nested state by path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {key: leaf for k, value in items for key, leaf in flat(value, f'{prefix}/{k}').items()}
    return {prefix: state}


def local(x: torch.Tensor) -> torch.Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert type(value) is type(other[key]), key
            assert torch.allclose(local(value), local(other[key]), rtol=0, atol=tolerance), key
        else:
            assert value == pytest.approx(other[key], abs=tolerance), key


def whole_state(runner: Any) -> dict[str, torch.Tensor]:
    state = runner.model.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def load(path: Path) -> Any:
    return torch.load(path, map_location='cpu')


def two_processes(rank: int, folder: Path) -> None:
    """Everything that the tests below look at, in one go: to start processes takes longer than to run them."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    seen: dict[str, Any] = {}

    def run(name: str, kind: type[Runner], **changes: Any) -> Any:
        runner = trained(kind, folder / name, **changes)
        seen[name] = dict(losses=record(runner).losses, norms=record(runner).norms)
        return runner

    def resumed(source: str) -> dict[str, Any]:
        return dict(load_from=str(folder / source), resume=True)

    folders = {'default_hooks.checkpoint.filename_tmpl': 'iter_{}.dcp'}
    run('ddp', DDPRunner)
    sharded = run('sharded', ShardedRunner)
    seen['elements'] = elements(sharded)
    run('folders', ShardedRunner, **folders)
    run('from_file', ShardedRunner, **resumed('sharded/iter_3.pth'))
    run('from_folder', ShardedRunner, **resumed('folders/iter_3.dcp'))
    run('from_ddp', ShardedRunner, **resumed('ddp/iter_3.pth'))
    run('ddp_from_sharded', DDPRunner, **resumed('sharded/iter_3.pth'))
    for variant in ('checkpointing', 'frozen'):
        run(f'ddp_{variant}', DDPRunner, **VARIANTS[variant])
        run(variant, ShardedRunner, **VARIANTS[variant])
    run('kept_gathered', ShardedRunner, sharding=dict(reshard_after_forward=False))
    run('bf16', ShardedRunner, sharding=dict(param_dtype='bfloat16'))
    sharded.model.eval()
    with torch.no_grad():
        class_logits, mask_logits = sharded.model(images(), mode='tensor')
    seen['logits'] = [class_logits[-1], mask_logits[-1]]
    seen['failure'] = failure_on_main()
    torch.save(seen, folder / f'rank{rank}.pth')
    dist.destroy_process_group()


def elements(runner: Any) -> dict[str, int]:
    """Numbers of elements that this process holds, and that the whole has."""
    params = list(runner.model.parameters())
    moments = [
        value for of in runner.optim_wrapper.optimizer.state.values() for value in (of['exp_avg'], of['exp_avg_sq'])
    ]
    return dict(
        params=sum(param.to_local().numel() for param in params),
        all_params=sum(param.numel() for param in params),
        moments=sum(value.to_local().numel() for value in moments),
    )


def images() -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def failure_on_main() -> str:
    def fail() -> None:
        raise OSError(28, 'No space left on device')

    try:
        from_main_process(fail)
    except OSError as error:
        return str(error)
    return ''
