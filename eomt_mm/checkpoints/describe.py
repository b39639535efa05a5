"""Infer the architecture of a model from its weights (classes, queries, blocks, sizes), and the configs that fit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from eomt_mm.checkpoints.files import State
from eomt_mm.core.geometry import Size

VIT = 'backbone.vit.'
POSITIONS = VIT + 'pos_embed'
GRID = 'backbone.grid'  # rows and columns of the positions, stored if they are not a square
# (family, width, depth): letter in config names, name in timm, number of attention heads
KNOWN = {
    ('dinov2', 384, 12): ('s', 'vit_small_patch14_reg4_dinov2', 6),
    ('dinov2', 768, 12): ('b', 'vit_base_patch14_reg4_dinov2', 12),
    ('dinov2', 1024, 24): ('l', 'vit_large_patch14_reg4_dinov2', 16),
    ('dinov2', 1536, 40): ('g', 'vit_giant_patch14_reg4_dinov2', 24),
    ('dinov3', 384, 12): ('s', 'vit_small_patch16_dinov3_qkvb', 6),
    ('dinov3', 768, 12): ('b', 'vit_base_patch16_dinov3_qkvb', 12),
    ('dinov3', 1024, 24): ('l', 'vit_large_patch16_dinov3_qkvb', 16),
    ('dinov3', 1280, 32): ('h', 'vit_huge_plus_patch16_dinov3_qkvb', 20),
    ('dinov3', 4096, 40): ('7b', 'vit_7b_patch16_dinov3', 32),
}
# LayerNorm eps of timm's ViT (DINOv2) and Eva (DINOv3)
NORM_EPS = dict(dinov2=1e-6, dinov3=1e-5)
# (classes, queries) of the published models; 150 classes mean semantic with 100 queries and panoptic with 200
PUBLISHED = {
    (133, 200): 'coco-panoptic',
    (80, 200): 'coco-instance',
    (150, 200): 'ade20k-panoptic',
    (150, 100): 'ade20k-semantic',
    (19, 100): 'cityscapes-semantic',
}


@dataclass(frozen=True)
class Description:
    """Architecture inferred from weights; None for values that cannot be inferred.

    Attributes:
        family: 'dinov2' (registers and position embeddings), 'dinov3' (registers and rotary positions) or 'other'.
        width: width of the tokens.
        depth: number of blocks.
        patch_size: side of a patch in pixels.
        img_size: side of the square input, or (height, width), in pixels, that the position embeddings are stored for;
            DINOv3 stores none.
        num_classes: number of classes, without "no object".
        num_queries: number of queries of the head.
        num_blocks: number of joint blocks, the length of the stored ``attn_mask_probs``.
        num_scale_blocks: number of scale blocks of the head.
    """

    family: str
    width: int
    depth: int
    patch_size: int
    img_size: int | Size | None = None
    num_classes: int | None = None
    num_queries: int | None = None
    num_blocks: int | None = None
    num_scale_blocks: int | None = None

    @property
    def model_name(self) -> str | None:
        """timm's name of the published model with this family, width and depth."""
        known = KNOWN.get((self.family, self.width, self.depth))
        return known[1] if known else None

    @property
    def num_heads(self) -> int | None:
        """Number of attention heads of that published model; it cannot be inferred from weights."""
        known = KNOWN.get((self.family, self.width, self.depth))
        return known[2] if known else None

    @property
    def config_pattern(self) -> str | None:
        """Glob pattern, below ``configs/eomt``, of the leaf configs that fit."""
        known = KNOWN.get((self.family, self.width, self.depth))
        if known is None or self.num_classes is None or self.num_queries is None:
            return None
        task = PUBLISHED.get((self.num_classes, self.num_queries))
        size = self.img_size if isinstance(self.img_size, int) else '*'
        return f'{task.split("-")[0]}/eomt_{self.family}-{known[0]}_*_{task}-{size}.py' if task else None

    def text(self) -> str:
        """Format the description in one line."""
        parts = [
            f'{self.model_name or self.family}: width {self.width}, {self.depth} blocks, patches of {self.patch_size}'
        ]
        for name in ('img_size', 'num_classes', 'num_queries', 'num_blocks'):
            value = getattr(self, name)
            if value is not None:
                parts.append(f'{name} {value}')
        return ', '.join(parts)


def describe(state: Mapping[str, Tensor]) -> Description:
    """Infer the architecture from weights in our names.

    Args:
        state: ``state_dict()`` of a model, or weights with the head's prefix ``head.``.

    Raises:
        ValueError: the weights have no patch embedding.
    """
    vit = {name.removeprefix(VIT): value for name, value in state.items() if name.startswith(VIT)}
    kernel = vit.get('patch_embed.proj.weight')
    if kernel is None or kernel.ndim != 4:
        raise ValueError(f'{VIT}patch_embed.proj.weight (C, 3, p, p) is missing: these are not the weights of a ViT')
    depth = len({name.split('.')[1] for name in vit if name.startswith('blocks.')})
    patch_size = kernel.shape[-1]
    rows, columns = (patch_size * side for side in position_grid(state)[1] or (0, 0))
    head = head_of(state)
    classes, queries, probs = (
        head.get(name) for name in ('class_predictor.weight', 'queries.weight', 'attn_mask_probs')
    )
    return Description(
        family=_family(vit),
        width=kernel.shape[0],
        depth=depth,
        patch_size=patch_size,
        img_size=(rows or None) if rows == columns else (rows, columns),
        num_classes=len(classes) - 1 if classes is not None else None,
        num_queries=len(queries) if queries is not None else None,
        num_blocks=probs.numel() if probs is not None else None,
        num_scale_blocks=len({name.split('.')[1] for name in head if name.startswith('upscale.')}) or None,
    )


def head_of(state: Mapping[str, Tensor]) -> State:
    """Return the head's weights without their prefix (``head.``, ``panoptic_head.``, ``decode_head.``)."""
    return {
        name.split('.', 1)[1]: value
        for name, value in state.items()
        if name.startswith(('head.', 'panoptic_head.', 'decode_head.'))
    }


def position_grid(state: Mapping[str, Tensor]) -> tuple[int, Size | None]:
    """Return the number P of prefix tokens and the grid (rows, columns) of position embeddings (1, P + patches, C).

    Without a stored grid it is square. It is None if there are no position embeddings, or if no P from 0 to 5 leaves
    such a grid.
    """
    count = state[POSITIONS].shape[1] if POSITIONS in state else 0
    stated = tuple(map(int, state[GRID].tolist())) if GRID in state else None
    for prefix in range(6):
        side = math.isqrt(max(count - prefix, 0))
        rows, columns = stated or (side, side)
        if rows and rows * columns == count - prefix:
            return prefix, (rows, columns)
    return 0, None


def _family(vit: Mapping[str, Tensor]) -> str:
    if 'reg_token' not in vit:
        return 'other'
    if 'pos_embed' in vit:
        return 'dinov2'
    return 'dinov3' if 'blocks.0.gamma_1' in vit else 'other'
