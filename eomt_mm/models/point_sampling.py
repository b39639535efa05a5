"""Sampling masks at points, and choosing the points (PointRend; Mask2Former, section 3.3)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_at_points(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of masks at points, zero outside the mask.

    Args:
        masks: (N, H, W), bool or floating.
        points: (N, P, 2), or (1, P, 2) for points shared by all masks; (x, y) in [0, 1], pixel areas
            (``align_corners=False``).

    Returns:
        (N, P), floating.
    """
    if not masks.is_floating_point():
        masks = masks.to(points.dtype)
    grid = 2 * points - 1
    if len(points) == 1:  # shared points: masks become channels, and the weights are computed once
        return F.grid_sample(masks[None], grid[:, :, None], align_corners=False)[0, :, :, 0]
    return F.grid_sample(masks[:, None], grid[:, :, None], align_corners=False)[:, 0, :, 0]


def pixels_at_points(pixels: Tensor, points: Tensor) -> Tensor:
    """Values of the pixels that points fall on.

    Args:
        pixels: (H, W), of any type.
        points: (..., 2), (x, y) in [0, 1].

    Returns:
        (...), of the same type.
    """
    h, w = pixels.shape
    columns = (points[..., 0] * w).long().clamp(max=w - 1)
    rows = (points[..., 1] * h).long().clamp(max=h - 1)
    return pixels[rows, columns]


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    counts_at: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Points for the mask losses: the most uncertain ones of a larger random set, and random ones.

    Args:
        mask_logits: (N, h, w).
        num_points: number P of points per mask.
        oversample_ratio: ``int(P * oversample_ratio)`` candidates are drawn, at least 1 x.
        importance_ratio: share in [0, 1] of the P points that are taken by smallest ``abs(logit)``.
        counts_at: maps points (N, P, 2) to bool (N, P), which of them count; the others are taken last. None: all do.

    Returns:
        (N, P, 2), (x, y) in [0, 1].
    """
    n, device, dtype = len(mask_logits), mask_logits.device, mask_logits.dtype
    num_uncertain = int(importance_ratio * num_points)
    candidates = torch.rand(n, int(num_points * oversample_ratio), 2, device=device, dtype=dtype)
    uncertainty = -sample_at_points(mask_logits, candidates).abs() if n else candidates[..., 0]
    if counts_at is not None:
        uncertainty = uncertainty.masked_fill(~counts_at(candidates), -torch.inf)
    chosen = uncertainty.topk(num_uncertain, dim=1).indices  # (N, P_u)
    uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    return torch.cat([uncertain, torch.rand(n, num_points - num_uncertain, 2, device=device, dtype=dtype)], dim=1)
