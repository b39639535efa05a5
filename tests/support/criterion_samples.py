"""Logits and targets, and the gradients of the criterion on parts of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.criterion import Criterion, StepTotals

K, Q, P = 3, 6, 21


Target = dict[str, Tensor]


def make_targets(*nums: int, size: int = 16, seed: int = 0) -> list[Target]:
    generator = torch.Generator().manual_seed(seed)
    return [
        dict(
            labels=torch.randint(K, (num,), generator=generator),
            masks=torch.rand(num, size, size, generator=generator) > 0.6,
        )
        for num in nums
    ]


def make_logits(batch: int, layers: int = 2, queries: int = Q, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(batch, queries, K + 1, generator=generator) for _ in range(layers)]
    masks = [3 * torch.randn(batch, queries, 4, 4, generator=generator) for _ in range(layers)]
    return [x.requires_grad_() for x in classes], [x.requires_grad_() for x in masks]


def gradients(images: slice, nums: tuple[int, ...], sync_class_norm: bool) -> Tensor:
    """Gradient of the loss of some images of the batch with respect to the logits of all."""
    class_logits, mask_logits = make_logits(len(nums), layers=1)
    pairs = [min(Q, num) for num in nums]
    first = sum(pairs[: images.start])
    match_points = torch.rand(len(nums), P, 2, generator=torch.Generator().manual_seed(1))
    loss_points = torch.rand(sum(pairs), P, 2, generator=torch.Generator().manual_seed(2))
    losses = Criterion(K, num_points=P, sync_class_norm=sync_class_norm)(
        [class_logits[0][images]],
        [mask_logits[0][images]],
        make_targets(*nums)[images],
        [match_points[images]],
        [loss_points[first : first + sum(pairs[images])]],
    )
    sum(losses.values()).backward()
    return torch.cat([class_logits[0].grad.flatten(), mask_logits[0].grad.flatten()])


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


NUMS = ((2, 3, 5, 1), (0, 0, 4, 9), (0, 0, 0, 1), (0, 0, 0, 0))
