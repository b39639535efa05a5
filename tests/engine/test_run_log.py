"""Lines of progress: when they come and what the screen shows of them; threads on a shared machine."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.logging import MessageHub

from eomt_mm.engine.console import ScreenFormatter, is_for_screen
from eomt_mm.engine.run_log import RunLogHook, short_line
from eomt_mm.engine.threads import Load, free_threads, quotas, set_threads, usable_cpus

SCALARS = dict(
    base_lr=1e-3, lr=5e-4, loss=44.2109, loss_cls=4.0001, loss_mask=3.063, loss_dice=3.9951, memory=2048,
    mask_prob_0=0.25, mask_prob_1=1.0,
) | {'d0.loss_cls': 4.0}  # fmt: skip


def logged(steps: int, first: int = 0, **options: Any) -> list[str]:
    """What a run of ``steps`` steps logs."""
    lines: list[str] = []
    hub = MessageHub.get_instance(f'run {steps} {first} {options}')
    runner: Any = SimpleNamespace(
        iter=first, max_iters=steps, message_hub=hub,
        log_processor=SimpleNamespace(window_size=50, get_log_after_iter=lambda *_: ({}, f'line {runner.iter + 1}')),
        logger=SimpleNamespace(info=lambda text, **_: lines.append(text)),
        visualizer=SimpleNamespace(add_scalars=lambda *_, **__: None),
    )  # fmt: skip
    hook = RunLogHook(**options)
    hook.before_train(runner)
    for runner.iter in range(first, steps):
        hub.update_scalar('train/time', 60.0 if runner.iter == first else 0.5)
        hook.after_train_iter(runner, runner.iter)
    return lines


def test_first_and_last_step_and_one_of_each_interval_are_logged() -> None:
    speed = '0.50 s per step: 0:00:10 for the other 20, without validation'  # the slow first step is left out
    assert logged(25) == ['line 1', speed, 'line 10', 'line 20', 'line 25']
    assert logged(25, interval=12)[2:] == ['line 12', 'line 24', 'line 25']
    assert [line for line in logged(20_000) if line.startswith('line')][:3] == ['line 1', 'line 50', 'line 100']
    assert logged(20, first=17) == ['line 18', 'line 20']


@pytest.mark.parametrize(('losses', 'is_said'), [([0, 0, 0, 0, 0], True), ([0, 0, 0.1, 0, 0], False), ([], False)])
def test_steps_without_a_target(losses: list[float], is_said: bool) -> None:
    warnings: list[str] = []
    hub = MessageHub.get_instance(f'targets {losses}')
    runner: Any = SimpleNamespace(
        iter=0, max_iters=9, message_hub=hub,
        log_processor=SimpleNamespace(window_size=10, get_log_after_iter=lambda *_: ({}, '')),
        logger=SimpleNamespace(info=lambda *_, **__: None, warning=warnings.append),
        visualizer=SimpleNamespace(add_scalars=lambda *_, **__: None),
    )  # fmt: skip
    hook = RunLogHook()
    hook.before_train(runner)
    for runner.iter in range(9):
        hub.update_scalar('train/time', 0.5)
        if losses:
            loss = losses[runner.iter] if runner.iter < 5 else 0.3
            hub.update_scalars({'train/loss_mask': loss, 'train/loss_dice': 0.0})
        hook.after_train_iter(runner, runner.iter)
    assert ['no image of the first 5 steps has a target' in line for line in warnings] == [True] * is_said


def test_line_for_the_screen() -> None:
    shown = short_line(SCALARS, 10, 250, 0.57)
    losses = 'loss 44.211  cls 4.000  mask 3.063  dice 3.995'
    assert shown == f'[ 10/250]  {losses}  lr 1.0e-03  masks 0.25 1.00  memory 2.0 GiB  0.57 s/step  ETA 0:02:17'
    off = dict(SCALARS, mask_prob_0=0.0, mask_prob_1=0.0)
    assert '  masks off  ' in short_line(off, 10, 250, None)
    assert 's/step' not in short_line(off, 10, 250, None)
    assert short_line(dict(loss=1.0), 1, 2, None).startswith('[1/2]  loss 1.000  memory ')


def test_screen_leaves_out_what_the_file_gets() -> None:
    def record(text: str, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
        return logging.makeLogRecord(dict(msg=text, levelno=level, levelname=logging.getLevelName(level), **more))

    assert not is_for_screen(record('Config:\nmodel = 1'))
    assert is_for_screen(record('Config: is odd', logging.WARNING))
    assert ScreenFormatter().format(record('whole', screen='short')).endswith(' short')
    warning = record('odd', logging.WARNING)
    assert ScreenFormatter().format(warning).endswith(' WARNING: odd')
    assert warning.getMessage() == 'odd'  # for the file


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('usable', 'total', 'busy', 'threads'), [(2, 2, 0.1, 2), (2, 2, 1.9, 1), (2, 2, 5, 1), (2, 64, 40, 2), (8, 8, 3, 5)]
)
def test_others_are_left_their_cpus(usable: int, total: int, busy: float, threads: int) -> None:
    assert free_threads(usable, total, busy) == threads


@pytest.mark.parametrize(
    ('membership', 'files', 'expected'),
    [
        ('0::/a/b\n', {'a/cpu.max': '150000 100000\n', 'a/b/cpu.max': 'max 100000\n'}, [1.5]),
        ('0::/\n', {}, []),
        ('3:cpu,cpuacct:/a\n0::/a\n', {'cpu/a/cpu.cfs_quota_us': '400000', 'cpu/a/cpu.cfs_period_us': '100000'}, [4]),
        ('3:cpu:/a\n5:memory:/a\n', {'cpu/a/cpu.cfs_quota_us': '-1', 'cpu/a/cpu.cfs_period_us': '100000'}, []),
    ],
)
def test_quotas_of_control_groups(
    membership: str, files: dict[str, str], expected: list[float], tmp_path: Path
) -> None:
    (tmp_path / 'membership').write_text(membership)
    for name, text in files.items():
        (tmp_path / 'groups' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'groups' / name).write_text(text)
    assert quotas(tmp_path / 'groups', tmp_path / 'membership') == expected


def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    import torch

    monkeypatch.setattr(Load, 'busy_elsewhere', lambda _: 1000.0)
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    torch.set_num_threads(2)
    set_threads(Load())
    assert torch.get_num_threads() == 2  # torch has read it
    monkeypatch.delenv('OMP_NUM_THREADS')
    set_threads(Load())
    assert torch.get_num_threads() == 1
    assert usable_cpus() == 1 or 'other processes keep 1000.0 CPUs busy' in capsys.readouterr().out
