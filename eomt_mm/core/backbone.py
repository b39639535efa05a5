"""A timm ViT as tokens, so that the head's queries can join before the last blocks."""

from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.masked_attention import block_mask


@dataclass(frozen=True)
class Tokens:
    """The token sequence between two blocks.

    Attributes:
        x: (B, N, C), the patches last: ``[queries, prefix (class token, registers), patches]``.
        grid: rows and columns (h, w) of the patches; ``N = Q + P + h * w``.
        rope: (h * w, 2 * head_dim), sines then cosines of the patches' rotary positions, where the ViT has them.
    """

    x: Tensor
    grid: tuple[int, int]
    rope: Tensor | None = None

    def prepend(self, queries: Tensor) -> 'Tokens':
        """Puts ``queries`` (Q, C) in front of the sequence of every image."""
        batch = self.x.shape[0]  # exporters take len(x) for a constant
        return replace(self, x=torch.cat([queries.expand(batch, -1, -1), self.x], dim=1))


class PlainViT(nn.Module):
    """Any plain ViT of timm with blocks of the form ``block(x, attn_mask=...)``, classifier and pooling left out.

    Args:
        model_name: name in timm, such as ``vit_large_patch14_reg4_dinov2`` or ``vit_large_patch16_dinov3_qkvb``
            (DINOv3's plain variants lack the biases of queries and values that EoMT trains).
        img_size: side in pixels of the square input that the position embeddings are made for; other sizes are
            interpolated in each forward. A multiple of ``patch_size``.
        patch_size: side of a patch in pixels; pretrained patch kernels are resampled by timm. None: the model's own.
        drop_path_rate: stochastic depth, 0 as published.
        frozen_stages: what keeps its weights. -1: nothing; 0: the embeddings; n: the first n blocks too; depth: all,
            the final norm included. Frozen parameters have no gradient and no optimiser state; frozen blocks drop
            nothing in training, and keep no activations as long as the queries have not joined: the gradients of the
            queries pass through frozen joint blocks too.
        with_cp: activation checkpointing: of every block only the input is kept for the backward pass, which runs
            the block once more. Gradients are the same.
        **model_kwargs: further arguments of the timm model (``depth``, ``embed_dim``, ``num_heads``, ...).

    Raises:
        ValueError: for a name that timm lacks, a model of another kind, or sizes or a number that do not fit.
    """

    def __init__(
        self,
        model_name: str,
        img_size: int = 640,
        patch_size: int | None = 16,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        if not timm.is_model(model_name):
            raise ValueError(
                f"model_name='{model_name}' is no timm model; timm.list_models('vit_*') lists them, "
                f'EoMT uses vit_(small|base|large|giant)_patch14_reg4_dinov2'
            )
        if patch_size is not None:
            model_kwargs['patch_size'] = patch_size
        self.model_name = model_name
        self._model_kwargs = dict(
            img_size=img_size, num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path_rate, **model_kwargs
        )
        try:
            vit = self.create()
        except (TypeError, AssertionError) as error:  # other kinds of model know no dynamic_img_size
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
        if img_size % self.patch_size:
            raise ValueError(f'img_size={img_size} is no multiple of patch_size={self.patch_size}')
        if not -1 <= frozen_stages <= self.depth:
            raise ValueError(
                f'frozen_stages={frozen_stages}: -1 (nothing frozen) to {self.depth}, the number of blocks of '
                f"'{model_name}' (everything frozen)"
            )
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
        """The timm model; ``kwargs`` are further arguments of ``timm.create_model``, such as ``pretrained``."""
        vit: Any = timm.create_model(self.model_name, **self._model_kwargs, **kwargs)
        vit.attn_pool = None  # SigLIP has one; its parameters would never get a gradient
        if isinstance(vit.norm, nn.Identity):  # models that pool by averaging keep their last norm behind the pooling
            vit.norm, vit.fc_norm = vit.fc_norm, nn.Identity()
        return vit

    def _stage(self, name: str) -> int:
        """First ``frozen_stages`` that freezes parameter ``name``: 0 for embeddings, i + 1 for block i."""
        parts = name.removeprefix('vit.').split('.')
        if parts[0] == 'blocks':
            return int(parts[1]) + 1
        return self.depth if parts[0] == 'norm' else 0

    def train(self, mode: bool = True) -> 'PlainViT':
        """Sets the mode; what is frozen stays in evaluation mode: it drops neither paths nor units nor patches."""
        super().train(mode)
        if self.frozen_stages >= 0:
            for name, module in self.vit.named_children():
                if name not in ('blocks', 'norm'):
                    module.eval()
            self.vit.blocks[: self.frozen_stages].eval()
        return self

    def forward(self, images: Tensor, num_blocks: int | None = None) -> Tokens:
        """Patch embedding, positions, prefix tokens and the first blocks.

        Args:
            images: (B, 3, H, W), normalised; H and W multiples of ``patch_size``.
            num_blocks: how many blocks to run; None: all of them.

        Returns:
            tokens ``[prefix, patches]`` of a grid (H / patch_size, W / patch_size), without the final norm.
        """
        h, w = images.shape[-2:]
        if h % self.patch_size or w % self.patch_size:
            raise ValueError(
                f'input of {h} x {w} pixels: both sides must be multiples of patch_size={self.patch_size}; '
                f'pad or resize it, or set img_size of data_preprocessor'
            )
        x, rope = self.vit._pos_embed(self.vit.patch_embed(images)), None
        if isinstance(x, tuple):  # timm's Eva family returns its rotary positions as well
            x, rope = x
        tokens = Tokens(self.vit.norm_pre(x), (h // self.patch_size, w // self.patch_size), rope)
        for i in range(self.depth if num_blocks is None else num_blocks):
            tokens = self.run_block(tokens, i)
        return tokens

    def run_block(self, tokens: Tokens, i: int, query_mask: Tensor | None = None) -> Tokens:
        """Runs block ``i``.

        Args:
            tokens: with the queries in front, where there are any.
            i: index of the block, 0 to depth - 1.
            query_mask: bool (B, Q, h * w), True where a query may attend to a patch; None: no mask.
        """
        needs_grad = torch.is_grad_enabled() and (tokens.x.requires_grad or i >= self.frozen_stages)
        if self.with_cp and needs_grad:
            # Tensors are arguments of their own: checkpoint finds in them the device whose random state it must keep.
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
        """Rotary positions of the whole sequence but its first P tokens, which timm's attention leaves alone.

        With Q queries in front, the P tokens left alone are queries; the Q tokens that follow (other queries, class
        token, registers) get the rotation by zero, so that only patches are rotated.
        """
        num_unrotated = num_tokens - self.vit.num_prefix_tokens - len(rope)
        if num_unrotated == 0:
            return rope
        zero = rope.new_zeros(num_unrotated, rope.shape[1] // 2)
        return torch.cat([torch.cat([zero, zero + 1], dim=1), rope])

    def final_norm(self, tokens: Tokens) -> Tokens:
        """The ViT's last LayerNorm, which every prediction shares."""
        return replace(tokens, x=self.vit.norm(tokens.x))

    def param_depth(self, name: str) -> int | None:
        """Index of the block that parameter ``name`` (of :meth:`named_parameters`) belongs to.

        Embeddings (patches, positions, class token, registers) count as block 0; the final norm gives None.
        """
        parts = name.removeprefix('vit.').split('.')
        if parts[0] == 'blocks':
            return int(parts[1])
        return None if parts[0] == 'norm' else 0
