"""SIGTERM: the step is finished and saved, the process ends with status 0, and a resumed run goes on."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_runs import BY_EPOCH, STEPS, files, full_disk, info, load, make_runner, quick, resumed, state
from mmengine.hooks import Hook
from mmengine.runner import Runner
from paths import ROOT
from tool_runs import CONFIGS, losses, small

from eomt_mm.engine import stop
from eomt_mm.engine.checkpointing import VALIDATION_DUE, SafeCheckpointHook
from eomt_mm.engine.stop import GracefulStopHook, shielded_worker

__all__ = ['quick']  # an autouse fixture
HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[signal.Signals, Any]]:
    """Whatever a test leaves, the next one starts as Python does."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class Send(Hook):
    """Sends a signal to this process at one moment of a run."""

    priority = 'VERY_HIGH'

    def __init__(self, stage: str, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.step, self.number = step, number
        setattr(self, stage, self._send)

    def _send(self, runner: Runner, *_: Any, **__: Any) -> None:
        if int(runner.model.steps) == self.step:
            os.kill(os.getpid(), self.number)

    def get_triggered_stages(self) -> list[str]:
        return [stage for stage in Hook.stages if stage in vars(self)]


def stopped_run(work_dir: Path, *hooks: Hook, stop_hook: GracefulStopHook | None = None, **options: Any) -> Runner:
    return make_runner(work_dir, custom_hooks=[stop_hook or GracefulStopHook(), *hooks], **options)


@pytest.mark.parametrize('number', HANDLED)
def test_step_is_finished_and_saved(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture, handlers: dict[signal.Signals, Any]
) -> None:
    runner = stopped_run(tmp_path, Send('before_train_iter', 4, number))
    runner.logger.setLevel(logging.INFO)
    runner.logger.handlers[0].setLevel(logging.INFO)
    runner.train()
    assert files(tmp_path) == ['best_score_iter_2.pth', 'iter_5.pth', 'last_checkpoint']
    saved = load(tmp_path / 'iter_5.pth')
    assert (saved['meta']['iter'], int(saved['state_dict']['steps'])) == (5, 5)
    out, err = capfd.readouterr()
    assert f'ended by {number.name}; saved as {tmp_path}/iter_5.pth. The same command with --resume continues' in out
    assert 'a second signal ends at once' in err
    assert {number: signal.getsignal(number) for number in HANDLED} == handlers


@pytest.mark.parametrize(
    ('stage', 'step'),
    list(product(('before_train_iter', 'after_train_iter'), range(1, STEPS))),
)
def test_resumed_run_ends_like_one_that_was_not_stopped(stage: str, step: int, tmp_path: Path) -> None:
    make_runner(tmp_path / 'whole').train()
    try:
        stopped_run(tmp_path / 'a', Send(stage, step)).train()
    except SystemExit as end:
        assert end.code == 0
    assert max(load(path)['meta']['iter'] for path in (tmp_path / 'a').glob('iter*')) == step + (stage[0] == 'b')
    validated: list[int] = []
    resumed(tmp_path / 'a', validated).train()
    done = [state(tmp_path / name) for name in ('whole', 'a')]
    for key in ('files', 'step', 'weights', 'optimizer'):
        assert done[0][key] == done[1][key]
    assert done[0]['info']['best_score'] == done[1]['info']['best_score']
    last = step + (stage[0] == 'b')
    assert validated == [s for s in (2, 4, 6, 7) if s >= last]  # that of the last step itself was still to come


def test_step_with_a_checkpoint_of_its_own_is_not_saved_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    save = Runner.save_checkpoint
    monkeypatch.setattr(Runner, 'save_checkpoint', lambda self, *a, **k: (saved.append(a[1]), save(self, *a, **k)))
    stopped_run(tmp_path, Send('before_train_iter', 2)).train()
    assert saved == ['best_score_iter_2.pth', 'iter_3.pth']


@pytest.mark.parametrize(('stage', 'step'), [('before_val', 4), ('before_val_iter', 4), ('before_val_iter', 6)])
def test_validation_is_left_and_made_up_for(stage: str, step: int, tmp_path: Path) -> None:
    validated: list[int] = []
    with pytest.raises(SystemExit) as end:
        stopped_run(tmp_path, Send(stage, step), validated=validated).train()
    assert end.value.code == 0
    assert step not in validated
    assert info(tmp_path / f'iter_{step}.pth')[VALIDATION_DUE] is True
    assert load(tmp_path / f'iter_{step}.pth')['meta']['iter'] == step
    again: list[int] = []
    resumed(tmp_path, again).train()
    assert [*validated, *again] == [2, 4, 6, 7]


def test_note_of_older_checkpoints_is_read(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        stopped_run(tmp_path, Send('before_val', 6)).train()
    saved = load(tmp_path / 'iter_6.pth')
    noted = saved['message_hub']['runtime_info']
    noted['validation_due'] = noted.pop(VALIDATION_DUE)
    torch.save(saved, tmp_path / 'iter_6.pth')
    validated: list[int] = []
    resumed(tmp_path, validated).train()
    assert validated == [6, 7]
    assert 'validation_due' not in info(tmp_path / 'iter_7.pth')


def test_stopped_again_in_the_validation_that_is_made_up_for(tmp_path: Path) -> None:
    for run in range(3):
        load_from = str(tmp_path / 'iter_6.pth') if run else None
        runner = stopped_run(tmp_path, Send('before_val_iter', 6), load_from=load_from)
        with pytest.raises(SystemExit):
            runner.train()
        assert (
            next(hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)).last_ckpt == load_from
            or not run
        )
    assert info(tmp_path / 'iter_6.pth')[VALIDATION_DUE] is True


def test_validation_that_is_over_is_not_repeated(tmp_path: Path) -> None:
    validated: list[int] = []
    stopped_run(tmp_path, Send('after_val_epoch', 4), validated=validated).train()
    assert validated == [2, 4]
    assert load(tmp_path / 'iter_4.pth')['meta']['iter'] == 4
    resumed(tmp_path, validated).train()
    assert validated == [2, 4, 6, 7]


def test_averaged_weights_of_a_validation_are_not_taken_for_the_models(tmp_path: Path) -> None:
    """EMAHook exchanges the weights during validation."""
    ema = dict(type='EMAHook', momentum=0.5)
    make_runner(tmp_path / 'whole', custom_hooks=[ema], checkpoint=dict(interval=4)).train()
    for stage in ('before_val', 'before_val_iter'):
        with pytest.raises(SystemExit):
            runner = stopped_run(tmp_path / stage, Send(stage, 4))
            runner.register_hook(ema)
            runner.train()
    a, b = (load(tmp_path / stage / 'iter_4.pth') for stage in ('before_val', 'before_val_iter'))
    assert a['state_dict'].keys() == b['state_dict'].keys()
    assert a['state_dict']['weight'] != a['ema_state_dict']['module.weight']
    for kind in ('state_dict', 'ema_state_dict'):
        for name in a[kind]:
            assert torch.equal(a[kind][name], b[kind][name]), name


def test_full_disk_at_the_stop_is_no_success(tmp_path: Path) -> None:
    for stage, step in (('before_train_iter', 4), ('before_train_iter', 2), ('before_val_iter', 4)):
        name = f'iter_{step + (stage == "before_train_iter")}.pth'
        with full_disk(name), pytest.raises(OSError, match=f'{name} could not be written'):
            stopped_run(tmp_path / name, Send(stage, step)).train()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert not (tmp_path / name / name).exists()


# Signals --------------------------------------------------------------------------------------------------------------


def exit_status_after(action: Callable[[], None]) -> int:
    """Of a forked process that does this."""
    process = os.fork()
    if process == 0:
        try:
            action()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def asked_twice(seconds: float, number: signal.Signals) -> None:
    hook = GracefulStopHook()
    signal.signal(number, hook._handle)
    now = [100.0]
    stop.time.monotonic = lambda: now[0]
    for _ in range(2):
        os.kill(os.getpid(), number)
        now[0] += seconds


@pytest.mark.parametrize(('seconds', 'number'), [(10, signal.SIGTERM), (0.5, signal.SIGINT)])
def test_second_signal_ends_at_once(seconds: float, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    assert exit_status_after(lambda: asked_twice(seconds, number)) == -number


def test_signal_that_is_sent_twice_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """timeout(1) and srun with torchrun do that, and torchrun on Ctrl-C."""
    assert exit_status_after(lambda: asked_twice(0.5, signal.SIGTERM)) == 99
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', '1')
    assert exit_status_after(lambda: asked_twice(0.5, signal.SIGINT)) == 99


def test_forked_process_does_not_inherit_the_request(handlers: dict[signal.Signals, Any]) -> None:
    hook = GracefulStopHook()
    signal.signal(signal.SIGTERM, hook._handle)
    assert exit_status_after(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM
    assert hook._asked is None


def test_unknown_signal_is_refused() -> None:
    with pytest.raises(ValueError, match='SIGWHAT'):
        GracefulStopHook(signals=['SIGTERM', 'SIGWHAT'])


@pytest.mark.parametrize('why', ['epochs', 'no safe checkpoints', 'thread'])
def test_signals_are_left_alone_where_nothing_could_be_saved(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(stop, 'print_log', lambda line, **_: said.append(line))
    monkeypatch.setattr(signal, 'signal', lambda *_: pytest.fail('a handler was installed'))
    options: dict[str, Any] = {
        'epochs': BY_EPOCH,
        'no safe checkpoints': dict(checkpoint=dict(type='CheckpointHook', save_best=None)),
        'thread': {},
    }[why]
    runner = stopped_run(tmp_path, **options)
    failed: list[BaseException] = []

    def train() -> None:
        try:
            runner.train()
        except BaseException as error:
            failed.append(error)

    if why == 'thread':
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    else:
        train()
    assert failed == []
    assert len(said) == 1
    assert 'SafeCheckpointHook' in said[0]


def test_testing_needs_no_training_loop(tmp_path: Path) -> None:
    runner = stopped_run(tmp_path, scores={0: 0.5})
    assert runner.val()['score'] == 0.5
    assert isinstance(runner._train_loop, dict)


# Data loaders ---------------------------------------------------------------------------------------------------------


class Pids(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        return os.getpid()


def send_from_elsewhere(process: int, *numbers: signal.Signals) -> None:
    """A worker obeys its parent, which this process may be."""
    stranger = os.fork()
    if stranger == 0:
        for number in numbers:
            os.kill(process, number)
        os._exit(0)
    os.waitpid(stranger, 0)


def loader_pids(shielded: bool) -> list[int]:
    seeds: list[int] = []
    init = (lambda i: shielded_worker(seeds.append, HANDLED, i)) if shielded else None
    loader = torch.utils.data.DataLoader(Pids(), num_workers=1, worker_init_fn=init)
    batches = iter(loader)
    found = [int(next(batches))]
    send_from_elsewhere(found[0], *HANDLED)
    return found + [int(next(batches)) for _ in range(50)]


def test_worker_outlives_a_signal_to_all_processes() -> None:
    assert len(set(loader_pids(shielded=True))) == 1
    with pytest.raises((RuntimeError, ConnectionError)):  # what it is for
        loader_pids(shielded=False)


def test_worker_obeys_its_parent() -> None:
    context = torch.multiprocessing.get_context('fork')
    ready = context.Event()

    def work() -> None:
        shielded_worker(None, HANDLED, 0)
        ready.set()
        time.sleep(60)

    process = context.Process(target=work, daemon=True)
    process.start()
    assert ready.wait(20)
    send_from_elsewhere(process.pid, signal.SIGTERM)
    process.join(0.3)
    assert process.is_alive()
    process.terminate()
    process.join(20)
    assert process.exitcode == 0


# Several processes ----------------------------------------------------------------------------------------------------


def test_signal_to_another_process_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(stop, 'on_any_rank', lambda _: next(answers))
    stopped_run(tmp_path, train_cfg=dict(by_epoch=False, max_iters=STEPS, val_interval=100)).train()
    assert load(tmp_path / 'iter_3.pth')['meta']['iter'] == 3


def end_of(run: Callable[[], Any]) -> str:
    try:
        run()
    except BaseException as error:
        return f'{type(error).__name__} {error}'
    return 'ended'


def runs_of_one_process(folder: Path) -> list[str]:
    """The signal, or the full disk, is of one process only."""
    rank, ends = torch.distributed.get_rank(), []
    for stage, step, receiver in (('before_train_iter', 4, 1), ('before_val_iter', 4, 1), ('after_val_epoch', 4, 0)):
        hooks = [Send(stage, step)] if rank == receiver else []
        ends.append(end_of(stopped_run(folder / stage, *hooks).train))
    for name in ('iter_6.pth', 'iter_7.pth'):
        with full_disk(*[name] if rank == 0 else []):
            ends.append(end_of(make_runner(folder / name).train))
    return ends


@pytest.mark.slow
def test_all_processes_end_alike(tmp_path: Path) -> None:
    from process_runs import in_two_processes

    for rank, (ends,) in enumerate(in_two_processes(tmp_path, (runs_of_one_process, (tmp_path,)))):
        assert ends[:4] == ['ended', 'SystemExit 0', 'ended', 'ended']
        assert ends[4].startswith(f'OSError checkpoint {tmp_path}/iter_7.pth/iter_7.pth could not be written')
        assert ('GiB free' if rank == 0 else 'see the other processes') in ends[4]
    for stage, step in (('before_train_iter', 5), ('before_val_iter', 4), ('after_val_epoch', 4)):
        assert load(tmp_path / stage / f'iter_{step}.pth')['meta']['iter'] == step


# Real runs ------------------------------------------------------------------------------------------------------------

HOOKS = [
    'train_cfg.type=eomt_mm.TrainLoop',
    'default_hooks.checkpoint.type=eomt_mm.SafeCheckpointHook',
    'default_hooks.stop.type=eomt_mm.GracefulStopHook',
    'default_hooks.checkpoint.interval=5',
    'train_dataloader.num_workers=1',
    'val_dataloader.num_workers=1',
]


def start(coco_root: Path, work_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    options = [*small('panoptic', 40, train_cfg__val_interval=15), *HOOKS]
    command = [sys.executable, 'tools/train.py', str(CONFIGS['panoptic']), '--data-root', str(coco_root)]
    command += ['--work-dir', str(work_dir), *arguments, '--cfg-options', *options]
    pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)


@pytest.mark.slow
def test_signals_to_all_processes_of_real_runs(coco_root: Path, tmp_path: Path) -> None:
    """SIGTERM to the whole group, as clusters send it, then SIGKILL, then to the end: as if nothing had happened."""

    def run(name: str, number: signal.Signals, after: str | None, *arguments: str) -> tuple[int, str]:
        process, said = start(coco_root, tmp_path / name, *arguments), ''
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if after and after in line:
                os.killpg(process.pid, number)
        return process.wait(60), said

    status, said = run('whole', signal.SIGTERM, None)
    assert status == 0, said
    status, said = run('a', signal.SIGTERM, '[ 7/40]')
    assert status == 0, said
    assert 'ended by SIGTERM; saved as' in said
    stopped = Path((tmp_path / 'a' / 'last_checkpoint').read_text())
    assert load(stopped)['meta']['iter'] == int(stopped.stem[5:]) >= 7
    status, said = run('a', signal.SIGKILL, '[23/40]', '--resume')
    assert status == -signal.SIGKILL, said
    status, said = run('a', signal.SIGTERM, None, '--resume')
    assert status == 0, said
    a, b = (load(tmp_path / name / 'iter_40.pth') for name in ('whole', 'a'))
    for name, value in a['state_dict'].items():
        assert torch.equal(value, b['state_dict'][name]), name
    assert losses(tmp_path / 'whole') == losses(tmp_path / 'a')
    assert files(tmp_path / 'whole') == files(tmp_path / 'a')
