"""Check and build an inferencer's parts: config, device, precision, task, class names, pipeline, thresholds."""

import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import INFERENCERS, MODELS, TRANSFORMS, DefaultScope

from eomt_mm.apis.config import load_config
from eomt_mm.checkpoints.class_names import placeholders
from eomt_mm.options import AMP_DTYPES, TASKS
from eomt_mm.recipes.classes import unwrapped

Item = dict[str, Any]
INSTANCE_SCORE_THR = 0.3  # as in mmdet's inferencer
# EoMT-S, 640 x 640, one thread of an AMD EPYC with AVX2, torch 2.14, in turns: 23.4 s of bfloat16 against 3.3 s.
CPUINFO, BFLOAT16 = Path('/proc/cpuinfo'), frozenset(('amx_bf16', 'avx512_bf16', 'bf16'))  # flags: x86, x86, ARM
NO_BFLOAT16 = 'this CPU has no bfloat16 instructions (AVX512-BF16 or AMX) and is slower with it: leave it out'


class ImageLoader(Protocol):
    """Step that loads an image, :class:`~eomt_mm.datasets.loading.LoadImage`."""

    bits: int | None

    def __call__(self, results: Item) -> Item:
        """Load ``results['img_path']``."""
        ...


def config_of(config: str | Path | Config, cfg_options: dict[str, Any] | None = None) -> Config:
    """Load a config from its path or name; return a loaded config unchanged.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: overrides are given for a config that is already loaded.
    """
    if not isinstance(config, Config):
        return load_config(config, cfg_options)
    if cfg_options:
        raise ValueError('cfg_options with a config that is loaded already: give them to load_config')
    return config


def inferencer_class(cfg: Config) -> type:
    """Find the inferencer class for a config's model.

    It is registered in mmengine's ``INFERENCERS`` under the name of the model's class or of one of its base classes. A
    project adds its own with ``@INFERENCERS.register_module(name='ITS_MODEL')``.

    Raises:
        ValueError: there is none.
    """
    kind = MODELS.get(cfg.model['type'])
    known = INFERENCERS.module_dict
    found = next((known[base.__name__] for base in getattr(kind, '__mro__', ()) if base.__name__ in known), None)
    if found is None:
        raise ValueError(
            f'{name_of(cfg)} has a model of {cfg.model["type"]}: give one of eomt_mm.{", eomt_mm.".join(sorted(known))}'
        )
    return found


def check_inferencer(cfg: Config, kind: type) -> None:
    """Check that an inferencer class can run a config's model.

    Raises:
        ValueError: it cannot; the message names the class that can.
    """
    needed = inferencer_class(cfg)
    registered = next(base for base in kind.__mro__ if base in INFERENCERS.module_dict.values())
    if registered is not needed:
        raise ValueError(
            f'{name_of(cfg)} has a model of {cfg.model["type"]}, which needs {needed.__name__}, not {kind.__name__}: '
            f'tools/demo.py and eomt_mm.apis.init_inferencer find it'
        )


def name_of(cfg: Config) -> str:
    """A config's file, for messages."""
    return cfg.filename or 'the config'


def task_of(cfg: Config, wanted: str | None = None) -> str:
    """Task of a config's model: 'semantic' for a ``decode_head``, else the ``task`` of its ``panoptic_head``.

    Args:
        cfg: config of a model that :func:`inferencer_class` supports.
        wanted: required task; None: any.

    Raises:
        ValueError: the model has another task.
    """
    if wanted is not None and wanted not in TASKS:
        raise ValueError(f"task='{wanted}': one of {TASKS}")
    task = 'semantic' if 'decode_head' in cfg.model else str(cfg.model['panoptic_head']['task'])
    if wanted not in (None, task):
        raise ValueError(
            f"task='{wanted}': the model of {name_of(cfg)} is trained for {task} segmentation; take a config and "
            f'weights of {wanted} segmentation'
        )
    return task


def device_of(name: str | None) -> torch.device:
    """Device by name; None: the GPU if there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device='{name}': such as 'cpu', 'cuda' or 'cuda:1'") from error
    count = torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        raise ValueError(f"device='{name}': PyTorch sees {count} GPUs here; leave it out to take what there is")
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # every back-end has its own
        raise ValueError(
            f"device='{name}': this PyTorch ({torch.__version__}) cannot use it: give cpu or cuda"
        ) from error
    return device


def amp_dtype_of(name: str | None, device: torch.device) -> torch.dtype | None:
    """Data type for mixed precision; None: no mixed precision. Warns where the CPU would only emulate it.

    Raises:
        ValueError: the name is not in ``AMP_DTYPES``, or float16 on the CPU.
    """
    if name is None:
        return None
    if name not in AMP_DTYPES:
        raise ValueError(f"amp_dtype='{name}': one of {AMP_DTYPES}")
    if device.type == 'cpu' and name == 'float16':
        raise ValueError("amp_dtype='float16' is for GPUs: on the CPU take 'bfloat16', or leave it out")
    if device.type == 'cpu' and lacks_bfloat16():
        warnings.warn(f"amp_dtype='{name}': {NO_BFLOAT16}", stacklevel=3)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have no bfloat16 instructions; only Linux says."""
    words = CPUINFO.read_text().split() if CPUINFO.is_file() else BFLOAT16
    return BFLOAT16.isdisjoint(words)


def check_compiler(device: torch.device) -> None:
    """Compile a small function, to find out whether ``torch.compile`` works on the device.

    Raises:
        ValueError: it does not, such as on a CPU without a C++ compiler.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # every back-end has its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f'compile=True: torch.compile does not work here ({reason}): install a C++ compiler such as g++ for the '
            f'CPU or triton for a GPU, or leave compile out'
        ) from error


def class_meta(meta: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Add class names such as 'class 0' to a ``dataset_meta`` without any, and check their number.

    Raises:
        ValueError: the number of names differs from ``num_classes``.
    """
    classes = tuple(meta.get('classes') or placeholders(num_classes))
    if len(classes) != num_classes:
        raise ValueError(
            f'the checkpoint has names for {len(classes)} classes, the model {num_classes} classes: take the config '
            f'that it was trained with'
        )
    return {**meta, 'classes': classes}


def test_pipeline(cfg: Config) -> tuple[ImageLoader, Compose]:
    """Split the test pipeline into the step that loads an image, and the rest without any ``type='Load...'`` step.

    Raises:
        ValueError: the config has no test pipeline.
    """
    dataset = next(unwrapped((cfg.get('test_dataloader') or {}).get('dataset', {})))
    if not dataset.get('pipeline'):
        raise ValueError(
            f'{name_of(cfg)} has no test_dataloader.dataset.pipeline, which states how images are resized: add it'
        )
    others, loading = _without_loading(dataset['pipeline'])
    first = next((step for step in loading if 'LoadImage' in step['type']), {})
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        # takes the same arguments as mmcv's transform, and its errors name the file
        return TRANSFORMS.build({**first, 'type': 'eomt_mm.LoadImage'}), Compose(others)


def _without_loading(steps: list[Item]) -> tuple[list[Item], list[Item]]:
    """Split steps into those that do not load files and those that do, recursing into wrappers (``transforms``)."""
    others: list[Item] = []
    loading: list[Item] = []
    for step in steps:
        if step['type'].rpartition('.')[-1].startswith('Load'):
            loading.append(step)
            continue
        if isinstance(step.get('transforms'), list):
            inner, inner_loading = _without_loading(step['transforms'])
            step = {**step, 'transforms': inner}
            loading += inner_loading
        others.append(step)
    return others, loading


def head_settings(task: str, score_thr: float | None, overlap_thr: float | None, samples: bool) -> dict[str, Any]:
    """What a call replaces of the head's ``rules``.

    Args:
        task: of the head.
        score_thr, overlap_thr: in [0, 1]; None: the config's value, and of instances 0.3.
        samples: the host's samples are returned, with class scores (semantic), and all instances as booleans.

    Raises:
        ValueError: a threshold is out of range, or does not apply to the task.
    """
    for name, value in dict(pred_score_thr=score_thr, overlap_thr=overlap_thr).items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f'{name}={value}: in [0, 1]')
    if task == 'semantic' and score_thr is not None:
        raise ValueError(f'pred_score_thr={score_thr}: segments of a semantic model have no scores; leave it out')
    if task != 'panoptic' and overlap_thr is not None:
        raise ValueError(f'overlap_thr={overlap_thr}: panoptic segmentation has it, {task} has none; leave it out')
    if task == 'semantic':
        return dict(keep_scores=samples)
    if task == 'instance':
        least = INSTANCE_SCORE_THR if score_thr is None else score_thr
        return {} if samples else dict(min_score=least, rle=True)
    given = dict(score_thr=score_thr, overlap_thr=overlap_thr) if task == 'panoptic' else {}
    return {name: value for name, value in given.items() if value is not None}
