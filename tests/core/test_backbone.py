"""The ViT as tokens: sizes, equality with timm, blocks and their masks."""

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from random_weights import randomise

from eomt_mm.core.backbone import PlainViT, Tokens

DINOV2 = 'vit_small_patch14_reg4_dinov2'
TINY: dict[str, Any] = dict(depth=3, embed_dim=32, num_heads=2)


def tiny_vit(name: str = DINOV2, img_size: int = 64, **kwargs: Any) -> PlainViT:
    vit = PlainViT(name, img_size, **{**TINY, **kwargs}).eval()
    randomise(vit)
    return vit


@pytest.mark.parametrize('size', [(65, 64), (64, 40), (8, 8)])
def test_size_that_is_no_multiple_names_both_numbers(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf'{size[0]} x {size[1]} pixels.*patch_size=16.*pad or resize'):
        tiny_vit()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ('name', 'kwargs', 'words'),
    [
        ('vit_of_nobody', {}, ['vit_of_nobody', 'list_models', 'dinov2']),
        ('resnet18', {}, ['resnet18', 'plain']),
        ('swin_tiny_patch4_window7_224', dict(depths=(1,), num_heads=(1,), embed_dim=8), ['SwinTransformer', 'plain']),
        (DINOV2, dict(img_size=70, depth=1), ['img_size=70', 'patch_size=16']),
        (DINOV2, dict(img_size=(64, 70), depth=1), ['img_size=(64, 70)', 'patch_size=16']),
        (DINOV2, dict(dept=2), [DINOV2, 'dept']),
    ],
)
def test_a_model_that_does_not_fit_is_refused(name: str, kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        PlainViT(name, **dict(dict(img_size=64), **kwargs))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize('size', [(64, 64), (48, 80), (16, 96), (128, 112)])
@pytest.mark.parametrize('name', [DINOV2, 'vit_giant_patch14_reg4_dinov2', 'vit_tiny_patch16_224'])
def test_tokens_equal_timm_features(name: str, size: tuple[int, int]) -> None:
    vit, images = tiny_vit(name), torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens = vit.final_norm(vit(images))
        expected = vit.vit.forward_features(images)
    assert tokens.grid == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(tokens.x, expected, rtol=0, atol=0)


@pytest.mark.parametrize('name', [DINOV2, 'vit_small_patch16_dinov3_qkvb'])
def test_positions_of_a_size_that_is_not_square(name: str) -> None:
    vit, images = tiny_vit(name, (32, 80)), torch.randn(1, 3, 32, 80)
    same = timm.create_model(name, img_size=(32, 80), patch_size=16, num_classes=0, **TINY).eval()
    same.load_state_dict(vit.vit.state_dict())
    with torch.no_grad():
        tokens = vit.final_norm(vit(images))
        torch.testing.assert_close(tokens.x, same.forward_features(images), rtol=0, atol=1e-6)
    assert tokens.grid == (2, 5)
    assert [value.tolist() for key, value in vit.state_dict().items() if key == 'grid'] == (
        [[2, 5]] if name == DINOV2 else []
    )


def test_another_size_equals_timm_built_at_that_size() -> None:
    """Positions interpolated in the forward pass are those that timm's own loading makes, bicubic and antialiased."""
    vit, images = tiny_vit(img_size=96), torch.randn(2, 3, 48, 160)
    state = vit.vit.state_dict()
    other = timm.create_model(DINOV2, img_size=(48, 160), patch_size=16, num_classes=0, **TINY).eval()
    positions = state['pos_embed'].reshape(1, 6, 6, -1).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, (3, 10), mode='bicubic', antialias=True).permute(0, 2, 3, 1)
    other.load_state_dict(dict(state, pos_embed=positions.flatten(1, 2)))
    with torch.no_grad():
        torch.testing.assert_close(vit.final_norm(vit(images)).x, other.forward_features(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('name', 'patch_size', 'prefix'),
    [
        (DINOV2, 8, 5),
        (DINOV2, None, 5),
        (DINOV2, 14, 5),
        (DINOV2, 32, 5),
        ('vit_tiny_patch16_224', None, 1),
        ('vit_small_patch8_224', None, 1),
        ('vit_small_patch32_224', None, 1),
        ('vit_base_patch16_clip_224', 16, 1),  # a norm before the blocks
        ('deit_tiny_distilled_patch16_224', 16, 2),
        ('vit_base_patch16_siglip_224', 16, 0),  # no class token, attention pooling
    ],
)
def test_any_plain_vit_and_patch_size(name: str, patch_size: int | None, prefix: int) -> None:
    side = patch_size or {DINOV2: 14, 'vit_small_patch8_224': 8, 'vit_small_patch32_224': 32}.get(name, 16)
    vit = tiny_vit(name, img_size=4 * side, patch_size=patch_size)
    assert (vit.patch_size, vit.depth, vit.embed_dim) == (side, 3, 32)
    tokens = vit.final_norm(vit(torch.randn(2, 3, 4 * side, 2 * side)))
    assert tokens.x.shape == (2, prefix + 8, 32) and tokens.grid == (4, 2)
    tokens.x.square().sum().backward()
    assert [name for name, parameter in vit.named_parameters() if parameter.grad is None] == []


def test_blocks_run_one_by_one() -> None:
    vit, images = tiny_vit(), torch.randn(2, 3, 64, 64)
    tokens = vit(images, num_blocks=0)
    assert torch.equal(tokens.x, vit.vit._pos_embed(vit.vit.patch_embed(images)))
    for i in range(3):
        assert torch.equal(tokens.x, vit(images, num_blocks=i).x)
        tokens = vit.run_block(tokens, i)
    assert torch.equal(tokens.x, vit(images).x)


def test_queries_are_put_in_front_of_every_image() -> None:
    queries, x = torch.randn(5, 4), torch.randn(3, 7, 4)
    joined = Tokens(x, (2, 3)).prepend(queries)
    assert joined.grid == (2, 3)
    assert torch.equal(joined.x[:, 5:], x)
    assert all(torch.equal(image, queries) for image in joined.x[:, :5])


def test_mask_means_the_same_without_fused_attention() -> None:
    """timm before 1.0.26 adds a bool mask as 0 and 1 there, which would pass silently."""
    vit = tiny_vit()
    tokens = vit(torch.randn(2, 3, 64, 64), num_blocks=1).prepend(torch.randn(6, 32))
    query_mask = torch.rand(2, 6, 16) > 0.7
    with torch.no_grad():
        fused = vit.run_block(tokens, 1, query_mask).x
        vit.vit.blocks[1].attn.fused_attn = False
        plain = vit.run_block(tokens, 1, query_mask).x
        unmasked = vit.run_block(tokens, 1).x
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)
    assert (fused - unmasked)[:, :6].abs().max() > 1e-2
    torch.testing.assert_close(fused[:, 6:], unmasked[:, 6:], rtol=0, atol=1e-5)


def test_depth_of_every_parameter() -> None:
    vit = PlainViT('vit_base_patch16_clip_224', 32, depth=3, embed_dim=32, num_heads=2)
    depths = {name: vit.param_depth(name) for name, _ in vit.named_parameters()}
    outside = {name: depth for name, depth in depths.items() if not name.startswith('vit.blocks.')}
    embeddings = ('cls_token', 'pos_embed', 'patch_embed.proj.weight', 'norm_pre.weight', 'norm_pre.bias')
    assert outside == {f'vit.{name}': 0 for name in embeddings} | {'vit.norm.weight': None, 'vit.norm.bias': None}
    for i in range(3):
        assert {depths[f'vit.blocks.{i}.{name}'] for name, _ in vit.vit.blocks[i].named_parameters()} == {i}
    assert tiny_vit().param_depth('vit.reg_token') == 0
    assert PlainViT('vit_tiny_patch16_224', 32, depth=12, embed_dim=24).param_depth('vit.blocks.11.norm1.bias') == 11
