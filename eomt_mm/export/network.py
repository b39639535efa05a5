"""The network in the form that exporters need: inputs of one size, masks off, only the final prediction."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.geometry import Size
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import eomt_forward
from eomt_mm.export.postprocess import Logits, Postprocess


class ExportNetwork(nn.Module):
    """EoMT from uint8 RGB images to logits or results, always in evaluation.

    Backbone and head are copied; the copies' positions are resampled to ``size`` once, here.

    Args:
        backbone, head: of a model.
        size: (height, width) of the input in pixels, multiples of the patch size.
        mean, std: per RGB channel, in [0, 255].
        postprocess: rules of the task.
        in_graph: return its results; otherwise logits, and runners post-process them in ``steps``.
        half: weights and activations in float16. Normalisation before and logits after are float32.

    Attributes:
        postprocess: what the graph does with its logits; `Logits`: nothing.
        steps: what is left to a runner, by name; see :mod:`eomt_mm.export.steps`.

    Raises:
        ValueError: ``size`` does not fit the patches.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: PlainViT,
        head: EoMTHead,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        postprocess: Postprocess,
        in_graph: bool = False,
        half: bool = False,
    ) -> None:
        super().__init__()
        if any(side < 1 or side % backbone.patch_size for side in size):
            near = tuple(max(1, round(side / backbone.patch_size)) * backbone.patch_size for side in size)
            raise ValueError(
                f'size={size[0]} x {size[1]}: both sides must be multiples of the patch size, {backbone.patch_size}; '
                f'near are {near[0]} x {near[1]}'
            )
        self.size = size
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1))
        self.backbone = with_fixed_positions(backbone, size)
        self.head = copy.deepcopy(head)
        self.head.predict_intermediate = False
        self.postprocess = postprocess if in_graph else Logits()
        self.steps = {} if in_graph else postprocess.steps()
        self.dtype = torch.float16 if half else torch.float32
        self.backbone.to(self.dtype)
        self.head.to(self.dtype)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Result of ``postprocess`` for the logits of images uint8 (N, 3, *size), RGB."""
        return self.postprocess(*self.logits(images), self.size)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, and run :func:`~eomt_mm.core.network.eomt_forward`; only its final prediction is used.

        Args:
            images: uint8 (N, 3, *size), RGB.

        Returns:
            float32 class logits (N, Q, K + 1) and mask logits (N, Q, H/s, W/s).
        """
        inputs = (images.float() - self.mean) / self.std
        class_logits, mask_logits = eomt_forward(self.backbone, self.head, inputs.to(self.dtype))
        return class_logits[-1].float(), mask_logits[-1].float()

    def example(self, num_images: int) -> Tensor:
        """Random images (num_images, 3, *size), the same each time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (num_images, 3, *self.size), generator=generator, dtype=torch.uint8)


class FixedRope(nn.Module):
    """Replacement of timm's module of rotary positions that returns those of one grid."""

    embed: Tensor

    def __init__(self, embed: Tensor) -> None:
        super().__init__()
        self.register_buffer('embed', embed)

    def get_embed(self, shape: Sequence[int] | None = None) -> Tensor:
        """(h * w, 2 * head_dim)."""
        return self.embed


def with_fixed_positions(backbone: PlainViT, size: Size) -> PlainViT:
    """A copy whose positions are constants for inputs of ``size``.

    timm resamples positions in every forward pass (bicubic, antialiased); while exporting, even if the size is the
    same. Not every runtime has this operation.
    """
    backbone = copy.deepcopy(backbone)
    vit: Any = backbone.vit
    vit.set_input_size(size)
    vit.dynamic_img_size, vit.patch_embed.flatten = False, True  # timm's switches for one size
    rope = getattr(vit, 'rope', None)
    if rope is not None:
        vit.rope = FixedRope(rope.get_embed([side // backbone.patch_size for side in size]))
    return backbone
