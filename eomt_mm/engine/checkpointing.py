"""Checkpoint hook that never loses the last good checkpoint to a kill or a full disk."""

import logging
import os
import shutil
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from eomt_mm.engine.resuming import POINTER
from eomt_mm.fileio.leftovers import remove_unfinished
from eomt_mm.hosts.local_backend import AtomicLocalBackend
from eomt_mm.registry import HOOKS

# Entries of the message hub, which checkpoints hold. From mmengine: numbers of the kept checkpoints, newest one.
KEPT, LAST = 'keep_ckpt_ids', 'last_ckpt'
OUTDATED = 'outdated_best_ckpts'  # best checkpoints to delete once no checkpoint refers to them
VALIDATION_DUE = 'due_validation'  # True from the last step before a validation to the end of the validation
FORMER_VALIDATION_DUE = 'validation_due'  # in older checkpoints; mmengine logs entries whose names begin with 'val'


def on_any_rank(flag: bool) -> bool:
    """Return whether ``flag`` is true in any process. A collective operation: every process must call it."""
    if get_world_size() == 1:
        return flag
    found = torch.tensor([int(flag)])
    all_reduce(found, 'max')
    return bool(found.item())


def is_not_deprecation(record: logging.LogRecord) -> bool:
    """Return False for mmengine's deprecation warnings about its own ``FileClient``, which no option avoids."""
    return not record.getMessage().startswith(('"FileClient" will be', '"HardDiskBackend" is'))


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with writes and deletions ordered so that a kill at any moment loses nothing.

    - Replaced checkpoints are deleted only after the new checkpoint and ``last_checkpoint`` are in place. A best
      checkpoint stays until no checkpoint refers to it, so that a resumed run finds the file.
    - A checkpoint that is saved just before a validation records that the validation is due. After the validation it
      is saved again, with the new best score. A run that was killed during the validation resumes with that
      validation; a run that was killed later does not repeat it.
    - If a checkpoint cannot be written (``OSError`` in any process: full disk, no permission), the hook logs the file
      and the free space. Earlier checkpoints are kept, training continues, and the next save may succeed. The last
      save of a run raises instead.
    - With ``save_last``, a run that another hook ends early is saved too.

    Takes mmengine's arguments, except that ``backend_args`` replaces the deprecated ``file_client_args``.

    Raises:
        ValueError: ``file_client_args`` is given; during training, if the metrics lack the one named by ``save_best``.
        OSError: the last checkpoint of a run cannot be written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError(f'file_client_args={self.file_client_args}: give backend_args')
        self.keep_ckpt_ids: deque[int]
        self._training = False
        self._first = 0  # number of steps completed before this run
        # Steps of the latest attempt to save and of the latest success; equal in all processes.
        self._tried: int | None = None
        self._saved: int | None = None
        self._named: set[str] = set()  # best checkpoints that the newest checkpoint refers to

    # Stages ----------------------------------------------------------------------------------------------------------

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Rename the entry that older checkpoints have for a due validation."""
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        if FORMER_VALIDATION_DUE in info:
            info[VALIDATION_DUE] = info.pop(FORMER_VALIDATION_DUE)

    def before_train(self, runner: Any) -> None:
        """Restore the state from a resumed checkpoint, and remove unfinished files of killed runs."""
        runner.logger.addFilter(is_not_deprecation)
        super().before_train(runner)
        hub = runner.message_hub
        self._training, self._first = True, self._step(runner)
        self._tried = self._saved = self._first if hub.get_info(VALIDATION_DUE, False) else None
        if hub.get_info(LAST):
            self.last_ckpt = self._own([hub.get_info(LAST)])[0]
        for keys in self._best_keys().values():
            if hub.get_info(keys[1]):  # use this run's folder, even if it was moved: never delete files of another run
                path = self._own([hub.get_info(keys[1])])[0]
                self._set_best(runner, keys, path if self.file_backend.exists(path) else None)
        self._named = {path for _, path in self._best_paths(runner) if path}
        if is_main_process():
            self._attempt(runner, partial(self._remove_unfinished, runner))
        self._delete_outdated(runner)
        if self.by_epoch:  # if no epoch is left, the loop calls no later stage
            self._make_up_validation(runner)

    def before_train_epoch(self, runner: Any) -> None:
        """Run the validation that a resumed run was killed in."""
        if not self.by_epoch:
            self._make_up_validation(runner)

    def _make_up_validation(self, runner: Any) -> None:
        if runner.message_hub.get_info(VALIDATION_DUE, False) and runner.val_loop is not None:
            runner.logger.info(f'the run was interrupted in the validation after step {self._first}: validating first')
            runner.val_loop.run()

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Save every ``interval`` steps, and at the end."""
        if not self.by_epoch:
            self._foresee_validation(runner)
        super().after_train_iter(runner, *args, **kwargs)

    def after_train_epoch(self, runner: Any) -> None:
        """With ``by_epoch``, save every ``interval`` epochs, and at the end."""
        if self.by_epoch:
            self._foresee_validation(runner)
        super().after_train_epoch(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, Any]) -> None:
        """Save the best checkpoint, then save this step's checkpoint again if it exists."""
        if not self._training:
            return
        super().after_val_epoch(runner, metrics)
        runner.message_hub.update_info(VALIDATION_DUE, False)
        if self._tried == self._step(runner):
            self.save_step(runner, again=True)

    def after_train(self, runner: Any) -> None:
        """Save the last step if the run ended early and the step is not saved yet."""
        if self.save_last and self._first < self._step(runner):
            self.save_step(runner, final=True)
        self._training = False
        super().after_train(runner)

    # Saving ----------------------------------------------------------------------------------------------------------

    def save_step(self, runner: Any, in_step: bool = False, final: bool = False, again: bool = False) -> None:
        """Save a checkpoint of the current step (or epoch), unless it is already saved.

        Args:
            runner: the training's runner.
            in_step: the call comes from ``after_train_iter`` (or ``after_train_epoch``), before mmengine has counted
                the step (or epoch).
            final: raise if the checkpoint cannot be written, as at the end of the schedule.
            again: save even if it is already saved.
        """
        step = self._step(runner, in_step)
        if self._saved == step and not again:
            return
        self._tried = step
        if self.by_epoch:
            meta = dict(epoch=step, iter=runner.iter)
        else:
            meta = dict(epoch=runner.epoch, iter=step)
        self._save_checkpoint_with_step(runner, step, meta, final or step >= self._last_step(runner))

    def _save_checkpoint(self, runner: Any) -> None:
        self.save_step(runner, in_step=True)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any], final: bool = False) -> None:
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        info: dict[str, Any] = {LAST: path}
        kept: list[int] = []
        if self.max_keep_ckpts > 0:  # includes checkpoints about to be deleted: mmengine deletes them after a resume
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            info[KEPT] = kept
        options = dict(
            save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler,
            by_epoch=self.by_epoch, **self.args,
        )  # fmt: skip
        if not self._write(runner, path, info, meta, final, **options):
            return
        self.last_ckpt, self._saved = path, step
        if is_main_process():
            pointer = os.path.join(runner.work_dir, POINTER)
            self._attempt(runner, partial(AtomicLocalBackend().put_text, path, pointer))
        if kept:
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
            runner.message_hub.update_info(KEPT, list(self.keep_ckpt_ids))
        surplus = [self.filename_tmpl.format(other) for other in kept[: -self.max_keep_ckpts]]
        self._named = {best for _, best in self._best_paths(runner) if best}
        self._delete(runner, self._own(surplus))
        self._delete_outdated(runner)

    def _write(
        self, runner: Any, path: str, info: dict[str, Any], meta: dict[str, Any], final: bool, **options: Any
    ) -> bool:
        """Save with ``info`` in the message hub; on failure, restore the hub and log the error, or raise if ``final``.

        Returns:
            whether all processes succeeded.
        """
        hub, error = runner.message_hub, None
        before = {key: hub.get_info(key) for key in info}
        hub.update_info_dict(info)
        try:
            runner.save_checkpoint(
                self.out_dir, os.path.basename(path), meta=meta, backend_args=self.backend_args, **options
            )
        except OSError as failure:
            error = failure
        if not on_any_rank(error is not None):
            return True
        for key, value in before.items():
            hub.pop_info(key) if value is None else hub.update_info(key, value)
        reason = f'{error} ({_free_space(self.out_dir)})' if error else 'see the other processes'
        text = f'checkpoint {path} could not be written: {reason}. The last whole one is {self.last_ckpt}'
        if final:
            raise OSError(f'{text}. Free some space and continue with --resume') from error
        runner.logger.error(f'{text}; training continues, and the next save may succeed')
        return False

    def _step(self, runner: Any, in_step: bool = False) -> int:
        """Return the number of completed steps (or epochs)."""
        return (runner.epoch if self.by_epoch else runner.iter) + in_step

    def _last_step(self, runner: Any) -> int:
        return runner.max_epochs if self.by_epoch else runner.max_iters

    def _foresee_validation(self, runner: Any) -> None:
        """Record whether the loop will validate after this step. A loop by epochs validates only after epochs."""
        step, due = self._step(runner, in_step=True), False
        if runner.val_loop is not None and isinstance(runner.train_loop, EpochBasedTrainLoop) == self.by_epoch:
            at_interval = step % runner.val_interval == 0 or step == self._last_step(runner)
            due = step >= runner.val_begin and at_interval
        runner.message_hub.update_info(VALIDATION_DUE, due)

    # Best checkpoints ------------------------------------------------------------------------------------------------

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        for indicator, rule in zip(self.key_indicators, self.rules, strict=True):
            if indicator not in metrics:
                raise ValueError(f"save_best='{indicator}': the metrics are {sorted(metrics)}")
            score, (score_key, _) = metrics[indicator], self._best_keys()[indicator]
            best = runner.message_hub.get_info(score_key, self.init_value_map[rule])
            if score is not None and self.is_better_than[indicator](score, best):
                self._replace_best(runner, indicator, score)

    def _replace_best(self, runner: Any, indicator: str, score: float) -> None:
        hub, keys = runner.message_hub, self._best_keys()[indicator]
        step = self._step(runner)
        # The slash after a metric's prefix must not become a folder.
        name = f'best_{indicator}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        path, old = self.file_backend.join_path(self.out_dir, name), hub.get_info(keys[1])
        info = dict(zip(keys, (score, path), strict=True))
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        options = dict(save_optimizer=False, save_param_scheduler=False, by_epoch=False)
        if not self._write(runner, path, info, meta, final=False, **options):
            return
        self._set_best(runner, keys, path)
        runner.logger.info(f'The best checkpoint with {score:0.4f} {indicator} at step {step} is saved to {name}.')
        if old and old != path:
            if old in self._named:
                hub.update_info(OUTDATED, [*hub.get_info(OUTDATED, []), old])
            else:
                self._delete(runner, [old])

    def _best_keys(self) -> dict[str, tuple[str, str]]:
        """Return mmengine's message-hub keys for score and path, per metric of ``save_best``."""
        if not self.save_best:
            return {}
        ends = [''] if len(self.key_indicators) == 1 else [f'_{indicator}' for indicator in self.key_indicators]
        return {
            indicator: (f'best_score{end}', f'best_ckpt{end}')
            for indicator, end in zip(self.key_indicators, ends, strict=True)
        }

    def _best_paths(self, runner: Any) -> list[tuple[str, str | None]]:
        return [(indicator, runner.message_hub.get_info(key)) for indicator, (_, key) in self._best_keys().items()]

    def _set_best(self, runner: Any, keys: tuple[str, str], path: str | None) -> None:
        """Record a best checkpoint where mmengine looks for it."""
        runner.message_hub.update_info(keys[1], path)
        paths = dict(self._best_paths(runner))
        if len(paths) == 1:
            self.best_ckpt_path = next(iter(paths.values()))
        else:
            self.best_ckpt_path_dict.update(paths)

    # Files -----------------------------------------------------------------------------------------------------------

    def _own(self, paths: list[str]) -> list[str]:
        """Move paths into this run's folder, keeping their file names."""
        return [self.file_backend.join_path(self.out_dir, os.path.basename(path)) for path in paths]

    def _delete(self, runner: Any, paths: list[str]) -> None:
        """Delete checkpoint files, and the checkpoint folders of sharded or DeepSpeed runs."""
        if not is_main_process():
            return
        for path in paths:
            if self.file_backend.isfile(path):
                self._attempt(runner, partial(self.file_backend.remove, path))
            elif self.file_backend.isdir(path):
                self._attempt(runner, partial(self.file_backend.rmtree, path))

    def _remove_unfinished(self, runner: Any) -> None:
        """Remove files that killed runs left unfinished, including logs, metrics and imported weights in subfolders."""
        found = remove_unfinished(runner.work_dir, depth=2)
        if isinstance(self.file_backend, LocalBackend):
            found += remove_unfinished(self.out_dir)
        if found:
            runner.logger.info(f'removed {len(found)} unfinished files of killed processes, such as {found[0]}')

    def _delete_outdated(self, runner: Any) -> None:
        self._delete(runner, self._own(runner.message_hub.get_info(OUTDATED, [])))
        runner.message_hub.update_info(OUTDATED, [])

    def _attempt(self, runner: Any, action: Callable[[], None]) -> None:
        """Run an action whose failure must not end the training; log the error instead."""
        try:
            action()
        except OSError as error:
            runner.logger.error(f'{error} ({_free_space(self.out_dir)}); training continues')


def _free_space(folder: str) -> str:
    try:
        return f'{shutil.disk_usage(folder).free / 2**30:.2f} GiB free in {folder}'
    except OSError:  # the folder does not exist or is not local
        return f'in {folder}'
