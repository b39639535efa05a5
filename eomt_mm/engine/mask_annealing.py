"""Mask annealing: masked attention is phased out block by block (EoMT paper, "Mask annealing")."""

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import MaskAnnealing
from eomt_mm.engine.train_loop import check_counts_steps
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Set the keep probability of each joint block's masks after every iteration, and log it.

    Args:
        starts, ends, unit, first_block, total_steps, power: see :class:`~eomt_mm.core.schedules.MaskAnnealing`; the
            length of the schedule is ``max_iters``.

    Raises:
        ValueError: the arguments are inconsistent, or do not fit the model's number of joint blocks.
    """

    def __init__(
        self,
        starts: Sequence[float] | None = None,
        ends: Sequence[float] | None = None,
        unit: int | None = None,
        first_block: tuple[int, int] | None = None,
        total_steps: int | None = None,
        power: float = 0.9,
    ) -> None:
        self.annealing = MaskAnnealing(starts, ends, unit, first_block, total_steps, power)
        self._steps: list[tuple[int, int]] = []  # empty outside of training
        self._explained = False
        self._most: list[float] = []  # probabilities in a resumed checkpoint: upper limits of all later ones

    def before_train(self, runner: Any) -> None:
        """Compute the steps for this schedule and model, and set the probabilities, also in a resumed run.

        Raises:
            ValueError: the loop counts micro-batches instead of optimiser steps.
        """
        check_counts_steps(runner)
        head = find_head(runner.model)
        self._steps = self.annealing.steps(head.num_blocks, runner.max_iters)
        shown = ', '.join(f'{start}-{end}' for start, end in self._steps)
        scaled = ''
        stated = self.annealing.total_steps
        if stated not in (None, runner.max_iters):
            scaled = f' (scaled from a schedule of {stated})'
        print_log(f'mask annealing of {head.num_blocks} joint blocks at steps {shown}{scaled}', logger='current')
        self._most = self._resumed_probs(runner, head)
        left = self.keep_probs(runner.max_iters)
        if max(left) > 0:
            print_log(
                f'masks stay on: after the last of {runner.max_iters} iterations the keep probabilities are {left}, '
                f'but masks are off in evaluation. Let the annealing end within the schedule '
                f'({self.annealing})',
                logger='current',
                level=logging.WARNING,
            )
        self._set(runner, head)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Set the probabilities for the next step; mmengine increments ``iter`` only after the hooks."""
        self._set(runner, find_head(runner.model), done=1)

    def after_val(self, runner: Any) -> None:
        """After the first validation of a training, log why its metrics are low while masks are on."""
        if not self._explained and max(self.keep_probs(runner.iter), default=0) > 0:
            self._explained, last = True, max(end for _, end in self._steps)
            print_log(
                f'masks are on in training until step {last}, and off in validation: expect low numbers until then',
                logger='current',
            )

    def after_train(self, runner: Any) -> None:
        """Warn if the run ends before the annealing does: evaluation does not use the masks of the training."""
        probs = self.keep_probs(runner.iter)
        if runner.iter < runner.max_iters and max(probs) > 0:
            print_log(
                f'ended after step {runner.iter} of {runner.max_iters} with masks on (keep probabilities {probs}), but '
                f'masks are off in evaluation, where this model scores low. Train to the end with --resume, or set '
                f'train_cfg.max_iters to a length that the run reaches',
                logger='current',
                level=logging.WARNING,
            )

    def keep_probs(self, step: int) -> list[float]:
        """Return the keep probability of each joint block after ``step`` steps."""
        return self.annealing.keep_probs(step, self._steps, self._most)

    def _resumed_probs(self, runner: Any, head: EoMTHead) -> list[float]:
        """Return the checkpoint's probabilities as upper limits, so that a longer schedule turns no mask on again."""
        self._most = []
        if not runner.iter:
            return []
        saved = head.attn_mask_probs.tolist()
        if any(prob > limit + 1e-6 for prob, limit in zip(self.keep_probs(runner.iter), saved, strict=True)):
            print_log(
                f'keep probabilities of masks stay at or below those in the checkpoint ({saved}), although the '
                f'schedule of {runner.max_iters} steps has higher ones at step {runner.iter}',
                logger='current',
            )
        return saved

    def _set(self, runner: Any, head: EoMTHead, done: int = 0) -> None:
        probs = self.keep_probs(runner.iter + done)
        head.set_attn_mask_probs(probs)
        for b, prob in enumerate(probs):
            runner.message_hub.update_scalar(f'train/mask_prob_{b}', prob)


@HOOKS.register_module()
class DefaultAnnealingHook(Hook):
    """Add a `MaskAnnealingHook` if the model trains with masks.

    This hook belongs in ``default_hooks``: a config that sets its own list of ``custom_hooks`` does not remove it. The
    arguments of the `MaskAnnealingHook` are the config's top-level dict ``mask_annealing``. Without that key the
    published rule applies; None leaves masks on. A `MaskAnnealingHook` in ``custom_hooks`` takes precedence.
    """

    def before_run(self, runner: Runner) -> None:
        """Add the hook."""
        settings = stated_annealing(runner.cfg)
        if settings is not None and trains_with_masks(runner.model) and not has_annealing(runner):
            runner.register_hook(MaskAnnealingHook(**settings))


def stated_annealing(cfg: Config) -> dict[str, Any] | None:
    """Return the arguments of `MaskAnnealingHook` from the top level of a config; None if annealing is turned off."""
    settings = cfg.get('mask_annealing', {})
    return settings if settings is None else dict(settings)


def has_annealing(runner: Runner) -> bool:
    """Return whether one of the runner's hooks anneals masks."""
    return any(isinstance(hook, MaskAnnealingHook) for hook in runner.hooks)


def trains_with_masks(model: nn.Module) -> bool:
    """Return whether a model has an EoMT head with masked attention."""
    return any(isinstance(module, EoMTHead) and module.masked_attention for module in model.modules())


def find_head(model: nn.Module) -> EoMTHead:
    """Find the EoMT head of a model, which may be wrapped for distributed training."""
    for module in model.modules():
        if isinstance(module, EoMTHead):
            return module
    raise ValueError(f'{type(model).__name__} has no EoMT head: MaskAnnealingHook belongs to EoMT models')
