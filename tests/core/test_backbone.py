"""The ViT as tokens: sizes, equality with timm, where weights come from and when, and mmengine's initialisation."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.backbone import TimmViT, Tokens

DINOV2 = 'vit_small_patch14_reg4_dinov2'
TINY: dict[str, Any] = dict(depth=3, embed_dim=32, num_heads=2)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Values of order 1 everywhere; timm starts layer scales at 1e-5 and biases at 0, which hides errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def tiny_vit(name: str = DINOV2, img_size: int = 64, **kwargs: Any) -> TimmViT:
    vit = TimmViT(name, img_size, **{**TINY, **kwargs}).eval()
    randomise(vit)
    return vit


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to reach the network, each of which fails."""
    attempts: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        attempts.append(str(args))
        raise OSError('no network in tests')

    for name in ('socket', 'create_connection', 'getaddrinfo'):
        monkeypatch.setattr(socket, name, refuse)
    return attempts


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that timm is asked to build with weights."""
    loads: list[str] = []
    create: Callable[..., nn.Module] = timm.create_model

    def counting(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            loads.append(name)
        return create(name, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, 'create_model', counting)
    return loads


def patch14_checkpoint(path: Path) -> dict[str, Tensor]:
    """Saves a tiny model as DINOv2 is released, at patch 14 and 518 px, and returns its weights."""
    released = timm.create_model(DINOV2, num_classes=0, **TINY)
    randomise(released, seed=1)
    torch.save(released.state_dict(), path)
    return released.state_dict()


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
        (DINOV2, dict(dept=2), [DINOV2, 'dept']),
    ],
)
def test_a_model_that_does_not_fit_is_refused(name: str, kwargs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        TimmViT(name, **dict(dict(img_size=64), **kwargs))
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
    vit = TimmViT('vit_base_patch16_clip_224', 32, depth=3, embed_dim=32, num_heads=2)
    depths = {name: vit.param_depth(name) for name, _ in vit.named_parameters()}
    outside = {name: depth for name, depth in depths.items() if not name.startswith('vit.blocks.')}
    embeddings = ('cls_token', 'pos_embed', 'patch_embed.proj.weight', 'norm_pre.weight', 'norm_pre.bias')
    assert outside == {f'vit.{name}': 0 for name in embeddings} | {'vit.norm.weight': None, 'vit.norm.bias': None}
    for i in range(3):
        assert {depths[f'vit.blocks.{i}.{name}'] for name, _ in vit.vit.blocks[i].named_parameters()} == {i}
    assert tiny_vit().param_depth('vit.reg_token') == 0
    assert TimmViT('vit_tiny_patch16_224', 32, depth=12, embed_dim=24).param_depth('vit.blocks.11.norm1.bias') == 11


def test_building_never_touches_the_network(connections: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = count_loads(monkeypatch)
    TimmViT(DINOV2, 64, pretrained=True, **TINY)
    TimmViT('vit_tiny_patch16_224', 64, pretrained=True, depth=1)
    assert connections == [] and loads == []


def test_download_that_fails_names_model_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = tiny_vit(pretrained=True)
    before = {name: value.clone() for name, value in vit.state_dict().items()}

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError('no route to host')

    monkeypatch.setattr(timm, 'create_model', unreachable)
    with pytest.raises(RuntimeError) as error:
        vit.init_weights()
    for word in (DINOV2, 'no route to host', 'weights=FILE', 'pretrained=False'):
        assert word in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_missing_file_is_refused_when_building() -> None:
    with pytest.raises(FileNotFoundError, match="weights='nowhere/vit.pth' do not exist"):
        TimmViT(DINOV2, 64, weights='nowhere/vit.pth', **TINY)


@pytest.mark.parametrize('content', ['garbage', 'other_model', 'empty'])
def test_wrong_file_gives_one_error_with_its_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / f'{content}.pth'
    if content == 'garbage':
        path.write_bytes(b'<html>not found</html>')
    else:
        torch.save({} if content == 'empty' else {'layer1.weight': torch.zeros(3)}, path)
    vit = tiny_vit(weights=str(path))
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    with pytest.raises(RuntimeError) as error:
        vit.init_weights()
    assert str(path) in str(error.value) and 'belongs to this model' in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_local_weights_of_patch_14_are_resampled(suffix: str, tmp_path: Path, connections: list[str]) -> None:
    """Positions bicubic with antialiasing; patch kernel by the pseudo-inverse of the resizing of patches."""
    path = tmp_path / f'dinov2{suffix}'
    released = patch14_checkpoint(path)
    if suffix == '.safetensors':
        from safetensors.torch import save_file

        save_file(released, path)
    vit = TimmViT(DINOV2, 80, pretrained=True, weights=str(path), **TINY)
    vit.init_weights()
    loaded = vit.vit.state_dict()
    assert connections == []

    timms_own = timm.create_model(
        DINOV2, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), img_size=80, patch_size=16,
        num_classes=0, **TINY,
    )  # fmt: skip
    assert loaded.keys() == timms_own.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in timms_own.state_dict().items())

    assert {name for name in released if released[name].shape != loaded[name].shape} == {
        'pos_embed',
        'patch_embed.proj.weight',
    }
    positions = released['pos_embed'].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, (5, 5), mode='bicubic', antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(loaded['pos_embed'], positions, rtol=0, atol=1e-6)

    patches = torch.eye(196).reshape(196, 1, 14, 14)
    resizing = F.interpolate(patches, (16, 16), mode='bicubic', antialias=True).flatten(1).T  # (256, 196)
    kernel = released['patch_embed.proj.weight'].flatten(2) @ torch.linalg.pinv(resizing)  # w pinv(A^T)^T
    torch.testing.assert_close(loaded['patch_embed.proj.weight'].flatten(2), kernel, rtol=0, atol=1e-4)


def mmengine_model(vit: TimmViT) -> nn.Module:
    from mmengine.model import BaseModel

    class Wrapper(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = vit

        def forward(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

    return Wrapper()


def test_mmengine_initialisation_leaves_weights_alone(monkeypatch: pytest.MonkeyPatch, connections: list[str]) -> None:
    from eomt_mm.registry import MODELS

    detector = MODELS.build(
        dict(
            type='eomt_mm.EoMTDetector',
            backbone=dict(type='eomt_mm.TimmViT', model_name=DINOV2, img_size=64, **TINY),
            panoptic_head=dict(type='eomt_mm.EoMTDetHead', task='panoptic', num_things_classes=2, num_queries=3),
        )
    )

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("timm's init_weights was called")

    monkeypatch.setattr(VisionTransformer, 'init_weights', never)
    randomise(detector)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert connections == []


def test_mmengine_loads_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'dinov2.pth'
    released = patch14_checkpoint(path)
    model = mmengine_model(TimmViT(DINOV2, 64, weights=str(path), **TINY))
    assert not torch.equal(model.backbone.vit.cls_token, released['cls_token'])
    loads: list[str] = []
    read = TimmViT._read_weights
    monkeypatch.setattr(TimmViT, '_read_weights', lambda self: loads.append(self.weights) or read(self))
    model.init_weights()
    assert torch.equal(model.backbone.vit.cls_token, released['cls_token'])
    assert torch.equal(model.backbone.vit.blocks[2].attn.qkv.weight, released['blocks.2.attn.qkv.weight'])
    model.init_weights()
    assert loads == [str(path)]
