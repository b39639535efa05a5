"""Tiny VidEoMT networks with random weights, ours and transformers', for the tests of projects/videomt."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import VideomtConfig, VideomtForUniversalSegmentation
from videomt.network import ClipPredictions, VidEoMTHead, videomt_forward

from eomt_mm.core.backbone import PlainViT

WIDTH, DEPTH, HEADS, SIZE, CLASSES, QUERIES, BLOCKS = 32, 4, 2, 64, 3, 5, 2


class Network(nn.Module):
    """Backbone and head under the names of mmdet's model, every parameter off its initial value."""

    def __init__(self, model_name: str = 'vit_small_patch14_reg4_dinov2', with_cp: bool = False, **head: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = PlainViT(model_name, SIZE, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, with_cp=with_cp)
            self.panoptic_head = VidEoMTHead(
                **dict(embed_dim=WIDTH, depth=DEPTH, patch_size=16, num_classes=CLASSES, num_queries=QUERIES,
                       num_blocks=BLOCKS, with_cp=with_cp) | head
            )  # fmt: skip
        randomise(self)

    def forward(self, frames: Tensor, state: Tensor | None = None) -> tuple[ClipPredictions, Tensor]:
        return videomt_forward(self.backbone, self.panoptic_head, frames, state)


def transformers_network(**settings: Any) -> Any:
    """``VideomtForUniversalSegmentation`` of the same sizes, in evaluation."""
    sizes = dict(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIZE, num_blocks=BLOCKS,
        num_queries=QUERIES, num_labels=CLASSES,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return randomise(VideomtForUniversalSegmentation(VideomtConfig(**(sizes | settings))), seed=1)


def randomise(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def clips(batch: int = 1, length: int = 4, size: tuple[int, int] = (SIZE, SIZE)) -> Tensor:
    """Frames (B, T, 3, H, W)."""
    return torch.randn(batch, length, 3, *size, generator=torch.Generator().manual_seed(3))


def final(predictions: ClipPredictions) -> tuple[Tensor, Tensor]:
    """Class and mask logits of the final layer."""
    return predictions.class_logits[-1], predictions.mask_logits[-1]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the range of ``expected``."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / (expected.max() - expected.min()))
