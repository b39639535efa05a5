"""Tiny random models in the true formats, for the tests of checkpoints; official files follow the spec's tables."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
)

from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import eomt_forward
from eomt_mm.models.backbone import TimmViT

State = dict[str, Tensor]
WIDTH, DEPTH, HEADS, SIZE, CLASSES, QUERIES, BLOCKS = 32, 2, 2, 64, 3, 4, 1
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)


class Ours(nn.Module):
    """Backbone and head under the names that the hosts' models give them."""

    def __init__(
        self,
        model_name: str,
        head: str = 'panoptic_head',
        classes: int = CLASSES,
        queries: int = QUERIES,
        blocks: int = BLOCKS,
        **backbone: Any,
    ) -> None:
        super().__init__()
        backbone = dict(img_size=SIZE, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS) | backbone
        self.backbone = TimmViT(model_name, **backbone)
        vit = self.backbone
        self.add_module(head, EoMTHead(vit.embed_dim, vit.depth, vit.patch_size, classes, queries, blocks))
        self.head_name = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        classes, masks = eomt_forward(self.backbone, getattr(self, self.head_name), images)
        return classes[-1], masks[-1]


def dinov2(**kwargs: Any) -> Ours:
    return randomise(Ours('vit_small_patch14_reg4_dinov2', **kwargs))


def giant(**kwargs: Any) -> Ours:
    return randomise(Ours('vit_giant_patch14_reg4_dinov2', **dict(dict(embed_dim=24), **kwargs)))


def dinov3(**kwargs: Any) -> Ours:
    return randomise(Ours('vit_small_patch16_dinov3_qkvb', **kwargs))


def gated_dinov3(**kwargs: Any) -> Ours:
    """As huge+ and 7B: a gate in the MLP."""
    return randomise(Ours('vit_huge_plus_patch16_dinov3_qkvb', **kwargs))


def randomise(model: nn.Module, seed: int = 0) -> Any:
    """Every parameter at random; vectors (norms, biases) around 0.5, so that none is near the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(values + 0.5 if parameter.ndim == 1 else values)
    return model.eval()


def hf_dinov2(gated: bool = False, **kwargs: Any) -> EomtForUniversalSegmentation:
    width = 24 if gated else WIDTH
    return randomise(EomtForUniversalSegmentation(EomtConfig(**(_hf(width) | dict(use_swiglu_ffn=gated) | kwargs))))


def hf_dinov3(**kwargs: Any) -> EomtDinov3ForUniversalSegmentation:
    settings = _hf(WIDTH) | dict(intermediate_size=4 * WIDTH, layer_norm_eps=1e-5, pos_embed_rescale=None) | kwargs
    return randomise(EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**settings)))


def _hf(width: int) -> dict[str, Any]:
    return dict(
        hidden_size=width,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=SIZE,
        num_blocks=BLOCKS,
        num_queries=QUERIES,
        num_labels=CLASSES,
    )


def hf_outputs(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class and mask logits with masks off."""
    model.attn_mask_probs.zero_()
    with torch.no_grad():
        found = model(pixel_values=images)
    return found.class_queries_logits, found.masks_queries_logits


def official_from_hf(model: Any, mean: Tensor | None = None) -> State:
    """Official names for the weights of a Hugging Face model, by the spec's table of names (section 2)."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    is_dinov3 = 'embeddings.patch_embeddings.weight' in state
    backbone = 'network.encoder.backbone.'
    found: State = {'criterion.empty_weight': state.pop('criterion.empty_weight')}
    for name, value in state.items():
        if name == 'query.weight':
            found['network.q.weight'] = value
        elif name.startswith('class_predictor'):
            found[name.replace('class_predictor', 'network.class_head')] = value
        elif name.startswith('mask_head'):
            number = int(name[len('mask_head.fc')])
            found[f'network.mask_head.{2 * number - 2}.{name.rsplit(".", 1)[1]}'] = value
        elif name.startswith('upscale_block'):
            found[name.replace('upscale_block.block', 'network.upscale').replace('layernorm2d', 'norm')] = value
        elif name == 'attn_mask_probs':
            found['network.attn_mask_probs'] = value
        elif is_dinov3:
            renamed = name.replace('embeddings.', 'patch_embed.', 1).replace('layernorm', 'norm')
            found[backbone + re.sub('^layers', 'blocks', renamed)] = value
        else:
            found.update(_timm_names(backbone, name, value, state))
    found['network.encoder.pixel_mean'] = IMAGENET_MEAN.clone() if mean is None else mean
    found['network.encoder.pixel_std'] = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    return found


def _timm_names(prefix: str, name: str, value: Tensor, state: State) -> State:
    """One entry of the DINOv2 column; q, k and v join at q, gate and up at the gate."""
    if any(part in name for part in ('.k_proj.', '.v_proj.', '.mlp.up_proj.')):
        return {}
    joined = {'attention.q_proj': ('q', 'qkv', 'attn.qkv'), 'mlp.gate_proj': ('gate', ('gate', 'up'), 'mlp.fc1')}
    for part, (first, all_parts, ours) in joined.items():
        if part in name:
            value = torch.cat([state[name.replace(f'{first}_proj', f'{x}_proj')] for x in all_parts])
            name = name.replace(part, ours)
    for theirs, ours in {
        'embeddings.patch_embeddings.projection': 'patch_embed.proj',
        'embeddings.position_embeddings.weight': 'pos_embed',
        'embeddings.register_tokens': 'reg_token',
        'embeddings.cls_token': 'cls_token',
        'attention.out_proj': 'attn.proj',
        'mlp.down_proj': 'mlp.fc2',
        'layer_scale1.lambda1': 'ls1.gamma',
        'layer_scale2.lambda1': 'ls2.gamma',
        'layernorm': 'norm',
        'layers.': 'blocks.',
    }.items():
        name = name.replace(theirs, ours)
    return {prefix + name: value[None] if name == 'pos_embed' else value}


def split_delta(official: State, seed: int = 5) -> tuple[State, State]:
    """An official DINOv3 file as released, and its base in Hugging Face's names; they add up to ``official``.

    The base keeps the absolute weights but for small random changes, which become the delta.
    """
    generator = torch.Generator().manual_seed(seed)
    delta, base = dict(official), {}
    for name, value in official.items():
        if name.startswith('network.encoder.backbone.'):
            delta[name] = 0.01 * torch.randn(value.shape, generator=generator)
            short = name.removeprefix('network.encoder.backbone.').replace('patch_embed.', 'embeddings.', 1)
            base[re.sub('^blocks', 'layer', short)] = value - delta[name]
    base['embeddings.mask_token'] = torch.zeros(1, 1, WIDTH)
    delta['network.encoder.pixel_mean'] = torch.zeros(1, 3, 1, 1)
    delta['network.encoder.pixel_std'] = torch.zeros(1, 3, 1, 1)
    delta['network.attn_mask_probs'] = torch.full((BLOCKS,), -1.0)
    return delta, base


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the range of ``expected``."""
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def check_same(model: Ours, state: State, peer: Any) -> None:
    """With these weights, ours computes what the peer computes."""
    model.load_state_dict(state)  # strict
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(images)
    for ours, theirs in zip(found, hf_outputs(peer, images), strict=True):
        assert relative_difference(ours, theirs) < 1e-5
