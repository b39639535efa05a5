"""Parameter groups with layer-wise learning-rate decay."""

from typing import Any

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import lr_factor
from eomt_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Build an optimiser with one parameter group per learning-rate factor, separately for backbone and rest.

    ``paramwise_cfg`` takes ``layer_decay`` (1: no decay) and ``decay_joint_blocks`` (published: True with DINOv2,
    False with DINOv3). Weight decay applies to every parameter including biases, norms and queries, as published.
    Frozen parameters belong to no group. Each group has the key ``is_backbone``, which the schedule reads.

    Raises:
        ValueError: ``paramwise_cfg`` has an unknown key, or the model has no TimmViT.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        settings = dict(paramwise_cfg or {})
        self.layer_decay: float = settings.pop('layer_decay', 1.0)
        self.decay_joint_blocks: bool = settings.pop('decay_joint_blocks', True)
        if settings:
            raise ValueError(
                f'paramwise_cfg has unknown keys {sorted(settings)}: {type(self).__name__} takes layer_decay and '
                f'decay_joint_blocks; set paramwise_cfg._delete_=True to drop inherited ones'
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f'layer_decay={self.layer_decay}: in (0, 1]; published are 0.8 and 1')
        super().__init__(optim_wrapper_cfg)

    def __call__(self, model: Any) -> Any:
        """Build the optimiser wrapper for ``model``, which may be wrapped for distributed training."""
        if is_model_wrapper(model):
            model = model.module
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        wrapper_cfg.setdefault('type', 'OptimWrapper')
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=self.param_groups(model)))
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args=dict(optimizer=optimizer))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return groups with ``params``, ``lr``, ``lr_factor``, ``is_backbone`` and ``param_names``."""
        vits = [(name, module) for name, module in model.named_modules() if isinstance(module, PlainViT)]
        heads = [module for module in model.modules() if isinstance(module, EoMTHead)]
        if len(vits) != 1 or len(heads) != 1:
            raise ValueError(
                f'{type(model).__name__} has {len(vits)} TimmViT and {len(heads)} EoMT heads; layer decay needs one of '
                f'each. Use the default optim_wrapper constructor for other models'
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
                factor = lr_factor(block, vit.depth, self.layer_decay, head.num_blocks, self.decay_joint_blocks)
            group = groups.setdefault(
                (is_backbone, factor),
                dict(params=[], param_names=[], lr=self.base_lr * factor, lr_factor=factor, is_backbone=is_backbone),
            )
            group['params'].append(param)
            group['param_names'].append(name)
        print_log(f'layer decay {self.layer_decay}: {len(groups)} parameter groups', logger='current')
        # The head comes first: the log shows the learning rate of the first group, and the head's is never decayed.
        return sorted(groups.values(), key=lambda group: (group['is_backbone'], -group['lr_factor']))
