"""Graceful stop: on Ctrl-C or a cluster's SIGTERM, finish the step, save a checkpoint and exit with status 0."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop

from eomt_mm.engine.checkpointing import SafeCheckpointHook, on_any_rank
from eomt_mm.registry import HOOKS

# Seconds within which several signals count as one request: timeout(1), srun with torchrun, and torchrun on Ctrl-C send
# the signal twice. Without torchrun, a second Ctrl-C always counts as a second request.
ONE_REQUEST = 3.0


@HOOKS.register_module()
class GracefulStopHook(Hook):
    """Stop a run on SIGTERM or Ctrl-C: all processes finish the step, save a checkpoint and exit with status 0.

    ``--resume`` continues the run.

    - During training, the current step is saved regardless of the checkpoint interval, and the loop ends.
    - During validation, the current step is saved unless it already is, and the validation is abandoned; a resumed run
      starts with that validation. If a metric is already being computed from the predictions, that finishes first.
    - If the checkpoint cannot be written, the exit status is 1.
    - A second Ctrl-C ends the process at once; any other signal does so if it arrives over 3 seconds after the first.
      Earlier checkpoints are kept.

    The worker processes of data loaders ignore the signals, because clusters send them to all processes. ``torchrun``
    kills processes that are still running 30 seconds after it receives SIGTERM.

    The hook needs a :class:`SafeCheckpointHook` that counts steps (``by_epoch=False``), a loop by steps, and the main
    thread. Otherwise it logs a warning and handles no signals.

    Args:
        signals: names of the signals. ``torchrun`` itself ends on SIGUSR1, which Slurm's ``--signal=USR1@120`` sends;
            use ``--signal=TERM@120`` with it.

    Raises:
        ValueError: a signal name is unknown.
    """

    priority = 'LOWEST'  # after the checkpoint hook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1', 'SIGINT')) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown:
            raise ValueError(f'signals={list(signals)}: this system has no {unknown}; give names such as SIGTERM')
        self.signals = [signal.Signals[name] for name in signals]
        self._checkpoints: SafeCheckpointHook | None = None  # set while signals are handled
        self._before: dict[signal.Signals, Any] = {}
        self._asked: tuple[signal.Signals, float] | None = None
        self._owner = os.getpid()
        self._common_batches = 0

    def before_train(self, runner: Any) -> None:
        """Install the signal handlers, and make data-loader workers that start later ignore the signals."""
        self._asked, self._owner = None, os.getpid()
        hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook) and not hook.by_epoch]
        by_steps = not isinstance(runner.train_loop, EpochBasedTrainLoop)
        if not hooks or not by_steps or threading.current_thread() is not threading.main_thread():
            print_log(
                'GracefulStopHook: signals end this run at once. It needs a SafeCheckpointHook with by_epoch=False, '
                'a loop by steps, and the main thread',
                logger='current',
                level=logging.WARNING,
            )
            return
        self._checkpoints = hooks[0]
        for loader in [runner.train_dataloader] + ([] if runner.val_loop is None else [runner.val_dataloader]):
            loader.worker_init_fn = partial(shielded_worker, loader.worker_init_fn, self.signals)
        self._before = {number: signal.signal(number, self._handle) for number in self.signals}

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """End training after a step, if requested."""
        self._stop_if_asked(runner, in_step=True)

    def before_val(self, runner: Any) -> None:
        """Exit before a validation, if the signal came during the step before it."""
        if self._checkpoints is not None and runner.train_loop.stop_training and on_any_rank(self._asked is not None):
            self._leave_validation(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Count the batches that every process has: all processes can communicate only after these."""
        if self._checkpoints is not None:
            count = torch.tensor([len(runner.val_dataloader)])
            all_reduce(count, 'min')
            self._common_batches = int(count)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Abandon the validation after a batch, if requested."""
        if self._checkpoints is None or batch_idx >= self._common_batches or not on_any_rank(self._asked is not None):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # during validation the model has the averaged weights
                hook.after_val_epoch(runner)
        self._leave_validation(runner)

    def after_val(self, runner: Any) -> None:
        """End training after a validation, if the signal came near its end."""
        self._stop_if_asked(runner)

    def after_train(self, runner: Any) -> None:
        """Restore the signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before, self._checkpoints = {}, None

    def _stop_if_asked(self, runner: Any, in_step: bool = False) -> None:
        if self._checkpoints is None or not on_any_rank(self._asked is not None):
            return
        self._checkpoints.save_step(runner, in_step=in_step, final=True)
        runner.train_loop.stop_training = True
        self._tell(runner)

    def _leave_validation(self, runner: Any) -> None:
        """Save and exit the process: a validation loop offers no other way out."""
        assert self._checkpoints is not None
        self._checkpoints.save_step(runner, final=True)
        self._tell(runner)
        runner.call_hook('after_train')
        raise SystemExit(0)

    def _tell(self, runner: Any) -> None:
        assert self._checkpoints is not None
        name = self._asked[0].name if self._asked else 'a signal to another process'
        runner.logger.info(
            f'ended by {name}; saved as {self._checkpoints.last_ckpt}. The same command with --resume continues'
        )

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Only record the request: a handler can run between any two instructions, where saving is not safe."""
        now = time.monotonic()
        window = 0.0 if number == signal.SIGINT and 'TORCHELASTIC_RUN_ID' not in os.environ else ONE_REQUEST
        again = self._asked is not None and now - self._asked[1] > window
        if os.getpid() != self._owner or again:
            signal.signal(number, signal.SIG_DFL)  # forked processes inherit the handler, but do not train
            os.kill(os.getpid(), number)
        elif self._asked is None:
            self._asked = (signal.Signals(number), now)
            os.write(2, b'stopping: the step is finished and saved first; a second signal ends at once\n')


def shielded_worker(init: Callable[[int], None] | None, signals: Sequence[signal.Signals], worker_id: int) -> None:
    """``worker_init_fn`` of a data loader: make the worker ignore ``signals``, except SIGTERM from its parent.

    By default torch's workers end on SIGTERM from any process, which raises an error in the middle of the parent's
    step.

    Args:
        init: the loader's own ``worker_init_fn``.
        signals: signals to block.
        worker_id: number of the worker.
    """
    if init is not None:
        init(worker_id)
    if hasattr(signal, 'sigwaitinfo'):  # macOS lacks it: workers there keep torch's behaviour
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
