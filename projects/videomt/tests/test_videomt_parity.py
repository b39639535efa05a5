"""Our VidEoMT against that of transformers on the same random weights, at its one square size.

``pytest -rP projects/videomt/tests/test_videomt_parity.py`` shows what was measured.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VideomtForUniversalSegmentation
from videomt.checkpoints import export_huggingface, import_videomt
from videomt.network import VidEoMTHead
from videomt_networks import Network, clips, final, relative_difference, transformers_network

from eomt_mm.core.backbone import PlainViT

TOLERANCE = 1e-5  # of the output's range


def pair(folder: Path) -> tuple[Any, Network]:
    """Transformers' network, and ours with its weights, through its folder and our importer."""
    theirs, ours = transformers_network(), Network()
    theirs.save_pretrained(folder)
    weights, report = import_videomt(folder, ours.state_dict())
    assert not report.missing
    ours.load_state_dict(weights)
    return theirs, ours.eval()


@torch.no_grad()
def their_outputs(model: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits (B, T, Q, K + 1) and mask logits (B, T, Q, h, w); it gives frame after frame, each of all clips."""
    found = model(pixel_values_videos=frames)
    shape = (frames.shape[1], frames.shape[0])
    both = (found.class_queries_logits, found.masks_queries_logits)
    classes, masks = (logits.unflatten(0, shape).transpose(0, 1) for logits in both)
    return classes, masks


def assert_close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = TOLERANCE) -> None:
    for what, mine, theirs in zip(('classes', 'masks'), found, expected, strict=True):
        span = float(theirs.max() - theirs.min())
        assert span > 0.5, 'too flat an output to show errors'
        for t in range(mine.shape[1]):
            difference = float((mine[:, t] - theirs[:, t]).abs().max()) / span
            print(f'{what} of frame {t}: {difference:.1e} of a range of {span:.1f}')
            assert difference <= tolerance


@torch.no_grad()
@pytest.mark.parametrize('batch', [1, 2])
def test_five_frames(batch: int, tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    frames = clips(batch, 5)
    expected = their_outputs(theirs, frames)
    assert relative_difference(expected[1][:, 1], their_outputs(theirs, frames[:, 1:])[1][:, 0]) > 1e-2  # state matters
    assert_close(final(ours(frames)[0]), expected)


@torch.no_grad()
def test_five_frames_in_windows(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    frames = clips(1, 5)
    first, state = ours(frames[:, :2])
    second, _ = ours(frames[:, 2:], state)
    found = tuple(torch.cat(parts, dim=1) for parts in zip(final(first), final(second), strict=True))
    assert_close(found, their_outputs(theirs, frames))


@torch.no_grad()
def test_double_precision(tmp_path: Path) -> None:
    """What differs in float32 is rounding."""
    theirs, ours = pair(tmp_path)
    frames = clips(2, 4).double()
    assert_close(final(ours.double()(frames)[0]), their_outputs(theirs.double(), frames), tolerance=1e-12)


@torch.no_grad()
def test_our_export_computes_the_same(tmp_path: Path) -> None:
    ours = Network().eval()
    export_huggingface(ours.state_dict(), tmp_path / 'hf', num_heads=2)
    theirs, loading = VideomtForUniversalSegmentation.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not loading['missing_keys'] and not loading['unexpected_keys'] and not loading['mismatched_keys']
    frames = clips(2, 3)
    assert_close(final(ours(frames)[0]), their_outputs(theirs.eval(), frames))


@pytest.mark.slow
@torch.no_grad()
def test_published_size_s(tmp_path: Path) -> None:
    """ViT-S at 640 x 640 for 3 frames, 40 classes, 200 queries."""
    theirs = transformers_network(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=640, num_blocks=3, num_queries=200,
        num_labels=40,
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ours = Network()
    ours.backbone = PlainViT('vit_small_patch14_reg4_dinov2')
    ours.panoptic_head = VidEoMTHead(embed_dim=384, depth=12, patch_size=16, num_classes=40)
    ours.load_state_dict(import_videomt(tmp_path, ours.state_dict())[0])
    frames = clips(1, 3, (640, 640))
    assert_close(final(ours.eval()(frames)[0]), their_outputs(theirs, frames))
