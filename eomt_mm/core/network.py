"""Forward pass of EoMT: a ViT, queries added before its last blocks, and predictions (arXiv 2503.19108)."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.backbone import PlainViT, Tokens
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.masked_attention import query_patch_mask

# Class logits (B, Q, K + 1) and mask logits (B, Q, H/s, W/s) of each prediction layer, the final layer last.
Predictions = tuple[list[Tensor], list[Tensor]]


def eomt_forward(backbone: PlainViT, head: EoMTHead, images: Tensor) -> Predictions:
    """Run EoMT: the first blocks on patches, the joint blocks on queries and patches, and the predictions.

    In training, or with ``head.predict_intermediate``, the head also predicts before each joint block. In training,
    this prediction masks the query-to-patch attention of the block until the keep probability is annealed to 0. In
    evaluation, attention is not masked.

    Args:
        backbone: ViT that embeds the images and runs its blocks.
        head: queries and predictors.
        images: (B, 3, H, W), normalised; sides multiples of the patch size.

    Returns:
        class logits and mask logits of each prediction layer: ``num_blocks + 1`` entries each, or 1 for the final
        prediction alone.
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
    """Compute class logits (B, Q, K + 1) and mask logits (B, Q, H/s, W/s) from the tokens between two blocks."""

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        return head.predict_logits(backbone.final_norm(replace(tokens, x=x)))

    if head.with_cp and torch.is_grad_enabled():
        return checkpoint(logits, tokens.x, use_reentrant=False)
    return logits(tokens.x)
