"""Clips and videos on their way into the model."""

from typing import Any

import pytest
import torch
from videomt_models import batch, video

from eomt_mm.registry import MODELS


@pytest.fixture(scope='module')
def preprocessor() -> Any:
    return MODELS.build(dict(type='eomt_mm.VidEoMTDataPreprocessor'))


def test_frames_are_normalised_and_then_padded_with_zeros(preprocessor: Any) -> None:
    frames = torch.zeros(2, 3, 33, 64, dtype=torch.uint8)
    frames[:, 0], frames[:, 1], frames[1, 2] = 10, 20, 30  # blue, green, red
    before, found = frames.clone(), preprocessor.prepare(frames)
    assert found.shape == (2, 3, 64, 64) and found.dtype == torch.float32
    for channel, value in enumerate([(30 - 123.675) / 58.395, (20 - 116.28) / 57.12, (10 - 103.53) / 57.375]):
        torch.testing.assert_close(found[1, channel, :33], torch.full((33, 64), value))
    assert not found[:, :, 33:].any() and torch.equal(frames, before)


def test_channels_may_stay() -> None:
    preprocessor = MODELS.build(
        dict(type='eomt_mm.VidEoMTDataPreprocessor', mean=[1, 2, 3], std=[1, 2, 4], bgr_to_rgb=False, size_divisor=1)
    )
    found = preprocessor.prepare(torch.full((1, 3, 2, 5), 5, dtype=torch.uint8))
    assert found.shape == (1, 3, 2, 5) and found[0, :, 0, 0].tolist() == [4.0, 1.5, 0.5]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_prepared_frames_leave_the_given_ones_alone(preprocessor: Any, dtype: torch.dtype) -> None:
    frames = torch.full((1, 3, 32, 32), 7, dtype=dtype)
    preprocessor.prepare(frames)
    assert (frames == 7).all()


def test_clips_of_different_sizes_make_one_batch(preprocessor: Any) -> None:
    clips = [video(2, (40, 50)), video(2, (33, 70))]
    data = preprocessor(batch(*clips), training=True)
    assert data['inputs'].shape == (2, 2, 3, 64, 96)
    for found, (frames, _) in zip(data['inputs'], clips, strict=True):
        h, w = frames.shape[-2:]
        torch.testing.assert_close(found[..., :h, :w], preprocessor.prepare(frames)[..., :h, :w])
        assert not found[..., h:, :].any() and not found[..., w:].any()
    sizes = [frame.batch_input_shape for clip in data['data_samples'] for frame in clip.video_data_samples]
    assert sizes == [(64, 96)] * 4


def test_clips_of_different_lengths_are_refused(preprocessor: Any) -> None:
    with pytest.raises(ValueError, match=r'clips of a batch have \[2, 3\] frames: .*num_frames'):
        preprocessor(batch(video(2), video(3)), training=True)


def test_videos_stay_bytes_where_they_are(preprocessor: Any) -> None:
    """In evaluation, and of any length and size."""
    videos = [video(2, (40, 50)), video(5, (33, 70))]
    data = preprocessor(batch(*videos))
    assert all(found is frames for found, (frames, _) in zip(data['inputs'], videos, strict=True))
    assert [clip[-1].batch_input_shape for clip in data['data_samples']] == [(64, 64), (64, 96)]
