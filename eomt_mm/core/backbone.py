"""A timm ViT that runs block by block, so that queries can be added to its tokens before the last blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.geometry import as_size
from eomt_mm.core.masked_attention import block_mask

# Mean and standard deviation per RGB channel, in [0, 255], of the images that pretrained ViTs expect.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Tokens:
    """The token sequence between two blocks.

    Attributes:
        x: (B, N, C), in the order ``[queries, prefix (class token, registers), patches]``.
        grid: rows and columns (h, w) of the patches; ``N = Q + P + h * w`` for Q queries and P prefix tokens.
        rope: (h * w, 2 * head_dim), sines and then cosines of the patches' rotary positions; None: the ViT has none.
    """

    x: Tensor
    grid: tuple[int, int]
    rope: Tensor | None = None

    def prepend(self, queries: Tensor) -> 'Tokens':
        """Put ``queries`` (Q, C) in front of the sequence of every image."""
        batch = self.x.shape[0]  # not len(x), which exporters record as a constant
        return replace(self, x=torch.cat([queries.expand(batch, -1, -1), self.x], dim=1))


class PlainViT(nn.Module):
    """Plain timm ViT with blocks of the form ``block(x, attn_mask=...)``, without classifier and pooling.

    Args:
        model_name: name in timm, such as ``vit_large_patch14_reg4_dinov2`` or ``vit_large_patch16_dinov3_qkvb``
            (DINOv3 variants without ``qkvb`` lack the query and value biases that EoMT trains).
        img_size: side, or (height, width), in pixels of the input that the stored position embeddings belong to,
            multiples of ``patch_size``. For other input sizes, each forward pass interpolates them. If they belong to
            a grid of patches that is not square, the state dict states its rows and columns as ``grid``.
        patch_size: side of a patch in pixels; timm resamples pretrained patch kernels to it. None: the model's own.
        drop_path_rate: rate of stochastic depth, 0 as published.
        frozen_stages: the part that is frozen. -1: nothing; 0: the embeddings; n: also the first n blocks; depth:
            everything, including the final norm. Frozen parameters have no gradient and no optimiser state. Frozen
            blocks apply no dropout and no stochastic depth. They keep no activations before the queries are added;
            frozen joint blocks do, because the gradients of the queries pass through them.
        with_cp: activation checkpointing: only the input of each block is kept for the backward pass, which runs the
            block again. Gradients are unchanged.
        **model_kwargs: further arguments of the timm model (``depth``, ``embed_dim``, ``num_heads``, ...).

    Raises:
        ValueError: timm has no such model, it is not a plain ViT, or ``img_size`` or ``frozen_stages`` is invalid.
    """

    def __init__(
        self,
        model_name: str,
        img_size: int | Sequence[int] = 640,
        patch_size: int | None = 16,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        if not timm.is_model(model_name):
            raise ValueError(
                f"model_name='{model_name}' is no timm model; timm.list_models('vit_*') lists the names, "
                f'EoMT uses vit_(small|base|large|giant)_patch14_reg4_dinov2'
            )
        if patch_size is not None:
            model_kwargs['patch_size'] = patch_size
        size = as_size(img_size)
        self.model_name = model_name
        self._model_kwargs = dict(
            img_size=size, num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path_rate, **model_kwargs
        )
        try:
            vit = self.create()
        except (TypeError, AssertionError) as error:  # other kinds of model reject dynamic_img_size
            raise ValueError(
                f"model_name='{model_name}' cannot be built as a plain ViT with {self._model_kwargs}: {error}"
            ) from error
        if not isinstance(vit, timm.models.VisionTransformer | timm.models.Eva) or getattr(vit, 'rope_mixed', False):
            raise ValueError(
                f"model_name='{model_name}' is a {type(vit).__name__}: EoMT needs a plain ViT, one of timm's "
                f'VisionTransformer or Eva models, without rotary positions per block'
            )
        self.vit = vit
        self.patch_size: int = vit.patch_embed.patch_size[0]
        if any(side % self.patch_size for side in size):
            raise ValueError(f'img_size={img_size} is no multiple of patch_size={self.patch_size}')
        if not -1 <= frozen_stages <= self.depth:
            raise ValueError(
                f'frozen_stages={frozen_stages}: -1 (nothing frozen) to {self.depth}, the number of blocks of '
                f"'{model_name}' (everything frozen)"
            )
        rows, columns = vit.patch_embed.grid_size
        if rows != columns and vit.pos_embed is not None:  # the number of positions does not determine their grid
            self.register_buffer('grid', torch.tensor([float(rows), columns], device='cpu'))
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        for name, parameter in self.named_parameters():
            if self._stage(name) <= frozen_stages:
                parameter.requires_grad_(False)

    @property
    def embed_dim(self) -> int:
        return self.vit.embed_dim

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    def create(self, **kwargs: Any) -> Any:
        """Create the timm model; ``kwargs`` are further arguments of ``timm.create_model``, such as ``pretrained``."""
        vit: Any = timm.create_model(self.model_name, **self._model_kwargs, **kwargs)
        vit.attn_pool = None  # SigLIP has one; its parameters would never get a gradient
        if isinstance(vit.norm, nn.Identity):  # models with average pooling apply their last norm after it
            vit.norm, vit.fc_norm = vit.fc_norm, nn.Identity()
        return vit

    def _stage(self, name: str) -> int:
        """Return the smallest ``frozen_stages`` that freezes parameter ``name``.

        It is 0 for embeddings, i + 1 for block i, and depth for the final norm.
        """
        parts = name.removeprefix('vit.').split('.')
        if parts[0] == 'blocks':
            return int(parts[1]) + 1
        return self.depth if parts[0] == 'norm' else 0

    def train(self, mode: bool = True) -> 'PlainViT':
        """Set the mode; frozen modules stay in evaluation mode, without stochastic depth, dropout or patch dropout."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for name, module in self.vit.named_children():
                if name not in ('blocks', 'norm'):
                    module.eval()
            self.vit.blocks[: self.frozen_stages].eval()
        return self

    def forward(self, images: Tensor, num_blocks: int | None = None) -> Tokens:
        """Embed the patches, add positions and prefix tokens, and run the first blocks.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of ``patch_size``. Floats are cast to the type of the
                weights, such as bfloat16.
            num_blocks: how many blocks to run; None: all of them.

        Returns:
            tokens ``[prefix, patches]`` with grid (H / patch_size, W / patch_size), before the final norm.
        """
        h, w = images.shape[-2:]
        if h % self.patch_size or w % self.patch_size:
            raise ValueError(
                f'input of {h} x {w} pixels: both sides must be multiples of patch_size={self.patch_size}; '
                f'pad or resize it, or set img_size of data_preprocessor'
            )
        if images.is_floating_point():
            images = images.to(self.vit.patch_embed.proj.weight.dtype)
        x, rope = self.vit._pos_embed(self.vit.patch_embed(images)), None
        if isinstance(x, tuple):  # timm's Eva family returns its rotary positions as well
            x, rope = x
        tokens = Tokens(self.vit.norm_pre(x), (h // self.patch_size, w // self.patch_size), rope)
        for i in range(self.depth if num_blocks is None else num_blocks):
            tokens = self.run_block(tokens, i)
        return tokens

    def run_block(self, tokens: Tokens, i: int, query_mask: Tensor | None = None) -> Tokens:
        """Run block ``i``.

        Args:
            tokens: input of the block, with the queries in front if they have been added.
            i: index of the block, 0 to depth - 1.
            query_mask: bool (B, Q, h * w), True where a query may attend to a patch; None: no mask.
        """
        needs_grad = torch.is_grad_enabled() and (tokens.x.requires_grad or i >= self.frozen_stages)
        if self.with_cp and needs_grad:
            # Pass tensors as separate arguments: checkpoint reads from them the device whose random state it saves.
            x = checkpoint(self._block_output, tokens.x, i, query_mask, tokens.rope, use_reentrant=False)
        else:
            x = self._block_output(tokens.x, i, query_mask, tokens.rope)
        return replace(tokens, x=x)

    def _block_output(self, x: Tensor, i: int, query_mask: Tensor | None, rope: Tensor | None) -> Tensor:
        block = self.vit.blocks[i]
        attn_mask = None if query_mask is None else block_mask(block, query_mask, x.shape[1])
        positions = {} if rope is None else dict(rope=self._sequence_rope(x.shape[1], rope))
        return block(x, attn_mask=attn_mask, **positions)

    def _sequence_rope(self, num_tokens: int, rope: Tensor) -> Tensor:
        """Extend the rotary positions to a sequence with queries, so that timm's attention rotates only the patches.

        Without queries, the sequence consists of P prefix tokens (class token, registers) and the patches, and timm
        rotates all tokens but the first P. With Q queries in front, Q + P tokens must not be rotated. timm skips the
        first P of them; the other Q get the identity rotation.

        Args:
            num_tokens: length of the sequence.
            rope: (patches, 2 d), sines and cosines.

        Returns:
            (Q + patches, 2 d).
        """
        num_queries = num_tokens - self.vit.num_prefix_tokens - len(rope)
        if num_queries == 0:
            return rope
        zeros = rope.new_zeros(num_queries, rope.shape[1] // 2)
        identity = torch.cat([zeros, zeros + 1], dim=1)  # sine 0, cosine 1
        return torch.cat([identity, rope])

    def final_norm(self, tokens: Tokens) -> Tokens:
        """Apply the ViT's last LayerNorm, which all prediction layers share."""
        return replace(tokens, x=self.vit.norm(tokens.x))

    def param_depth(self, name: str) -> int | None:
        """Return the index of the block that parameter ``name`` (of :meth:`named_parameters`) belongs to.

        Embeddings (patches, positions, class token, registers) count as block 0; the final norm gives None.
        """
        parts = name.removeprefix('vit.').split('.')
        if parts[0] == 'blocks':
            return int(parts[1])
        return None if parts[0] == 'norm' else 0
