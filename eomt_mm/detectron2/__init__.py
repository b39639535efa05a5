"""EoMT for detectron2: model, configs, solver, data, checkpoints; core and recipes are those of OpenMMLab's side.

Imports no package of OpenMMLab. The README of ``projects/detectron2`` says how to install detectron2 and how to train.
"""

import importlib.util
from typing import Any

from eomt_mm.public import load, names_of

OLDEST = (0, 6)  # AMPTrainer takes a precision since then


def _check_detectron2() -> None:
    """Raise ImportError, in one line with the command, if detectron2 is missing or too old."""
    where = 'https://github.com/facebookresearch/detectron2'
    command = (
        f"pip install --no-build-isolation 'git+{where}', or a clone of it on PYTHONPATH with 'eomt_mm[detectron2]'"
    )
    spec = importlib.util.find_spec('detectron2')
    if spec is None or spec.origin is None:  # without an origin: any folder of this name
        raise ImportError(f'eomt_mm.detectron2 needs detectron2, which is not installed: {command}')
    import detectron2

    version = detectron2.__version__
    if tuple(int(part) for part in version.split('.')[:2]) < OLDEST:
        raise ImportError(
            f'eomt_mm.detectron2 needs detectron2 >= {OLDEST[0]}.{OLDEST[1]}, {version} is there: {command}'
        )


_check_detectron2()

PUBLIC = {
    'meta_arch': ('EoMT',),
    'solver': ('AnnealMasks', 'TwoStageLR', 'build_optimizer', 'layer_groups'),
    'lazy': ('apply_overrides', 'lazy_config', 'register', 'split_files', 'split_options'),
    'training': ('build_checkpointer', 'evaluate', 'evaluate_checkpoint', 'train'),
    'yaml_config': ('EoMTTrainer', 'add_eomt_config', 'load_yaml'),
    'mappers': ('EoMTMapper', 'mapper_of'),
    'data_sets': (
        'register_builtin',
        'register_config',
        'register_own_instances',
        'register_own_label_maps',
        'register_own_panoptic',
    ),
    'evaluation': ('build_evaluator',),
    'ground_truth': ('read_image',),
    'checkpoint': ('EoMTCheckpointer',),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
