"""Our networks against those of transformers on the same random weights, brought over by the importer.

``pytest -rP tests/test_parity*.py`` shows what was measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import Ours, hf_dinov2, hf_dinov3, relative_difference
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.core.network import Predictions, eomt_forward

TOLERANCE = 1e-5  # of the output's range
SQUARE, WIDE, TALL = (64, 64), (64, 96), (112, 48)
DEPTH, BLOCKS = 4, 3
THEIRS = dict(num_hidden_layers=DEPTH, num_blocks=BLOCKS)
OURS = dict(depth=DEPTH, blocks=BLOCKS)


def randomise(model: Any) -> Any:
    """Every parameter off its initial value, biases and layer scales included; signs of both kinds in the masks."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model


def gated_hf_dinov3() -> nn.Module:
    """As huge+ and 7B. transformers takes one activation for the ViT's gate, the mask head and the scale blocks.

    The official model has SiLU in the gate and GELU in the head, whatever the backbone; so has ours.
    """
    hf = hf_dinov3(use_gated_mlp=True, hidden_act='silu', **THEIRS)
    hf.mask_head.activation = nn.GELU()
    for block in hf.upscale_block.block:
        block.activation = nn.GELU()
    return hf


# Model of transformers, and ours of the same sizes.
NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Ours]]] = {
    'DINOv2': (lambda: hf_dinov2(**THEIRS), lambda: Ours('vit_small_patch14_reg4_dinov2', **OURS)),
    'DINOv2 SwiGLU': (
        lambda: hf_dinov2(gated=True, **THEIRS),
        lambda: Ours('vit_giant_patch14_reg4_dinov2', embed_dim=24, **OURS),
    ),
    'DINOv3': (lambda: hf_dinov3(**THEIRS), lambda: Ours('vit_small_patch16_dinov3_qkvb', **OURS)),
    'DINOv3 gated': (gated_hf_dinov3, lambda: Ours('vit_huge_plus_patch16_dinov3_qkvb', **OURS)),
}
# EomtForUniversalSegmentation has positions for one square size; DINOv3's rotary positions fit every size.
NETWORK_SIZES = [
    *((name, SQUARE) for name in NETWORKS),
    *((name, size) for name in ('DINOv3', 'DINOv3 gated') for size in (WIDE, TALL)),
]


def images(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))


def imported(hf: Any, ours: Ours, folder: Path) -> Ours:
    """Ours with the weights of transformers' model, through its folder and our importer."""
    hf.save_pretrained(folder)
    weights, report = import_checkpoint(folder, ours.state_dict())
    assert all(name.startswith('panoptic_head.') for name in report.missing)  # of a bare backbone
    assert bool(report.missing) is not report.whole
    ours.load_state_dict(weights, strict=report.whole)
    return ours


def pair(name: str, folder: Path) -> tuple[Any, Ours]:
    build_theirs, build_ours = NETWORKS[name]
    hf = randomise(build_theirs())
    return hf, imported(hf, build_ours(), folder)


def all_predictions(hf: Any, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    """Every prediction of transformers' model; its output holds the last one only."""
    found: list[tuple[Tensor, Tensor]] = []
    predict = hf.predict

    def recording(tokens: Tensor) -> tuple[Tensor, Tensor]:
        found.append(predict(tokens))
        return found[-1]

    monkeypatch.setattr(hf, 'predict', recording)
    # The grid is that of the configuration's square size, although nothing else depends on it.
    monkeypatch.setattr(hf, 'grid_size', (pixels.shape[-2] // 16, pixels.shape[-1] // 16))
    with torch.no_grad():
        hf(pixel_values=pixels)
    return [classes for _, classes in found], [masks for masks, _ in found]


def our_predictions(ours: Ours, pixels: Tensor) -> Predictions:
    with torch.no_grad():
        return eomt_forward(ours.backbone, ours.panoptic_head, pixels)


def assert_close(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    span = (expected.max() - expected.min()).item()
    assert span > 0.5, 'too flat an output to show errors'
    difference = relative_difference(found, expected)
    print(f'{what}: {difference:.1e} of a range of {span:.1f}')
    assert difference <= tolerance


def assert_same_predictions(found: Predictions, expected: Predictions, tolerance: float = TOLERANCE) -> None:
    for what, mine, theirs in zip(('classes', 'masks'), found, expected, strict=True):
        assert len(mine) == len(theirs)
        for layer, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            assert_close(one, other, f'{what} of prediction {layer}', tolerance)


@pytest.mark.parametrize(('name', 'size'), NETWORK_SIZES)
def test_masks_off(name: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, ours = pair(name, tmp_path)
    hf.eval().attn_mask_probs.zero_()  # its way to switch masks off
    assert_same_predictions(our_predictions(ours.eval(), images(size)), all_predictions(hf, images(size), monkeypatch))


@pytest.mark.parametrize(('name', 'size'), NETWORK_SIZES)
def test_training_with_all_masks_kept(
    name: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All intermediate predictions, each of which masks the next block's attention."""
    hf, ours = pair(name, tmp_path)
    ours.panoptic_head.set_attn_mask_probs([1.0] * BLOCKS)  # the importer switches masks off
    theirs = all_predictions(hf.train(), images(size), monkeypatch)
    mine = our_predictions(ours.train(), images(size))
    assert len(mine[0]) == BLOCKS + 1
    assert_same_predictions(mine, theirs)
    for masks in theirs[1][:-1]:
        assert 0.02 < (masks > 0).float().mean() < 0.98  # both what is masked and what is not
    unmasked = our_predictions(ours.eval(), images(size))
    assert relative_difference(unmasked[1][-1], theirs[1][-1]) > 1e-3  # and it mattered


@pytest.mark.parametrize('name', ['DINOv2', 'DINOv3'])
def test_double_precision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs in float32 is rounding. What is left: rotary positions and its eager softmax are always float32."""
    hf, ours = pair(name, tmp_path)
    # Its DINOv2 model makes a float32 mask at every precision, which torch's fused attention misreads beside float64.
    hf.set_attn_implementation('eager' if name == 'DINOv2' else 'sdpa')
    ours.panoptic_head.set_attn_mask_probs([1.0] * BLOCKS)
    pixels = images(SQUARE).double()
    theirs = all_predictions(hf.train().double(), pixels, monkeypatch)
    assert_same_predictions(our_predictions(ours.train().double(), pixels), theirs, tolerance=1e-7)


def test_rescaled_positions_are_why_they_are_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' default rescales DINOv3's positions at random in training; published models trained without."""
    hf, ours = pair('DINOv3', tmp_path)
    ours.panoptic_head.set_attn_mask_probs([1.0] * BLOCKS)
    hf.config.pos_embed_rescale = 2.0
    torch.manual_seed(0)
    theirs = all_predictions(hf.train(), images(SQUARE), monkeypatch)
    mine = our_predictions(ours.train(), images(SQUARE))
    assert relative_difference(mine[1][-1], theirs[1][-1]) > 1e-3


def test_one_activation_for_everything_is_not_the_official_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf, ours = pair('DINOv3 gated', tmp_path)
    hf.attn_mask_probs.zero_()
    hf.mask_head.activation = nn.SiLU()
    for block in hf.upscale_block.block:
        block.activation = nn.SiLU()
    theirs = all_predictions(hf, images(SQUARE), monkeypatch)
    mine = our_predictions(ours.eval(), images(SQUARE))
    assert_close(mine[0][-1], theirs[0][-1], 'classes')
    assert relative_difference(mine[1][-1], theirs[1][-1]) > 1e-2


def hf_backbone(name: str) -> Any:
    common = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16)
    if name.startswith('DINOv2'):
        config = Dinov2WithRegistersConfig(
            **common, num_register_tokens=4, mlp_ratio=4, use_swiglu_ffn='SwiGLU' in name
        )
        return randomise(Dinov2WithRegistersModel(config))
    gated = dict(use_gated_mlp=True, hidden_act='silu') if 'gated' in name else {}
    config = DINOv3ViTConfig(
        **common, num_register_tokens=4, intermediate_size=128, layer_norm_eps=1e-5, query_bias=True, value_bias=True,
        key_bias=False, pos_embed_rescale=None, **gated,
    )  # fmt: skip
    return randomise(DINOv3ViTModel(config))


BACKBONES = {
    'DINOv2': dict(model_name='vit_small_patch14_reg4_dinov2'),
    'DINOv2 SwiGLU': dict(model_name='vit_giant_patch14_reg4_dinov2', mlp_ratio=2 * 88 / 32),
    'DINOv3': dict(model_name='vit_small_patch16_dinov3_qkvb'),
    'DINOv3 gated': dict(model_name='vit_huge_plus_patch16_dinov3_qkvb'),
}


@pytest.mark.parametrize('size', [SQUARE, WIDE, TALL])
@pytest.mark.parametrize('name', BACKBONES)
def test_bare_backbones(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Tokens behind the last norm. Off the stored size both resample DINOv2's positions by antialiased bicubic."""
    hf = hf_backbone(name)
    ours = imported(hf, Ours(depth=3, **BACKBONES[name]), tmp_path).eval()
    with torch.no_grad():
        expected = hf(pixel_values=images(size)).last_hidden_state
        found = ours.backbone.final_norm(ours.backbone(images(size))).x
    assert_close(found, expected, 'tokens')
