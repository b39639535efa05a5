"""Hungarian matching of queries to targets (DETR; Mask2Former, section 3.3)."""

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from eomt_mm.core.point_sampling import pixels_at_points, sample_at_points

Match = tuple[Tensor, Tensor]
Matches = list[Match]

# Replaces costs that are NaN or infinite, which scipy rejects; larger than any cost of finite logits.
LARGE_COST = 1e10


class HungarianMatcher(nn.Module):
    """One-to-one assignment of queries to targets that minimises the sum of costs.

    Cost of a pair = class_weight * (-p(class)) + mask_weight * BCE + dice_weight * dice. BCE and dice compare masks at
    random points, the same for all masks of an image.

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
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        points: Sequence[Tensor] | None = None,
    ) -> list[Matches]:
        """Match each image in each prediction layer independently; all costs are copied to the CPU in one transfer.

        All layers share the drawn points, so that targets are sampled once. For each layer, the points are still
        uniform and independent of its logits.

        Args:
            class_logits: per layer (B, Q, K + 1).
            mask_logits: per layer (B, Q, h, w).
            targets: per image ``labels`` (N,), ``masks`` (N, H, W) and, if some pixels are ignored, ``valid`` (H, W).
            points: per layer (B, P, 2), (x, y) in [0, 1]; None: drawn.

        Returns:
            per layer and image, the indices of matched queries and of their targets: each (min(Q, N),), int64, on the
            CPU, with queries in ascending order.
        """
        if points is None:
            device, dtype = mask_logits[0].device, compute_dtype(mask_logits[0])
            drawn = torch.rand(len(targets), self.num_points, 2, device=device, dtype=dtype)
            costs = self._batch_costs(class_logits, mask_logits, targets, drawn)
        else:
            layers = zip(class_logits, mask_logits, points, strict=True)
            costs = [cost for c, m, p in layers for cost in self._batch_costs([c], [m], targets, p)]
        return [[self.assign(cost) for cost in layer] for layer in on_the_host(costs)]

    def _batch_costs(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: list[dict[str, Tensor]],
        points: Tensor,
    ) -> list[list[Tensor]]:
        """Compute costs (Q, N) per layer and image, at points (B, P, 2) that all layers share."""
        images = [
            self.cost_matrices([c[b] for c in class_logits], [m[b] for m in mask_logits], target, points[b])
            for b, target in enumerate(targets)
        ]
        return [[costs[layer] for costs in images] for layer in range(len(class_logits))]

    def cost_matrices(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        target: dict[str, Tensor],
        points: Tensor,
    ) -> list[Tensor]:
        """Compute costs (Q, N) of one image per layer: finite, in float32 or wider regardless of autocast.

        Args:
            class_logits: per layer (Q, K + 1).
            mask_logits: per layer (Q, h, w).
            target: see :meth:`forward`.
            points: (P, 2), the same for all layers.
        """
        dtype = compute_dtype(mask_logits[0])
        with torch.autocast(mask_logits[0].device.type, enabled=False):
            points = points.to(dtype)[None]
            if 'valid' in target:
                points = points[:, pixels_at_points(target['valid'], points[0])]
            masks = sample_at_points(target['masks'], points)  # (N, P)
            return [
                self.pair_costs(classes.to(dtype), sample_at_points(logits.to(dtype), points), target['labels'], masks)
                for classes, logits in zip(class_logits, mask_logits, strict=True)
            ]

    def pair_costs(self, class_logits: Tensor, logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """Compute costs (Q, N) from class logits (Q, K + 1), labels (N,), mask logits (Q, P) and masks (N, P)."""
        cost = (
            -self.class_weight * class_logits.softmax(-1)[:, labels]
            + self.mask_weight * pairwise_bce(logits, masks)
            + self.dice_weight * pairwise_dice(logits, masks)
        )
        return cost.nan_to_num(nan=LARGE_COST, posinf=LARGE_COST, neginf=-LARGE_COST)

    def assign(self, costs: Tensor) -> Match:
        """Solve the assignment for costs (Q, N) on the CPU: indices of queries and their targets, (min(Q, N),) each."""
        query_idx, target_idx = linear_sum_assignment(costs.numpy())
        return torch.from_numpy(query_idx), torch.from_numpy(target_idx)


def on_the_host(costs: list[list[Tensor]]) -> list[list[Tensor]]:
    """Copy cost matrices to the CPU in one transfer, because each transfer waits for the work queued on the device."""
    flat = [cost for layer in costs for cost in layer]
    if not flat:
        return costs
    parts = torch.cat([cost.flatten() for cost in flat]).cpu().split([cost.numel() for cost in flat])
    matrices = iter(part.view_as(cost) for part, cost in zip(parts, flat, strict=True))
    return [[next(matrices) for _ in layer] for layer in costs]


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return float32 for half-precision tensors, otherwise the tensor's own dtype."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def pairwise_bce(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy (Q, N) of all pairs of logits (Q, P) and masks (N, P) in [0, 1].

    It is 0 without points.

    bce(x, t) = softplus(x) - x * t, with softplus(x) = relu(x) - log(sigmoid(abs(x))). ``F.softplus`` is not vectorised
    on the CPU and takes ten times as long.
    """
    softplus = logits.relu().sub_(logits.abs().sigmoid_().log_())
    return (softplus.sum(-1, keepdim=True) - logits @ masks.T) / max(1, logits.shape[-1])


def pairwise_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Compute the dice cost (Q, N), smoothed by 1, of all pairs of logits (Q, P) and masks (N, P) in [0, 1]."""
    probs = logits.sigmoid()
    return 1 - (2 * probs @ masks.T + 1) / (probs.sum(-1)[:, None] + masks.sum(-1)[None] + 1)
