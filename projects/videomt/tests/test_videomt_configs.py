"""Every leaf config of projects/videomt: of the published size, classes, optimisation and schedule."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from paths import ROOT
from videomt.datasets.generate import write_youtube_vis

from eomt_mm.apis import find_config, load_config
from eomt_mm.apis.classes import config_meta
from eomt_mm.core.schedules import two_stage_factor

CONFIGS = ROOT / 'projects' / 'videomt' / 'configs'
PATHS = sorted(CONFIGS.glob('*.py'))
LEAVES = [path for path in PATHS if 'tiny' not in path.name]
NAME = re.compile(r'videomt_(?P<family>dinov[23])-(?P<size>[sbl])_(?P<steps>\d+)k_(?P<data>\w+)-(?P<px>\d+)')
# Spec of VidEoMT, sections 1, 2 and 4: millions of parameters with 40 classes; steps in thousands, numbers.
PARAMETERS = {'s': 24.1, 'b': 94.2, 'l': 317.7}
BLOCKS = {'s': (12, 3), 'b': (12, 3), 'l': (24, 4)}
TASKS = {
    'ytvis2019': ('instance', 40, 40), 'ytvis2021': ('instance', 40, 40), 'ytvis2022': ('instance', 40, 40),
    'ovis': ('instance', 25, 25), 'vipseg': ('panoptic', 124, 58), 'vspw': ('semantic', 124, 58),
}  # fmt: skip
PUBLISHED = {
    ('dinov2', 's', 'ytvis2019'): (40, 448, '52.8', '62.2'),
    ('dinov2', 'b', 'ytvis2019'): (40, 448, '58.2', '66.5'),
    ('dinov2', 'l', 'ytvis2019'): (60, 448, '68.6', '73.9'),
    ('dinov2', 'l', 'ytvis2021'): (160, 448, '63.1', '68.1'),
    ('dinov2', 'l', 'ytvis2022'): (160, 448, '42.6', '48.1'),
    ('dinov2', 'l', 'ovis'): (160, 544, '52.5', '57.5'),
    ('dinov2', 'l', 'vipseg'): (40, 720, '55.2', '48.9'),
    ('dinov2', 'l', 'vspw'): (40, 720, '95.0', '64.9'),
    ('dinov3', 'l', 'ytvis2019'): (160, 480, '68.9', '74.8'),
    ('dinov3', 'l', 'ytvis2021'): (160, 480, '63.2', '69.2'),
    ('dinov3', 'l', 'ytvis2022'): (160, 480, '42.8', '50.3'),
    ('dinov3', 'l', 'vipseg'): (40, 720, '55.1', '47.1'),
    ('dinov3', 'l', 'vspw'): (40, 720, '94.4', '64.0'),
}


@functools.cache
def loaded(path: Path) -> Config:
    return load_config(path)


@functools.cache
def built(path: Path) -> Any:
    with torch.device('meta'):
        return MODELS.build(loaded(path).model)


def parts_of(path: Path) -> dict[str, str]:
    found = NAME.fullmatch(path.stem)
    assert found, f'{path.name} does not follow the naming'
    return found.groupdict()


def test_every_published_row_has_a_config() -> None:
    rows = [parts_of(path) for path in LEAVES]
    assert {(row['family'], row['size'], row['data']) for row in rows} == set(PUBLISHED)
    assert len(rows) == len(PUBLISHED)


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_leaf_is_the_published_one(path: Path) -> None:
    name = parts_of(path)
    steps, px, *numbers = PUBLISHED[name['family'], name['size'], name['data']]
    cfg = loaded(path)
    assert (int(name['steps']), int(name['px'])) == (steps, px)
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('eomt_mm.TrainLoop', 1000 * steps)
    title = path.read_text().split('"""')[1]
    assert all(number in title for number in numbers) and f'{px} px' in title
    for split in ('val', 'test'):
        scales = [step for step in cfg[f'{split}_dataloader'].dataset.pipeline[0].transforms if 'scale' in step]
        assert [(step.scale, step.max_size) for step in scales] == [(px, 1333)]
        assert cfg[f'{split}_dataloader'].batch_size == 1
    assert cfg.auto_scale_lr.base_batch_size == 8
    assert cfg.randomness.seed == 0


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_model_is_the_published_one(path: Path) -> None:
    name, model, cfg = parts_of(path), built(path), loaded(path)
    task, num_classes, num_things = TASKS[name['data']]
    head, wild = model.panoptic_head, name['data'] in ('vipseg', 'vspw')
    assert (model.backbone.depth, head.num_blocks) == BLOCKS[name['size']]
    assert (head.task, head.num_classes, head.num_things_classes, head.num_queries) == (
        task,
        num_classes,
        num_things,
        200,
    )
    assert head.norm_queries == head.norm_auxiliary == (wild and name['family'] == 'dinov3')
    assert head.max_per_video == (20 if name['data'] == 'ovis' else 10)
    assert head.drop_last_auxiliary and head.criterion.class_on_absent_frames and not head.criterion.official_labels
    assert cfg.model.backbone.img_size == (1280 if wild else 640)
    meta = config_meta(cfg)
    assert len(meta['classes']) == num_classes
    if wild:
        assert tuple(meta['thing_classes']) == tuple(meta['classes'][:num_things])
    if name['family'] == 'dinov2' and num_classes == 40:
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert millions == pytest.approx(PARAMETERS[name['size']], abs=0.06)


@pytest.mark.parametrize('path', LEAVES[:1] + LEAVES[-1:], ids=lambda path: path.stem)
def test_optimiser_is_the_published_one(path: Path) -> None:
    cfg, model = loaded(path), built(path)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    groups = wrapper.optimizer.param_groups
    depth = model.backbone.depth
    assert not wrapper.clip_grad_kwargs
    assert {group['weight_decay'] for group in groups} == {0.05}
    assert {round(group['lr_factor'], 12) for group in groups} == {round(0.6**k, 12) for k in range(depth)}
    of_name = {name: group for group in groups for name in group['param_names']}
    assert of_name['panoptic_head.query_updater.weight']['lr'] == 1e-4
    assert of_name['backbone.vit.patch_embed.proj.weight']['lr'] == pytest.approx(1e-4 * 0.6 ** (depth - 1))
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))
    (schedule,) = cfg.param_scheduler
    assert tuple(schedule.warmup_steps) == (500, 1000)
    assert two_stage_factor(499, cfg.train_cfg.max_iters, schedule.warmup_steps, is_backbone=True) == 0


def test_toy_is_small() -> None:
    (path,) = set(PATHS) - set(LEAVES)
    model = built(path)
    assert sum(parameter.numel() for parameter in model.parameters()) < 4e6
    assert len(config_meta(loaded(path))['classes']) == model.panoptic_head.num_classes


def test_own_videos_of_the_readme(tmp_path: Path) -> None:
    """The README's config is for its classes; generated videos with other names come through it."""
    readme = (CONFIGS.parent / 'README.md').read_text()
    text = readme.split('```python\n')[1].split('```')[0]
    path = tmp_path / 'streets.py'
    path.write_text(text.replace("'./", f"'{CONFIGS}/"))
    cfg = load_config(path)
    assert cfg.model.panoptic_head.num_things_classes == 3
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root == 'data/streets/'

    root = write_youtube_vis(tmp_path / 'videos', num_videos=2, num_frames=6, size=(48, 64))
    names = ['turtle', 'train', 'shark', 'frog']
    cfg = load_config(path, {'metainfo.classes': names}, root)
    assert cfg.model.panoptic_head.num_things_classes == 4
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        train, val = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val'))
    assert list(train.metainfo['classes']) == names
    assert train[0]['inputs'].shape[:2] == (5, 3) and len(val[0]['data_samples']) == 6


def test_an_input_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='img_size=320: .* come in any: override the scales'):
        load_config(PATHS[0], {'img_size': 320})


def test_configs_are_found_by_name() -> None:
    assert [find_config(path.stem) for path in PATHS] == PATHS


def test_another_root_moves_the_videos() -> None:
    cfg = load_config(CONFIGS / 'videomt_dinov2-l_160k_ytvis2022-448.py', data_root='/videos/')
    assert cfg.val_dataloader.dataset.data_root == cfg.test_dataloader.dataset.data_root == '/videos/'
    assert cfg.train_dataloader.dataset.datasets[0].data_root == 'data/ytvis_2021/'
    cfg = load_config(CONFIGS / 'videomt_dinov2-l_160k_ytvis2021-448.py', data_root='/videos/')
    roots = [dataset.data_root for dataset in cfg.train_dataloader.dataset.datasets]
    assert [cfg.val_dataloader.dataset.data_root, *roots] == ['/videos/', '/videos/', 'data/coco/']


def test_a_config_on_ones_own_config_keeps_the_root(tmp_path: Path) -> None:
    own = (CONFIGS / '_base_' / 'recipes' / 'own_vis.py').as_posix()
    (tmp_path / 'streets.py').write_text(
        f"_base_ = ['{own}', '{CONFIGS}/_base_/backbones/dinov2_small.py', '{CONFIGS}/_base_/schedules/40k.py']\n"
        "model = dict(backbone=_base_.backbone)\ndata_root = 'data/streets/'\nmetainfo = dict(classes=('car',))\n"
    )
    (tmp_path / 'longer.py').write_text("_base_ = ['streets.py']\ntrain_cfg = dict(max_iters=80000)\n")
    for name in ('streets', 'longer'):
        cfg = load_config(tmp_path / f'{name}.py')
        roots = {cfg[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val', 'test')}
        assert roots == {cfg.data_root} == {'data/streets/'}


def test_a_root_that_is_computed_is_moved(tmp_path: Path) -> None:
    own = (CONFIGS / '_base_' / 'recipes' / 'own_vis.py').as_posix()
    (tmp_path / 'base.py').write_text(
        f"_base_ = ['{own}', '{CONFIGS}/_base_/backbones/dinov2_small.py', '{CONFIGS}/_base_/schedules/40k.py']\n"
        "model = dict(backbone=_base_.backbone)\nmetainfo = dict(classes=('car',))\n"
        "data_root = '/'.join(['data', 'computed', ''])\ntrain_dataloader = dict(dataset=dict(data_root=data_root))\n"
    )
    (tmp_path / 'leaf.py').write_text("_base_ = ['base.py']\n")
    cfg = load_config(tmp_path / 'leaf.py', data_root='/videos/')
    assert cfg.train_dataloader.dataset.data_root == '/videos/'


def test_a_plan_is_drawn(tool: Callable, tmp_path: Path) -> None:
    tool('analysis/plot_curves.py', '--plan', LEAVES[0], '--out', tmp_path / 'plan.png')
    assert (tmp_path / 'plan.png').stat().st_size
