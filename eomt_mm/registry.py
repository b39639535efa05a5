"""Registries of this package, children of mmengine's.

``locations`` name the modules that register types, so that a config needs no ``custom_imports``: mmengine imports this
module when it finds ``type='eomt_mm.X'`` under any default scope, and the locations at the first look-up. As mmengine
imports this module first, it also calls :func:`~eomt_mm.hosts.install.install`.
"""

from eomt_mm import compat

compat.check_versions()  # before any host is imported: one message lists everything that is missing

from mmengine.registry import (  # noqa: E402
    DATASETS as MMENGINE_DATASETS,
    HOOKS as MMENGINE_HOOKS,
    LOOPS as MMENGINE_LOOPS,
    METRICS as MMENGINE_METRICS,
    MODELS as MMENGINE_MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS,
    RUNNERS as MMENGINE_RUNNERS,
    TRANSFORMS as MMENGINE_TRANSFORMS,
    Registry,
)

from eomt_mm.hosts.install import install  # noqa: E402

install()


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope='eomt_mm', locations=[f'eomt_mm.{where}' for where in locations])


MODELS = _child(
    'model', MMENGINE_MODELS, 'models.backbone', 'models.heads', 'models.preprocessors', 'models.segmentors'
)
DATASETS = _child(
    'dataset', MMENGINE_DATASETS,
    'datasets.ade20k', 'datasets.cityscapes', 'datasets.coco_instance', 'datasets.coco_panoptic',
    'datasets.label_maps',
)  # fmt: skip
TRANSFORMS = _child(
    'transform', MMENGINE_TRANSFORMS,
    'datasets.ade20k', 'datasets.cityscapes', 'datasets.loading', 'datasets.transforms',
)  # fmt: skip
METRICS = _child(
    'metric', MMENGINE_METRICS,
    'evaluation.cityscapes_ap', 'evaluation.instance_ap',
    'evaluation.panoptic_quality', 'evaluation.semantic_iou',
)  # fmt: skip
HOOKS = _child(
    'hook', MMENGINE_HOOKS,
    'engine.checkpoint_fit', 'engine.checkpointing', 'engine.folder_check', 'engine.guard', 'engine.layer_metrics',
    'engine.mask_annealing', 'engine.pictures', 'engine.query_limit', 'engine.run_log', 'engine.stop',
    'engine.total_batch',
)  # fmt: skip
LOOPS = _child('loop', MMENGINE_LOOPS, 'engine.train_loop')
RUNNERS = _child('runner', MMENGINE_RUNNERS, 'engine.sharding.runner')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optim_wrapper_constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'engine.layer_decay'
)
PARAM_SCHEDULERS = _child('parameter scheduler', MMENGINE_PARAM_SCHEDULERS, 'engine.schedule')
