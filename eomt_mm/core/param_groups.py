"""Parameter groups with layer-wise learning-rate decay."""

from typing import Any

from torch import nn

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import lr_factor


def param_groups(
    model: nn.Module, base_lr: float, layer_decay: float = 1.0, decay_joint_blocks: bool = True
) -> list[dict[str, Any]]:
    """Group the parameters of an EoMT by their learning-rate factor, separately for the backbone and the rest.

    Weight decay applies to every parameter including biases, norms and queries, as published. Frozen parameters belong
    to no group.

    Args:
        model: has one :class:`~eomt_mm.core.backbone.PlainViT` and one :class:`~eomt_mm.core.head.EoMTHead`.
        base_lr: learning rate of the head.
        layer_decay: factor from block to block, in (0, 1]; 1: no decay.
        decay_joint_blocks: see :func:`~eomt_mm.core.schedules.lr_factor` (published: True with DINOv2, False with
            DINOv3).

    Returns:
        groups with ``params``, ``lr``, ``lr_factor``, ``is_backbone`` and ``param_names``, the head's first: logs show
        the learning rate of the first group, and the head's is never decayed.

    Raises:
        ValueError: ``layer_decay`` is out of range, or the model has another number of backbones or heads.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay={layer_decay}: in (0, 1]; published are 0.8 and 1')
    vits = [(name, module) for name, module in model.named_modules() if isinstance(module, PlainViT)]
    heads = [module for module in model.modules() if isinstance(module, EoMTHead)]
    if len(vits) != 1 or len(heads) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(vits)} plain ViT and {len(heads)} EoMT heads; layer decay needs one of '
            f'each. Use the default constructor of the optimiser for other models'
        )
    (vit_name, vit), head = vits[0], heads[0]
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        is_backbone = name.startswith(f'{vit_name}.')
        factor = 1.0
        if is_backbone:
            block = vit.param_depth(name.removeprefix(f'{vit_name}.'))
            factor = lr_factor(block, vit.depth, layer_decay, head.num_blocks, decay_joint_blocks)
        group = groups.setdefault(
            (is_backbone, factor),
            dict(params=[], param_names=[], lr=base_lr * factor, lr_factor=factor, is_backbone=is_backbone),
        )
        group['params'].append(param)
        group['param_names'].append(name)
    return sorted(groups.values(), key=lambda group: (group['is_backbone'], -group['lr_factor']))
