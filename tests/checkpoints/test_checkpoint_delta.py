"""Differences to a pretrained backbone: added to the right base, and refused where file, flag or base disagree."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_samples import (
    WIDTH,
    State,
    check_same,
    dinov3,
    gated_dinov3,
    hf_dinov2,
    hf_dinov3,
    official_from_hf,
    randomise,
    saved,
    split_delta,
)

from eomt_mm.checkpoints.importing import import_checkpoint


@pytest.fixture
def delta(tmp_path: Path) -> tuple[Any, State, State]:
    peer = hf_dinov3()
    return peer, *split_delta(official_from_hf(peer))


def test_delta_and_base_add_up(tmp_path: Path, delta: Any) -> None:
    peer, difference, base = delta
    source = saved(difference, tmp_path / 'x.bin')
    for flag in ('auto', 'delta'):
        state, report = import_checkpoint(source, dinov3().state_dict(), saved(base, tmp_path / 'base.pth'), flag)
        assert report.weights == 'delta' and state['panoptic_head.attn_mask_probs'].tolist() == [0]
        check_same(dinov3(), state, peer)
    assert torch.equal(state['panoptic_head.class_predictor.weight'], difference['network.class_head.weight'])


def test_delta_with_a_base_of_timm_without_zero_biases(tmp_path: Path) -> None:
    """Pretrained biases of q and v are zero, and plain timm files leave them out."""
    peer = hf_dinov3()
    difference, _ = split_delta(official_from_hf(peer))
    base = randomise(
        timm.create_model('vit_small_patch16_dinov3', embed_dim=WIDTH, depth=2, num_heads=2, num_classes=7)
    )
    state, report = import_checkpoint(
        saved(difference, tmp_path / 'x.bin'), dinov3().state_dict(), saved(base.state_dict(), tmp_path / 'timm.pth')
    )
    name = 'blocks.1.attn.qkv.weight'
    parts = [difference[f'network.encoder.backbone.blocks.1.attention.{x}_proj.weight'] for x in 'qkv']
    assert torch.equal(state[f'backbone.vit.{name}'], base.state_dict()[name] + torch.cat(parts))
    bias = difference['network.encoder.backbone.blocks.1.attention.v_proj.bias']
    assert torch.equal(state['backbone.vit.blocks.1.attn.v_bias'], bias)
    assert any('timm backbone' in note for note in report.notes)


def test_delta_without_base_names_the_flag(tmp_path: Path, delta: Any) -> None:
    with pytest.raises(ValueError, match='give it with --base'):
        import_checkpoint(saved(delta[1], tmp_path / 'x.bin'), dinov3().state_dict())


def test_base_for_absolute_weights_is_refused(tmp_path: Path, delta: Any) -> None:
    official = saved(official_from_hf(delta[0]), tmp_path / 'x.bin')
    with pytest.raises(ValueError, match=r'--base .*absolute weights and needs none'):
        import_checkpoint(official, None, saved(delta[2], tmp_path / 'base.pth'))


@pytest.mark.parametrize(
    ('mean', 'flag', 'message'),
    [
        (None, 'auto', 'stores no pixel_mean.*--weights'),
        (0.3, 'auto', r'pixel_mean of \[0.3, 0.3, 0.3\].*--weights'),
        (0.0, 'absolute', r'--weights absolute: the pixel_mean stored .* delta weights\. .*--weights delta'),
        ('imagenet', 'delta', r'--weights delta: .*, that is, absolute weights'),
        ('imagenet', 'half', r"--weights half: one of 'auto'"),
    ],
)
def test_unclear_and_contradictory_files_are_refused(tmp_path: Path, mean: Any, flag: str, message: str) -> None:
    official = official_from_hf(hf_dinov3())
    if mean is None:
        del official['network.encoder.pixel_mean']
    elif mean != 'imagenet':
        official['network.encoder.pixel_mean'] = torch.full((1, 3, 1, 1), mean)
    with pytest.raises(ValueError, match=message):
        import_checkpoint(saved(official, tmp_path / 'x.bin'), None, None, flag)


def test_unclear_files_load_with_the_flag_and_dinov2_without(tmp_path: Path) -> None:
    for peer, flag in ((hf_dinov3(), 'absolute'), (hf_dinov2(), 'auto')):
        official = official_from_hf(peer)
        del official['network.encoder.pixel_mean']
        source = saved(official, tmp_path / 'x.bin')
        _, report = import_checkpoint(source, weights=flag, head='panoptic_head')
        assert report.weights == 'absolute'


def test_other_formats_are_never_deltas(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--weights delta: .*always absolute'):
        import_checkpoint(saved(hf_dinov3().state_dict(), tmp_path / 'x.pth'), None, None, 'delta')


def test_base_of_another_size_is_listed(tmp_path: Path, delta: Any) -> None:
    base = gated_dinov3().backbone.vit.state_dict()
    with pytest.raises(ValueError, match='is not the backbone of this file; 12 weights differ') as error:
        import_checkpoint(saved(delta[1], tmp_path / 'x.bin'), None, saved(base, tmp_path / 'base.pth'))
    assert 'mlp.fc1.weight: (128, 32) in the file, missing in the base' in str(error.value)
    assert 'mlp.fc1_g.bias: missing in the file, (128,) in the base' in str(error.value)


def test_whole_model_as_base_is_refused(tmp_path: Path, delta: Any) -> None:
    base = saved(official_from_hf(delta[0]), tmp_path / 'base.pth')
    with pytest.raises(ValueError, match='--base .*is a whole model'):
        import_checkpoint(saved(delta[1], tmp_path / 'x.bin'), None, base)


def test_base_that_is_itself_a_difference_is_refused(tmp_path: Path, delta: Any) -> None:
    base = {name: 0.01 * value for name, value in delta[2].items()}
    with pytest.raises(ValueError, match=r'--base .*: LayerNorm weights of .* look like differences'):
        import_checkpoint(saved(delta[1], tmp_path / 'x.bin'), None, saved(base, tmp_path / 'base.pth'))


def test_absolute_weights_taken_for_differences_are_refused(tmp_path: Path, delta: Any) -> None:
    official = official_from_hf(delta[0], mean=torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match='and look absolute.*--weights absolute'):
        import_checkpoint(saved(official, tmp_path / 'x.bin'), None, saved(delta[2], tmp_path / 'base.pth'))


def test_weights_that_decayed_are_still_differences(tmp_path: Path, delta: Any) -> None:
    """Weight decay alone shrinks the last blocks of a long training by more than half: large, but opposite."""
    shrunk = {
        name: -0.7 * official_from_hf(delta[0])[name] if name.endswith(('norm1.weight', 'norm2.weight')) else value
        for name, value in delta[1].items()
    }
    source, base = saved(shrunk, tmp_path / 'x.bin'), saved(delta[2], tmp_path / 'base.pth')
    _, report = import_checkpoint(source, base=base, head='panoptic_head')
    assert report.weights == 'delta'


def test_differences_taken_for_absolute_weights_are_refused(tmp_path: Path, delta: Any) -> None:
    difference = {name: value for name, value in delta[1].items() if 'pixel' not in name}
    with pytest.raises(ValueError, match=r'x\.bin: LayerNorm weights .* --weights delta'):
        import_checkpoint(saved(difference, tmp_path / 'x.bin'), None, None, 'absolute')
