"""Mask annealing: masked attention is phased out block by block (EoMT paper, "Mask annealing")."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import annealed_keep_prob, published_steps
from eomt_mm.engine.train_loop import check_counts_steps
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Set the keep probability of each joint block's masks after every iteration, and log it.

    By default the steps follow the rule of the published recipes: annealing starts at 1/6 (first block) to 4/6 (last
    block) of the schedule and ends at 2/6 to 5/6, for any number of joint blocks (:func:`published_steps`).

    Args:
        starts, ends: where the annealing of each joint block starts and ends, instead of the rule: fractions of
            ``max_iters`` in [0, 1] or, with ``total_steps``, optimiser steps.
        unit: number of optimiser steps that the annealing of each block takes. None: a sixth of the schedule.
        first_block: (start, end) of the first joint block in optimiser steps, instead of the rule's (published with
            DINOv3: (0, 3000)).
        total_steps: length of the schedule that the steps above refer to. If ``max_iters`` differs, the steps are
            scaled to it.
        power: exponent of the polynomial decay.

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
        if starts is not None and (unit is not None or first_block is not None):
            raise ValueError(
                f'starts={starts} with unit={unit}, first_block={first_block}: give either starts and ends, or unit '
                f'and first_block, not both'
            )
        if (unit is not None or first_block is not None) and total_steps is None:
            raise ValueError(
                f'unit={unit}, first_block={first_block} need total_steps, the length of the schedule that these '
                f'steps refer to'
            )
        if first_block is not None and not 0 <= first_block[0] <= first_block[1]:
            raise ValueError(f'first_block={first_block}: 0 <= start <= end, in optimiser steps')
        if unit is not None and unit < 1:
            raise ValueError(f'unit={unit}: at least 1 optimiser step')
        if (starts is None) != (ends is None):
            raise ValueError(f'starts={starts}, ends={ends}: give both or neither')
        if starts is not None and ends is not None:
            if len(starts) != len(ends) or any(a < 0 or e < a for a, e in zip(starts, ends, strict=True)):
                raise ValueError(f'starts={starts}, ends={ends}: one of each per joint block, 0 <= start <= end')
            if total_steps is None and max(ends) > 1:
                raise ValueError(
                    f'ends={ends} exceed 1: give fractions of max_iters, or set total_steps to the length of the '
                    f'schedule that these steps refer to'
                )
        elif total_steps is not None and unit is None and first_block is None:
            raise ValueError(f'total_steps={total_steps} needs starts and ends, unit, or first_block in steps')
        self.starts = starts
        self.ends = ends
        self.unit = unit
        self.first_block = first_block
        self.total_steps = total_steps
        self.power = power
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
        self._steps = self.annealing_steps(head.num_blocks, runner.max_iters)
        shown = ', '.join(f'{start}-{end}' for start, end in self._steps)
        scaled = ''
        if self.total_steps not in (None, runner.max_iters):
            scaled = f' (scaled from a schedule of {self.total_steps})'
        print_log(f'mask annealing of {head.num_blocks} joint blocks at steps {shown}{scaled}', logger='current')
        self._most = self._resumed_probs(runner, head)
        left = self.keep_probs(runner.max_iters)
        if max(left) > 0:
            print_log(
                f'masks stay on: after the last of {runner.max_iters} iterations the keep probabilities are {left}, '
                f'but masks are off in evaluation. Let the annealing end within the schedule '
                f'(MaskAnnealingHook ends={self.ends}, unit={self.unit}, total_steps={self.total_steps})',
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

    def annealing_steps(self, num_blocks: int, max_iters: int) -> list[tuple[int, int]]:
        """Return (start, end) of each joint block's annealing, in steps of a schedule of ``max_iters`` steps."""
        if self.starts is None or self.ends is None:
            if self.total_steps is None:
                return published_steps(num_blocks, max_iters)
            stated: list[tuple[float, float]] = [*published_steps(num_blocks, self.total_steps, self.unit)]
            if self.first_block is not None:
                stated[0] = self.first_block
        elif len(self.starts) == num_blocks:
            stated = list(zip(self.starts, self.ends, strict=True))
        else:
            raise ValueError(
                f'MaskAnnealingHook has {len(self.starts)} starts and ends, the model {num_blocks} joint blocks: '
                f'give one of each per block'
            )
        scale = max_iters / (self.total_steps or 1)
        return [(math.floor(start * scale + 0.5), math.floor(end * scale + 0.5)) for start, end in stated]

    def keep_probs(self, step: int) -> list[float]:
        """Return the keep probability of each joint block after ``step`` steps."""
        probs = [annealed_keep_prob(step, start, end, self.power) for start, end in self._steps]
        # The saved probabilities are float32: small differences from the schedule's values are rounding.
        most = self._most or [1.0] * len(probs)
        return [prob if prob <= limit + 1e-6 else limit for prob, limit in zip(probs, most, strict=True)]

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
