"""Parameter groups with layer-wise learning-rate decay."""

from typing import Any

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS

from eomt_mm.core.param_groups import param_groups
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
        super().__init__(optim_wrapper_cfg)

    def __call__(self, model: Any) -> Any:
        """Build the optimiser wrapper for ``model``, which may be wrapped for distributed training."""
        if is_model_wrapper(model):
            model = model.module
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        wrapper_cfg.setdefault('type', 'OptimWrapper')
        groups = param_groups(model, self.base_lr, self.layer_decay, self.decay_joint_blocks)
        print_log(f'layer decay {self.layer_decay}: {len(groups)} parameter groups', logger='current')
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args=dict(optimizer=optimizer))
