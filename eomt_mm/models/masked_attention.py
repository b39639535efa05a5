"""Query-to-patch masked attention, annealed by a probability per block (EoMT paper, paragraph "Mask annealing")."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def query_patch_mask(mask_logits: Tensor, grid: tuple[int, int], keep_prob: Tensor | float = 1.0) -> Tensor:
    """Where each query may attend: the patches inside the mask that it predicts.

    Args:
        mask_logits: (B, Q, H/s, W/s), the intermediate prediction.
        grid: rows and columns (h, w) of the patches.
        keep_prob: probability in [0, 1] with which the mask of an (image, query) pair is kept; otherwise the query
            sees every patch. A 0-d tensor is read on its device, without a transfer.

    Returns:
        bool (B, Q, h * w), True = may attend.
    """
    inside = F.interpolate(mask_logits, grid, mode='bilinear', align_corners=False) > 0  # (B, Q, h, w)
    keep = torch.rand(inside.shape[:2], device=inside.device) < keep_prob  # (B, Q)
    return inside.flatten(2) | ~keep[..., None]


def full_attention_mask(query_mask: Tensor, num_tokens: int) -> Tensor:
    """Expands a query-to-patch mask over the sequence ``[queries, prefix, patches]``.

    Only query-to-patch entries can be False. Queries always see queries and prefix tokens, so no row is ever all
    False, and softmax never meets an empty row.

    Args:
        query_mask: bool (B, Q, h * w).
        num_tokens: length N of the sequence.

    Returns:
        bool (B, 1, N, N), True = attend, equal for all heads.
    """
    batch, num_queries, num_patches = query_mask.shape
    mask = query_mask.new_ones(batch, 1, num_tokens, num_tokens)
    mask[:, 0, :num_queries, num_tokens - num_patches :] = query_mask
    return mask


def annealed_keep_prob(step: int, start: float, end: float, power: float = 0.9) -> float:
    """Keep probability of a block's masks after ``step`` optimiser steps: 1, a polynomial fall, 0.

    Args:
        step: optimiser steps done.
        start: step at which the fall starts.
        end: step from which on masks are off; at least ``start``.
        power: exponent of the fall, 0.9 as published.
    """
    if step >= end:
        return 0.0
    if step < start:
        return 1.0
    return (1 - (step - start) / (end - start)) ** power
