"""Training loop: one iteration is one optimiser step, and a resumed run continues as if it were uninterrupted."""

import bisect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from mmengine.runner.utils import calc_dynamic_intervals
from torch import Tensor, nn

from eomt_mm.core.criterion import StepLosses
from eomt_mm.datasets.sampling import STEP, PositionSampler, SeededDataset, by_position, seed_generators
from eomt_mm.registry import LOOPS

Batch = dict[str, Any]
# Entries of the message hub, which every checkpoint saves.
SAMPLES_SEEN = 'samples_seen'
NUM_SAMPLES = 'num_samples'  # of the data set


def micro_batches_per_step(optim_wrapper: Any) -> int:
    """Return ``accumulative_counts`` of an optimiser wrapper or its config."""
    if isinstance(optim_wrapper, dict):
        return optim_wrapper.get('accumulative_counts', 1)
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def check_counts_steps(runner: Any) -> None:
    """Raise ValueError if gradients are accumulated in a loop that counts micro-batches as iterations."""
    accumulated = micro_batches_per_step(runner.optim_wrapper)
    if accumulated > 1 and not isinstance(runner.train_loop, TrainLoop):
        raise ValueError(
            f'optim_wrapper.accumulative_counts={accumulated} with {type(runner.train_loop).__name__}, which counts '
            f'micro-batches: schedule and mask annealing would run {accumulated} times too fast. Set '
            f"train_cfg.type='eomt_mm.TrainLoop', which counts optimiser steps"
        )


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Training loop that counts optimiser steps; replaces mmengine's IterBasedTrainLoop and accepts its arguments.

    * With ``optim_wrapper.accumulative_counts=k`` an iteration takes k micro-batches. ``iter``, ``max_iters``,
      schedulers, hooks and checkpoints all count optimiser steps. Hooks receive the k micro-batches as one batch, and
      the means of their losses.
    * Samples and their augmentations depend only on the seed and the position in the sequence of samples
      (:mod:`eomt_mm.datasets.sampling`). All other random numbers of a step depend only on seed, step and process. No
      random state is saved: the checkpoint holds the number of samples seen, and a resumed run continues there, even
      with a different number of workers or processes, or another batch size.

    Args:
        runner: mmengine's runner.
        dataloader: config of the training loader; see :func:`~eomt_mm.datasets.sampling.by_position`.
        max_iters: number of optimiser steps.
        val_begin: first step after which validation may run.
        val_interval: steps between validations; 1000 if neither it nor ``val_interval_epochs`` is given. Validation
            always runs after the last step.
        dynamic_intervals: as in mmengine: (step, interval) pairs; from each step on, its interval applies.
        max_epochs: length of the run in epochs of :attr:`steps_per_epoch` steps, in place of ``max_iters``.
        val_interval_epochs: interval in epochs, in place of ``val_interval``; rounded down, at least one step.

    Raises:
        TypeError, ValueError: the arguments or the loader's config are invalid.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int | None = None,
        val_begin: int = 1,
        val_interval: int | None = None,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        max_epochs: float | None = None,
        val_interval_epochs: float | None = None,
    ) -> None:
        if (max_iters is None) == (max_epochs is None):
            raise ValueError(
                f'max_iters={max_iters}, max_epochs={max_epochs}: give one of them, and None for the other'
            )
        if val_interval is not None and val_interval_epochs is not None:
            raise ValueError(
                f'val_interval={val_interval}, val_interval_epochs={val_interval_epochs}: give one of them, and None '
                f'for the other'
            )
        super().__init__(runner, by_position(dataloader))
        self._max_iters = self._as_steps('max_iters', max_iters, 'max_epochs', max_epochs)
        if val_interval is None and val_interval_epochs is None:
            val_interval = 1000
        self.val_interval = self._as_steps('val_interval', val_interval, 'val_interval_epochs', val_interval_epochs)
        self.val_begin = val_begin
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(self.val_interval, dynamic_intervals)
        self._iter = 0  # mmengine sets this and _epoch when it resumes
        self._epoch = 0
        self.stop_training = False  # hooks set it: early stopping, SIGTERM
        self.samples_seen = 0
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)

    @property
    def max_epochs(self) -> int:
        """1, as in mmengine's loop by iteration: hooks see the whole run as one epoch."""
        return 1

    @property
    def max_iters(self) -> int:
        """Number of optimiser steps of the run."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """0; see :attr:`max_epochs`."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Number of completed optimiser steps."""
        return self._iter

    @property
    def micro_batches(self) -> int:
        """Number k of micro-batches per step, ``accumulative_counts`` of the optimiser wrapper."""
        return micro_batches_per_step(self.runner.optim_wrapper)

    @property
    def samples_per_step(self) -> int:
        """Number of samples per step, over all processes and micro-batches."""
        return get_world_size() * self.dataloader.batch_size * self.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        """floor(ceil(N / processes) / samples of a step in one process), as published (spec, section 6)."""
        return len(self.dataloader.sampler) // (self.dataloader.batch_size * self.micro_batches)

    def _as_steps(self, steps_name: str, steps: float | None, epochs_name: str, epochs: float | None) -> int:
        """Convert an argument in steps or one in epochs to a number of steps."""
        if steps is not None:
            if steps != int(steps) or steps < 1:
                raise ValueError(f'{steps_name}={steps}: a whole number of optimiser steps, at least 1')
            return int(steps)
        if epochs is None or epochs <= 0 or not self.steps_per_epoch:
            raise ValueError(
                f'{epochs_name}={epochs}: above 0, with at least one step in an epoch; the data set has '
                f'{len(self.dataloader.dataset)} samples, a step {self.samples_per_step}. {steps_name} takes steps'
            )
        return max(1, int(epochs * self.steps_per_epoch))

    def run(self) -> nn.Module:
        """Train from the current step to the last one, or until a hook sets ``stop_training``; return the model."""
        self._prepare()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        batches = iter(self.dataloader)  # starts the workers, which copy position and seed
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            seed_generators(STEP, self.seed, self._iter, get_rank(), devices=True)
            self.run_iter([next(batches) for _ in range(self.micro_batches)])
            self._decide_current_val_interval()
            if self._validates_now():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, micro_batches: Sequence[Batch]) -> None:
        """Run one optimiser step."""
        data_batch = joined(micro_batches)
        self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        with self._totals_in_heads(micro_batches):
            outputs = averaged(
                [
                    self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
                    for batch in micro_batches
                ]
            )
        # update before the hooks, one of which saves the checkpoint of this step
        self.samples_seen += self.samples_per_step
        self.runner.message_hub.update_info(SAMPLES_SEEN, self.samples_seen)
        self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _prepare(self) -> None:
        """Set position and seed (in a resumed run from the checkpoint) and the counters of the optimiser wrapper."""
        # use the seed of the first process, which checkpoints hold; with diff_rank_seed the others differ
        seed = torch.tensor(self.runner.seed)
        broadcast(seed)
        self.seed = int(seed)
        self.samples_seen = 0
        if self._iter:
            self.samples_seen = self._resumed_position()
            self._compare_data()
        self.runner.message_hub.update_info(NUM_SAMPLES, len(self.dataloader.dataset))
        dataset, sampler = self.dataloader.dataset, self.dataloader.sampler
        assert isinstance(dataset, SeededDataset) and isinstance(sampler, PositionSampler)
        dataset.seed = sampler.seed = self.seed
        sampler.start = self.samples_seen
        # the runner initialised it with steps; it counts micro-batches
        k = self.micro_batches
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter * k, self._max_iters * k)

    def _resumed_position(self) -> int:
        seen = self.runner.message_hub.get_info(SAMPLES_SEEN)
        derived = ' (derived from the step: the checkpoint does not state it)' if seen is None else ''
        if seen is None:
            seen = self._iter * self.samples_per_step
        print_log(
            f'resumed after {self._iter} whole steps and {seen} samples{derived}: no gradient is lost, and the samples '
            f'already seen are skipped without loading them',
            logger='current',
        )
        return seen

    def _compare_data(self) -> None:
        before, now = self.runner.message_hub.get_info(NUM_SAMPLES), len(self.dataloader.dataset)
        if before not in (None, now):
            print_log(
                f'the training data have {now} samples, and had {before} when the checkpoint was saved: this run draws '
                'them in another order, and some may come twice or not at all in the current epoch',
                logger='current',
                level=logging.WARNING,
            )

    @contextmanager
    def _totals_in_heads(self, micro_batches: Sequence[Batch]) -> Iterator[None]:
        """Normalise the losses of accumulated micro-batches over the whole step, within the context."""
        accumulates = len(micro_batches) > 1
        heads = [head for head in self.runner.model.modules() if accumulates and isinstance(head, StepLosses)]
        for head in heads:
            head.step_totals = head.count_step([batch['data_samples'] for batch in micro_batches])
        try:
            yield
        finally:
            for head in heads:
                head.step_totals = None

    def _validates_now(self) -> bool:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        return self.runner.val_loop is not None and self._iter >= self.val_begin and due

    def _decide_current_val_interval(self) -> None:
        self.val_interval = self.dynamic_intervals[bisect.bisect(self.dynamic_milestones, self._iter + 1) - 1]


def joined(micro_batches: Sequence[Batch]) -> Batch:
    """Join micro-batches to one batch, whose entries are lists with one item per sample."""
    if len(micro_batches) == 1:
        return micro_batches[0]
    return {key: list(chain.from_iterable(batch[key] for batch in micro_batches)) for key in micro_batches[0]}


def averaged(outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average each 0-d entry over the micro-batches."""
    if len(outputs) == 1:
        return outputs[0]
    return {name: torch.stack([output[name].detach() for output in outputs]).mean(0) for name in outputs[0]}
