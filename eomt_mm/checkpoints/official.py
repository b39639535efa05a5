"""Weight names in files of the official EoMT release: ``pytorch_model.bin`` and Lightning checkpoints.

DINOv2 models use timm's names, DINOv3 models those of Hugging Face's backbone, both below
``network.encoder.backbone.``. DINOv3 files store the backbone as differences from the pretrained weights.
"""

import torch
from torch import Tensor

from eomt_mm.checkpoints.backbones import hf_dinov3_rules
from eomt_mm.checkpoints.files import State
from eomt_mm.checkpoints.rules import Rule, copy

BACKBONE = 'network.encoder.backbone.'
PIXEL_MEAN = 'network.encoder.pixel_mean'
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Buffers. In delta files their values are meaningless, because the official loader adds them to its own buffers.
IGNORED = (PIXEL_MEAN, 'network.encoder.pixel_std', 'criterion.empty_weight')

HEAD_RULES = (
    copy('network.q.weight', 'head.queries.weight'),
    copy('network.class_head.{p}', 'head.class_predictor.{p}'),
    copy('network.mask_head.{k}.{p}', 'head.mask_mlp.{k}.{p}'),
    copy('network.upscale.{k}.conv1.{p}', 'head.upscale.{k}.up.{p}'),
    copy('network.upscale.{k}.conv2.weight', 'head.upscale.{k}.conv.weight'),
    copy('network.upscale.{k}.norm.{p}', 'head.upscale.{k}.norm.{p}'),
    copy('network.attn_mask_probs', 'head.attn_mask_probs'),
)


def dinov2_rules() -> tuple[Rule, ...]:
    return (*HEAD_RULES, copy(BACKBONE + '{rest}', 'backbone.vit.{rest}'))


def dinov3_rules(gated: bool) -> tuple[Rule, ...]:
    """Return the rules for EoMT with DINOv3.

    Args:
        gated: whether the MLP has a gate (huge+, 7B).
    """
    return (*HEAD_RULES, *hf_dinov3_rules(f'{BACKBONE}patch_embed.', BACKBONE + 'blocks.', BACKBONE + 'norm', gated))


def buffers(num_classes: int) -> State:
    """Return the buffers of an official file with absolute weights: ImageNet's mean and std, class weights (K + 1,)."""
    return {
        PIXEL_MEAN: _per_channel(IMAGENET_MEAN),
        'network.encoder.pixel_std': _per_channel(IMAGENET_STD),
        'criterion.empty_weight': torch.tensor([1.0] * num_classes + [0.1]),
    }


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(1, 3, 1, 1)
