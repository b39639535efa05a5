"""Progress log of a run: a header at the start, then lines with losses, learning rate, masks and time."""

import datetime
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmdet.datasets import BaseVideoDataset
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import LoggerHook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from eomt_mm.core.head import EoMTHead
from eomt_mm.datasets.sampling import SeededDataset
from eomt_mm.engine.threads import usable_cpus
from eomt_mm.engine.train_loop import TrainLoop
from eomt_mm.registry import HOOKS

SHORT_RUN = 10_000  # runs of up to this many steps log more often
TIMED_STEPS = 5  # steps before the time per step is reported; the first one is left out of the mean
LOSSES = dict(loss='loss', loss_cls='cls', loss_mask='mask', loss_dice='dice')  # total, then losses of the final layer
KINDS = dict(thing='things', stuff='stuff')
Scalars = Mapping[str, Any]


@HOOKS.register_module()
class RunLogHook(LoggerHook):
    """mmengine's ``LoggerHook`` with a header, lines for the first and the last step, and short lines on the screen.

    The log file and ``scalars.json`` get all scalars. The screen (:mod:`eomt_mm.engine.console`) gets the total loss,
    the losses of the final layer, learning rate, mask probabilities, peak memory, time per step and time left.

    Args:
        interval: steps between lines. None: 50, but 10 in runs of up to 10,000 steps, where the log processor's window
            is shortened to at most 10 steps as well.
        **kwargs: arguments of mmengine's hook.
    """

    def __init__(self, interval: int | None = None, **kwargs: Any) -> None:
        super().__init__(interval=interval or 50, **kwargs)
        self._derived = interval is None
        self._train_interval = self.interval
        self._first = 0

    def before_run(self, runner: Runner) -> None:
        """Log data, model, steps, device and results folder of a training."""
        super().before_run(runner)
        if isinstance(runner._train_loop, BaseLoop):
            runner.logger.info('\n'.join(header(runner)))

    def before_train(self, runner: Runner) -> None:
        """Choose the interval."""
        self._first = runner.iter
        if self._derived and runner.max_iters <= SHORT_RUN:
            self._train_interval = 10
            runner.log_processor.window_size = min(10, runner.log_processor.window_size)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log the first and the last step and one step per interval, and once the time per step."""
        step = runner.iter + 1
        done = step - self._first
        if done == TIMED_STEPS < runner.max_iters - self._first:
            mean, left = mean_time(runner, done), runner.max_iters - step
            text = f'{mean:.2f} s per step: {time_text(mean * left)} for the other {left}, without validation'
            runner.logger.info(text)
        if done == TIMED_STEPS and not any_target(runner, done):
            runner.logger.warning(
                f'no image of the first {done} steps has a target: its annotations are void. Draw them with '
                'tools/browse_dataset.py, and check metainfo.classes and, of label maps, label_ids'
            )
        if done == 1 or step == runner.max_iters or step % self._train_interval == 0:
            scalars, text = runner.log_processor.get_log_after_iter(runner, batch_idx, 'train')
            seconds = mean_time(runner, done) if done > 1 else None
            runner.logger.info(text, extra=dict(screen=short_line(scalars, step, runner.max_iters, seconds)))
            runner.visualizer.add_scalars(scalars, step=step, file_path=self.json_log_path)


def any_target(runner: Runner, done: int) -> bool:
    """Whether the last ``done`` steps had a target: without one, the losses of masks are exactly 0."""
    scalars = runner.message_hub.log_scalars
    losses = [scalars[f'train/{name}'] for name in ('loss_mask', 'loss_dice') if f'train/{name}' in scalars]
    return not losses or any(loss.mean(done) != 0 for loss in losses)


def mean_time(runner: Runner, done: int) -> float:
    """Return the mean seconds per step over the ``done`` steps of this run, leaving out the first."""
    return runner.message_hub.get_scalar('train/time').mean(done - 1)


def short_line(scalars: Scalars, step: int, total: int, seconds: float | None) -> str:
    """Format the line of a step for the screen.

    Args:
        scalars: scalars of the step, as the log processor collects them.
        step: number of completed steps.
        total: length of the run in steps.
        seconds: seconds per step; None: not known yet.
    """
    parts = [f'[{step:>{len(str(total))}}/{total}]']
    parts += [f'{label} {scalars[name]:.3f}' for name, label in LOSSES.items() if name in scalars]
    rate = scalars.get('base_lr', scalars.get('lr'))
    if rate is not None:
        parts.append(f'lr {rate:.1e}')
    probs = [value for name, value in scalars.items() if name.startswith('mask_prob_')]
    if probs:
        same = {1.0: 'on', 0.0: 'off'}.get(probs[0]) if len(set(probs)) == 1 else None
        parts.append(f'masks {same or " ".join(f"{prob:.2f}" for prob in probs)}')
    parts.append(f'memory {peak_memory(scalars):.1f} GiB')
    if seconds is not None:
        parts.append(f'{seconds:.2f} s/step  ETA {time_text(seconds * (total - step))}')
    return '  '.join(parts)


def peak_memory(scalars: Scalars) -> float:
    """Return the peak memory in GiB: of the accelerator if the log processor has it (in MiB), else resident memory."""
    if 'memory' in scalars:
        return scalars['memory'] / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 2**30


def time_text(seconds: float) -> str:
    """Format seconds as H:MM:SS."""
    return str(datetime.timedelta(seconds=round(seconds)))


def header(runner: Runner) -> list[str]:
    """Describe data, model, steps, device and results folder of a training, one line each."""
    log = Path(runner.log_dir, f'{runner.timestamp}.log')
    lines = [
        ('data', data_text(runner)),
        ('model', model_text(runner)),
        ('steps', steps_text(runner)),
        ('device', device_text()),
        ('results', f'{runner.work_dir} (log, config and all losses: {log})'),
    ]
    return ['training', *(f'  {name:<8} {text}' for name, text in lines)]


def data_text(runner: Runner) -> str:
    """Describe the data: numbers of images and classes."""
    dataset = runner.train_dataloader.dataset
    meta = getattr(dataset, 'metainfo', {})
    unit = 'videos' if isinstance(unwrapped(dataset), BaseVideoDataset) else 'images'
    parts = [f'{len(dataset)} {unit} to train']
    if runner.val_loop is not None:
        parts.append(f'{len(runner.val_dataloader.dataset)} to validate')
    if 'classes' in meta:
        kinds = [f'{len(meta[f"{kind}_classes"])} {name}' for kind, name in KINDS.items() if f'{kind}_classes' in meta]
        parts.append(f'{len(meta["classes"])} classes' + (f' ({", ".join(kinds)})' if kinds else ''))
    return ', '.join(parts)


def unwrapped(dataset: Any) -> Any:
    """Return the host's data set without our wrapper."""
    return dataset.dataset if isinstance(dataset, SeededDataset) else dataset


def model_text(runner: Runner) -> str:
    """Describe the model: backbone, number of parameters, queries, joint blocks."""
    model: nn.Module = runner.model
    name = runner.cfg.get('model', {}).get('backbone', {}).get('model_name') or type(model).__name__
    parts = [f'{name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters']
    for head in [module for module in model.modules() if isinstance(module, EoMTHead)][:1]:
        parts.append(f'{head.num_queries} queries, {head.num_blocks} joint blocks')
    if 'img_size' in runner.cfg:
        parts.append(f'input {runner.cfg.img_size} px')
    return ', '.join(parts)


def steps_text(runner: Runner) -> str:
    """Describe the length of the run in steps and epochs."""
    loop, text = runner.train_loop, f'{runner.max_iters}'
    if isinstance(loop, TrainLoop):
        epochs = runner.max_iters * loop.samples_per_step / len(loop.dataloader.dataset)
        text += f' of {loop.samples_per_step} images ({epochs:.1f} epochs)'
        if runner.val_loop is not None:
            text += f', validation every {loop.val_interval}'
    return text


def device_text() -> str:
    """Describe the device: accelerator, or CPU with its number of threads."""
    text = get_device()
    if text == 'cuda':
        text = torch.cuda.get_device_name()
    elif text == 'cpu':
        cpus = usable_cpus()
        text = f'CPU, threads: {torch.get_num_threads()} (usable CPUs: {cpus}; OMP_NUM_THREADS sets another number)'
    return text if get_world_size() == 1 else f'{get_world_size()} processes, {text}'
