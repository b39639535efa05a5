"""Losses of EoMT: class, mask and dice, on every prediction layer (Mask2Former, section 3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from eomt_mm.models.matcher import HungarianMatcher, compute_dtype
from eomt_mm.models.point_sampling import pixels_at_points, sample_at_points, uncertain_points

Matches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StepTotals:
    """What an optimiser step holds in this process: losses are divided by it, not by what one micro-batch holds.

    Attributes:
        num_images: images.
        num_matched: matched queries, min(targets, queries) of each image.
        num_micro_batches: parts that the step's batch comes in; the optimiser wrapper averages their losses.
    """

    num_images: int
    num_matched: int
    num_micro_batches: int = 1


def mean_over_processes(value: Tensor) -> Tensor:
    """Average of a 0-d tensor over the processes of a distributed run; the value itself otherwise."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


class Criterion(nn.Module):
    """Matches queries to targets and computes the weighted losses, in float32 whatever autocast says.

    Args:
        num_classes: number K of classes, without "no object".
        class_weight, mask_weight, dice_weight: weights of the three losses, and of the matching costs.
        no_object_weight: weight of "no object" in the class loss; above 0, or images without targets have no loss.
        num_points: points per mask.
        oversample_ratio, importance_ratio: see :func:`~eomt_mm.models.point_sampling.uncertain_points`.
        sync_class_norm: average the normaliser of the class loss over processes. False as published: each process
            divides by its own.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        sync_class_norm: bool = True,
    ) -> None:
        super().__init__()
        if no_object_weight <= 0:
            raise ValueError(f'no_object_weight={no_object_weight}: above 0; published is 0.1')
        if oversample_ratio < 1:
            raise ValueError(f'oversample_ratio={oversample_ratio}: at least 1; published is 3')
        if not 0 <= importance_ratio <= 1:
            raise ValueError(f'importance_ratio={importance_ratio}: between 0 and 1; published is 0.75')
        self.num_classes = num_classes
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.sync_class_norm = sync_class_norm
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, num_points)

    def forward(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        match_points: Sequence[Tensor] | None = None,
        loss_points: Sequence[Tensor] | None = None,
        totals: StepTotals | None = None,
    ) -> dict[str, Tensor]:
        """Losses of all prediction layers, each matched on its own.

        Args:
            class_logits: per layer (B, Q, K + 1).
            mask_logits: per layer (B, Q, h, w).
            targets: per image ``labels`` (N,) int64 in [0, K) and ``masks`` (N, H, W) bool; with ``valid`` (H, W) bool,
                in all images or none, points on other pixels count neither in the matching nor in the losses.
            match_points: per layer (B, P, 2), points of the matching; drawn where not given.
            loss_points: per layer (M, P, 2), points of the M matched pairs, image by image and by query within an
                image; drawn where not given.
            totals: of the step that the batch is a part of; None where it is the whole step.

        Returns:
            ``loss_cls``, ``loss_mask``, ``loss_dice`` of the final layer, and the same with ``d{i}.`` in front for
            the layers before it; 0-d, weighted.
        """
        losses: dict[str, Tensor] = {}
        last = len(class_logits) - 1
        for i, (classes, masks) in enumerate(zip(class_logits, mask_logits, strict=True)):
            matches = self.matcher(classes, masks, targets, None if match_points is None else match_points[i])
            points = None if loss_points is None else loss_points[i]
            layer = self.layer_losses(classes, masks, targets, matches, points, totals)
            losses |= {name if i == last else f'd{i}.{name}': value for name, value in layer.items()}
        return losses

    def layer_losses(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: list[dict[str, Tensor]],
        matches: Matches,
        points: Tensor | None = None,
        totals: StepTotals | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses of one prediction layer for given matches; see :meth:`forward`."""
        totals = totals or StepTotals(len(matches), sum(len(query_idx) for query_idx, _ in matches))
        with torch.autocast(mask_logits.device.type, enabled=False):
            class_logits = class_logits.to(compute_dtype(class_logits))
            mask_logits = mask_logits.to(compute_dtype(mask_logits))
            loss_mask, loss_dice = self.mask_losses(mask_logits, targets, matches, points, totals)
            return dict(
                loss_cls=self.class_weight * self.class_loss(class_logits, targets, matches, totals),
                loss_mask=self.mask_weight * loss_mask,
                loss_dice=self.dice_weight * loss_dice,
            )

    def class_loss(
        self, class_logits: Tensor, targets: list[dict[str, Tensor]], matches: Matches, totals: StepTotals
    ) -> Tensor:
        """Weighted cross-entropy over all queries, divided by the sum of weights; unmatched ones are "no object"."""
        labels = torch.full(class_logits.shape[:2], self.num_classes, device=class_logits.device)
        for image_labels, target, (query_idx, target_idx) in zip(labels, targets, matches, strict=True):
            image_labels[query_idx] = target['labels'][target_idx]
        weights = class_logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        unmatched = totals.num_images * class_logits.shape[1] - totals.num_matched
        norm = class_logits.new_tensor(totals.num_matched + self.no_object_weight * unmatched)
        norm /= totals.num_micro_batches
        if self.sync_class_norm:
            norm = mean_over_processes(norm)
        return F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weights, reduction='sum') / norm

    def mask_losses(
        self,
        mask_logits: Tensor,
        targets: list[dict[str, Tensor]],
        matches: Matches,
        points: Tensor | None,
        totals: StepTotals,
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and dice at points of the matched pairs, divided by their mean number per process."""
        logits = torch.cat([masks[query_idx] for masks, (query_idx, _) in zip(mask_logits, matches, strict=True)])
        norm = mean_over_processes(logits.new_tensor(totals.num_matched)).clamp(min=1) / totals.num_micro_batches
        if len(logits) == 0:
            zero = logits.sum()  # keeps the mask branch in the graph: every process has gradients to reduce
            return zero, zero
        counts_at = valid_points(targets, [len(query_idx) for query_idx, _ in matches])
        if points is None:
            points = uncertain_points(
                logits.detach(), self.num_points, self.oversample_ratio, self.importance_ratio, counts_at
            )
        with torch.no_grad():
            masks = torch.cat(
                [target['masks'][target_idx] for target, (_, target_idx) in zip(targets, matches, strict=True)]
            )
            points = points.to(logits.dtype)
            masks = sample_at_points(masks, points)  # (M, P)
        logits = sample_at_points(logits, points)  # (M, P)
        bce = F.binary_cross_entropy_with_logits(logits, masks, reduction='none')  # (M, P)
        probs = logits.sigmoid()
        if counts_at is None:
            bce = bce.mean(-1)
        else:
            counts = counts_at(points)  # (M, P)
            bce = (bce * counts).sum(-1) / counts.sum(-1).clamp(min=1)
            probs, masks = probs * counts, masks * counts
        dice = 1 - (2 * (probs * masks).sum(-1) + 1) / (probs.sum(-1) + masks.sum(-1) + 1)
        return bce.sum() / norm, dice.sum() / norm


def valid_points(targets: list[dict[str, Tensor]], nums: list[int]) -> Callable[[Tensor], Tensor] | None:
    """What tells which points of matched pairs fall on valid pixels; None where targets have no ``valid``.

    Args:
        targets: per image, with ``valid`` (H, W) bool, or without.
        nums: per image the number of matched pairs; M in all.

    Returns:
        function of points (M, P, 2), image by image, giving (M, P) bool.
    """
    if 'valid' not in targets[0]:
        return None
    return lambda points: torch.cat(
        [pixels_at_points(target['valid'], part) for target, part in zip(targets, points.split(nums), strict=True)]
    )
