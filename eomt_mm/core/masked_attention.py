"""Query-to-patch masked attention, annealed by a probability per block (EoMT paper, paragraph "Mask annealing")."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

# With `fused_attn`, these only pass their mask to `F.scaled_dot_product_attention` and do not use it otherwise.
BY_ROWS = (Attention, AttentionRope, EvaAttention, ParallelScalingBlock)


@torch.no_grad()
def query_patch_mask(mask_logits: Tensor, grid: tuple[int, int], keep_prob: Tensor | float = 1.0) -> Tensor:
    """Compute the mask of the patches that each query may attend to: those inside its predicted mask.

    Args:
        mask_logits: (B, Q, H/s, W/s), the intermediate prediction.
        grid: rows and columns (h, w) of the patches.
        keep_prob: probability in [0, 1] with which the mask of an (image, query) pair is kept; otherwise the query
            sees every patch. A 0-d tensor stays on its device.

    Returns:
        bool (B, Q, h * w), True = may attend.
    """
    inside = F.interpolate(mask_logits, grid, mode='bilinear', align_corners=False) > 0  # (B, Q, h, w)
    keep = torch.rand(inside.shape[:2], device=inside.device) < keep_prob  # (B, Q)
    return inside.flatten(2) | ~keep[..., None]


def block_mask(block: nn.Module, query_mask: Tensor, num_tokens: int) -> 'QueryRowsMask | Tensor':
    """Build ``attn_mask`` for ``block``: a mask of the query rows if its attention supports it, else a full mask.

    Args:
        block: block of a ViT; its attention is ``block.attn`` or, without that attribute, the block itself.
        query_mask: bool (B, Q, h * w), True = may attend.
        num_tokens: length N of the sequence.
    """
    attention: Any = getattr(block, 'attn', block)
    if type(attention) in BY_ROWS and attention.fused_attn:
        return QueryRowsMask(query_mask)
    return full_attention_mask(query_mask, num_tokens)


@dataclass(frozen=True)
class QueryRowsMask:
    """Replacement of :func:`full_attention_mask` in ``F.scaled_dot_product_attention``, without its N x N entries.

    The rows of a softmax are independent. Attention therefore runs twice: for the query rows with their (Q x N) mask,
    and for all other rows without a mask, which allows the fastest kernels. No other function accepts this mask.

    Attributes:
        query_mask: bool (B, Q, h * w), True = may attend.
    """

    query_mask: Tensor

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return attention_by_rows(*args, **(kwargs or {}))
        return NotImplemented


def attention_by_rows(query: Tensor, key: Tensor, value: Tensor, attn_mask: QueryRowsMask, **options: Any) -> Tensor:
    """Compute ``F.scaled_dot_product_attention`` of (B, heads, N, head_dim) separately for query and other rows."""
    query_mask = attn_mask.query_mask
    num_queries, num_patches = query_mask.shape[1:]
    # Queries always see queries and prefix tokens.
    mask = F.pad(query_mask, (key.shape[-2] - num_patches, 0), value=True)[:, None]  # (B, 1, Q, N)
    attend = F.scaled_dot_product_attention
    masked = attend(query[:, :, :num_queries], key, value, attn_mask=mask, **options)
    free = attend(query[:, :, num_queries:], key, value, **options)
    # Join as (B, N, heads, head_dim), the memory layout that the next layer reads; this saves a copy there.
    return torch.cat([masked.transpose(1, 2), free.transpose(1, 2)], dim=1).transpose(1, 2)


def full_attention_mask(query_mask: Tensor, num_tokens: int) -> Tensor:
    """Expand a query-to-patch mask to the whole sequence ``[queries, prefix, patches]``.

    Only query-to-patch entries can be False. Queries always see queries and prefix tokens, so that no row is all
    False and the softmax is defined.

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
