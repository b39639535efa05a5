"""What a config of the mm side means for detectron2: arguments of model, optimiser, schedules and loaders.

The only place that reads mm configs here. A key that would change a training and has no counterpart is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eomt_mm.checkpoints.pretrained import pretrained_address
from eomt_mm.detectron2.data_sets import check_task
from eomt_mm.detectron2.mappers import EoMTMapper, mapper_of
from eomt_mm.recipes.classes import task_of
from eomt_mm.recipes.names import find_config
from eomt_mm.recipes.reading import read_recipe

Config = dict[str, Any]
MODELS = ('EoMTDetector', 'EoMTSegmentor')
OPTIMIZER_WRAPPERS = {'OptimWrapper': False, 'AmpOptimWrapper': True}  # to mixed precision
LAYER_DECAY, SCHEDULE = 'LayerDecayOptimWrapperConstructor', 'TwoStagePolyLR'
RULES = ('score_thr', 'overlap_thr', 'max_per_image', 'window_batch', 'keep_scores')
# Keys of a config that only mmengine reads, and what to do in their place.
MM_ONLY = {
    'custom_hooks': 'register hooks of detectron2 in your own train_net.py',
    'custom_imports': 'import the modules in your own train_net.py',
    'model_wrapper_cfg': 'train with tools/train.py to use it',
    'runner_type': 'train with tools/train.py to use it',
    'sharding': 'train with tools/train.py to use it',
    'strategy': 'train with tools/train.py to use it',
    'tta_model': 'evaluate with tools/test.py to use it',
}
NEEDED = ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg')
ACCUMULATION = (
    'detectron2 does not accumulate gradients: leave it out, and lower the learning rate or use more processes'
)
# Hooks of every config: detectron2 has counterparts, or they only watch. Others, such as averages of weights, it lacks.
HOOKS = (
    'timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed', 'visualization', 'checkpoint_fit',
    'mask_annealing', 'stop', 'total_batch', 'query_limit', 'folder_check',
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A config of the mm side.

    Attributes:
        name: of its file, without suffix.
        cfg: content; see :func:`~eomt_mm.recipes.reading.read_recipe`.
    """

    name: str
    cfg: Config

    @classmethod
    def read(cls, config: str | Path, options: Mapping[str, Any] | None = None) -> 'Recipe':
        """Read a config and check that detectron2 can do what it says.

        Args:
            config: path, or name of a config.
            options: values of what a config states once, such as ``data_root`` or ``img_size``.

        Raises:
            FileNotFoundError: there is no such config.
            ValueError: the config has an option that only the mm side has; the message names it.
        """
        path = find_config(config)
        recipe = cls(path.stem, read_recipe(path, options))
        recipe.check()
        return recipe

    @property
    def task(self) -> str:
        """'panoptic', 'instance' or 'semantic'."""
        return task_of(self.cfg)

    def check(self) -> None:
        """Raise ValueError for an option without counterpart, and for other class counts than those of the data."""
        for key, hint in MM_ONLY.items():
            if self.cfg.get(key):
                raise ValueError(f'config {self.name}: {key} is read by mmengine only: leave it out, or {hint}')
        for hook, stated in (self.cfg.get('default_hooks') or {}).items():
            if stated and hook not in HOOKS:
                raise ValueError(
                    f'config {self.name}: default_hooks.{hook} is read by mmengine only: leave it out, or '
                    f'{MM_ONLY["custom_hooks"]}'
                )
        kind = _kind(self.cfg.get('model', {}))
        if kind not in MODELS or not self.task:
            raise ValueError(
                f'config {self.name}: model.type={kind!r} is no EoMT for images: detectron2 trains {", ".join(MODELS)}'
            )
        absent = [key for key in NEEDED if key not in self.cfg]
        if absent:
            raise ValueError(f'config {self.name} lacks {", ".join(absent)}: inherit a config of configs/eomt (_base_)')
        self.learning_rate()
        model = self.model()
        check_task(self.dataset('val'), self.task)
        meta = check_task(self.dataset('train'), self.task).metainfo
        for count, names in (('num_classes', meta['classes']), ('num_things', meta.get('thing_classes', ()))):
            if model[count] is not None and model[count] != len(names):
                raise ValueError(f'config {self.name}: {count}={model[count]} of the model, the data have {len(names)}')

    def model(self) -> Config:
        """Arguments of :class:`~eomt_mm.detectron2.meta_arch.EoMT`; ``backbone`` has those of `PlainViT`."""
        model = self.cfg['model']
        head = dict(model['decode_head'] if self.task == 'semantic' else model['panoptic_head'])
        head.pop('type')
        head.pop('task', None)
        preprocessor = model.get('data_preprocessor', {})
        stuff = head.pop('num_stuff_classes', 0)
        things = head.pop('num_things_classes', None)
        num_classes = head.pop('num_classes') if self.task == 'semantic' else things + stuff
        criterion = head.pop('criterion', {})
        for key in ('type', 'matcher'):
            if key in criterion:
                raise ValueError(
                    f'config {self.name}: criterion.{key} is built by mmengine only: set model.criterion of the built '
                    f'model in your own train_net.py'
                )
        backbone = {
            key: value for key, value in model['backbone'].items() if key not in ('type', 'pretrained', 'weights')
        }
        pixels = {f'pixel_{key}': preprocessor[key] for key in ('mean', 'std') if key in preprocessor}
        return dict(
            task=self.task,
            img_size=preprocessor['img_size'],
            num_classes=num_classes,
            num_things=things if self.task == 'panoptic' else None,
            backbone=backbone,
            rules={key: head.pop(key) for key in RULES if key in head},
            **{key: head.pop(key) for key in ('ignore_void', 'ignore_index') if key in head},
            criterion=criterion,
            head=head,
            **pixels,
        )

    def optimizer(self) -> Config:
        """Arguments of :func:`~eomt_mm.detectron2.solver.build_optimizer`, without ``params``."""
        wrapper = self.cfg['optim_wrapper']
        accumulated = wrapper.get('accumulative_counts', 1)
        if accumulated != 1:
            raise ValueError(f'config {self.name}: optim_wrapper.accumulative_counts={accumulated}: {ACCUMULATION}')
        if _kind(wrapper) not in OPTIMIZER_WRAPPERS or _kind(wrapper, 'constructor') != LAYER_DECAY:
            raise ValueError(
                f'config {self.name}: optim_wrapper of type {_kind(wrapper)} with constructor '
                f'{_kind(wrapper, "constructor")}: detectron2 has {" and ".join(OPTIMIZER_WRAPPERS)} with {LAYER_DECAY}'
            )
        arguments = dict(wrapper['optimizer'])
        return dict(kind=arguments.pop('type'), **arguments, **(wrapper.get('clip_grad') or {}))

    def layer_decay(self) -> Config:
        """Arguments of :func:`~eomt_mm.detectron2.solver.layer_groups` beside the model and the rate."""
        return dict(self.cfg['optim_wrapper'].get('paramwise_cfg') or {})

    def learning_rate(self) -> Config:
        """Arguments of :class:`~eomt_mm.detectron2.solver.TwoStageLR` beside the rate and the length."""
        schedulers = self.cfg['param_scheduler']
        schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
        kinds = [_kind(each) for each in schedulers]
        if kinds != [SCHEDULE]:
            raise ValueError(f'config {self.name}: param_scheduler of {kinds}: detectron2 has one, {SCHEDULE}')
        return {key: value for key, value in schedulers[0].items() if key not in ('type', 'by_epoch')}

    def annealing(self) -> Config | None:
        """Arguments of :class:`~eomt_mm.detectron2.solver.AnnealMasks` beside the length; None: masks stay on."""
        stated = self.cfg.get('mask_annealing', {})
        return None if stated is None else dict(stated)

    def max_iter(self) -> int:
        """Number of optimiser steps."""
        stated = self.cfg['train_cfg']
        unknown = sorted(set(stated) - {'type', 'max_iters', 'val_interval', 'by_epoch'})
        if unknown or stated.get('max_iters') is None:
            raise ValueError(
                f'config {self.name}: train_cfg states {", ".join(unknown) or "no max_iters"}: detectron2 takes the '
                f'number of steps, max_iters, and val_interval'
            )
        return int(stated['max_iters'])

    def training(self) -> Config:
        """Length, intervals, precision, seed and initial weights of the training."""
        hooks = self.cfg.get('default_hooks') or {}
        checkpoint = hooks.get('checkpoint') or {}
        backbone = self.cfg['model']['backbone']
        base = backbone.get('weights')
        if base is None and backbone.get('pretrained'):
            base = pretrained_address(backbone['model_name'])
        return dict(
            max_iter=self.max_iter(),
            eval_period=int(self.cfg['train_cfg'].get('val_interval') or 1000),
            checkpoint_period=int(checkpoint.get('interval', 5000)),
            max_to_keep=checkpoint.get('max_keep_ckpts', 2),
            amp=OPTIMIZER_WRAPPERS[_kind(self.cfg['optim_wrapper'])],
            seed=int((self.cfg.get('randomness') or {}).get('seed') or 0),
            base_weights=base or '',
            init_checkpoint=self.cfg.get('load_from') or base or '',
            class_head=(hooks.get('checkpoint_fit') or {}).get('class_head', True),
        )

    def dataset(self, split: str) -> Config:
        """Data set of ``split``, 'train' or 'val', for :func:`~eomt_mm.detectron2.data_sets.register_config`."""
        return dict(self.cfg[f'{split}_dataloader']['dataset'])

    def mapper(self, split: str) -> EoMTMapper:
        """Mapper that does what the pipeline of ``split`` does."""
        pipeline = self.dataset(split)['pipeline']
        return mapper_of(self.task, pipeline, self.model()['num_classes'], is_train=split == 'train')

    def total_batch_size(self) -> int:
        """Number of images per step over all processes, for which the learning rate is; mm states one process's."""
        stated = (self.cfg.get('auto_scale_lr') or {}).get('base_batch_size')
        return int(stated or self.cfg['train_dataloader']['batch_size'])

    def num_workers(self, split: str) -> int:
        """Number of loading processes."""
        return int(self.cfg[f'{split}_dataloader'].get('num_workers', 0))


def _kind(part: Mapping[str, Any], key: str = 'type') -> str:
    """Type of a part without the scope of its registry."""
    return str(part.get(key, '')).rpartition('.')[2]
