"""Restore the config's optimiser and schedule settings in a resumed run; their state comes from the checkpoint.

mmengine and torch load settings and state together: ``Optimizer.load_state_dict`` also replaces learning rates, weight
decay and betas of the parameter groups, and ``_ParamScheduler.load_state_dict`` replaces every attribute, including
the schedule's length.
"""

import warnings
from collections.abc import Iterator
from copy import deepcopy
from itertools import chain
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from eomt_mm.engine.schedule import TwoStagePolyLR

State = dict[str, Any]
# Keys of parameter groups that are not settings, or that the schedule sets at each step.
NO_SETTINGS = ('params', 'param_names', 'lr')
# Keys of schedulers that change at each step, or repeat settings of the groups.
COUNTS = ('last_step', '_global_step', '_last_value', 'base_values')


class ConfigSettings:
    """Settings of optimiser and schedules as built from the config, before a checkpoint is loaded."""

    def __init__(self, runner: Any) -> None:
        self.groups = [{key: deepcopy(group[key]) for key in group if key != 'params'} for group in groups_of(runner)]
        self.schedulers = [deepcopy(scheduler.state_dict()) for scheduler in schedulers_of(runner)]

    def check_fit(self, saved: State, source: str) -> None:
        """Check that the checkpoint has the same parameter groups, because torch assigns optimiser state by position.

        Args:
            saved: ``optimizer`` of the checkpoint.
            source: the checkpoint, for the message.

        Raises:
            ValueError: the parameters or their grouping differ.
        """
        own = [group['param_names'] for group in self.groups if 'param_names' in group]
        theirs = [group['param_names'] for group in saved.get('param_groups', ()) if 'param_names' in group]
        if not (own and theirs) or own == theirs:
            return
        differing = sorted(set(chain(*own)) ^ set(chain(*theirs)))
        what = f'other trained parameters, such as {differing[0]}' if differing else 'the same parameters'
        raise ValueError(
            f'--resume: {source} has momenta for {len(theirs)} parameter groups, the config has {len(own)} groups with '
            f'{what}: resume with the layer_decay, frozen_stages and number of blocks of the checkpoint, or start a '
            f'new training from its weights with load_from={source}'
        )

    def restore(self, runner: Any) -> None:
        """Restore the settings after a resume, set the schedules to the runner's step, and log what changed."""
        schedulers = schedulers_of(runner)
        follows_metric = any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers)
        changes: dict[str, str] = {}
        for group, settings in zip(groups_of(runner), self.groups, strict=True):
            _note(changes, group, settings, NO_SETTINGS)
            kept = {key: group[key] for key in ('lr', 'initial_lr') if follows_metric and key in group}
            group.update(deepcopy(settings), **kept)
        if follows_metric:
            print_log('schedules that follow a metric keep the state and rates of the checkpoint', logger='current')
        else:
            for scheduler, state in zip(schedulers, self.schedulers, strict=True):
                _note(changes, scheduler.state_dict(), state, COUNTS)
                optimizer = scheduler.optimizer
                vars(scheduler).clear()
                vars(scheduler).update(deepcopy(state), optimizer=optimizer)
            advance(schedulers, runner.iter, runner.epoch)
        if changes:
            listed = ', '.join(f'{name} {change}' for name, change in changes.items())
            print_log(f'settings that differ from those of the checkpoint follow the config: {listed}', 'current')


def groups_of(runner: Any) -> list[State]:
    """Return the parameter groups of all optimisers, including the one that mmengine adds for its log."""
    wrapper = runner.optim_wrapper
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [group for part in parts for group in part.param_groups]


def schedulers_of(runner: Any) -> list[_ParamScheduler]:
    """Return the schedulers of all optimisers."""
    found = runner.param_schedulers or []
    return list(chain(*found.values())) if isinstance(found, dict) else list(found)


def advance(schedulers: list[_ParamScheduler], steps: int, epochs: int) -> None:
    """Advance new schedulers by ``steps`` steps, or by ``epochs`` if they count epochs.

    mmengine's schedulers compute each value from the previous one, so every step is replayed.
    """
    if all(isinstance(scheduler, TwoStagePolyLR) for scheduler in schedulers):
        for scheduler in schedulers:
            assert isinstance(scheduler, TwoStagePolyLR)
            scheduler.jump(steps)
        return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch warns because the optimiser's steps are not replayed
        for step in range(max(steps, epochs)):
            for scheduler in schedulers:
                if step < (epochs if scheduler.by_epoch else steps):
                    scheduler.step()


def _note(changes: dict[str, str], before: State, after: State, but: tuple[str, ...]) -> None:
    """Add the settings that change; if a setting changes in several groups, the first change is shown."""
    for key in _changed(before, after):
        if key not in but:
            changes.setdefault(key.removeprefix('initial_'), f'{before[key]} -> {after[key]}')


def _changed(before: State, after: State) -> Iterator[str]:
    return (key for key in after if key in before and bool(before[key] != after[key]))
