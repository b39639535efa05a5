"""Every family of plain ViTs behind one interface: DINOv3 with rotary positions, EVA-02, DeiT III, augreg, giant."""

from typing import Any

import pytest
import timm
import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

from eomt_mm.checkpoints.pretrained import load_pretrained
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import eomt_forward

SMALL: dict[str, Any] = dict(img_size=64, depth=3, embed_dim=48, num_heads=4)
FAMILIES = {
    'vit_small_patch16_dinov3_qkvb': SMALL,
    'vit_base_patch16_dinov3_qkvb': SMALL,
    'vit_large_patch16_dinov3_qkvb': SMALL,
    'vit_huge_plus_patch16_dinov3_qkvb': SMALL,  # gated MLP
    'vit_7b_patch16_dinov3': SMALL,  # gated MLP, no biases of queries and values
    'eva02_tiny_patch14_224': SMALL,  # rotary and absolute positions, last norm behind the pooling
    'deit3_small_patch16_224': SMALL,
    'vit_small_patch16_224': SMALL,  # augreg
    'vit_giant_patch14_reg4_dinov2': SMALL,  # SwiGLU
}
ROTARY = [name for name in FAMILIES if 'dinov3' in name or 'eva02' in name]


def make(name: str, seed: int = 0) -> PlainViT:
    """A small model of the family with every parameter random, so that none can hide an error."""
    torch.manual_seed(seed)
    backbone = PlainViT(name, **FAMILIES[name])
    for param in backbone.parameters():
        nn.init.normal_(param, std=0.3)
    return backbone.eval()


@pytest.mark.parametrize('size', [(64, 64), (96, 48)])
@pytest.mark.parametrize('name', FAMILIES)
def test_tokens_are_timms(name: str, size: tuple[int, int]) -> None:
    backbone, images = make(name), torch.randn(2, 3, *size)
    with torch.no_grad():
        found = backbone.final_norm(backbone(images))
        expected = backbone.vit.forward_features(images)
    assert found.grid == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(found.x, expected)


@pytest.mark.parametrize('name', FAMILIES)
def test_eomt_trains_every_parameter(name: str) -> None:
    backbone = make(name).train()
    head = EoMTHead(backbone.embed_dim, backbone.depth, backbone.patch_size, num_classes=3, num_queries=5)
    class_logits, mask_logits = eomt_forward(backbone, head, torch.randn(2, 3, 64, 96))
    assert [x.shape for x in mask_logits] == [(2, 5, 16, 24)] * 4
    (sum(x.square().sum() for x in class_logits) + sum(x.square().sum() for x in mask_logits)).backward()
    parameters = [*backbone.named_parameters(), *head.named_parameters()]
    assert not [name for name, param in parameters if param.grad is None or not param.grad.isfinite().all()]
    assert all((backbone.param_depth(name) is None) == ('vit.norm.' in name) for name, _ in backbone.named_parameters())


@pytest.mark.parametrize('num_queries', [1, 3, 20])  # fewer and more than the prefix tokens
@pytest.mark.parametrize('name', ROTARY)
def test_only_patches_are_rotated(name: str, num_queries: int) -> None:
    """With queries in front, a block equals timm's own with Q + P tokens excepted from the rotation."""
    backbone = make(name)
    tokens = backbone(torch.randn(2, 3, 64, 48), num_blocks=1).prepend(torch.randn(num_queries, backbone.embed_dim))
    block = backbone.vit.blocks[1]
    with torch.no_grad():
        found = backbone.run_block(tokens, 1).x
        block.attn.num_prefix_tokens = num_queries + backbone.vit.num_prefix_tokens
        torch.testing.assert_close(found, block(tokens.x, rope=tokens.rope))
        assert (found - block(tokens.x)).abs().max() > 1e-3  # the rotation matters here


@pytest.mark.parametrize('name', ROTARY)
def test_training_does_not_rescale_positions(name: str) -> None:
    backbone, images = make(name), torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(backbone.train()(images).x, backbone.eval()(images).x)


def test_norm_epsilons() -> None:
    assert make('vit_small_patch16_dinov3_qkvb').vit.norm.eps == 1e-5
    assert make('vit_giant_patch14_reg4_dinov2').vit.norm.eps == 1e-6


def test_last_norm_behind_the_pooling_is_loaded(tmp_path: Any) -> None:
    """EVA-02's files hold it as fc_norm."""
    name = 'eva02_tiny_patch14_224'
    shape = {key: value for key, value in FAMILIES[name].items() if key != 'img_size'}
    source = timm.create_model(name, num_classes=0, **shape)
    nn.init.normal_(source.fc_norm.weight)
    torch.save(source.state_dict(), tmp_path / 'eva.pth')
    backbone = PlainViT(name, patch_size=14, img_size=224, **shape)
    load_pretrained(backbone, str(tmp_path / 'eva.pth'))
    assert torch.equal(backbone.vit.norm.weight, source.fc_norm.weight)


@pytest.mark.parametrize('name', ['resnet18', 'swin_tiny_patch4_window7_224', 'vit_small_patch16_rope_mixed_224'])
def test_other_models_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PlainViT(name, img_size=224)


@pytest.mark.parametrize('kind', ['dinov2', 'dinov3'])
def test_hugging_face_backbones_are_read_as_they_are(kind: str, tmp_path: Any) -> None:
    shape = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_register_tokens=4, image_size=64)
    if kind == 'dinov2':
        config = Dinov2WithRegistersConfig(**shape, mlp_ratio=4, patch_size=16)
        peer, name = Dinov2WithRegistersModel(config).eval(), 'vit_small_patch14_reg4_dinov2'
    else:
        config = DINOv3ViTConfig(**shape, intermediate_size=192, patch_size=16, layer_norm_eps=1e-5)
        peer, name = DINOv3ViTModel(config).eval(), 'vit_small_patch16_dinov3_qkvb'
    for param in peer.parameters():
        nn.init.normal_(param, std=0.3)
    peer.save_pretrained(tmp_path / 'hub')
    backbone = PlainViT(name, **SMALL)
    load_pretrained(backbone, str(tmp_path / 'hub'))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = peer(images).last_hidden_state
        found = backbone.eval().final_norm(backbone(images)).x
    assert (found - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())
