"""Make feature maps of several strides from the one map of a plain ViT; and replace a pixel decoder."""

import math
from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn


def resample(dim: int, doublings: int) -> tuple[list[nn.Module], int]:
    """Layers that double a map's sides ``doublings`` times (negative: halve), and the channels that they give.

    Transposed convolutions halve the channels; between two of them stand LayerNorm and GELU. Halving is max pooling.
    """
    layers: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(-doublings)]
    for k in range(doublings):
        if k:
            layers += [LayerNorm2d(dim), nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2))
        dim //= 2
    return layers, dim


@MODELS.register_module()
class SimpleFeaturePyramid(nn.Module):
    """The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3): every level from the ViT's last map.

    A level is resampled to its stride, projected by a 1x1 and smoothed by a 3x3 convolution, each with LayerNorm.

    Args:
        in_channels: width C of the ViT.
        patch_size: stride of its map in pixels.
        strides: of the levels in pixels, ``patch_size`` times or divided by powers of two.
        out_channels: of every level.

    Raises:
        ValueError: for a stride that doubling or halving does not reach.
    """

    def __init__(
        self, in_channels: int, patch_size: int, strides: Sequence[int] = (4, 8, 16, 32), out_channels: int = 256
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for stride in strides:
            doublings = math.log2(patch_size / stride)
            if not doublings.is_integer():
                raise ValueError(
                    f'strides={tuple(strides)} with patch_size={patch_size}: {stride} is not {patch_size} times a '
                    f'power of two'
                )
            layers, channels = resample(in_channels, int(doublings))
            self.levels.append(
                nn.Sequential(
                    *layers,
                    nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
                    LayerNorm2d(out_channels),
                    nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
                    LayerNorm2d(out_channels),
                )
            )

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, C, h, w) to one map (B, out_channels, h * patch_size / stride, w * patch_size / stride) per stride."""
        return [level(features) for level in self.levels]


@MODELS.register_module()
class NoPixelDecoder(BaseModule):
    """Pass the pyramid to Mask2Former's Transformer decoder: the finest map for masks, the others for attention.

    Args:
        in_channels, feat_channels, out_channels: channels of the pyramid, of what is attended, and of the map for
            masks; all equal.
        encoder: not built; Mask2FormerHead reads the number of levels here, in
            ``layer_cfg.self_attn_cfg.num_levels``.

    Raises:
        ValueError: where channels differ, or the pyramid has too few levels.
    """

    def __init__(self, in_channels: Sequence[int], feat_channels: int, out_channels: int, encoder: Any) -> None:
        super().__init__()
        self.num_levels: int = encoder.layer_cfg.self_attn_cfg.num_levels
        if {*in_channels, feat_channels, out_channels} != {out_channels}:
            raise ValueError(
                f'in_channels={list(in_channels)}, feat_channels={feat_channels}, out_channels={out_channels}: without '
                f'pixel decoder nothing projects, so give all of them out_channels of the pyramid'
            )
        if len(in_channels) <= self.num_levels:
            raise ValueError(
                f'num_levels={self.num_levels} with {len(in_channels)} feature maps: the finest one is for the masks, '
                f'so the pyramid needs at least {self.num_levels + 1} strides'
            )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps, finest first, to the map for masks and the ``num_levels`` coarsest ones, coarsest first."""
        return features[0], list(features[: -self.num_levels - 1 : -1])
