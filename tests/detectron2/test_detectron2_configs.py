"""Leaves as LazyConfigs and as yaml: every number equals the mm side's, and comes from its config."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2_models import CONFIGS, pair, samples, small_lazy
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS
from omegaconf import DictConfig
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.apis.classes import config_meta
from eomt_mm.checkpoints.class_names import difference
from eomt_mm.checkpoints.pretrained import pretrained_address
from eomt_mm.detectron2 import (
    EoMTTrainer,
    add_eomt_config,
    apply_overrides,
    lazy_config,
    load_yaml,
    register,
    split_options,
)  # fmt: skip
from eomt_mm.engine.mask_annealing import MaskAnnealingHook
from eomt_mm.engine.schedule import TwoStagePolyLR
from eomt_mm.recipes.names import shipped_configs

LEAVES = shipped_configs()
# One of each data set and task, of both families, all small.
SAMPLE = [path for path in LEAVES if path.parent.name == 'toy' or 'dinov3-s' in path.stem]


def groups_of(optimizer: Any) -> list[tuple[Any, ...]]:
    keys = ('lr', 'lr_factor', 'is_backbone', 'param_names', 'weight_decay', 'betas')
    return [tuple(group[key] for key in keys) for group in optimizer.param_groups]


def check_equal(path: Path) -> None:
    """Compare everything that a training's result depends on."""
    mm, d2 = load_config(path), lazy_config(path)
    with torch.device('meta'):
        mm_model, model = MODELS.build(mm.model), instantiate(d2.model)
    d2.optimizer.params.model = model
    wrapper, optimizer = build_optim_wrapper(mm_model, mm.optim_wrapper), instantiate(d2.optimizer)
    assert groups_of(optimizer) == groups_of(wrapper.optimizer)
    assert type(optimizer).__mro__[2] is type(wrapper.optimizer)
    assert wrapper.clip_grad_kwargs == dict(max_norm=optimizer.max_norm, norm_type=optimizer.norm_type)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in mm_model.state_dict().items()
    }

    total = mm.train_cfg.max_iters
    assert d2.train.max_iter == total and d2.train.eval_period == mm.train_cfg.val_interval
    schedule = TwoStagePolyLR(wrapper.optimizer, end=total, **{
        key: value for key, value in mm.param_scheduler[0].items() if key != 'type'
    })  # fmt: skip
    hook = instantiate(d2.lr_multiplier)
    for step in (0, schedule.warmup_steps[0], sum(schedule.warmup_steps) + 1, total // 2, total - 1):
        schedule.jump(step)
        expected = [group['lr'] for group in wrapper.optimizer.param_groups]
        found = [hook.rate(step, group['lr_factor'], group['is_backbone']) for group in optimizer.param_groups]
        assert found == pytest.approx(expected, rel=1e-12), step
    annealing = MaskAnnealingHook(**mm.get('mask_annealing', {})).annealing
    blocks = model.head.num_blocks
    assert instantiate(d2.annealing).annealing.steps(blocks, total) == annealing.steps(blocks, total)
    check_data(mm, d2)


def check_data(mm: Any, d2: DictConfig) -> None:
    """Compare classes, sizes, augmentation and batches."""
    for split, node in (('train', d2.dataloader.train), ('val', d2.dataloader.test)):
        meta = MetadataCatalog.get(register(node.dataset))
        stated = config_meta(mm)
        assert difference(meta.dataset_meta['classes'], stated['classes']) is None  # synonyms are the same class
        if d2.model.task == 'panoptic':
            assert difference(meta.dataset_meta['thing_classes'], stated['thing_classes']) is None
            assert d2.model.num_things == len(stated['thing_classes'])
        mapper = instantiate(node.mapper)
        pipeline = {step['type'].rpartition('.')[2]: dict(step) for step in mm[f'{split}_dataloader'].dataset.pipeline}
        size = mm.model.data_preprocessor.img_size
        assert mapper.img_size == (size, size) and d2.model.img_size == size and mapper.is_train == (split == 'train')
        if split == 'train':
            crop = TRANSFORMS.build(pipeline['ScaleJitterCrop'])
            assert (mapper.scale_range, mapper.max_tries) == (tuple(crop.scale_range), crop.max_tries)
            assert mapper.flip_prob == pipeline['RandomFlip']['prob']
            jitter = TRANSFORMS.build(pipeline['ColorJitter']).ranges if 'ColorJitter' in pipeline else None
            assert mapper.jitter == jitter
    assert d2.dataloader.train.total_batch_size == mm.auto_scale_lr.base_batch_size
    assert d2.dataloader.train.num_workers == mm.train_dataloader.num_workers


@pytest.mark.parametrize('path', SAMPLE[::4], ids=lambda path: path.stem)
def test_a_leaf_has_the_numbers_of_the_mm_side(path: Path) -> None:
    check_equal(path)


@pytest.mark.slow
@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_every_leaf_has_the_numbers_of_the_mm_side(path: Path) -> None:
    check_equal(path)


def test_pretrained_weights_are_the_hubs() -> None:
    cfg = lazy_config('eomt_dinov3-s_24e_coco-panoptic-640')
    address = pretrained_address('vit_small_patch16_dinov3_qkvb')
    assert address and cfg.train.init_checkpoint == cfg.train.base_weights == address
    assert lazy_config(CONFIGS['panoptic']).train.init_checkpoint == ''


# Options --------------------------------------------------------------------------------------------------------------


def test_one_option_changes_all_that_follows_from_it() -> None:
    cfg = lazy_config(CONFIGS['panoptic'], dict(img_size=96, data_root='elsewhere'))
    apply_overrides(cfg, ['train.max_iter=60', 'optimizer.lr=0.5', 'model.rules.score_thr=0.3', 'model.img_size=64'])
    assert apply_overrides(cfg, ['train.class_head=auto']).train.class_head == 'auto'
    assert cfg.dataloader.train.mapper.img_size == cfg.dataloader.test.mapper.img_size == 64
    assert cfg.dataloader.train.dataset.dataset.data_root == 'elsewhere/'
    assert (cfg.lr_multiplier.base_lr, cfg.optimizer.params.base_lr, cfg.annealing.max_iter) == (0.5, 0.5, 60)
    assert instantiate(cfg.lr_multiplier).warmup_steps == (7, 7)  # shortened to a quarter
    assert split_options(['img_size=96', 'metainfo.classes=[a,b]', 'train.seed=3']) == (
        dict(img_size=96, metainfo=dict(classes=['a', 'b'])), ['train.seed=3'],
    )  # fmt: skip


def test_another_root_of_the_same_config_is_another_data_set() -> None:
    names = [
        register(lazy_config(CONFIGS['panoptic'], dict(data_root=root)).dataloader.train.dataset) for root in 'aba'
    ]
    assert names[0] == names[2] != names[1]
    assert MetadataCatalog.get(names[1]).image_root.startswith('b/')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('train_cfg.max_iters=3', r'train_cfg\.max_iters is an option of the mm side: detectron2 has train\.max_iter'),
        ('model.panoptic_head.num_queries=3', r'detectron2 has model\.head, model\.criterion or model\.rules'),
        ('train.max_iters=3', r'train\.max_iters: the config has no such key; did you mean max_iter\?'),
        ('trian.max_iter=3', r'trian\.max_iter: the config has no such key'),
        ('optimiser=3', r'optimiser: the config has no such key; did you mean optimizer\?'),
        ('optim_wrapper.accumulative_counts=4', 'option of the mm side: detectron2 does not accumulate gradients'),
        ('sharding.cpu_offload=True', 'sharding.cpu_offload is an option of the mm side: leave it out, or train with'),
        ('custom_hooks=[{type:EMAHook}]', 'leave it out, or register hooks of detectron2'),
        ('default_hooks.ema.type=EMAHook', 'leave it out, or register hooks of detectron2'),
        ('default_hooks.checkpoint.interval=9', r'detectron2 has train\.checkpointer\.period'),
        ('model.head.num_quries=3', r'no such key; did you mean num_queries\?'),
        ('annealing.start=3', r'no such key; did you mean starts\?'),
        ('lr_multiplier.warmup=3', 'no such key; did you mean'),
        ('model.head.embed_dim=3', 'no such key; there are masked_attention, num_blocks'),
        ('model.rules.scores=3', 'no such key; did you mean'),
        ('train.max_iter=many', 'train.max_iter=many: give a number'),
        ('model.head=3', 'model.head=3: set its parts'),
        ('model.head.num_queries=[', r'model.head.num_queries=\[: no override that detectron2 can read'),
    ],
)
def test_wrong_options_are_named(option: str, message: str) -> None:
    cfg = lazy_config(CONFIGS['panoptic'])
    with pytest.raises(ValueError, match=message) as caught:
        apply_overrides(cfg, [option])
    assert '\n' not in str(caught.value)
    for text, message in (('max_iter', "'max_iter': give KEY=VALUE"), ('metainfo.classes=[a', 'no value that can be')):
        with pytest.raises(ValueError, match=message):
            split_options([text])


LEAF = """_base_ = ['{toy}/{name}.py']
{change}
"""


def changed(folder: Path, change: str, task: str = 'panoptic') -> Path:
    """A config that inherits a toy leaf."""
    path = folder / f'{task}_{abs(hash(change))}.py'
    path.write_text(LEAF.format(toy=CONFIGS[task].parent, name=CONFIGS[task].stem, change=change))
    return path


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ("custom_hooks = [dict(type='EMAHook')]", 'custom_hooks is read by mmengine only: leave it out, or register'),
        ('sharding = dict(backbone=True)', 'sharding is read by mmengine only'),
        ('optim_wrapper = dict(accumulative_counts=4)', 'accumulative_counts=4: detectron2 does not accumulate'),
        ("default_hooks = dict(ema=dict(type='EMAHook'))", 'default_hooks.ema is read by mmengine only'),
        ("model_wrapper_cfg = dict(type='MMFullyShardedDataParallel')", 'model_wrapper_cfg is read by mmengine only'),
        ("val_dataloader = dict(dataset=dict(type='CocoInstance'))", 'is for instance segmentation, the model for pan'),
        ("optim_wrapper = dict(type='ApexOptimWrapper')", 'optim_wrapper of type ApexOptimWrapper'),
        ("param_scheduler = [dict(type='PolyLR')]", r"param_scheduler of \['PolyLR'\]: detectron2 has one, TwoStage"),
        ('train_cfg = dict(max_iters=None, max_epochs=3)', 'train_cfg states max_epochs'),
        ("model = dict(type='Mask2Former')", "model.type='Mask2Former' is no EoMT for images"),
        ("model = dict(panoptic_head=dict(criterion=dict(matcher=dict(type='A'))))", 'criterion.matcher is built by'),
    ],
    ids=lambda value: value.split(' ')[0],
)
def test_what_only_mm_has_is_refused(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        lazy_config(changed(tmp_path, change))
    assert '\n' not in str(caught.value)


def test_a_config_without_data_or_schedule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'bare.py'
    path.write_text("model = dict(type='EoMTSegmentor', decode_head=dict(num_classes=2))\n")
    with pytest.raises(ValueError, match='config bare lacks train_dataloader, val_dataloader, optim_wrapper'):
        lazy_config(path)


def test_class_counts_must_be_those_of_the_data(tmp_path: Path) -> None:
    path = changed(tmp_path, 'model = dict(panoptic_head=dict(num_things_classes=79))', 'instance')
    with pytest.raises(ValueError, match='num_classes=79 of the model, the data have 80'):
        lazy_config(path)


# yaml -----------------------------------------------------------------------------------------------------------------


def write_yaml(folder: Path, recipe: Path | str, *lines: str) -> str:
    path = folder / 'eomt.yaml'
    path.write_text('\n'.join(['MODEL:', '  META_ARCHITECTURE: EoMT', 'EOMT:', f'  RECIPE: {recipe}', *lines]))
    return str(path)


SMALL_MODEL = """
model = dict(
    backbone=dict(depth=2, embed_dim=48, num_heads=3, patch_size=16),
    panoptic_head=dict(num_blocks=1, num_queries=10, criterion=dict(num_points=64), score_thr=0.0, overlap_thr=0.0),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.8))
img_size = 64
"""


def test_yaml_takes_its_numbers_from_the_recipe(tmp_path: Path) -> None:
    recipe = changed(tmp_path, SMALL_MODEL)
    cfg = load_yaml(write_yaml(tmp_path, recipe, 'SOLVER:', '  MAX_ITER: 40'), ['SOLVER.IMS_PER_BATCH', '2'])
    lazy = lazy_config(recipe)
    assert (40, 2, lazy.optimizer.lr) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)
    assert (cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == ('RGB', 64, 64)
    assert (f'{recipe.stem}_train',) == cfg.DATASETS.TRAIN and cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 1.0
    mm, _, _ = pair('panoptic')
    model = build_model(cfg).eval()
    model.load_state_dict(mm.state_dict())
    batch, items = samples('panoptic', 1)
    with torch.no_grad():
        (result,), (expected,) = model(items), mm.test_step(batch)
    described = expected.metainfo['panoptic_segments']
    assert [(each['id'], each['category_id']) for each in result['panoptic_seg'][1]] == [
        (each['id'], each['label']) for each in described
    ]
    lazy.optimizer.params.model = model
    assert groups_of(EoMTTrainer.build_optimizer(cfg, model)) == groups_of(instantiate(lazy.optimizer))
    hook, other = EoMTTrainer.build_lr_scheduler(cfg, None), instantiate(lazy.lr_multiplier)
    assert (hook.max_iter, hook.base_lr, hook.stated_warmup) == (40, other.base_lr, other.stated_warmup)


def test_yaml_without_a_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='EOMT.RECIPE is empty'):
        load_yaml(write_yaml(tmp_path, '""'))
    cfg = get_cfg()
    add_eomt_config(cfg)
    assert isinstance(cfg.EOMT, CfgNode)


@pytest.mark.parametrize(
    ('opts', 'message'),
    [
        (['DATASETS.TEST', "('nosuch',)"], "data set 'nosuch' is not registered"),
        (['DATASETS.TRAIN', "('nosuch',)"], "data set 'nosuch' is not registered"),
        (['DATASETS.TRAIN', '()'], 'DATASETS.TRAIN is empty'),
        (['DATASETS.TEST', "('coco_2017_val',)"], 'is for instance segmentation, the recipe for panoptic'),
        (['SOLVER.MAX_ITR', '3'], 'Non-existent'),
        (['SOLVER.MAX_ITER'], 'odd length'),
        (['MODEL.META_ARCHITECTURE', 'MaskFormer'], 'META_ARCHITECTURE is MaskFormer'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_wrong_yaml_is_one_line(opts: list[str], message: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path, CONFIGS['panoptic'])
    with pytest.raises(ValueError, match=message) as caught:
        EoMTTrainer.build_model(load_yaml(path, opts))
    assert '\n' not in str(caught.value)


# Hooks ----------------------------------------------------------------------------------------------------------------


class Storage(dict[str, float]):
    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True) -> None:
        self[name] = value


def trainer_of(cfg: DictConfig) -> Any:
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    return SimpleNamespace(model=model, optimizer=instantiate(cfg.optimizer), iter=0, storage=Storage())


def test_hooks_set_rates_and_masks_of_every_iteration(caplog: pytest.LogCaptureFixture) -> None:
    cfg = small_lazy(
        CONFIGS['panoptic'], 'train.max_iter=12', 'lr_multiplier.warmup_steps=[2,2]', 'model.head.num_blocks=2'
    )
    trainer, hooks = trainer_of(cfg), [instantiate(cfg.lr_multiplier), instantiate(cfg.annealing)]
    rates, probs = [], []
    for hook in hooks:
        hook.trainer = trainer
        hook.before_train()
    for trainer.iter in range(12):
        for hook in hooks:
            hook.before_step()
        rates.append([group['lr'] for group in trainer.optimizer.param_groups])
        probs.append(trainer.model.head.attn_mask_probs.tolist())
        for hook in hooks:
            hook.after_step()
    schedule, annealing = hooks
    assert schedule.warmup_steps == (1, 1) and rates[0] == [0] * len(rates[0])
    assert rates[1][0] == trainer.storage['lr'] / schedule.rate(11, 1.0, False) * schedule.rate(1, 1.0, False)
    assert probs[0] == [1, 1] and probs[2] == [1, 1] and probs[-1] == [0, 0] and annealing.steps == [(2, 4), (8, 10)]
    assert 0 < probs[3][0] < 1 and trainer.model.head.attn_mask_probs.tolist() == [0, 0]


def test_a_resumed_longer_schedule_turns_no_mask_on_again() -> None:
    cfg = small_lazy(CONFIGS['panoptic'], 'train.max_iter=1000')
    trainer, hook = trainer_of(cfg), instantiate(cfg.annealing)
    trainer.model.head.set_attn_mask_probs([0.25])
    trainer.iter, hook.trainer = 30, trainer
    hook.before_train()
    assert trainer.model.head.attn_mask_probs.tolist() == [0.25]


def test_masks_that_stay_on_and_foreign_groups_are_named(caplog: pytest.LogCaptureFixture) -> None:
    cfg = small_lazy(CONFIGS['panoptic'], 'annealing.starts=[0.5]', 'annealing.ends=[1.0]', 'annealing.total_steps=1')
    trainer = trainer_of(cfg)
    annealing = instantiate(apply_overrides(cfg, ['annealing.ends=[2.0]']).annealing)
    annealing.trainer = trainer
    annealing.before_train()
    assert any('masks stay on' in record.message for record in caplog.records)
    schedule = instantiate(cfg.lr_multiplier)
    schedule.trainer = SimpleNamespace(optimizer=torch.optim.SGD(trainer.model.parameters(), 1.0))
    with pytest.raises(ValueError, match='state them as optimizer.params'):
        schedule.before_train()


def test_readme_configs_are_small_and_complete() -> None:
    found = sorted((ROOT / 'projects' / 'detectron2' / 'configs').glob('*.py'))
    assert len(found) == 3
    for path in found:
        assert len(path.read_text().splitlines()) < 12 and lazy_config(path).model.num_classes >= 2
