"""Pretrained weights of the ViT: where they come from and when, and mmengine's initialisation."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from random_weights import randomise
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.checkpoints import pretrained
from eomt_mm.models.backbone import TimmViT

DINOV2 = 'vit_small_patch14_reg4_dinov2'
TINY: dict[str, Any] = dict(depth=3, embed_dim=32, num_heads=2)


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


def test_building_never_touches_the_network(connections: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = count_loads(monkeypatch)
    TimmViT(DINOV2, 64, pretrained=True, **TINY)
    TimmViT('vit_tiny_patch16_224', 64, pretrained=True, depth=1)
    assert connections == [] and loads == []


def test_download_that_fails_names_model_and_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = TimmViT(DINOV2, 64, pretrained=True, **TINY)
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
    vit = TimmViT(DINOV2, 64, weights=str(path), **TINY)
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
    read = pretrained.read_weights
    monkeypatch.setattr(pretrained, 'read_weights', lambda vit, source: loads.append(source) or read(vit, source))
    model.init_weights()
    assert torch.equal(model.backbone.vit.cls_token, released['cls_token'])
    assert torch.equal(model.backbone.vit.blocks[2].attn.qkv.weight, released['blocks.2.attn.qkv.weight'])
    model.init_weights()
    assert loads == [str(path)]
