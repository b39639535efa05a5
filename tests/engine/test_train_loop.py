"""The loop counts optimiser steps, takes what mmengine's loop takes, and goes on where a run was."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from copies import in_new_processes
from drawing import Drawing
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from process_runs import free_port
from tool_runs import CONFIGS, losses, small
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.engine import train_loop
from eomt_mm.engine.train_loop import TrainLoop, averaged, joined


class Model(nn.Module):
    """One parameter; its gradient is the mean of the samples' first entries. Remembers samples and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.seen: list[list[Any]] = []
        self.drawn: list[float] = []

    def train_step(self, batch: dict[str, Any], optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        self.seen.append([sample.tolist() for sample in batch['inputs']])
        self.drawn.append(float(torch.rand(())))
        loss = self.weight * torch.stack(batch['inputs'])[:, 0].mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss)


class Images(Drawing):
    """Index and random numbers as an "image", the index as its sample."""

    def __getitem__(self, index: int) -> Any:
        return dict(inputs=torch.tensor(super().__getitem__(index), dtype=torch.float64), data_samples=index)


def make_runner(accumulative_counts: int = 1, seed: int = 0, size: int = 5, **loader: Any) -> Any:
    """What the loop asks of mmengine's runner; hooks are recorded in ``called``."""
    model, called = Model(), []
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=1), accumulative_counts),
        message_hub=MessageHub(f'hub {id(model)}'),
        visualizer=SimpleNamespace(),
        val_loop=None,
        seed=seed,
        _randomness_cfg={},
        build_dataloader=Runner.build_dataloader,
        called=called,
        call_hook=lambda name, **kwargs: called.append((name, kwargs)),
        loader=dict(dataset=Images(size), batch_size=2, num_workers=0, **loader),
    )
    return runner


def make_loop(runner: Any, max_iters: int | None = 4, **kwargs: Any) -> TrainLoop:
    runner.train_loop = TrainLoop(runner, runner.loader, max_iters, **kwargs)
    return runner.train_loop


def run(max_iters: int = 4, **kwargs: Any) -> Any:
    runner = make_runner(**kwargs)
    make_loop(runner, max_iters).run()
    return runner


# ---- steps, micro-batches, hooks


@pytest.mark.parametrize('k', [1, 2, 3])
def test_iteration_is_an_optimiser_step(k: int) -> None:
    runner = run(4, accumulative_counts=k, size=7)
    assert runner.train_loop.iter == 4
    assert len(runner.model.seen) == 4 * k
    # SGD with lr 1: the weight is the sum over steps of the mean over the step's samples
    indices = [sample[0] for batch in runner.model.seen for sample in batch]
    steps = [indices[i : i + 2 * k] for i in range(0, len(indices), 2 * k)]
    assert runner.model.weight.item() == pytest.approx(-sum(sum(step) / len(step) for step in steps))


@pytest.mark.parametrize('k', [1, 2])
def test_hooks_see_steps(k: int) -> None:
    runner = run(2, accumulative_counts=k)
    names = [name for name, _ in runner.called]
    steps = ['before_train_iter', 'after_train_iter'] * 2
    assert names == ['before_train', 'before_train_epoch', *steps, 'after_train_epoch', 'after_train']
    for i, (_, kwargs) in enumerate(runner.called[2:-2]):
        step = i // 2
        assert kwargs['batch_idx'] == step
        parts = runner.model.seen[step * k : (step + 1) * k]
        images = [image.tolist() for image in kwargs['data_batch']['inputs']]
        assert images == [sample for part in parts for sample in part]
        assert kwargs['data_batch']['data_samples'] == [sample[0] for part in parts for sample in part]


def test_losses_of_micro_batches_are_averaged() -> None:
    outputs = [dict(a=torch.tensor(a, requires_grad=True), b=torch.tensor(b)) for a, b in ((1.0, 3.0), (2.0, 1.0))]
    mean = averaged(outputs)
    assert {name: value.item() for name, value in mean.items()} == dict(a=1.5, b=2.0)
    assert not mean['a'].requires_grad  # or the graph of a micro-batch would live as long as the log
    assert averaged(outputs[:1]) is outputs[0]


def test_single_batch_is_not_copied() -> None:
    batch = dict(inputs=torch.zeros(2, 3))
    assert joined([batch]) is batch


def test_random_numbers_of_a_step_follow_from_seed_step_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = run(4).model.drawn
    torch.rand(3)
    assert run(4).model.drawn == drawn
    assert len(set(drawn)) == 4
    assert not set(run(4, seed=1).model.drawn) & set(drawn)
    monkeypatch.setattr(train_loop, 'get_rank', lambda: 1)
    assert not set(run(4).model.drawn) & set(drawn)


def test_seed_is_the_first_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """With diff_rank_seed every process has a seed of its own; the order of samples must be one."""
    expected = run(4, seed=7).model.seen
    monkeypatch.setattr(train_loop, 'broadcast', lambda seed: seed.fill_(7))
    assert run(4, seed=8).model.seen == expected


def test_stops_after_the_step_in_which_a_hook_asks_for_it() -> None:
    runner = make_runner()
    loop = make_loop(runner, 9)

    def call_hook(name: str, **_: Any) -> None:
        loop.stop_training = loop.stop_training or (name == 'after_train_iter' and loop.iter == 2)

    runner.call_hook = call_hook
    loop.run()
    assert loop.iter == 3


# ---- validation


@pytest.mark.parametrize(
    'kwargs, expected',
    [
        (dict(val_interval=2), [2, 4, 5]),
        (dict(val_interval=9), [5]),
        (dict(val_interval=1, val_begin=3), [3, 4, 5]),
        (dict(val_interval=4, dynamic_intervals=[(4, 1)]), [3, 4, 5]),
        ({}, [5]),
    ],
)
def test_validation_at_intervals_and_at_the_end(kwargs: dict[str, Any], expected: list[int]) -> None:
    """As mmengine's loop."""
    found = []
    for kind in ('eomt_mm', 'mmengine'):
        runner, steps = make_runner(), []
        if kind == 'eomt_mm':
            loop: Any = make_loop(runner, 5, **kwargs)
        else:
            from mmengine.runner import IterBasedTrainLoop

            sampler = dict(type='InfiniteSampler')
            loop = IterBasedTrainLoop(runner, dict(runner.loader, sampler=sampler), 5, **kwargs)
        runner.val_loop = SimpleNamespace(run=lambda steps=steps, loop=loop: steps.append(loop.iter))
        loop.run()
        found.append(steps)
    assert found == [expected, expected]


# ---- length


@pytest.mark.parametrize(
    'size, world, k, steps', [(12, 1, 1, 6), (13, 1, 1, 6), (13, 2, 1, 3), (13, 1, 3, 2), (25, 2, 3, 2)]
)
def test_epochs_are_steps_as_published(
    monkeypatch: pytest.MonkeyPatch, size: int, world: int, k: int, steps: int
) -> None:
    """floor(ceil(images / processes) / (2 images x micro-batches)) steps each; 13 images in 2 processes: 3."""
    monkeypatch.setattr('eomt_mm.datasets.sampling.get_dist_info', lambda: (0, world))
    loop = make_loop(make_runner(k, size=size), None, max_epochs=3, val_interval_epochs=2)
    assert loop.steps_per_epoch == steps == math.ceil(size / world) // (2 * k)
    assert (loop.max_iters, loop.val_interval, loop.max_epochs) == (3 * steps, 2 * steps, 1)


def test_parts_of_epochs() -> None:
    loop = make_loop(make_runner(size=12), None, max_epochs=1.5, val_interval_epochs=0.01)
    assert (loop.max_iters, loop.val_interval) == (9, 1)


@pytest.mark.parametrize(
    'kwargs, text',
    [
        (dict(max_iters=None), 'max_iters=None, max_epochs=None: give one'),
        (dict(max_iters=3, max_epochs=2), 'max_iters=3, max_epochs=2: give one'),
        (dict(max_iters=3, val_interval=1, val_interval_epochs=2), 'val_interval=1, val_interval_epochs=2: give one'),
        (dict(max_iters=0), 'max_iters=0: a whole number'),
        (dict(max_iters=2.5), 'max_iters=2.5: a whole number'),
        (dict(max_iters=3, val_interval=0), 'val_interval=0: a whole number'),
        (dict(max_iters=None, max_epochs=-1), 'max_epochs=-1: above 0'),
        (dict(max_iters=None, max_epochs=1, size=1), 'has 1 samples, a step 2. max_iters takes steps'),
    ],
)
def test_length_that_does_not_fit_is_named(kwargs: dict[str, Any], text: str) -> None:
    runner = make_runner(size=kwargs.pop('size', 5))
    with pytest.raises(ValueError, match=text):
        make_loop(runner, **kwargs)


# ---- resuming


def resumed(first: Any, max_iters: int, with_position: bool = True, **kwargs: Any) -> Any:
    """A new run that goes on from another's last step, as mmengine's runner resumes."""
    runner = make_runner(**kwargs)
    loop = make_loop(runner, max_iters)
    loop._iter = first.train_loop.iter
    if with_position:
        runner.message_hub.load_state_dict(first.message_hub.state_dict())
    runner.model.load_state_dict(first.model.state_dict())
    loop.run()
    return runner


@pytest.mark.parametrize('k', [1, 3])
def test_resumed_run_goes_on_with_the_samples_and_numbers_of_one_that_was_not_interrupted(k: int) -> None:
    """Step 2 of 5 is no multiple of the accumulated 3: the wrapper counts micro-batches."""
    whole = run(5, accumulative_counts=k)
    first = run(2, accumulative_counts=k)
    second = resumed(first, 5, accumulative_counts=k)
    assert first.model.seen + second.model.seen == whole.model.seen
    assert first.model.drawn + second.model.drawn == whole.model.drawn
    assert torch.equal(second.model.weight, whole.model.weight)


def test_resumed_run_may_accumulate_what_was_one_batch() -> None:
    whole = run(5)
    first = run(2)
    runner = make_runner(2)
    runner.loader['batch_size'] = 1
    loop = make_loop(runner, 5)
    loop._iter = 2
    runner.message_hub.load_state_dict(first.message_hub.state_dict())
    runner.model.load_state_dict(first.model.state_dict())
    loop.run()
    assert [a + b for a, b in zip(*[iter(runner.model.seen)] * 2, strict=True)] == whole.model.seen[2:]
    assert runner.model.weight.item() == pytest.approx(whole.model.weight.item(), abs=1e-12)


def test_position_counts_the_samples_of_the_run_that_stopped() -> None:
    """Resumed with a larger batch, no sample is left out and none is shown twice."""
    whole, first = run(20, accumulative_counts=1), run(2)
    second = resumed(first, 4, accumulative_counts=2)
    seen = [sample for batch in first.model.seen + second.model.seen for sample in batch]
    assert seen == [sample for batch in whole.model.seen for sample in batch][: len(seen)]
    assert second.train_loop.samples_seen == len(seen) == 2 * 2 + 2 * 4


def test_checkpoint_without_a_position_takes_it_from_the_step() -> None:
    first, whole = run(2), run(5)
    assert resumed(first, 5, with_position=False).model.seen == whole.model.seen[2:]


@pytest.mark.parametrize('size', [5, 4])
def test_data_of_another_length_are_reported(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    first = run(2)
    monkeypatch.setattr(train_loop, 'print_log', lambda text, **_: lines.append(text))
    resumed(first, 3, size=size)
    assert ['have 4 samples, and had 5 when' in line for line in lines[1:]] == [True] * (size == 4)


def test_seed_of_the_checkpoint_decides_order_and_samples() -> None:
    """mmengine sets it after the loader is built."""
    runner = make_runner(seed=1, size=50)
    loop = make_loop(runner, 4)
    runner.seed = 2
    loop.run()
    assert runner.model.seen == run(4, seed=2, size=50).model.seen
    images, others = (
        [image for batch in model.seen for image in batch] for model in (runner.model, run(4, seed=1, size=50).model)
    )
    assert [image[0] for image in images] != [image[0] for image in others]
    assert not {image[1] for image in images} & {image[1] for image in others}


def test_workers_start_with_the_run() -> None:
    runner = make_runner()
    runner.loader.update(num_workers=1, persistent_workers=True)
    loop = make_loop(runner, 2)
    assert loop.dataloader._iterator is None
    loop.run()
    assert loop.dataloader._iterator is not None
    assert runner.model.seen == run(2).model.seen


# ---- several processes


class DistributedModel(BaseModel):
    """`Model` as mmengine wraps it for several processes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: list[torch.Tensor], data_samples: list[int], mode: str = 'loss') -> Any:
        return dict(loss=self.weight * torch.stack(inputs)[:, 0].mean())


def run_process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    runner = make_runner(2, seed=rank, size=11)  # seeds that differ, as with diff_rank_seed
    runner.loader['batch_size'] = 1
    runner.model = MMDistributedDataParallel(DistributedModel())
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=1), 2)
    reduced: list[int] = []

    def count_and_reduce(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reduced.append(bucket.index())
        return allreduce_hook(state, bucket)

    runner.model.register_comm_hook(None, count_and_reduce)
    make_loop(runner, 5).run()
    torch.save(dict(weight=runner.model.module.weight.detach(), reduced=len(reduced)), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_two_micro_batches_are_one_batch(tmp_path: Path) -> None:
    """Gradients are reduced once per step."""
    in_new_processes(2, run_process, free_port(), str(tmp_path))
    runner = make_runner(size=11)
    runner.loader['batch_size'] = 4
    make_loop(runner, 5).run()
    for rank in range(2):
        found = torch.load(tmp_path / f'{rank}.pt')
        assert found['weight'].item() == pytest.approx(runner.model.weight.item(), abs=1e-12)
        assert found['reduced'] == 5


# ---- with the runner


def checkpoint(path: Path) -> Any:
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_schedule_annealing_and_checkpoints_count_steps(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    """Three micro-batches of 1 are 1 step of 3."""
    scalars = []
    for k in (1, 3):
        work_dir = tmp_path / str(k)
        options = small('panoptic', 6, optim_wrapper__accumulative_counts=k, train_dataloader__batch_size=3 // k)
        data = ['--data-root', coco_root, '--cfg-options']
        tool('train.py', CONFIGS['panoptic'], '--work-dir', work_dir, *data, *options)
        saved = checkpoint(work_dir / 'iter_6.pth')
        assert saved['meta']['iter'] == 6
        assert saved['message_hub']['runtime_info']['samples_seen'] == 18
        assert {int(state['step']) for state in saved['optimizer']['state'].values()} == {6}
        log = saved['message_hub']['log_scalars']
        assert len(losses(work_dir)) == 6
        scalars.append({name: log[f'train/{name}'].data[0].tolist() for name in ('lr', 'mask_prob_0', 'mask_prob_1')})
    assert scalars[0] == scalars[1]
    assert len(set(scalars[0]['lr'])) == 6 and scalars[0]['mask_prob_1'][-1] == 0 < scalars[0]['mask_prob_1'][1]


@pytest.mark.slow
def test_epochs_decide_schedule_and_validation(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    options = small('panoptic', 1, train_dataloader__batch_size=2)
    options = [option for option in options if not option.startswith('train_cfg')]
    epochs = ['max_iters=None', 'val_interval=None', 'max_epochs=2', 'val_interval_epochs=1']
    data = ['--data-root', coco_root, '--cfg-options', *options, *(f'train_cfg.{part}' for part in epochs)]
    tool('train.py', CONFIGS['panoptic'], '--work-dir', tmp_path, *data)
    [path] = tmp_path.glob('iter_*.pth')
    saved, steps = checkpoint(path), int(path.stem.removeprefix('iter_'))
    assert steps == 4  # 5 images with targets
    assert len(saved['message_hub']['log_scalars']['val/coco_panoptic/PQ'].data[0]) == 2
    learning_rates = saved['message_hub']['log_scalars']['train/lr'].data[0].tolist()
    assert learning_rates == pytest.approx([1e-3 * (1 - step / steps) ** 0.9 for step in range(steps)])


@pytest.mark.slow
def test_accumulation_with_a_loop_that_counts_micro_batches_is_refused(
    tool: Callable, coco_root: Path, tmp_path: Path
) -> None:
    options = [*small('panoptic', 4, optim_wrapper__accumulative_counts=2), 'train_cfg.type=IterBasedTrainLoop']
    with pytest.raises(ValueError, match=r"accumulative_counts=2 with IterBasedTrainLoop.*'eomt_mm\.TrainLoop'"):
        tool(
            'train.py', CONFIGS['panoptic'], '--work-dir', tmp_path, '--data-root', coco_root, '--cfg-options', *options
        )
