"""LazyConfig of detectron2 from a config of the mm side: the same numbers, none of them stated twice."""

import difflib
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.registry import locate
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import MaskAnnealing
from eomt_mm.detectron2.containers import plain
from eomt_mm.detectron2.data_sets import register_config, spec_of
from eomt_mm.detectron2.evaluation import build_evaluator
from eomt_mm.detectron2.mappers import EoMTMapper
from eomt_mm.detectron2.meta_arch import EoMT, Rules
from eomt_mm.detectron2.recipe import ACCUMULATION, MM_ONLY, Recipe
from eomt_mm.detectron2.solver import AnnealMasks, TwoStageLR, build_optimizer, layer_groups
from eomt_mm.recipes.reading import SHARED_KEYS

# Options of the mm side to those of this config.
THEIRS = {
    'train_cfg.max_iters': 'train.max_iter',
    'train_cfg.val_interval': 'train.eval_period',
    'train_dataloader.batch_size': 'dataloader.train.total_batch_size, which counts all processes',
    'train_dataloader.num_workers': 'dataloader.train.num_workers',
    'val_dataloader.num_workers': 'dataloader.test.num_workers',
    'optim_wrapper.optimizer.lr': 'optimizer.lr',
    'optim_wrapper.paramwise_cfg.layer_decay': 'optimizer.params.layer_decay',
    'optim_wrapper.clip_grad': 'optimizer.max_norm',
    'optim_wrapper.type': 'train.amp.enabled',
    'param_scheduler': 'lr_multiplier',
    'default_hooks.checkpoint.interval': 'train.checkpointer.period',
    'default_hooks.checkpoint.max_keep_ckpts': 'train.checkpointer.max_to_keep',
    'default_hooks.checkpoint_fit.class_head': 'train.class_head',
    'auto_scale_lr': 'dataloader.train.total_batch_size, to which the learning rate belongs',
    'load_from': 'train.init_checkpoint',
    'resume': '--resume',
    'work_dir': 'train.output_dir',
    'randomness.seed': 'train.seed',
    'model.panoptic_head': 'model.head, model.criterion or model.rules',
    'model.decode_head': 'model.head, model.criterion or model.rules',
}
# Options of the mm side that detectron2 lacks, and what to do.
LACKING = {
    'optim_wrapper.accumulative_counts': ACCUMULATION,
    **{key: f'leave it out, or {hint}' for key, hint in {**MM_ONLY, 'default_hooks': MM_ONLY['custom_hooks']}.items()},
}
# What reads parts whose `_target_`, if any, passes them on, and what it takes from elsewhere.
PARTS: dict[str, Callable[..., Any]] = {
    'model.head': EoMTHead, 'model.criterion': Criterion, 'model.rules': Rules, 'annealing': MaskAnnealing,
}  # fmt: skip
GIVEN = {'num_classes', 'embed_dim', 'depth', 'patch_size'}


def lazy_config(config: str | Path, options: Mapping[str, Any] | None = None) -> DictConfig:
    """Build the LazyConfig of a config of the mm side.

    Args:
        config: path, or name of a config.
        options: see :func:`~eomt_mm.recipes.reading.read_recipe`.

    Returns:
        ``model``, ``dataloader`` (``train``, ``test``, ``evaluator``), ``optimizer``, ``lr_multiplier``, ``annealing``
        (both hooks) and ``train``. Learning rate and annealing follow ``train.max_iter`` and ``optimizer.lr``, mappers
        follow ``model.img_size``.

    Raises:
        FileNotFoundError, ValueError: see :meth:`~eomt_mm.detectron2.recipe.Recipe.read`.
    """
    recipe = Recipe.read(config, options)
    annealing = recipe.annealing()
    content = dict(
        model=_model(recipe),
        dataloader=_loaders(recipe),
        optimizer=L(build_optimizer)(
            params=L(layer_groups)(model=None, base_lr='${..lr}', **recipe.layer_decay()), **recipe.optimizer()
        ),
        lr_multiplier=L(TwoStageLR)(base_lr='${optimizer.lr}', max_iter='${train.max_iter}', **recipe.learning_rate()),
        annealing=None if annealing is None else L(AnnealMasks)(max_iter='${train.max_iter}', **annealing),
        train=_train(recipe),
    )
    return DictConfig(content, flags={'allow_objects': True})


def _model(recipe: Recipe) -> DictConfig:
    arguments = recipe.model()
    return L(EoMT)(backbone=L(PlainViT)(**arguments.pop('backbone')), **arguments)


def _loaders(recipe: Recipe) -> dict[str, Any]:
    nodes = {}
    for split in ('train', 'val'):
        data = dict(name=f'{recipe.name}_{split}', dataset=recipe.dataset(split), task='${model.task}')
        mapper = {name: value for name, value in vars(recipe.mapper(split)).items() if name not in ('img_size', 'task')}
        mapper.update(task='${model.task}', img_size='${model.img_size}', num_classes='${model.num_classes}')
        nodes[split] = dict(
            dataset=L(load_data)(**data), mapper=L(EoMTMapper)(**mapper), num_workers=recipe.num_workers(split)
        )
    return dict(
        train=L(build_detection_train_loader)(
            total_batch_size=recipe.total_batch_size(), aspect_ratio_grouping=False, **nodes['train']
        ),
        test=L(build_detection_test_loader)(batch_size=1, **nodes['val']),
        evaluator=L(evaluator)(output_dir='${train.output_dir}/inference', own=True, **data),
    )


def _train(recipe: Recipe) -> dict[str, Any]:
    stated = recipe.training()
    return dict(
        output_dir=f'./output/{recipe.name}',
        init_checkpoint=stated['init_checkpoint'],
        base_weights=stated['base_weights'],
        class_head=stated['class_head'],
        max_iter=stated['max_iter'],
        amp=dict(enabled=stated['amp']),
        ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
        checkpointer=dict(period=stated['checkpoint_period'], max_to_keep=stated['max_to_keep']),
        eval_period=stated['eval_period'],
        log_period=20,
        device='cuda' if torch.cuda.is_available() else 'cpu',
        seed=stated['seed'],
    )


def register(data: Mapping[str, Any]) -> str:
    """Register the data set of a config in this process; return its name.

    Args:
        data: ``name``, ``dataset`` and ``task``, such as ``cfg.dataloader.train.dataset``. If the name belongs to other
            files or classes, as of the same config with another ``data_root``, a checksum is added to it.
    """
    name, dataset = str(data['name']), _as_stated(data['dataset'])
    if name in DatasetCatalog.list() and MetadataCatalog.get(name).get('spec') != spec_of(dataset):
        name = f'{name}_{zlib.crc32(repr(dataset).encode()):08x}'
    register_config(name, dataset, data['task'])
    return name


def load_data(**data: Any) -> list[dict[str, Any]]:
    """Register the data set of a config, see :func:`register`, and load its dicts."""
    items: list[dict[str, Any]] = DatasetCatalog.get(register(data))
    return items


def evaluator(output_dir: str | None = None, own: bool = True, **data: Any) -> DatasetEvaluator:
    """Build the evaluator of the data set of a config; see `register` and `build_evaluator`."""
    return build_evaluator(register(data), output_dir, own)


def _as_stated(value: Any) -> Any:
    """Plain dicts and tuples, as mm configs state them."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: _as_stated(part) for key, part in value.items()}
    return tuple(map(_as_stated, value)) if isinstance(value, list | tuple) else value


def split_files(texts: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Split texts into files and the options after them, which begin with the first KEY=VALUE that is no file."""
    is_option = ['=' in text and not Path(text).exists() for text in texts]
    first = is_option.index(True) if True in is_option else len(texts)
    return [Path(text) for text in texts[:first]], list(texts[first:])


def split_options(texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split KEY=VALUE texts into values of what a recipe states once, and overrides of the LazyConfig.

    Raises:
        ValueError: a text has another form.
    """
    wrong = [text for text in texts if not text.partition('=')[1]]
    if wrong:
        order = '; options go before the first of them' if wrong[0].startswith('-') else ''
        raise ValueError(f'{wrong[0]!r}: give KEY=VALUE, such as train.max_iter=1000{order}')
    shared = [text for text in texts if text.partition('=')[0].partition('.')[0] in SHARED_KEYS]
    try:
        options: dict[str, Any] = plain(OmegaConf.from_dotlist(shared))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f'{" ".join(shared)}: no value that can be read: {_first_line(error)}') from error
    return options, [text for text in texts if text not in shared]


def apply_overrides(cfg: DictConfig, texts: Sequence[str]) -> DictConfig:
    """Apply KEY=VALUE overrides in place, as detectron2 does, to keys that something reads.

    Raises:
        ValueError: the config has no such key, or the value is of another kind; the message names the right key for
            options of the mm side.
    """
    for text in texts:
        key = text.partition('=')[0].lstrip('+~')
        _check_key(cfg, key)
        before = OmegaConf.select(cfg, key)
        try:
            LazyConfig.apply_overrides(cfg, [text])
            after = OmegaConf.select(cfg, key)
        except (HydraException, OmegaConfBaseException, NotImplementedError) as error:
            raise ValueError(f'{text}: no override that detectron2 can read: {_first_line(error)}') from error
        if isinstance(before, int | float) and not isinstance(before, bool) and isinstance(after, str):
            raise ValueError(f'{key}={after}: give a number; the config has {before}')
        if isinstance(before, DictConfig) and not isinstance(after, DictConfig | None):
            raise ValueError(f'{key}={after}: set its parts, {", ".join(map(str, before))}')
    return cfg


def _check_key(cfg: DictConfig, key: str) -> None:
    """Raise ValueError if nothing reads a key; see `apply_overrides`."""
    for names, hint in ((THEIRS, 'detectron2 has {}'), (LACKING, '{}')):
        theirs = next((known for known in names if f'{key}.'.startswith(f'{known}.')), None)
        if theirs:
            raise ValueError(f'{key} is an option of the mm side: {hint.format(names[theirs])}')
    parent, _, name = key.rpartition('.')
    node = OmegaConf.select(cfg, parent) if parent else cfg
    known = _known_keys(parent, node) if isinstance(node, DictConfig) else []
    if known is not None and name not in known:
        known = sorted(known) or list(cfg)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(map(str, known))}'
        raise ValueError(f'{key}: the config has no such key; {hint}')


def _known_keys(parent: str, node: DictConfig) -> list[str] | None:
    """Keys of a part that something reads; None: any."""
    target = node.get('_target_')
    readers = [one for one in (PARTS.get(parent), locate(target) if isinstance(target, str) else target) if one]
    if not readers:
        return list(node)
    parameters = [one for reader in readers for one in inspect.signature(reader).parameters.values()]
    if parent not in PARTS:
        return None if any(one.kind is one.VAR_KEYWORD for one in parameters) else [one.name for one in parameters]
    return [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and one.name not in GIVEN]


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0]
