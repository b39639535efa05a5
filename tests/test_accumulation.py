"""Micro-batches give the gradient of the whole batch, given equal points, in one process and two."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_criterion import K, P, Q, free_port, make_logits, make_targets
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.models.criterion import Criterion, StepTotals


def gradient(nums: tuple[int, ...], parts: Sequence[int], sync: bool = True, images: slice = slice(None)) -> Tensor:
    """Gradient of the logits of a batch, float64, that comes in parts of so many images each, as a wrapper sums it.

    Args:
        nums: number of targets of each image of the whole batch.
        parts: images per micro-batch.
        sync: sync_class_norm.
        images: those of this process.
    """
    class_logits, mask_logits = ([x.detach().double() for x in logits] for logits in make_logits(len(nums)))
    class_logits, mask_logits = ([x.requires_grad_() for x in logits] for logits in (class_logits, mask_logits))
    matched = [min(num, Q) for num in nums]
    generator = torch.Generator().manual_seed(1)
    match_points = torch.rand(len(nums), P, 2, generator=generator, dtype=torch.float64)
    loss_points = torch.rand(sum(matched), P, 2, generator=generator, dtype=torch.float64).split(matched)
    targets, criterion = make_targets(*nums), Criterion(K, num_points=P, sync_class_norm=sync)
    first, last, _ = images.indices(len(nums))
    totals = StepTotals(last - first, sum(matched[images]), len(parts))
    for size in parts:
        part = slice(first, first + size)
        first += size
        losses = criterion(
            [x[part] for x in class_logits],
            [x[part] for x in mask_logits],
            targets[part],
            [match_points[part]] * 2,
            [torch.cat(loss_points[part])] * 2,
            totals=totals if len(parts) > 1 else None,
        )
        (sum(losses.values()) / len(parts)).backward()
    return torch.cat([x.grad.flatten() for x in class_logits + mask_logits])


# with a micro-batch without targets, more targets than queries, one target in all, none in all
NUMS = ((2, 3, 5, 1), (0, 0, 4, 9), (0, 0, 0, 1), (0, 0, 0, 0))


@pytest.mark.parametrize('nums', NUMS)
@pytest.mark.parametrize('parts', [(2, 2), (1, 1, 1, 1), (1, 3)])
@pytest.mark.parametrize('sync', [True, False])
def test_parts_give_the_gradient_of_the_batch(nums: tuple[int, ...], parts: tuple[int, ...], sync: bool) -> None:
    whole = gradient(nums, [4], sync)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(gradient(nums, parts, sync), whole, rtol=0, atol=1e-12)


def run_process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    for case, nums in enumerate(NUMS):
        for sync in (True, False):
            for parts in ([2], [1, 1]):
                found = gradient(nums, parts, sync, slice(2 * rank, 2 * rank + 2))
                dist.all_reduce(found)
                if rank == 0:
                    torch.save(found / 2, f'{folder}/{case}_{sync}_{len(parts)}.pt')
    dist.destroy_process_group()


def test_parts_in_two_processes_give_the_gradient_of_two_batches(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_process, (free_port(), str(tmp_path)), nprocs=2)
    for case, nums in enumerate(NUMS):
        for sync in (True, False):
            whole, parts = (torch.load(tmp_path / f'{case}_{sync}_{number}.pt') for number in (1, 2))
            torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
        if sum(nums) > 1:  # with one target in two processes the published normaliser is 1, not 1/2
            synced = torch.load(tmp_path / f'{case}_True_2.pt')
            torch.testing.assert_close(synced, gradient(nums, [4]), rtol=0, atol=1e-12)
