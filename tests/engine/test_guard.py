"""Non-finite gradients change nothing, are counted with their files, and end a run that gets nothing else."""

import copy
import logging
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from amp_on_cpu import AmpOnCpu
from copies import in_new_processes
from process_runs import free_port
from tool_runs import CONFIGS, losses, small
from torch import Tensor, nn

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.engine.guard import SKIPPED, NonFiniteGuardHook, all_finite

# isort: split
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

LOOP, GUARD = 'train_cfg.type=eomt_mm.TrainLoop', 'default_hooks.guard.type=eomt_mm.NonFiniteGuardHook'


class Warnings(list[str]):
    """What the guard logs, as level and text."""

    def __call__(self, text: str, logger: str, level: int) -> None:
        self.append(f'{logging.getLevelName(level)} {text}')


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Warnings:
    warnings = Warnings()
    monkeypatch.setattr('eomt_mm.engine.guard.print_log', warnings)
    return warnings


class Run:
    """A model, its optimiser and the guard; a step takes the factor of each micro-batch's loss."""

    def __init__(self, max_in_a_row: int = 10, wrapper: type[OptimWrapper] = OptimWrapper, **kwargs: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1)
        self.optim_wrapper = wrapper(optimizer=optimizer, **kwargs)
        self.message_hub = MessageHub(f'hub {id(self)}')
        self.iter = 0
        self.guard = NonFiniteGuardHook(max_in_a_row)
        self.guard.before_train(self)

    def micro_batch(self, factor: float, name: str = '') -> None:
        inputs = torch.rand(2, 3, generator=torch.Generator().manual_seed(self.iter))
        self.optim_wrapper.update_params(self.model(inputs).sum() * factor)
        samples = [dict(img_path=f'{name or self.iter}.jpg')]
        self.guard.after_train_iter(self, self.iter, dict(data_samples=samples))

    def steps(self, *factors: float) -> 'Run':
        for factor in factors:
            self.micro_batch(factor)
            self.iter += 1
        return self

    def state(self) -> list[Tensor]:
        """Copies of weights and of all that the optimiser keeps."""
        kept = [value for one in self.optim_wrapper.optimizer.state.values() for value in one.values()]
        return [value.detach().clone() for value in (*self.model.parameters(), *kept)]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('value', [0, -1])
def test_row_of_no_length_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f'max_in_a_row={value}: at least 1'):
        NonFiniteGuardHook(value)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=0.01)])
def test_skipped_step_changes_nothing(value: float, clip_grad: Any, logged: Warnings) -> None:
    run = Run(clip_grad=copy.deepcopy(clip_grad)).steps(1, 1)
    before = run.state()
    assert len(before) == 4 * 4  # weights, step, two moments
    run.steps(value)
    assert equal(run.state(), before)
    assert [text.split(',')[0] for text in logged] == ['WARNING gradients of step 3 are not finite']
    assert '2.jpg' in logged[0]
    run.steps(1)
    assert not equal(run.state(), before)
    assert all(value.isfinite().all() for value in run.state())


def test_run_goes_on_as_if_the_skipped_step_had_not_been(logged: Warnings) -> None:
    run, never = Run().steps(1, math.nan, 1), Run().steps(1)
    never.iter += 1
    assert equal(run.state(), never.steps(1).state())
    assert run.message_hub.get_info(SKIPPED) == 1


def test_finite_steps_are_those_of_a_run_without_guard(logged: Warnings) -> None:
    bare = Run()
    bare.guard.after_train(bare)
    logged.clear()
    assert equal(Run().steps(1, 2, 3).state(), bare.steps(1, 2, 3).state())


def test_ends_after_so_many_in_a_row_and_names_the_files(logged: Warnings) -> None:
    run = Run(3).steps(1, math.nan, math.inf, 1, math.nan, math.nan)
    before = run.state()
    with pytest.raises(FloatingPointError) as error:
        run.steps(math.nan)
    assert 'for 3 steps in a row (max_in_a_row=3), up to step 7 with 6.jpg' in str(error.value)
    assert equal(run.state(), before)
    assert [text.rsplit(';')[-1] for text in logged] == [f' {n} skipped so far' for n in (1, 2, 3, 4, 5)]


def test_accumulated_micro_batches_are_one_step_with_all_their_files(logged: Warnings) -> None:
    """Under mmengine's loop, whose iterations are micro-batches."""
    run = Run(accumulative_counts=3)
    before = run.state()
    for name, factor in dict(a=1, b=math.nan, c=1, d=1, e=1, f=1).items():
        run.micro_batch(factor, name)
        if name == 'c':
            assert equal(run.state(), before)
    assert len(logged) == 1
    assert ': a.jpg, b.jpg, c.jpg;' in logged[0]
    assert not equal(run.state(), before)
    assert all(value.isfinite().all() for value in run.state())


@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=0.01)])
def test_steps_that_a_loss_scaler_skips_are_counted(clip_grad: Any, logged: Warnings) -> None:
    run = Run(3, AmpOnCpu, loss_scale=dict(init_scale=1024.0), clip_grad=clip_grad).steps(1)
    before = run.state()
    run.steps(math.inf)
    assert equal(run.state(), before)
    assert len(logged) == 1 and 'the loss scale is now 512; 1 skipped so far' in logged[0]
    run.steps(1)
    assert not equal(run.state(), before)
    with pytest.raises(FloatingPointError, match='bfloat16'):
        run.steps(math.nan, math.nan, math.nan)
    assert run.message_hub.get_info(SKIPPED) == 4


def test_bfloat16_without_scaling_is_guarded_too(logged: Warnings) -> None:
    run = Run(1, AmpOnCpu, loss_scale=dict(enabled=False), dtype='bfloat16').steps(1)
    before = run.state()
    with pytest.raises(FloatingPointError):
        run.steps(math.nan)
    assert equal(run.state(), before)
    assert 'loss scale' not in logged[0]


def test_total_is_logged_and_goes_on_after_resuming(logged: Warnings) -> None:
    run = Run().steps(math.nan, 1)
    resumed = Run()
    resumed.message_hub.load_state_dict(run.message_hub.state_dict())
    resumed.iter = 2
    resumed.steps(math.nan, 1)
    resumed.guard.after_train(resumed)
    assert logged[-1] == 'WARNING 2 of 4 steps skipped for non-finite gradients'
    clean = Run().steps(1)
    clean.guard.after_train(clean)
    assert logged[-1] == 'INFO 0 of 1 steps skipped for non-finite gradients'


@pytest.mark.parametrize('optim_wrapper', [SimpleNamespace(), SimpleNamespace(optimizer='of DeepSpeed')])
def test_optimizer_of_another_kind_is_refused(optim_wrapper: Any) -> None:
    with pytest.raises(TypeError, match='leave the hook out'):
        NonFiniteGuardHook().before_train(SimpleNamespace(optim_wrapper=optim_wrapper))


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ([], True),
        ([torch.zeros(0), torch.zeros(2, 0)], True),
        ([torch.full((1000,), 3e38), torch.full((3,), -3e38)], True),  # whose sum of squares is infinite
        ([torch.tensor([1.0, math.nan])], False),
        ([torch.zeros(3), torch.tensor([-math.inf, 1.0])], False),
        ([torch.tensor([7e4]).half(), torch.zeros(3)], False),
        ([torch.tensor([1e30]).bfloat16(), torch.zeros(3)], True),
        ([torch.tensor([1e300], dtype=torch.float64)], True),
    ],
)
def test_finiteness(values: list[Tensor], expected: bool) -> None:
    assert all_finite(values) is expected


def test_step_is_skipped_for_a_nan_of_another_process(logged: Warnings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run().steps(1)
    before = run.state()
    monkeypatch.setattr('eomt_mm.engine.guard.all_reduce', lambda found, op: found.fill_(1))
    monkeypatch.setattr('eomt_mm.engine.guard.all_gather_object', lambda files: [files, ['other.jpg']])
    run.steps(1)
    assert equal(run.state(), before)
    assert ': 1.jpg, other.jpg;' in logged[0]


def test_averages_of_the_log_leave_the_skipped_step_out(logged: Warnings) -> None:
    run = Run()
    for loss, lr in ((1.0, 0.1), (math.nan, 0.2), (2.0, 0.3)):
        run.message_hub.update_scalar('train/loss', loss)
        run.message_hub.update_scalar('train/lr', lr)
        run.steps(loss)
    assert run.message_hub.get_scalar('train/loss').mean(3) == 1.5
    assert run.message_hub.get_scalar('train/lr').mean(3) == pytest.approx(0.2)


def shard_with_a_nan(rank: int, port: int, folder: str) -> None:
    """Rank 1 alone has a NaN, in its part of one parameter."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)  # 3 rows over 2 processes, the bias too: parts differ in size
    fully_shard(model, mesh=init_device_mesh('cpu', (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    run = SimpleNamespace(
        model=model, optim_wrapper=OptimWrapper(optimizer), message_hub=MessageHub('hub'), iter=0, texts=[]
    )
    hook = NonFiniteGuardHook(max_in_a_row=2)
    hook.before_train(run)
    before = [param.to_local().clone() for param in model.parameters()]
    for step in range(3):
        model(torch.ones(2, 4)).sum().backward()
        if rank == 1 and step > 0:
            model.weight.grad.to_local()[0, 0] = math.nan
        optimizer.step()
        try:
            hook.after_train_iter(run, step, dict(data_samples=[dict(img_path=f'rank{rank}_step{step}.jpg')]))
        except FloatingPointError as error:
            run.texts.append(str(error))
        optimizer.zero_grad()
        if step == 0:
            assert any(not torch.equal(a, b.to_local()) for a, b in zip(before, model.parameters(), strict=True))
            before = [param.to_local().clone() for param in model.parameters()]
        run.iter += 1
    unchanged = all(torch.equal(a, b.to_local()) for a, b in zip(before, model.parameters(), strict=True))
    torch.save([unchanged, run.texts], f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_processes_skip_and_end_where_one_has_a_nan(tmp_path: Path) -> None:
    """With sharded gradients, where no process sees those of another."""
    in_new_processes(2, shard_with_a_nan, free_port(), str(tmp_path))
    for rank in range(2):
        unchanged, texts = torch.load(tmp_path / f'{rank}.pt')
        assert unchanged
        assert len(texts) == 1 and 'step 3 with rank0_step2.jpg, rank1_step2.jpg' in texts[0]


def break_inputs(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> list[dict[str, Tensor]]:
    """Puts a NaN into one image of the batches of these steps (from 0); returns the weights before every step."""
    from eomt_mm.models.preprocessors import EoMTDetDataPreprocessor

    weights: list[dict[str, Tensor]] = []
    forward = EoMTDetDataPreprocessor.forward

    def broken(self: Any, data: Any, training: bool = False) -> Any:
        batch = forward(self, data, training)
        if training and len(weights) - 1 in steps:
            batch['inputs'][1, 0, 5, 5] = math.nan
        return batch

    def remember(self: Any, runner: Runner, *_: Any, **__: Any) -> None:
        params = {name: param.detach().clone() for name, param in runner.model.named_parameters()}
        weights.append(params)

    monkeypatch.setattr(EoMTDetDataPreprocessor, 'forward', broken)
    monkeypatch.setattr('mmengine.hooks.IterTimerHook._before_iter', remember)
    return weights


def test_nan_in_one_image_does_not_reach_the_weights(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = break_inputs(monkeypatch, {1})
    options = [*small('panoptic', 4), LOOP, GUARD, 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    tool('train.py', CONFIGS['panoptic'], '--data-root', coco_root, '--work-dir', tmp_path, '--cfg-options', *options)
    changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)]
    assert changed == [True, False, True]
    assert all(math.isfinite(value) for value in losses(tmp_path).values())
    checkpoint = torch.load(tmp_path / 'iter_4.pth', weights_only=True)
    assert all(value.isfinite().all() for value in checkpoint['state_dict'].values())
    assert checkpoint['message_hub']['runtime_info'][SKIPPED] == 1


def test_nan_in_every_batch_ends_the_run_and_names_images(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_inputs(monkeypatch, {1, 2, 3, 4})
    options = [*small('panoptic', 6), LOOP, GUARD, 'default_hooks.guard.max_in_a_row=2']
    common = ['--data-root', coco_root, '--work-dir', tmp_path, '--cfg-options', *options]
    with pytest.raises(FloatingPointError, match=r'up to step 3 with .*train2017/\d+\.jpg, .*\.jpg, .*\.jpg\.'):
        tool('train.py', CONFIGS['panoptic'], *common, 'default_hooks.checkpoint.interval=1')
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=True)
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
