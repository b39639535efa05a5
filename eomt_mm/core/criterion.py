"""Losses of EoMT: class, mask and dice loss of every prediction layer (Mask2Former, section 3.3)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eomt_mm.core.matcher import HungarianMatcher, Matches, compute_dtype
from eomt_mm.core.point_sampling import pixels_at_points, sample_at_points, uncertain_points

CLASS_WEIGHT = 2.0  # as published (EoMT paper, section 4; same as Mask2Former)
# A logit whose sigmoid and softplus are exactly 0.
CERTAIN_NO = -1e4


@dataclass(frozen=True)
class StepTotals:
    """Totals of one optimiser step in this process, which normalise the losses of each of its micro-batches.

    Attributes:
        num_images: number of images.
        num_matched: number of matched queries, the sum of min(targets, queries) over images.
        num_micro_batches: number of micro-batches. The optimiser wrapper averages their losses, so normalisers are
            divided by it.
    """

    num_images: int
    num_matched: int
    num_micro_batches: int = 1


class StepLosses:
    """Mixin for heads whose losses are normalised over the whole optimiser step.

    Attributes:
        step_totals: totals of the step that the next batches belong to; None: each batch is a whole step.
    """

    step_totals: StepTotals | None = None

    def count_step(self, micro_batches: Sequence[Sequence[Any]]) -> StepTotals:
        """Count the totals of a step from the samples of each of its micro-batches."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pairs:
    """Matched (query, target) pairs of a batch in L prediction layers, image by image; on the device of the logits.

    Attributes:
        nums: number of pairs per image, the same in each layer; M in total.
        queries: (L, M), indices into the B * Q queries of the batch.
        targets: (L, M), indices into the targets of the image.
    """

    nums: list[int]
    queries: Tensor
    targets: Tensor

    @classmethod
    def of(cls, matches: list[Matches], num_queries: int, device: torch.device) -> 'Pairs':
        """Build from matches per layer and image; see :class:`~eomt_mm.core.matcher.HungarianMatcher`."""
        queries = [torch.cat([query_idx + b * num_queries for b, (query_idx, _) in enumerate(m)]) for m in matches]
        targets = [torch.cat([target_idx for _, target_idx in layer]) for layer in matches]
        both = torch.stack(queries + targets).to(device)  # (2L, M)
        return cls([len(query_idx) for query_idx, _ in matches[0]], *both.chunk(2))


def mean_over_processes(value: Tensor) -> Tensor:
    """Average a 0-d tensor over the processes of a distributed run; otherwise return it unchanged."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


class Criterion(nn.Module):
    """Matching of queries to targets and the weighted losses, in float32 or wider regardless of autocast.

    Args:
        num_classes: number K of classes, without "no object".
        class_weight, mask_weight, dice_weight: weights of the three losses, and of the matching costs. If
            ``class_weight`` is a list, its K values scale the class loss of matched queries, one per class, and the
            weight is `CLASS_WEIGHT`. The normaliser is unchanged, so that losses of micro-batches and processes add up.
        no_object_weight: weight of "no object" in the class loss; above 0, so that images without targets have a loss.
        num_points: points per mask.
        oversample_ratio, importance_ratio: see :func:`~eomt_mm.core.point_sampling.uncertain_points`.
        sync_class_norm: divide the class loss by its normaliser's mean over processes, so that the loss does not depend
            on how images are distributed over processes. False: each process divides by its own normaliser, as in the
            published training. Without effect in one process.
        make_matcher: function of ``class_weight``, ``mask_weight``, ``dice_weight`` and ``num_points`` that returns
            the matcher, a module with the interface of :class:`~eomt_mm.core.matcher.HungarianMatcher`.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float | Sequence[float] = CLASS_WEIGHT,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        sync_class_norm: bool = True,
        make_matcher: Callable[..., nn.Module] = HungarianMatcher,
    ) -> None:
        super().__init__()
        if no_object_weight <= 0:
            raise ValueError(f'no_object_weight={no_object_weight}: above 0; published is 0.1')
        if oversample_ratio < 1:
            raise ValueError(f'oversample_ratio={oversample_ratio}: at least 1; published is 3')
        if not 0 <= importance_ratio <= 1:
            raise ValueError(f'importance_ratio={importance_ratio}: between 0 and 1; published is 0.75')
        self.num_classes = num_classes
        self.per_class: tuple[float, ...] | None = None
        if isinstance(class_weight, Sequence):
            self.per_class, class_weight = _per_class(class_weight, num_classes), CLASS_WEIGHT
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.sync_class_norm = sync_class_norm
        self.matcher = make_matcher(
            class_weight=class_weight, mask_weight=mask_weight, dice_weight=dice_weight, num_points=num_points
        )

    def forward(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        match_points: Sequence[Tensor] | None = None,
        loss_points: Sequence[Tensor] | None = None,
        totals: StepTotals | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of all prediction layers, each matched independently.

        Args:
            class_logits: per layer (B, Q, K + 1).
            mask_logits: per layer (B, Q, h, w).
            targets: per image ``labels`` (N,) int64 in [0, K) and ``masks`` (N, H, W) bool. Optional, in all images or
                none: ``valid`` (H, W) bool; other pixels are ignored in the matching and in the losses.
            match_points: per layer (B, P, 2), points of the matching. None: drawn, the same for all layers.
            loss_points: per layer (M, P, 2), points of the M matched pairs, ordered by image, then by query. None:
                drawn.
            totals: totals of the optimiser step that the batch belongs to. None: the batch is the whole step.

        Returns:
            weighted 0-d losses ``loss_cls``, ``loss_mask``, ``loss_dice`` of the final layer, and with prefix
            ``d{i}.`` those of each earlier layer i.
        """
        matches = self.matcher(class_logits, mask_logits, targets, match_points)
        return self.matched_losses(class_logits, mask_logits, targets, matches, loss_points, totals)

    def matched_losses(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        matches: list[Matches],
        points: Sequence[Tensor] | None = None,
        totals: StepTotals | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses for given matches per layer and image; see :meth:`forward`.

        Each image must have the same number of matches in every layer.
        """
        pairs = Pairs.of(matches, class_logits[0].shape[1], mask_logits[0].device)
        totals = totals or StepTotals(len(pairs.nums), sum(pairs.nums))
        with torch.autocast(mask_logits[0].device.type, enabled=False):
            loss_cls = self.class_losses(class_logits, targets, pairs, totals)
            loss_mask, loss_dice = self.mask_losses(mask_logits, targets, pairs, points, totals)
        losses = dict(
            loss_cls=self.class_weight * loss_cls,
            loss_mask=self.mask_weight * loss_mask,
            loss_dice=self.dice_weight * loss_dice,
        )
        prefixes = [*(f'd{i}.' for i in range(len(matches) - 1)), '']
        return {prefix + name: values[i] for i, prefix in enumerate(prefixes) for name, values in losses.items()}

    def class_losses(
        self, class_logits: Sequence[Tensor], targets: list[dict[str, Tensor]], pairs: Pairs, totals: StepTotals
    ) -> Tensor:
        """Compute the weighted cross-entropy (L,) of all queries, divided by the sum of the weights.

        Unmatched queries have the label "no object".
        """
        logits = torch.stack([layer.flatten(0, 1) for layer in class_logits])  # (L, BQ, K + 1)
        logits = logits.to(compute_dtype(logits))
        parts = zip(targets, pairs.targets.split(pairs.nums, 1), strict=True)
        matched = torch.cat([target['labels'][index] for target, index in parts], 1)  # (L, M)
        labels = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        labels.scatter_(1, pairs.queries, matched)
        weights = logits.new_ones(self.num_classes + 1)
        if self.per_class is not None:
            weights[:-1] = logits.new_tensor(self.per_class)
        weights[-1] = self.no_object_weight
        unmatched = totals.num_images * class_logits[0].shape[1] - totals.num_matched
        norm = logits.new_tensor(totals.num_matched + self.no_object_weight * unmatched)
        norm /= totals.num_micro_batches
        if self.sync_class_norm:
            norm = mean_over_processes(norm)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, reduction='none')
        return losses.view_as(labels).sum(1) / norm

    def mask_losses(
        self,
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        pairs: Pairs,
        points: Sequence[Tensor] | None,
        totals: StepTotals,
    ) -> tuple[Tensor, Tensor]:
        """Compute the binary cross-entropy (L,) and dice loss (L,) of matched pairs.

        Both are sums over pairs, divided by the mean number of pairs per process.
        """
        num_layers = len(mask_logits)
        logits = torch.cat(
            [layer.flatten(0, 1)[queries] for layer, queries in zip(mask_logits, pairs.queries, strict=True)]
        )
        logits = logits.to(compute_dtype(logits))  # (LM, h, w); part of the autograd graph even if empty
        is_valid = valid_points(targets, pairs)
        if points is None:
            coords = uncertain_points(
                logits.detach(), self.num_points, self.oversample_ratio, self.importance_ratio, is_valid
            )
        else:
            coords = torch.cat(list(points)).to(logits.dtype)  # (LM, P, 2)
        nums = num_layers * pairs.nums  # a list: pairs of each image, layer after layer
        per_image = zip(num_layers * targets, coords.split(nums), pairs.targets.flatten().split(nums), strict=True)
        masks = torch.cat([sample_at_points(target['masks'], at, index) for target, at, index in per_image])  # (LM, P)
        counts = None if is_valid is None else is_valid(coords, slice(None))
        losses = pair_losses(sample_at_points(logits, coords), masks, counts)
        norm = mean_over_processes(logits.new_tensor(totals.num_matched)).clamp(min=1) / totals.num_micro_batches
        bce, dice = (loss.view(num_layers, -1).sum(1) / norm for loss in losses)
        return bce, dice


def _per_class(weights: Sequence[float], num_classes: int) -> tuple[float, ...]:
    is_valid = all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)
    if len(weights) != num_classes or not is_valid or not any(weights):
        raise ValueError(
            f'class_weight={list(weights)} has {len(weights)} weights, the model {num_classes} classes: give one '
            'number for the class loss, or a list of one weight per class, at least 0 and not all 0'
        )
    return tuple(weights)


class SumOfBCE(torch.autograd.Function):
    """Binary cross-entropy of logits (M, P) and masks (M, P) in [0, 1], summed over points to (M,).

    bce(x, t) = relu(x) - x * t - log(sigmoid(abs(x))). The masks have no gradient.
    ``F.binary_cross_entropy_with_logits`` keeps a third tensor for the backward pass and is not vectorised on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor) -> Tensor:
        ctx.save_for_backward(logits, masks)
        bce = logits.relu().addcmul_(logits, masks, value=-1)
        return bce.sub_(logits.abs().sigmoid_().log_()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, masks = ctx.saved_tensors
        return logits.sigmoid().sub_(masks).mul_(grads[0][:, None]), None


def pair_losses(logits: Tensor, masks: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the binary cross-entropy (M,) and dice loss (M,) of M pairs of masks, sampled at points.

    Args:
        logits: (M, P), of predicted masks.
        masks: (M, P) in [0, 1], of targets.
        counts: (M, P) bool, False for ignored points; None: all points count.
    """
    num_points: Any = max(1, logits.shape[-1])
    if counts is not None:
        num_points = counts.sum(-1).clamp(min=1)
        logits = logits.masked_fill(~counts, CERTAIN_NO)
        masks = masks * counts
    probs = logits.sigmoid()
    dice = 1 - (2 * torch.linalg.vecdot(probs, masks) + 1) / (probs.sum(-1) + masks.sum(-1) + 1)
    return SumOfBCE.apply(logits, masks) / num_points, dice


def valid_points(targets: list[dict[str, Tensor]], pairs: Pairs) -> Callable[[Tensor, slice], Tensor] | None:
    """Build a function that checks which points of matched pairs lie on valid pixels.

    Returns:
        function of points (m, P, 2) and the slice of the LM pairs that they belong to, returning (m, P) bool. None:
        the targets have no ``valid`` (H, W).
    """
    if 'valid' not in targets[0]:
        return None
    valid = torch.stack([target['valid'] for target in targets])
    images = torch.arange(len(targets)).repeat_interleave(torch.tensor(pairs.nums)).repeat(len(pairs.queries))
    images = images.to(valid.device)
    return lambda points, part: pixels_at_points(valid, points, images[part])
