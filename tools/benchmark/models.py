"""Build the models of a comparison from our configs or the hosts', and handle their differences."""

import sys
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from benchmark.configs import is_ours
from eomt_mm import compat
from eomt_mm.apis.model import init_model


def build_model(cfg: Config, checkpoint: str | None, device: str) -> Any:
    """Build a model in eval mode, with random weights (no download) or a checkpoint's."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        if is_ours(cfg):
            return init_model(cfg, checkpoint, device)
        model = MODELS.build(cfg.model)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    if not has_compiled_ops():
        # On CUDA, mmcv only checks the device, and would call the missing op.
        sys.modules['mmcv.ops.multi_scale_deform_attn'].IS_CUDA_AVAILABLE = False  # type: ignore[attr-defined]
    return revert_sync_batchnorm(model).to(device).eval()  # there is one process


def has_compiled_ops() -> bool:
    """Whether mmcv's own extension is installed, not :mod:`eomt_mm.compat`'s stand-in."""
    spec = sys.modules['mmcv._ext'].__spec__
    return spec is None or spec.origin != compat.__name__


def deformable_attention(model: nn.Module, device: str) -> str | None:
    """Describe how mmcv's deformable attention runs; None if the model has none."""
    count = sum(type(module).__name__ == 'MultiScaleDeformableAttention' for module in model.modules())
    if not count:
        return None
    compiled = device.startswith('cuda') and has_compiled_ops()
    return f'{count} deformable, ' + ('compiled op' if compiled else 'slow PyTorch form (no compiled op)')
