"""Boxes of masks."""

import torch
from torch import Tensor


def boxes_of_masks(masks: Tensor) -> Tensor:
    """Compute the tight boxes (N, 4), (x1, y1, x2, y2) in pixels, of masks (N, H, W); zeros for empty masks."""
    pixels = masks.view(torch.uint8)  # on a CPU, torch's maximum over bytes is 25 times as fast as `any` over bools

    def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:  # (N, L) bool
        first = occupied.int().argmax(1)
        last = occupied.shape[1] - occupied.int().flip(1).argmax(1)
        return first, torch.where(occupied.any(1), last, 0)

    (x1, x2), (y1, y2) = extent(pixels.amax(1).bool()), extent(pixels.amax(2).bool())
    return torch.stack([x1, y1, x2, y2], dim=1).float()
