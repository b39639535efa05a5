"""Feature pyramid of a plain ViT's single map, and a stand-in for Mask2Former's pixel decoder."""

import math
from collections.abc import Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn


def resample(dim: int, doublings: int) -> tuple[list[nn.Module], int]:
    """Build layers that double a map's sides ``doublings`` times (negative: halve); also return their output channels.

    Each transposed convolution halves the channels; LayerNorm and GELU lie between two of them. Halving is max pooling.
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
        strides: of the levels in pixels, ``patch_size`` multiplied or divided by powers of two.
        out_channels: of every level.

    Raises:
        ValueError: a stride cannot be reached by doubling or halving.
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
        """Map (B, C, h, w) to (B, out_channels, h * patch_size / stride, w * patch_size / stride) for each stride."""
        return [level(features) for level in self.levels]


@MODELS.register_module()
class NoPixelDecoder(BaseModule):
    """Pass the pyramid to Mask2Former's Transformer decoder: the finest map for masks, the others for attention.

    Args:
        in_channels, feat_channels, out_channels: channels of the pyramid, of the attended maps, and of the map for
            masks; all equal.
        encoder: not built; only gives the number of levels, ``layer_cfg.self_attn_cfg.num_levels``, where
            Mask2FormerHead also reads it.

    Raises:
        ValueError: channels differ, or the pyramid has too few levels.
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
        """Split maps, finest first, into the map for masks and the ``num_levels`` coarsest maps, coarsest first."""
        return features[0], list(features[: -self.num_levels - 1 : -1])
