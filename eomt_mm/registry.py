"""Child registries of mmengine's.

``locations`` name the modules that register, so a config needs no ``custom_imports``: mmengine imports this module
when it meets ``type='eomt_mm.X'`` under any default scope, and the locations at the first look-up.
"""

from eomt_mm import compat

compat.check_versions()  # before the first host is imported: a missing one is told in one message

from mmengine.registry import (  # noqa: E402
    DATASETS as MMENGINE_DATASETS,
    HOOKS as MMENGINE_HOOKS,
    METRICS as MMENGINE_METRICS,
    MODELS as MMENGINE_MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS,
    TRANSFORMS as MMENGINE_TRANSFORMS,
    Registry,
)

compat.allow_checkpoint_globals()


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope='eomt_mm', locations=[f'eomt_mm.{where}' for where in locations])


MODELS = _child('model', MMENGINE_MODELS, 'models.segmentors')
DATASETS = _child('dataset', MMENGINE_DATASETS, 'datasets.coco_panoptic')
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'datasets.loading', 'datasets.transforms')
METRICS = _child('metric', MMENGINE_METRICS, 'evaluation.panoptic_quality')
HOOKS = _child('hook', MMENGINE_HOOKS, 'engine.checkpoint_fit', 'engine.mask_annealing', 'engine.pictures')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optim_wrapper_constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'engine.layer_decay'
)
PARAM_SCHEDULERS = _child('parameter scheduler', MMENGINE_PARAM_SCHEDULERS, 'engine.schedule')
