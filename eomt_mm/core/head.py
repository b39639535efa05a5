"""EoMT's head: queries, class and mask predictors, and blocks that upscale the patch tokens."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.backbone import Tokens

# Bytes of a strip's feature map per image. Small enough to stay in the cache; large enough that the convolution is
# fast, although it reorders its weights in each call. With 32 MB of cache, 4 to 20 MB were within 10% of each other.
STRIP_BYTES = 12 * 2**20


def default_num_blocks(depth: int) -> int:
    """Return the published number of joint blocks for a ViT with ``depth`` blocks: 3 for S and B, 4 for L, 5 for g."""
    published = 3 if depth <= 12 else 4 if depth <= 24 else 5
    return min(published, depth)


def num_scale_blocks(patch_size: int) -> int:
    """Return the number of 2x scale blocks that upscale the patch grid to about 1/4 of the input: 2 at patch 16."""
    return max(1, int(math.log2(patch_size)) - 2)


class ScaleBlock(nn.Module):
    """Upscaling by 2: transposed convolution, GELU, depthwise 3x3 convolution, channel LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.act = nn.GELU()
        self.conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.norm = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale (B, C, h, w) to (B, C, 2h, 2w)."""
        return self.finish(self.up(x))

    def finish(self, scaled: Tensor) -> Tensor:
        """Apply the layers after the transposed convolution to (B, C, H, W); the shape is unchanged."""
        return self.norm(self.conv(self.act(scaled)))


class Upscale(nn.ModuleList):
    """Scale blocks in sequence, then the product of the upscaled features and the mask embeddings of the queries.

    These features are the largest tensors of the network. On a CPU, the last block and the product run in strips of
    rows.

    Args:
        blocks: scale blocks, at least one.
        recompute: keep only the output of the last transposed convolution for the backward pass, which computes
            activation, depthwise convolution, norm and product again. On a CPU this takes no extra time and reduces
            memory 2.5-fold: 8.8 s and 321 MB against 8.9 s and 788 MB for the 4 predictions of ViT-S, 640 x 640,
            forward and backward on one core, alternating runs.
    """

    def __init__(self, blocks: Iterable[ScaleBlock], recompute: bool = True) -> None:
        super().__init__(blocks)
        self.recompute = recompute

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """Compute mask logits (B, Q, H, W).

        Args:
            x: patch tokens as a map (B, C, h, w), channels-last in memory.
            embeddings: mask embeddings of the queries, (B, Q, C).
        """
        blocks: list[Any] = list(self)
        *first, last = blocks
        for block in first:
            x = block(x)
        rows = _rows_per_strip(x)
        if rows is None:
            return self._masks(last.up(x), embeddings, 0, 2 * x.shape[2])
        strips: list[Tensor] = []
        above: Tensor | None = None
        parts = x.split(rows, dim=2)
        for i, part in enumerate(parts):
            scaled = last.up(part)
            if above is not None:  # the 3x3 convolution needs a row above and below: output lags by one row
                scaled = torch.cat([above, scaled], dim=2)
            above = scaled[:, :, -2:]
            bottom = scaled.shape[2] - (i < len(parts) - 1)
            strips.append(self._masks(scaled, embeddings, int(i > 0), bottom))
        return torch.cat(strips, dim=2)

    def _masks(self, scaled: Tensor, *args: Any) -> Tensor:
        """Run :meth:`_masks_of_rows`; with ``recompute``, only its arguments are kept for the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._masks_of_rows, scaled, *args, use_reentrant=False, preserve_rng_state=False)
        return self._masks_of_rows(scaled, *args)

    def _masks_of_rows(self, scaled: Tensor, embeddings: Tensor, top: int, bottom: int) -> Tensor:
        """Compute mask logits (B, Q, bottom - top, W) of rows ``top`` to ``bottom`` of ``scaled``.

        ``scaled`` (B, C, H', W) is output of the last transposed convolution.
        """
        last: Any = self[-1]
        # Channels last, as the norm leaves them in memory: exported graphs then transpose the features only once (in
        # OpenVINO, the scale blocks and this product of EoMT-S take 0.83 of the time).
        features = last.finish(scaled)[:, :, top:bottom].permute(0, 2, 3, 1)  # (B, rows, W, C)
        return (embeddings @ features.flatten(1, 2).transpose(1, 2)).unflatten(2, features.shape[1:3])


def _rows_per_strip(x: Tensor) -> int | None:
    """Choose the number of rows per strip of the last block's input (B, C, h, w); None: all rows at once.

    On a CPU, the page faults of a new tensor of tens of megabytes take longer than the arithmetic on it. The tensors
    of a strip stay in the cache, and the next strip reuses their memory. Compiled code is fused and needs no strips.
    The rule ignores the batch size, so that results do not depend on it.
    """
    if x.device.type != 'cpu' or torch.compiler.is_compiling():
        return None
    _, channels, h, w = x.shape
    rows = max(1, STRIP_BYTES // (4 * w * channels * x.element_size()))
    return rows if rows < h else None


class EoMTHead(nn.Module):
    """Queries and predictors of EoMT (paper, section "Encoder-only Mask Transformer").

    Args:
        embed_dim: width C of the ViT.
        depth: number of blocks of the ViT.
        patch_size: in pixels; decides the number of scale blocks.
        num_classes: number K of classes; class logits have one more entry at the end, "no object".
        num_queries: number Q of queries.
        num_blocks: number of joint blocks (the last blocks, which process queries and patches together), 1 to depth;
            None: as published for this depth.
        masked_attention: in training, mask the attention of the joint blocks with the intermediate predictions.
        predict_intermediate: predict before each joint block in evaluation too.
        with_cp: activation checkpointing of the predictions: the upscaled features, the largest tensors of a training
            step, are recomputed in the backward pass instead of kept for every layer. Gradients are unchanged.
        recompute_masks: recompute the last step of upscaling even without ``with_cp``; see :class:`Upscale`. Set it to
            False on accelerators with memory to spare.

    Raises:
        ValueError: an argument is out of range; the message names it.
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
        recompute_masks: bool = True,
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
        scale_blocks = (ScaleBlock(embed_dim) for _ in range(num_scale_blocks(patch_size)))
        self.upscale = Upscale(scale_blocks, recompute_masks)
        # Probability of keeping a mask, per joint block. Saved in the state dict, for resumed runs.
        self.register_buffer('attn_mask_probs', torch.ones(num_blocks))
        # Which of them are above 0, kept on the CPU: reading the buffer would wait for the device in every step.
        self._masked = [True] * num_blocks
        self.probs_were_set = False  # by anything except loading a checkpoint
        self.register_load_state_dict_pre_hook(_note_stored_probs)

    @property
    def predicts_before_blocks(self) -> bool:
        """Whether predictions are made before each joint block, not only after the last one."""
        return self.training or self.predict_intermediate

    def set_attn_mask_probs(self, probs: list[float]) -> None:
        """Set the keep probabilities, one per joint block, each in [0, 1].

        Raises:
            ValueError: the number of probabilities is wrong, or one is outside [0, 1].
        """
        if len(probs) != self.num_blocks or not all(0 <= prob <= 1 for prob in probs):
            raise ValueError(f'probs={probs}: one for each of the {self.num_blocks} joint blocks, each in [0, 1]')
        self.attn_mask_probs.copy_(torch.tensor(probs))
        self.probs_were_set = True
        self.note_attn_mask_probs(probs)

    def note_attn_mask_probs(self, probs: list[float]) -> None:
        """Record on the CPU which probabilities of the buffer are above 0.

        Needed only if the buffer was written by neither :meth:`set_attn_mask_probs` nor ``load_state_dict``.
        """
        self._masked = [prob > 0 for prob in probs]

    def masks_block(self, b: int) -> bool:
        """Return whether joint block ``b`` is masked: in training, while its keep probability is above 0."""
        return self.training and self.masked_attention and self._masked[b]

    def predict_logits(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Compute class and mask logits from normalised tokens ``[queries, prefix, patches]``.

        Returns:
            class logits (B, Q, K + 1) and mask logits (B, Q, H/s, W/s), s = patch_size / 2^n for n scale blocks.
        """
        (h, w), x = tokens.grid, tokens.x
        queries, patches = x[:, : self.num_queries], x[:, -h * w :]
        mask_logits = self.upscale(patches.unflatten(1, (h, w)).permute(0, 3, 1, 2), self.mask_mlp(queries))
        return self.class_predictor(queries), mask_logits


def _note_stored_probs(head: EoMTHead, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Record loaded probabilities (hook of ``load_state_dict``); torch itself reports a tensor of wrong length."""
    stored = state_dict.get(f'{prefix}attn_mask_probs')
    if stored is not None and len(stored) == head.num_blocks:
        head.note_attn_mask_probs(stored.tolist())
