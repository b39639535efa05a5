"""The yaml way of detectron2: `EOMT.RECIPE` names a config of the mm side, from which all numbers come."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import LRScheduler
from detectron2.evaluation import DatasetEvaluator
from torch import nn
from yaml import YAMLError

from eomt_mm.core.backbone import PlainViT
from eomt_mm.detectron2.checkpoint import EoMTCheckpointer
from eomt_mm.detectron2.evaluation import build_evaluator, task_of_data
from eomt_mm.detectron2.lazy import register, split_options
from eomt_mm.detectron2.recipe import Recipe
from eomt_mm.detectron2.solver import AnnealMasks, TwoStageLR, build_optimizer, layer_groups
from eomt_mm.detectron2.training import check_batch


def add_eomt_config(cfg: CfgNode) -> None:
    """Add the keys of EoMT to a config of ``get_cfg()``.

    ``EOMT.RECIPE`` is the path or name of a config of the mm side. ``EOMT.OPTIONS`` are texts KEY=VALUE for what it
    states once: ``data_root``, ``img_size``, ``metainfo``, ...
    """
    cfg.EOMT = CfgNode(dict(RECIPE='', OPTIONS=[]))


def load_yaml(path: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a yaml config of EoMT: the numbers of its recipe, then those that it states itself, then ``opts``.

    Registers the recipe's data sets in this process.

    Args:
        path: yaml with ``MODEL.META_ARCHITECTURE: EoMT`` and ``EOMT.RECIPE``.
        opts: keys and values in turn, as detectron2's command lines have them.

    Raises:
        ValueError: there is no recipe; or see :meth:`~eomt_mm.detectron2.recipe.Recipe.read`.
    """
    stated = get_cfg()
    add_eomt_config(stated)
    cfg = stated.clone()
    for node in (stated, cfg):
        if node is cfg:
            _apply(cfg, recipe_of(stated), stated.EOMT)
        try:
            node.merge_from_file(path)
            node.merge_from_list(list(opts))
        except (AssertionError, KeyError, YAMLError) as error:
            reason = ' '.join(str(error.args[0] if len(error.args) == 1 else error).split())
            raise ValueError(f'{" ".join([path, *opts])}: {reason}') from error
    if cfg.MODEL.META_ARCHITECTURE != 'EoMT':
        raise ValueError(f'{path}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, with EOMT.RECIPE: EoMT')
    return cfg


def check_data_sets(cfg: CfgNode) -> None:
    """Raise ValueError if a data set of a yaml config is not registered, or for another task than the recipe."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError('DATASETS.TRAIN is empty: leave it out for the data of the recipe, or name a data set')
    task = recipe_of(cfg).task
    for key in ('TRAIN', 'TEST'):
        for name in cfg.DATASETS[key]:
            found = task_of_data(name)
            if found not in (None, task):
                raise ValueError(f'DATASETS.{key}: {name!r} is for {found} segmentation, the recipe for {task}')


def recipe_of(cfg: CfgNode) -> Recipe:
    """Read the recipe of a yaml config."""
    if not cfg.EOMT.RECIPE:
        raise ValueError('EOMT.RECIPE is empty: the name or path of a config, such as one of configs/eomt/*/*.py')
    options, others = split_options(list(cfg.EOMT.OPTIONS))
    if others:
        raise ValueError(f'EOMT.OPTIONS: {others[0]} is no value that a recipe states once; use keys of this yaml')
    return Recipe.read(cfg.EOMT.RECIPE, options)


def model_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of :class:`~eomt_mm.detectron2.meta_arch.EoMT` for a yaml config."""
    arguments = recipe_of(cfg).model()
    return arguments | dict(backbone=PlainViT(**arguments['backbone']))


def _apply(cfg: CfgNode, recipe: Recipe, stated: CfgNode) -> None:
    """Write the numbers of a recipe into a config."""
    names = [
        register(dict(name=f'{recipe.name}_{split}', dataset=recipe.dataset(split), task=recipe.task))
        for split in ('train', 'val')
    ]
    model, optimizer, training = recipe.model(), recipe.optimizer(), recipe.training()
    size = model['img_size']
    side = size if isinstance(size, int) else min(size)
    values: dict[str, Any] = {
        'EOMT.RECIPE': stated.RECIPE,
        'EOMT.OPTIONS': list(stated.OPTIONS),
        'MODEL.META_ARCHITECTURE': 'EoMT',
        'MODEL.DEVICE': 'cuda' if torch.cuda.is_available() else 'cpu',
        'MODEL.WEIGHTS': training['init_checkpoint'],
        'INPUT.FORMAT': 'RGB',
        'INPUT.MASK_FORMAT': 'bitmask',
        # DefaultPredictor resizes to fit inside the input; for semantic segmentation to cover it.
        'INPUT.MIN_SIZE_TEST': side,
        'INPUT.MAX_SIZE_TEST': 20 * side if recipe.task == 'semantic' else side,
        'DATASETS.TRAIN': (names[0],),
        'DATASETS.TEST': (names[1],),
        'DATALOADER.NUM_WORKERS': recipe.num_workers('train'),
        'DATALOADER.ASPECT_RATIO_GROUPING': False,
        'SOLVER.IMS_PER_BATCH': recipe.total_batch_size(),
        'SOLVER.MAX_ITER': training['max_iter'],
        'SOLVER.BASE_LR': float(optimizer['lr']),
        'SOLVER.WEIGHT_DECAY': float(optimizer.get('weight_decay', 0.01)),
        'SOLVER.CHECKPOINT_PERIOD': training['checkpoint_period'],
        'SOLVER.AMP.ENABLED': training['amp'],
        'SOLVER.CLIP_GRADIENTS.ENABLED': 'max_norm' in optimizer,
        'SOLVER.CLIP_GRADIENTS.CLIP_TYPE': 'norm',
        'SOLVER.CLIP_GRADIENTS.CLIP_VALUE': float(optimizer.get('max_norm', 1.0)),
        'SOLVER.CLIP_GRADIENTS.NORM_TYPE': float(optimizer.get('norm_type', 2.0)),
        'TEST.EVAL_PERIOD': training['eval_period'],
        'SEED': training['seed'],
    }
    cfg.merge_from_list([item for pair in values.items() for item in pair])


class EoMTTrainer(DefaultTrainer):
    """detectron2's trainer with EoMT's optimiser, schedules, mappers, evaluators and checkpoints."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model, after checking that the data are for it."""
        check_data_sets(cfg)
        model: nn.Module = super().build_model(cfg)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        recipe = recipe_of(cfg)
        clip = cfg.SOLVER.CLIP_GRADIENTS
        arguments = recipe.optimizer() | dict(
            lr=cfg.SOLVER.BASE_LR,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            max_norm=clip.CLIP_VALUE if clip.ENABLED else None,
            norm_type=clip.NORM_TYPE,
        )
        return build_optimizer(layer_groups(model, cfg.SOLVER.BASE_LR, **recipe.layer_decay()), **arguments)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> TwoStageLR:
        """Return the hook that takes the place of detectron2's, which has one factor for all groups."""
        return TwoStageLR(cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, **recipe_of(cfg).learning_rate())

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        check_batch(cfg.SOLVER.IMS_PER_BATCH, 'SOLVER.IMS_PER_BATCH')
        return build_detection_train_loader(
            get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False),
            mapper=recipe_of(cfg).mapper('train'),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_detection_test_loader(
            get_detection_dataset_dicts(dataset_name, filter_empty=False),
            mapper=recipe_of(cfg).mapper('val'),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(dataset_name, cfg.OUTPUT_DIR)

    def build_hooks(self) -> list[HookBase]:
        """Return the default hooks with ours for the learning rate, the masks and, called last, our checkpointer."""
        recipe, annealing = recipe_of(self.cfg), recipe_of(self.cfg).annealing()
        training = recipe.training()
        self.checkpointer = EoMTCheckpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            data_set=self.cfg.DATASETS.TRAIN[0],
            base=training['base_weights'] or None,
            class_head=training['class_head'],
            trainer=weakref.proxy(self),
        )
        own: list[HookBase] = [self.scheduler]
        if annealing is not None:
            own.append(AnnealMasks(self.cfg.SOLVER.MAX_ITER, **annealing))
        first, *others = [hook for hook in super().build_hooks() if not isinstance(hook, LRScheduler)]
        return [first, *own, *others]
