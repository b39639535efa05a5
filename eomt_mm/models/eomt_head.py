"""What EoMT adds to the ViT: queries, class and mask predictors, and the blocks that scale the patch tokens up."""

import math

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from eomt_mm.models.backbone import Tokens


def default_num_blocks(depth: int) -> int:
    """Number of joint blocks published for a ViT of ``depth`` blocks: S, B: 3, L: 4, g: 5."""
    published = 3 if depth <= 12 else 4 if depth <= 24 else 5
    return min(published, depth)


def num_scale_blocks(patch_size: int) -> int:
    """Number of 2x scale blocks that bring the patch grid to about a quarter of the input: 2 at patch 16."""
    return max(1, int(math.log2(patch_size)) - 2)


class ScaleBlock(nn.Module):
    """Doubles the resolution: transposed convolution, GELU, depthwise 3x3 convolution, channel LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.act = nn.GELU()
        self.conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, 2h, 2w)."""
        return self.norm(self.conv(self.act(self.up(x))))


class EoMTHead(nn.Module):
    """Queries and predictors of EoMT (paper, section "Encoder-only Mask Transformer").

    Args:
        embed_dim: width C of the ViT.
        depth: number of blocks of the ViT.
        patch_size: in pixels; decides the number of scale blocks.
        num_classes: number K of classes; the class logits have one more, "no object", at the end.
        num_queries: number Q of queries.
        num_blocks: number of joint blocks, 1 to depth; None: as published for this depth.
        masked_attention: mask the joint blocks in training with the intermediate predictions.
        predict_intermediate: predict before each joint block in evaluation too.
        with_cp: activation checkpointing of the predictions: the upscaled features, the largest tensors of a training
            step, are computed again in the backward pass instead of being kept for every layer. Gradients are the same.

    Raises:
        ValueError: naming the argument that does not fit.
    """

    attn_mask_probs: Tensor

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        patch_size: int,
        num_classes: int,
        num_queries: int = 200,
        num_blocks: int | None = None,
        masked_attention: bool = True,
        predict_intermediate: bool = False,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        num_blocks = default_num_blocks(depth) if num_blocks is None else num_blocks
        if num_classes < 1:
            raise ValueError(f'num_classes={num_classes}: at least 1, the number of classes without "no object"')
        if num_queries < 1:
            raise ValueError(f'num_queries={num_queries}: at least 1; published are 100 (semantic) and 200')
        if not 1 <= num_blocks <= depth:
            raise ValueError(f'num_blocks={num_blocks}: between 1 and the {depth} blocks of the backbone')
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.num_blocks = num_blocks
        self.masked_attention = masked_attention
        self.predict_intermediate = predict_intermediate
        self.with_cp = with_cp
        self.queries = nn.Embedding(num_queries, embed_dim)
        self.class_predictor = nn.Linear(embed_dim, num_classes + 1)
        self.mask_mlp = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Linear(embed_dim, embed_dim),
        )
        self.upscale = nn.Sequential(*(ScaleBlock(embed_dim) for _ in range(num_scale_blocks(patch_size))))
        # Probability of keeping the masks of each joint block; saved, so that a resumed run goes on where it was.
        self.register_buffer('attn_mask_probs', torch.ones(num_blocks))

    @property
    def predicts_before_blocks(self) -> bool:
        """Whether predictions are made before each joint block, not only after the last one."""
        return self.training or self.predict_intermediate

    def set_attn_mask_probs(self, probs: list[float]) -> None:
        """Sets the keep probabilities, one per joint block, each in [0, 1].

        Raises:
            ValueError: for another number of them, or a value outside.
        """
        if len(probs) != self.num_blocks or not all(0 <= prob <= 1 for prob in probs):
            raise ValueError(f'probs={probs}: one for each of the {self.num_blocks} joint blocks, each in [0, 1]')
        self.attn_mask_probs.copy_(torch.tensor(probs))

    def predict_logits(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Class and mask logits from normalised tokens ``[queries, prefix, patches]``.

        Returns:
            class logits (B, Q, K + 1) and mask logits (B, Q, H/s, W/s), s = patch_size / 2^n for n scale blocks.
        """
        (h, w), x = tokens.grid, tokens.x
        queries, patches = x[:, : self.num_queries], x[:, -h * w :]
        features = self.upscale(patches.transpose(1, 2).unflatten(2, (h, w)))  # (B, C, H/s, W/s)
        mask_logits = torch.einsum('bqc,bchw->bqhw', self.mask_mlp(queries), features)
        return self.class_predictor(queries), mask_logits
