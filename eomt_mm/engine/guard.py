"""Skip and count steps with NaN or infinite gradients, and end a run that has too many in a row."""

import logging
import math
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, print_log
from torch import Tensor
from torch.optim import Optimizer

from eomt_mm.registry import HOOKS

SKIPPED = 'non_finite_steps'  # entry of the message hub, which every checkpoint saves


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Skip optimiser steps whose gradients are not all finite, and end the run after too many in a row.

    A skipped step changes neither the weights nor the optimiser state, in any process; schedules continue. A warning
    names the files of the batch, and the step is left out of the log's averages. Steps that a loss scaler (``--amp``
    in float16) skips on its own while it searches for its scale count too.

    Cost per step: one pass over the gradients for the largest absolute value; in distributed runs, an all-reduce of
    one number; and one synchronisation of host and device, because the decision is made in Python. mmengine
    synchronises in the same way for every loss that it logs.

    Args:
        max_in_a_row: number of consecutive skipped steps that ends the run; at least 1.

    Raises:
        ValueError: ``max_in_a_row`` is below 1.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise ValueError(f'max_in_a_row={max_in_a_row}: at least 1')
        self.max_in_a_row = max_in_a_row
        self._in_a_row = 0
        self._skips = True  # until the optimiser's step is called: a loss scaler skips a step by not calling it
        self._files: list[str] = []

    def before_train(self, runner: Any) -> None:
        """Register a hook on the optimiser's step.

        Raises:
            TypeError: the optimiser is not a torch optimiser.
        """
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f'NonFiniteGuardHook watches one torch optimizer, {type(runner.optim_wrapper).__name__} has '
                f'{type(optimizer).__name__}: leave the hook out'
            )
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count and log skipped steps.

        Raises:
            FloatingPointError: ``max_in_a_row`` is reached.
        """
        self._files += [sample.get('img_path', '') for sample in (data_batch or {}).get('data_samples', [])]
        if not runner.optim_wrapper.should_update():  # in loops that count micro-batches: no optimiser step yet
            return
        if self._skips:
            self._report(runner)
        else:
            self._in_a_row = 0
        self._skips, self._files = True, []

    def after_train(self, runner: Any) -> None:
        """Log the total number of skipped steps."""
        self._handle.remove()
        skipped = runner.message_hub.get_info(SKIPPED, 0)
        level = logging.WARNING if skipped else logging.INFO
        print_log(f'{skipped} of {runner.iter} steps skipped for non-finite gradients', logger='current', level=level)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Remove all gradients if any is not finite: the optimiser then skips all parameters."""
        params = [param for group in optimizer.param_groups for param in group['params'] if param.grad is not None]
        self._skips = not all_finite([local_part(param.grad) for param in params])
        if self._skips:
            for param in params:
                param.grad = None

    def _report(self, runner: Any) -> None:
        self._in_a_row += 1
        total = runner.message_hub.get_info(SKIPPED, 0) + 1
        runner.message_hub.update_info(SKIPPED, total)
        forget_non_finite(runner.message_hub)
        files = ', '.join(chain.from_iterable(all_gather_object(self._files)))
        text = f'gradients of step {runner.iter + 1} are not finite, weights are unchanged: {files}'
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            text += f'; the loss scale is now {scaler.get_scale():g}'
        print_log(f'{text}; {total} skipped so far', logger='current', level=logging.WARNING)
        if self._in_a_row >= self.max_in_a_row:
            raise FloatingPointError(
                f'no finite gradients for {self._in_a_row} steps in a row (max_in_a_row={self.max_in_a_row}), up to '
                f'step {runner.iter + 1} with {files}. Check these images and their annotations; if they are correct, '
                f'continue from an earlier checkpoint with a lower learning rate or, with --amp, bfloat16'
            )


def forget_non_finite(message_hub: MessageHub) -> None:
    """Remove non-finite values of this step from the averages, which they would spoil for a whole window."""
    for history in message_hub.log_scalars.values():
        values, counts = history.data  # the history's own arrays
        if len(values) and not math.isfinite(values[-1]):
            values[-1] = counts[-1] = 0


def all_finite(gradients: list[Tensor]) -> bool:
    """Return whether the gradients of all processes are finite. A collective operation: every process must call it."""
    gradients = [gradient for gradient in gradients if gradient.numel()]
    # The largest absolute value: unlike a sum of squares it does not overflow while all are finite.
    largest = torch.stack(torch._foreach_norm(gradients, torch.inf)) if gradients else torch.zeros(1)
    found = (~largest.isfinite()).any().float()
    all_reduce(found, 'max')
    return not found.item()


def local_part(gradient: Tensor) -> Tensor:
    """Return the part of a gradient that this process holds: its shard under ``fully_shard`` (DTensor), else all."""
    return gradient.to_local() if hasattr(gradient, 'to_local') else gradient
