"""Sample masks at points, and choose the points (PointRend; Mask2Former, section 3.3)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of floating-point values, of sampled masks or of candidate points, to process at a time. Processing is several
# times as fast if it fits in the CPU's cache and each allocation is too small to be mapped as new memory.
CHUNK = 2**21


def sample_at_points(masks: Tensor, points: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Sample masks at points with bilinear interpolation; values outside the map are zero.

    Masks that are not floating point are converted in chunks, so that the converted copy has bounded size.

    Args:
        masks: (N, H, W), bool or floating.
        points: (M, P, 2), or (1, P, 2) for points shared by all masks; (x, y) in [0, 1] from outer edge to outer edge
            (``align_corners=False``).
        chosen: (M,), index of the mask for each row of points; None: row i samples mask i, M = N.

    Returns:
        (M, P), floating.
    """
    rows = len(masks) if chosen is None else len(chosen)
    grid = (2 * points - 1).expand(rows, -1, -1)[:, :, None]  # (M, P, 1, 2)

    def sampled(part: slice) -> Tensor:
        some = masks[part] if chosen is None else masks[chosen[part]]
        some = some if some.is_floating_point() else some.to(grid.dtype)
        return F.grid_sample(some[:, None], grid[part], align_corners=False)[:, 0, :, 0]

    if masks.is_floating_point() or rows == 0:
        return sampled(slice(None))
    return torch.cat([sampled(part) for part in chunks(rows, masks.shape[1:].numel())])


def pixels_at_points(pixels: Tensor, points: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Return the values of the pixels that contain the points.

    Args:
        pixels: (H, W), of any type; with ``chosen`` (N, H, W).
        points: (..., 2), (x, y) in [0, 1]; with ``chosen`` (M, P, 2).
        chosen: (M,), index of the map for each row of points.

    Returns:
        (...), of the same type.
    """
    h, w = pixels.shape[-2:]
    columns = (points[..., 0] * w).long().clamp(max=w - 1)
    rows = (points[..., 1] * h).long().clamp(max=h - 1)
    return pixels[rows, columns] if chosen is None else pixels[chosen[:, None], rows, columns]


@torch.no_grad()
def uncertain_points(
    mask_logits: Tensor,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
    counts_at: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """Draw points for the mask losses: the most uncertain points of a larger random set, plus other random points.

    Args:
        mask_logits: (N, h, w).
        num_points: number P of points per mask.
        oversample_ratio: ``int(P * oversample_ratio)`` candidates are drawn; at least 1.
        importance_ratio: fraction in [0, 1] of the P points that are the candidates of smallest ``abs(logit)``.
        counts_at: function of points (n, P, 2) and the slice of the masks that they belong to, returning bool (n, P):
            False for ignored points, which are chosen last. None: all points count.

    Returns:
        (N, P, 2), (x, y) in [0, 1]; the uncertain points come first, unsorted.
    """
    n, device, dtype = len(mask_logits), mask_logits.device, mask_logits.dtype
    num_candidates, num_uncertain = int(num_points * oversample_ratio), int(importance_ratio * num_points)
    points = torch.empty(n, num_points, 2, device=device, dtype=dtype)
    for part in chunks(n, 2 * num_candidates):
        candidates = torch.rand(len(mask_logits[part]), num_candidates, 2, device=device, dtype=dtype)
        uncertainty = sample_at_points(mask_logits[part], candidates).abs_().neg_()
        if counts_at is not None:
            uncertainty.masked_fill_(~counts_at(candidates, part), -torch.inf)
        chosen = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices  # (n, P_u)
        points[part, :num_uncertain] = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
    points[:, num_uncertain:] = torch.rand(n, num_points - num_uncertain, 2, device=device, dtype=dtype)
    return points


def chunks(rows: int, values: int) -> list[slice]:
    """Split rows of ``values`` values each into slices of at most ``CHUNK`` values, but at least one row."""
    step = max(1, CHUNK // values)
    return [slice(start, start + step) for start in range(0, rows, step)]
