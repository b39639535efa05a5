"""LazyConfig of detectron2 from a config of the mm side: the same numbers, none of them stated twice."""

import difflib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf

from eomt_mm.core.backbone import PlainViT
from eomt_mm.detectron2.containers import plain
from eomt_mm.detectron2.data_sets import register_config, spec_of
from eomt_mm.detectron2.evaluation import build_evaluator
from eomt_mm.detectron2.mappers import EoMTMapper
from eomt_mm.detectron2.meta_arch import EoMT
from eomt_mm.detectron2.recipe import Recipe
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
    'param_scheduler': 'lr_multiplier',
    'load_from': 'train.init_checkpoint',
    'work_dir': 'train.output_dir',
    'randomness.seed': 'train.seed',
    'model.panoptic_head': 'model.head, model.criterion or model.rules',
    'model.decode_head': 'model.head, model.criterion or model.rules',
}
OWN_KEYS = ('model.head', 'model.criterion', 'model.rules')  # may be extended


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
        data = dict(name=f'{recipe.name}_{split}', dataset=recipe.dataset(split), task=recipe.task)
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
        raise ValueError(f'{wrong[0]!r}: give KEY=VALUE, such as train.max_iter=1000')
    shared = [text for text in texts if text.partition('=')[0].partition('.')[0] in SHARED_KEYS]
    options: dict[str, Any] = plain(OmegaConf.from_dotlist(shared))
    return options, [text for text in texts if text not in shared]


def apply_overrides(cfg: DictConfig, texts: Sequence[str]) -> DictConfig:
    """Apply KEY=VALUE overrides in place, as detectron2 does, to keys that something reads.

    Raises:
        ValueError: the config has no such key; the message names the right one for options of the mm side.
    """
    for text in texts:
        key = text.partition('=')[0].lstrip('+~')
        theirs = next((known for known in THEIRS if f'{key}.'.startswith(f'{known}.')), None)
        if theirs:
            raise ValueError(f'{key} is an option of the mm side: detectron2 has {THEIRS[theirs]}')
        parent, _, name = key.rpartition('.')
        node = OmegaConf.select(cfg, parent) if parent else cfg
        is_open = isinstance(node, DictConfig) and ('_target_' in node or parent in OWN_KEYS)
        if not is_open and (not isinstance(node, DictConfig) or name not in node):
            known = list(node) if isinstance(node, DictConfig) else list(cfg)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(map(str, known))}'
            raise ValueError(f'{key}: the config has no such key; {hint}')
    return LazyConfig.apply_overrides(cfg, list(texts))
