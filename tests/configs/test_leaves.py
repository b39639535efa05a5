"""Every leaf config: complete, of the published size, optimisation and schedule, its pipelines running on its data."""

import copy
import functools
import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.apis.classes import config_meta
from eomt_mm.engine.mask_annealing import MaskAnnealingHook
from eomt_mm.models.sample_targets import det_sample_target, seg_sample_target
from eomt_mm.synthetic.generate import write_cityscapes, write_coco_stuff

CONFIGS = ROOT / 'configs' / 'eomt'
PATHS = sorted(CONFIGS.glob('[!_]*/*.py'))
NAME = re.compile(
    r'eomt_(?P<family>dinov[23])-(?P<size>[sblg])_(?P<epochs>\d+)e_'
    r'(?P<data>coco|ade20k|cityscapes)-(?P<task>semantic|instance|panoptic)-(?P<px>\d+)'
)
LEAVES = [path for path in PATHS if path.parent.name != 'toy']

# depth, width, hidden width of the MLP (giant: gate and value), joint blocks
SIZES = {'s': (12, 384, 1536, 3), 'b': (12, 768, 3072, 3), 'l': (24, 1024, 4096, 4), 'g': (40, 1536, 4096, 5)}
CLASSES = {
    ('coco', 'semantic'): 171, ('coco', 'instance'): 80, ('coco', 'panoptic'): 133,
    ('ade20k', 'semantic'): 150, ('ade20k', 'instance'): 100, ('ade20k', 'panoptic'): 150,
    ('cityscapes', 'semantic'): 19, ('cityscapes', 'instance'): 8, ('cityscapes', 'panoptic'): 19,
}  # fmt: skip
# Millions of parameters that others publish: EoMT paper (L, g), LightlyTrain's documentation (DINOv3).
PUBLISHED_PARAMETERS = {
    'eomt_dinov2-l_12e_coco-panoptic-640': (316, 1), 'eomt_dinov2-g_12e_coco-panoptic-640': (1164, 1),
    'eomt_dinov3-s_24e_coco-panoptic-640': (23.4, 0.1), 'eomt_dinov3-b_24e_coco-panoptic-640': (92.5, 0.1),
    'eomt_dinov3-l_12e_coco-panoptic-640': (315.1, 0.1),
}  # fmt: skip
# Sections 6 and 9 of the spec: steps, then starts and ends of the annealing.
A3 = ((14782, 36955, 59128), (29564, 51737, 73910))
A4 = ((14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910))
A5 = ((14782, 25869, 36955, 48042, 59128), (29564, 40651, 51737, 62824, 73910))
A3X2 = ((29564, 73910, 118256), (59128, 103474, 147820))
E4 = ((6520, 13040, 19560, 26080), (13040, 19560, 26080, 32600))
E5 = ((6520, 11410, 16300, 21190, 26080), (13040, 17930, 22820, 27710, 32600))
C4 = ((3317, 6634, 9951, 13268), (6634, 9951, 13268, 16585))
V3_ADE = ((0, 6520, 9780, 13040), (3000, 9780, 13040, 16300))


def first_at_0(steps: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (0, *steps[0][1:]), (3000, *steps[1][1:])


PUBLISHED = {
    **{f'eomt_dinov2-{s}_12e_coco-panoptic-640': (88692, A3) for s in 'sb'},
    **{f'eomt_dinov2-{s}_24e_coco-panoptic-640': (177384, A3X2) for s in 'sb'},
    **{f'eomt_dinov3-{s}_24e_coco-panoptic-640': (177384, first_at_0(A3X2)) for s in 'sb'},
    **{f'eomt_dinov2-l_12e_coco-panoptic-{px}': (88692, A4) for px in (640, 1280)},
    **{f'eomt_dinov2-g_12e_coco-panoptic-{px}': (88692, A5) for px in (640, 1280)},
    **{f'eomt_dinov3-l_12e_coco-panoptic-{px}': (88692, first_at_0(A4)) for px in (640, 1280)},
    **{f'eomt_dinov{v}-l_12e_coco-instance-{px}': (87948, A4) for px in (640, 1280) for v in (2, 3)},
    **{f'eomt_dinov2-l_31e_ade20k-panoptic-{px}': (39122, E4) for px in (640, 1280)},
    **{f'eomt_dinov2-g_31e_ade20k-panoptic-{px}': (39122, E5) for px in (640, 1280)},
    'eomt_dinov2-l_31e_ade20k-semantic-512': (39122, E4),
    'eomt_dinov3-l_16e_ade20k-semantic-512': (20192, V3_ADE),
    'eomt_dinov2-l_107e_cityscapes-semantic-1024': (19902, C4),
}
EPOCH = {'coco': 7391, 'ade20k': 1262, 'cityscapes': 186}


@functools.cache
def bare(path: Path) -> Config:
    return Config.fromfile(path)


@functools.cache
def loaded(path: Path) -> Config:
    """By our loader, of which reading the file takes nearly all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'fromfile', lambda *_, **__: copy.deepcopy(bare(path)))
        return load_config(path)


def parts(path: Path) -> dict[str, str]:
    found = NAME.fullmatch(path.stem)
    assert found, path.stem
    return found.groupdict()


def each_leaf(paths: list[Path] = LEAVES, slow: Callable[[Path], bool] = lambda path: False) -> Any:
    marked = [pytest.param(path, marks=pytest.mark.slow) if slow(path) else path for path in paths]
    return pytest.mark.parametrize('path', marked, ids=lambda path: path.stem)


def meta_model(cfg: Config) -> Any:
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def plain(cfg: Config) -> dict:
    found = cfg._cfg_dict.to_dict()
    return {key: value for key, value in found.items() if key != 'data_root'}


def test_names_are_unique() -> None:
    names = [path.stem for path in PATHS]
    assert len(names) == len(set(names)) > 60


def test_the_grid_is_whole() -> None:
    """Three data sets, three tasks, two families, three sizes; and every published row."""
    found = {tuple(parts(path)[key] for key in ('data', 'task', 'family', 'size')) for path in LEAVES}
    grid = {(*cell, family, size) for cell in CLASSES for family in ('dinov2', 'dinov3') for size in 'sbl'}
    assert grid <= found
    assert set(PUBLISHED) <= {path.stem for path in LEAVES}


@each_leaf(PATHS)
def test_leaf_is_short_and_documented(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 14
    first = text.splitlines()[0]
    if path in LEAVES:
        leaf = parts(path)
        family = leaf['family'].replace('dino', 'DINO')
        size = leaf['size'].upper() if leaf['size'] != 'g' else 'g'
        assert first.startswith(f'"""EoMT-{size} {family}, ')
        assert f' {leaf["task"]}, {leaf["px"]} px: ' in first
        if path.stem in PUBLISHED:
            assert re.search(
                r"(PQ|mIoU|AP) \d\d\.\d \((EoMT model zoo, DINOv[23]|a comment in EoMT's configs)\)", first
            )
        else:
            assert 'ublished' in text  # says that nobody did, and from which rule its numbers follow


@each_leaf()
def test_leaf_is_complete_without_our_loader(path: Path) -> None:
    assert plain(bare(path)) == plain(loaded(path))


@each_leaf()
def test_data_classes_queries_and_size_are_those_of_the_name(path: Path) -> None:
    leaf, cfg = parts(path), loaded(path)
    assert path.parent.name == leaf['data']
    px = int(leaf['px'])
    assert cfg.img_size == cfg.model.data_preprocessor.img_size == cfg.model.backbone.img_size == px
    for loader, step in (('train_dataloader', 'ScaleJitterCrop'), ('test_dataloader', 'ResizeToInput')):
        sizes = [t.img_size for t in cfg[loader].dataset.pipeline if t.type == f'eomt_mm.{step}']
        assert sizes == [px]
    assert len(config_meta(cfg)['classes']) == CLASSES[leaf['data'], leaf['task']]
    semantic = leaf['task'] == 'semantic'
    head = cfg.model.decode_head if semantic else cfg.model.panoptic_head
    assert head.num_queries == (100 if semantic and leaf['data'] != 'coco' else 200)
    assert (cfg.default_scope, head.get('task', 'semantic')) == ('mmseg' if semantic else 'mmdet', leaf['task'])


@each_leaf()
def test_augmentation_is_the_published_one(path: Path) -> None:
    leaf, steps = parts(path), loaded(path).train_dataloader.dataset.pipeline
    kinds = [step.type.removeprefix('eomt_mm.') for step in steps]
    scales = [tuple(step.scale_range) for step in steps if step.type == 'eomt_mm.ScaleJitterCrop']
    assert scales == [(0.5, 2.0) if leaf['task'] == 'semantic' else (0.1, 2.0)]
    assert ('ColorJitter' in kinds) == (leaf['data'] != 'coco')
    order = [kind for kind in kinds if kind in ('ColorJitter', 'RandomFlip', 'ScaleJitterCrop')]
    assert order == sorted(order)  # colours, flip, scale and crop
    assert [step.prob for step in steps if step.type == 'RandomFlip'] == [0.5]


def expected_parameters(leaf: dict[str, str], num_queries: int) -> int:
    depth, width, hidden, _ = SIZES[leaf['size']]
    v2 = leaf['family'] == 'dinov2'
    square = width * width
    prefix = 5 * width + ((int(leaf['px']) // 16) ** 2 * width if v2 else 0)  # class, registers; positions
    patches = 3 * 16 * 16 * width + width
    attention = 4 * square + width * (4 if v2 else 3)  # DINOv3 has no bias of the keys
    inner = 2 * hidden if leaf['size'] == 'g' else hidden
    mlp = width * inner + inner + hidden * width + width
    block = attention + mlp + 2 * 2 * width + 2 * width  # norms, layer scale
    scale = 4 * square + width + 9 * width + 2 * width
    classes = (CLASSES[leaf['data'], leaf['task']] + 1) * (width + 1)
    head = num_queries * width + classes + 3 * (square + width) + 2 * scale
    return prefix + patches + depth * block + 2 * width + head


def first_small_one(path: Path) -> bool:
    """Whether it is the first leaf with a small backbone of its family and task."""

    def kind(leaf: Path) -> tuple[str, ...]:
        return tuple(parts(leaf)[key] for key in ('family', 'task', 'size'))

    return parts(path)['size'] == 's' and path == next(leaf for leaf in LEAVES if kind(leaf) == kind(path))


@each_leaf(slow=lambda path: not first_small_one(path))
def test_model_has_the_published_size_and_optimisation(path: Path) -> None:
    leaf, cfg = parts(path), loaded(path)
    model = meta_model(cfg)
    head = model.decode_head if leaf['task'] == 'semantic' else model.panoptic_head
    num_queries = cfg.model[f'{"decode" if leaf["task"] == "semantic" else "panoptic"}_head'].num_queries
    count = sum(param.numel() for param in model.parameters())
    assert count == expected_parameters(leaf, num_queries)
    if path.stem in PUBLISHED_PARAMETERS:
        millions, tolerance = PUBLISHED_PARAMETERS[path.stem]
        assert count / 1e6 == pytest.approx(millions, abs=tolerance)
    depth, _, _, joint = SIZES[leaf['size']]
    assert (head.num_blocks, model.backbone.depth) == (joint, depth)

    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert wrapper.clip_grad_kwargs == dict(max_norm=0.01, norm_type=2)
    v2 = leaf['family'] == 'dinov2'
    base = 1e-4 if v2 else 2e-4
    decay = 1.0 if path.stem.endswith('ade20k-semantic-512') and not v2 else 0.8
    expected = expected_rates(base, decay, depth, depth if v2 else depth - joint)
    names = {id(param): name for name, param in model.named_parameters()}
    groups = [group for group in wrapper.optimizer.param_groups if group['params']]
    assert type(wrapper.optimizer) is torch.optim.AdamW
    assert {(g['weight_decay'], g['betas'], g['eps']) for g in groups} == {(0.05, (0.9, 0.999), 1e-8)}
    rates = {names[id(param)]: group['lr'] for group in groups for param in group['params']}
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        block = re.match(r'backbone\.vit\.blocks\.(\d+)\.', name)
        outside = not name.startswith('backbone.') or name.startswith('backbone.vit.norm.')
        assert rate == pytest.approx(base if outside else expected[int(block[1]) if block else 0]), name


def expected_rates(base: float, decay: float, depth: int, decayed: int) -> list[float]:
    """Learning rate of each block; the embeddings have the first block's."""
    return [base * (decay ** (depth - 1 - i) if i < decayed else 1) for i in range(depth)]


@each_leaf()
def test_schedule_is_the_published_one(path: Path) -> None:
    leaf, cfg = parts(path), loaded(path)
    joint = SIZES[leaf['size']][-1]
    instance_of_coco = leaf['data'] == 'coco' and leaf['task'] == 'instance'
    steps = 7329 if instance_of_coco else EPOCH[leaf['data']]
    total = cfg.train_cfg.max_iters
    assert total == int(leaf['epochs']) * steps
    assert total // cfg.train_cfg.val_interval * cfg.train_cfg.val_interval <= total  # is validated at all
    (scheduler,) = cfg.param_scheduler
    assert (scheduler.type, tuple(scheduler.warmup_steps)) == (
        'eomt_mm.TwoStagePolyLR', (500, 1000) if leaf['family'] == 'dinov2' else (2000, 3000),
    )  # fmt: skip
    assert cfg.default_hooks.mask_annealing.type == 'eomt_mm.DefaultAnnealingHook'
    found = MaskAnnealingHook(**cfg.get('mask_annealing', {})).annealing.steps(joint, total)
    assert all(0 <= start < end <= total for start, end in found)
    if path.stem in PUBLISHED:
        assert (total, tuple(zip(*found, strict=True))) == PUBLISHED[path.stem]
    else:  # the rule: DINOv3 semantic and panoptic begin at once
        assert (found[0] == (0, 3000)) == (leaf['family'] == 'dinov3' and leaf['task'] != 'instance')
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 4


@each_leaf([path for path in LEAVES if 'ade20k-panoptic' in path.stem])
def test_ade20k_panoptic_starts_from_coco_without_its_classes(path: Path) -> None:
    leaf, cfg = parts(path), loaded(path)
    size = dict(s='small', b='base', l='large', g='giant')[leaf['size']]
    assert cfg.load_from.startswith(f'hf://tue-mps/coco_panoptic_eomt_{size}_{leaf["px"]}')
    assert cfg.load_from.endswith('_dinov3') == (leaf['family'] == 'dinov3')
    assert cfg.default_hooks.checkpoint_fit.class_head is False


@pytest.fixture(scope='module')
def roots(coco_root: Path, ade20k_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generated data of the right format for every data set; COCO with all of its own categories."""
    folder = tmp_path_factory.mktemp('roots')
    kwargs: dict[str, Any] = dict(num_train=3, num_val=2, progress=False)
    coco = folder / 'coco'
    shutil.copytree(coco_root, coco)
    name_categories(coco)
    return dict(
        coco=coco,
        coco_stuff=write_coco_stuff(folder / 'stuff', size=(96, 96), **kwargs),
        ade20k=ade20k_root,
        cityscapes=write_cityscapes(folder / 'cityscapes', size=(64, 128), **kwargs),
    )


def name_categories(root: Path) -> None:
    """Gives the shapes of a generated COCO tree names of COCO's, beside all its other categories."""
    meta = config_meta(load_config(CONFIGS / 'coco' / 'eomt_dinov2-s_12e_coco-panoptic-640.py'))
    for file in (root / 'annotations').glob('*.json'):
        data = json.loads(file.read_text())
        panoptic = any('isthing' in category for category in data['categories'])
        names = list(meta['classes'] if panoptic else meta['thing_classes'])
        used = {bool(category.get('isthing', 1)): [] for category in data['categories']}
        for category in data['categories']:
            used[bool(category.get('isthing', 1))].append(category['id'])
        data['categories'] = []
        for label, name in enumerate(names):
            thing = label < 80
            ids = used.get(thing, [])
            data['categories'].append(dict(id=ids.pop(0) if ids else 1000 + label, name=name, isthing=int(thing)))
        file.write_text(json.dumps(data))


@functools.cache
def first_leaf_that_reads() -> dict[str, Path]:
    """By what reads the data: many leaves of the same data, task and size have the very same."""
    return {what_reads(path): path for path in reversed(LEAVES)}


def what_reads(path: Path) -> str:
    cfg = loaded(path)
    return repr((cfg.train_dataloader, cfg.val_dataloader, cfg.model.data_preprocessor))


@each_leaf()
def test_pipelines_run_on_data_of_the_right_format(path: Path, roots: dict[str, Path]) -> None:
    if path != first_leaf_that_reads()[what_reads(path)]:
        return
    leaf = parts(path)
    root = roots['coco_stuff' if (leaf['data'], leaf['task']) == ('coco', 'semantic') else leaf['data']]
    cfg = load_config(path, data_root=root)
    semantic, px = leaf['task'] == 'semantic', int(leaf['px'])
    head = cfg.model.decode_head if semantic else cfg.model.panoptic_head
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        train = DATASETS.build(cfg.train_dataloader.dataset)
        val = DATASETS.build(cfg.val_dataloader.dataset)
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
    item = train[0]
    sample = item['data_samples']
    assert tuple(item['inputs'].shape) == (3, px, px)
    if semantic:
        target = seg_sample_target(sample, head.num_classes, (px, px))
    else:
        num_classes = head.num_things_classes + head.get('num_stuff_classes', 0)
        target = det_sample_target(sample, head.num_things_classes, num_classes, (px, px))
    assert len(target['labels']) == len(target['masks']) > 0
    assert target['masks'].any((1, 2)).all()

    item = val[0]
    sample = item['data_samples']
    truth = sample.gt_sem_seg.data if semantic else sample.get('gt_panoptic_seg', {}).get('segment_ids')
    if truth is not None:  # at the image's own size, whatever the input's
        assert tuple(truth.shape[-2:]) == tuple(sample.ori_shape)
    else:
        assert sample.gt_instances.masks.height == sample.ori_shape[0]
    batch = preprocessor(dict(inputs=[item['inputs']], data_samples=[sample]))
    assert tuple(batch['inputs'].shape[1:]) == (3, px, px)


def test_model_zoo_is_up_to_date() -> None:
    tool = runpy.run_path(str(CONFIGS.parents[1] / 'tools' / 'analysis' / 'model_zoo.py'))
    page = (CONFIGS.parents[1] / 'docs' / 'model_zoo.md').read_text()
    assert page == tool['page'](), 'run tools/analysis/model_zoo.py'
    assert len(tool['rows']()) == len(LEAVES)
