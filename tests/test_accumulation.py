"""Micro-batches give the gradient of the whole batch, given equal points; in two processes: test_processes.py."""

from collections.abc import Sequence

import pytest
import torch
from test_criterion import K, P, Q, make_logits, make_targets
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
