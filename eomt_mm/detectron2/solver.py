"""Optimiser with layer decay and clipping, and hooks for the two-stage learning rate and the annealing of masks."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import nn

from eomt_mm.core.head import EoMTHead
from eomt_mm.core.param_groups import param_groups
from eomt_mm.core.schedules import MaskAnnealing, fitting_warmup, two_stage_factor
from eomt_mm.detectron2.containers import plain

logger = logging.getLogger(__name__)


def layer_groups(
    model: nn.Module, base_lr: float, layer_decay: float = 1.0, decay_joint_blocks: bool = True
) -> list[dict[str, Any]]:
    """Group the parameters of a model, which may be wrapped; see :func:`~eomt_mm.core.param_groups.param_groups`."""
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return param_groups(inner, base_lr, layer_decay, decay_joint_blocks)


class ClipsGradients:
    """Mixin for optimisers: ``step`` first clips the norm of all gradients together.

    Inside ``step``, because gradients of mixed precision are unscaled only right before it.
    """

    max_norm: float
    norm_type: float
    param_groups: list[dict[str, Any]]

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        params = [param for group in self.param_groups for param in group['params']]
        nn.utils.clip_grad_norm_(params, self.max_norm, self.norm_type)
        return super().step(closure)  # type: ignore[misc]


def build_optimizer(
    params: list[dict[str, Any]],
    kind: str = 'AdamW',
    max_norm: float | None = None,
    norm_type: float = 2.0,
    **arguments: Any,
) -> torch.optim.Optimizer:
    """Build an optimiser of ``torch.optim``.

    Args:
        params: parameter groups, see :func:`layer_groups`.
        kind: name of its class.
        max_norm: norm to which gradients are clipped; None: no clipping.
        norm_type: exponent of the norm.
        **arguments: of the class.

    Raises:
        ValueError: torch has no such optimiser, or it has no such argument.
    """
    optimizer = getattr(torch.optim, kind, None)
    if not isinstance(optimizer, type) or not issubclass(optimizer, torch.optim.Optimizer):
        raise ValueError(f'optimizer.kind={kind!r}: a class of torch.optim, such as AdamW')
    unknown = sorted(set(arguments) - set(inspect.signature(optimizer).parameters))
    if unknown:
        raise ValueError(f'optimizer.{unknown[0]}: torch.optim.{kind} has no such argument')
    if max_norm is not None:
        settings = dict(max_norm=max_norm, norm_type=norm_type)
        optimizer = type(f'Clipping{kind}', (ClipsGradients, optimizer), settings)
    # No container of OmegaConf: checkpoints hold the arguments, and reading them would need omegaconf.
    stated = {name: tuple(value) if isinstance(value, list) else value for name, value in plain_items(arguments)}
    return optimizer(plain(params), **stated)


def plain_items(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of arguments, without containers of OmegaConf."""
    return [(name, plain(value)) for name, value in arguments.items()]


class TwoStageLR(HookBase):
    """The published learning rate: the head warms up first, then the backbone; see `two_stage_factor`.

    Rates follow from the arguments and the iteration alone, so that a resumed run takes them from its config.

    Args:
        base_lr: learning rate of the head at its largest.
        max_iter: length of the schedule in iterations.
        warmup_steps, max_warmup: see :func:`~eomt_mm.core.schedules.fitting_warmup`.
        power: exponent of the decay.
    """

    def __init__(
        self,
        base_lr: float,
        max_iter: int,
        warmup_steps: Sequence[int] = (500, 1000),
        power: float = 0.9,
        max_warmup: float = 0.25,
    ) -> None:
        self.base_lr = base_lr
        self.max_iter = max_iter
        self.stated_warmup = tuple(warmup_steps)
        self.warmup_steps = fitting_warmup(warmup_steps, max_iter, max_warmup)
        self.power = power

    def before_train(self) -> None:
        """Check the optimiser's groups; log if the warm-up was shortened.

        Raises:
            ValueError: the groups are not those of :func:`layer_groups`.
        """
        if any('lr_factor' not in group for group in self.trainer.optimizer.param_groups):
            raise ValueError(
                'the two-stage learning rate needs the parameter groups of eomt_mm.detectron2.solver.layer_groups: '
                'state them as optimizer.params'
            )
        if self.warmup_steps != self.stated_warmup:
            logger.info(
                f'warm-up of {self.stated_warmup} iterations shortened to {self.warmup_steps}: the schedule has '
                f'{self.max_iter}'
            )

    def before_step(self) -> None:
        """Set the rates of this iteration."""
        for group in self.trainer.optimizer.param_groups:
            group['lr'] = self.rate(self.trainer.iter, group['lr_factor'], group['is_backbone'])

    def after_step(self) -> None:
        """Record the rate of the head, and that of the backbone's last layers."""
        for name, is_backbone in (('lr', False), ('lr_backbone', True)):
            self.trainer.storage.put_scalar(name, self.rate(self.trainer.iter, 1.0, is_backbone), smoothing_hint=False)

    def rate(self, step: int, lr_factor: float, is_backbone: bool) -> float:
        """Compute the learning rate of a group at an iteration, from 0."""
        return (
            self.base_lr * lr_factor * two_stage_factor(step, self.max_iter, self.warmup_steps, is_backbone, self.power)
        )


class AnnealMasks(HookBase):
    """Phase out the masks of the joint blocks; without effect on a model that trains without masked attention.

    Args:
        max_iter: length of the schedule in iterations.
        **stated: arguments of :class:`~eomt_mm.core.schedules.MaskAnnealing`; none: the published rule.
    """

    def __init__(self, max_iter: int, **stated: Any) -> None:
        self.max_iter = max_iter
        self.annealing = MaskAnnealing(**dict(plain_items(stated)))
        self.steps: list[tuple[int, int]] = []
        self._most: list[float] = []

    @property
    def head(self) -> EoMTHead:
        """The EoMT head of the model, which may be wrapped."""
        found = [module for module in self.trainer.model.modules() if isinstance(module, EoMTHead)]
        if not found:
            raise ValueError(f'{type(self.trainer.model).__name__} has no EoMT head: annealing belongs to EoMT models')
        return found[0]

    def before_train(self) -> None:
        """Compute the steps for this model and schedule, and set the probabilities, also in a resumed run."""
        head = self.head
        if not head.masked_attention:
            return
        self.steps = self.annealing.steps(head.num_blocks, self.max_iter)
        # A resumed run turns no mask on again, even if its schedule is longer now.
        self._most = head.attn_mask_probs.tolist() if self.trainer.iter else []
        shown = ', '.join(f'{start}-{end}' for start, end in self.steps)
        logger.info(
            f'mask annealing of {head.num_blocks} joint blocks at iterations {shown}; evaluation uses no masks: '
            f'expect low numbers before iteration {max(end for _, end in self.steps)}'
        )
        left = self.keep_probs(self.max_iter)
        if max(left) > 0:
            logger.warning(
                f'masks stay on: after the last of {self.max_iter} iterations the keep probabilities are {left}, but '
                f'masks are off in evaluation. Let the annealing end within the schedule ({self.annealing})'
            )
        head.set_attn_mask_probs(self.keep_probs(self.trainer.iter))

    def after_step(self) -> None:
        """Set and record the probabilities of the next iteration."""
        if not self.steps:
            return
        probs = self.keep_probs(self.trainer.iter + 1)
        self.head.set_attn_mask_probs(probs)
        for b, prob in enumerate(probs):
            self.trainer.storage.put_scalar(f'mask_prob_{b}', prob, smoothing_hint=False)

    def keep_probs(self, step: int) -> list[float]:
        """Return the keep probability of each joint block after ``step`` iterations."""
        return self.annealing.keep_probs(step, self.steps, self._most)
