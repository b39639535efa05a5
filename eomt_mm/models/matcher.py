"""Hungarian matching of queries to targets (DETR; Mask2Former, section 3.3)."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from eomt_mm.models.point_sampling import pixels_at_points, sample_at_points

# A cost that no finite logit reaches; it stands for NaN and inf, which scipy refuses.
LARGE_COST = 1e10


class HungarianMatcher(nn.Module):
    """Assigns each target the query with which the sum of costs is smallest.

    Cost of a pair = class_weight * (-p(class)) + mask_weight * BCE + dice_weight * dice, masks compared at random
    points that all masks of an image share.

    Args:
        class_weight, mask_weight, dice_weight: weights of the costs; at least 0, not all 0.
        num_points: number P of points, 112 * 112 as published.
    """

    def __init__(
        self,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ) -> None:
        super().__init__()
        weights = (class_weight, mask_weight, dice_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f'class_weight, mask_weight, dice_weight = {weights}: at least 0, and not all 0')
        if num_points < 1:
            raise ValueError(f'num_points={num_points}: at least 1; published is 12544')
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    @torch.no_grad()
    def forward(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        targets: list[dict[str, Tensor]],
        points: Tensor | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Matches each image of a batch on its own.

        Args:
            class_logits: (B, Q, K + 1).
            mask_logits: (B, Q, h, w).
            targets: per image ``labels`` (N,), ``masks`` (N, H, W) and, where not every pixel counts, ``valid`` (H, W).
            points: (B, P, 2), (x, y) in [0, 1]; drawn where not given.

        Returns:
            per image the indices of matched queries and of their targets, each (min(Q, N),), int64, on the CPU.
        """
        if points is None:
            points = torch.rand(
                len(targets), self.num_points, 2, device=mask_logits.device, dtype=compute_dtype(mask_logits)
            )
        return [
            self._match(classes, masks, target, image_points)
            for classes, masks, target, image_points in zip(class_logits, mask_logits, targets, points, strict=True)
        ]

    def _match(
        self, class_logits: Tensor, mask_logits: Tensor, target: dict[str, Tensor], points: Tensor
    ) -> tuple[Tensor, Tensor]:
        if len(target['labels']) == 0:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        costs = self.cost_matrix(class_logits, mask_logits, target, points)
        query_idx, target_idx = linear_sum_assignment(costs.cpu().numpy())
        return torch.from_numpy(query_idx), torch.from_numpy(target_idx)

    def cost_matrix(
        self, class_logits: Tensor, mask_logits: Tensor, target: dict[str, Tensor], points: Tensor
    ) -> Tensor:
        """Costs (Q, N) of one image, finite, in float32 or wider whatever autocast says; see :meth:`forward`."""
        dtype = compute_dtype(mask_logits)
        with torch.autocast(mask_logits.device.type, enabled=False):
            points = points.to(dtype)[None]
            if 'valid' in target:
                points = points[:, pixels_at_points(target['valid'], points[0])]
            logits = sample_at_points(mask_logits.to(dtype), points)  # (Q, P)
            masks = sample_at_points(target['masks'].to(dtype), points)  # (N, P)
            class_cost = -class_logits.to(dtype).softmax(-1)[:, target['labels']]
            cost = (
                self.class_weight * class_cost
                + self.mask_weight * pairwise_bce(logits, masks)
                + self.dice_weight * pairwise_dice(logits, masks)
            )
        return cost.nan_to_num(nan=LARGE_COST, posinf=LARGE_COST, neginf=-LARGE_COST)


def compute_dtype(x: Tensor) -> torch.dtype:
    """float32 for half precisions, otherwise the tensor's own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def pairwise_bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy of every pair: logits (Q, P), masks (N, P) in [0, 1] to (Q, N); 0 without points.

    bce(x, t) = softplus(x) - x * t.
    """
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ masks.T) / max(1, logits.shape[-1])


def pairwise_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice cost of every pair, smoothed by 1: logits (Q, P), masks (N, P) in [0, 1] to (Q, N)."""
    probs = logits.sigmoid()
    return 1 - (2 * probs @ masks.T + 1) / (probs.sum(-1)[:, None] + masks.sum(-1)[None] + 1)
