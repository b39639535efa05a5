"""EoMT's forward pass: a ViT, queries that join before its last blocks, predictions (arXiv 2503.19108)."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.backbone import PlainViT, Tokens
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.masked_attention import query_patch_mask

# One entry per prediction layer, the final one last: class logits (B, Q, K + 1), mask logits (B, Q, H/s, W/s).
Predictions = tuple[list[Tensor], list[Tensor]]


def eomt_forward(backbone: PlainViT, head: EoMTHead, images: Tensor) -> Predictions:
    """Runs EoMT.

    In training, and with ``head.predict_intermediate``, a prediction is made before each joint block as well; in
    training it then masks that block's query-to-patch attention, until annealed. In evaluation masks are off.

    Args:
        backbone: gives the tokens and runs its own blocks.
        head: queries and predictors.
        images: (B, 3, H, W), normalised; sides multiples of the patch size.

    Returns:
        class logits and mask logits of each prediction layer: ``num_blocks + 1`` entries each, or 1.
    """
    layers = []
    first = backbone.depth - head.num_blocks
    tokens = backbone(images, num_blocks=first).prepend(head.queries.weight)
    for b in range(head.num_blocks):
        query_mask = None
        if head.predicts_before_blocks:
            layers.append(predict_layer(backbone, head, tokens))
        if head.masks_block(b):
            _, mask_logits = layers[-1]
            query_mask = query_patch_mask(mask_logits, tokens.grid, head.attn_mask_probs[b])
        tokens = backbone.run_block(tokens, first + b, query_mask)
    layers.append(predict_layer(backbone, head, tokens))
    return [classes for classes, _ in layers], [masks for _, masks in layers]


def predict_layer(backbone: PlainViT, head: EoMTHead, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, H/s, W/s) from the tokens between two blocks."""

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        return head.predict_logits(backbone.final_norm(replace(tokens, x=x)))

    if head.with_cp and torch.is_grad_enabled():
        return checkpoint(logits, tokens.x, use_reentrant=False)
    return logits(tokens.x)
