"""Padding and windows: round trips, agreement with the published formulas, coverage."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt_mm.core.geometry import Padding, Size, Windows, pad_bottom_right, resize, window_starts


def ramp(size: Size, dtype: torch.dtype = torch.float64) -> Tensor:
    """(2, h, w): x and y of pixel centres as a share of the image, so that resizing keeps the values."""
    h, w = size
    y, x = ((torch.arange(n, dtype=dtype) + 0.5) / n for n in size)
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)])


def interior(maps: Tensor, share: float = 0.15) -> Tensor:
    """Without the border, where bilinear resizing has nothing to interpolate towards."""
    h, w = maps.shape[-2:]
    dh, dw = math.ceil(h * share), math.ceil(w * share)
    return maps[..., dh : h - dh, dw : w - dw]


def published_starts(length: int, window: int) -> list[int]:
    n = math.ceil(length / window)
    overlap = n * window - length
    return [int(j * (window - overlap / (n - 1))) if n > 1 else 0 for j in range(n)]


def test_resize_keeps_leading_dimensions_and_empty_maps() -> None:
    assert resize(torch.zeros(2, 3, 4, 5), (8, 6)).shape == (2, 3, 8, 6)
    assert resize(torch.zeros(0, 4, 5), (8, 6)).shape == (0, 8, 6)
    assert resize(torch.zeros(2, 0, 4, 5), (8, 6)).shape == (2, 0, 8, 6)
    assert resize(torch.zeros(1, 4, 5, dtype=torch.float16), (8, 6)).dtype == torch.float16


def test_resize_is_bilinear_with_half_pixel_centres() -> None:
    maps = torch.randn(3, 7, 9)
    expected = F.interpolate(maps[None], (11, 5), mode='bilinear', align_corners=False)[0]
    assert torch.equal(resize(maps, (11, 5)), expected)
    torch.testing.assert_close(interior(resize(ramp((32, 48)), (20, 100))), interior(ramp((20, 100))))


@pytest.mark.parametrize('size', [(9, 10), (10, 9), (11, 11)])
def test_image_that_does_not_fit_names_sizes_and_hint(size: Size) -> None:
    with pytest.raises(ValueError) as error:
        pad_bottom_right(torch.zeros(3, *size), (9, 9))
    for word in (f'{size[0]} x {size[1]} pixels', '9 x 9', 'keep_ratio=True', 'img_size'):
        assert word in str(error.value)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_padding_is_at_the_bottom_and_the_right(dtype: torch.dtype) -> None:
    image = torch.randint(1, 255, (3, 4, 6)).to(dtype)
    padded = Padding((40, 60), (4, 6), (8, 7)).apply(image)
    assert padded.shape == (1, 3, 8, 7) and padded.dtype == dtype
    assert torch.equal(padded[0, :, :4, :6], image)
    assert padded[0, :, 4:].eq(0).all() and padded[0, :, :, 6:].eq(0).all()


@pytest.mark.parametrize('ori_size', [(100, 37), (37, 100), (1, 1), (64, 64), (5, 640)])
@pytest.mark.parametrize('scale', [4, 1])
def test_padding_invert_is_the_published_chain(ori_size: Size, scale: int) -> None:
    """Logits to the input's size, crop of the padding, to the image's size."""
    factor = min(64 / ori_size[0], 64 / ori_size[1])
    resized = (max(1, round(ori_size[0] * factor)), max(1, round(ori_size[1] * factor)))
    logits = torch.randn(5, 64 // scale, 64 // scale)
    at_input = F.interpolate(logits[None], (64, 64), mode='bilinear')
    expected = F.interpolate(at_input[..., : resized[0], : resized[1]], ori_size, mode='bilinear')[0]
    maps = Padding(ori_size, resized, (64, 64)).invert(logits)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)


def test_padding_round_trips() -> None:
    image = torch.rand(3, 40, 64)
    unscaled = Padding((40, 64), (40, 64), (64, 80))
    assert torch.equal(unscaled.invert(unscaled.apply(image)[0]), image)
    scaled = Padding((80, 200), (40, 100), (48, 100))
    torch.testing.assert_close(scaled.invert(torch.full((2, 12, 25), 0.7)), torch.full((2, 80, 200), 0.7))
    maps = scaled.invert(scaled.apply(ramp((40, 100)))[0])
    torch.testing.assert_close(interior(maps), interior(ramp((80, 200))))
    assert scaled.num_inputs == 1


@pytest.mark.parametrize('geometry', [Padding((30, 50), (24, 40), (40, 40)), Windows((30, 50), (24, 40), (24, 24))])
def test_maps_without_channels(geometry: Padding | Windows) -> None:
    maps = torch.zeros(0, 40, 40) if isinstance(geometry, Padding) else torch.zeros(2, 0, 24, 24)
    assert geometry.invert(maps).shape == (0, 30, 50)


@pytest.mark.parametrize('window', [1, 7, 32, 512, 640, 1024])
def test_windows_start_as_published(window: int) -> None:
    """All lengths up to 4400; beyond 7 windows of 640 the published last start can end one pixel short."""
    for length in range(1, 4400, 1 if window > 32 else 37):
        assert window_starts(length, window) == published_starts(length, window)


def test_last_window_ends_at_the_border_where_the_published_one_does_not() -> None:
    short = [n for n in range(4481, 9000) if published_starts(n, 640)[-1] != n - 640]
    assert short  # the flaw exists
    for length in short:
        starts = window_starts(length, 640)
        assert starts[:-1] == published_starts(length, 640)[:-1]
        assert starts[-1] == length - 640


@pytest.mark.parametrize('window', [1, 3, 16, 512, 640, 1024])
def test_every_pixel_is_covered(window: int) -> None:
    for length in [*range(1, 300), *(range(4481, 9000, 7) if window > 3 else [])]:
        starts = window_starts(length, window)
        assert starts[0] == 0 and starts[-1] == max(0, length - window)
        assert all(0 < later - earlier <= window for earlier, later in pairwise(starts))
        assert len(starts) == max(1, math.ceil(length / window))


def test_known_windows() -> None:
    assert window_starts(1300, 512) == [0, 394, 788]
    assert window_starts(2048, 1024) == [0, 1024]
    assert window_starts(512, 512) == [0] == window_starts(511, 512)
    assert Windows((9, 9), (20, 30), (16, 16)).corners == [(0, 0), (0, 14), (4, 0), (4, 14)]


@pytest.mark.parametrize(
    ('size', 'window'),
    [((16, 50), (16, 16)), ((50, 16), (16, 16)), ((33, 47), (16, 24)), ((10, 40), (16, 16)), ((5, 7), (16, 24))],
)
def test_windows_round_trip(size: Size, window: Size) -> None:
    """Any image comes back as it was where it is not resized: overlaps are averaged, padding is cut off."""
    image, geometry = torch.rand(3, *size, dtype=torch.float64), Windows(size, size, window)
    windows = geometry.apply(image)
    assert windows.shape == (geometry.num_inputs, 3, *window)
    torch.testing.assert_close(geometry.invert(windows), image, rtol=0, atol=1e-12)


def test_small_images_are_padded_black() -> None:
    windows = Windows((5, 7), (5, 7), (16, 24)).apply(torch.ones(3, 5, 7, dtype=torch.uint8))
    assert windows.shape == (1, 3, 16, 24) and windows.dtype == torch.uint8
    assert windows.sum() == 3 * 5 * 7 and windows[..., :5, :7].all()


def test_windows_are_resized_after_they_are_joined() -> None:
    geometry = Windows((60, 150), (32, 80), (32, 32))
    torch.testing.assert_close(geometry.invert(torch.full((3, 2, 32, 32), 0.3)), torch.full((2, 60, 150), 0.3))
    maps = geometry.invert(geometry.apply(ramp((32, 80))))
    torch.testing.assert_close(interior(maps), interior(ramp((60, 150))))


def test_overlap_is_the_mean_of_the_scores() -> None:
    geometry = Windows((4, 6), (4, 6), (4, 4))  # windows at 0 and 2: columns 2 and 3 are shared
    maps = geometry.invert(torch.stack([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 3.0)]))
    assert maps[0, 0].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_number_of_windows_must_fit() -> None:
    with pytest.raises(ValueError):
        Windows((4, 6), (4, 6), (4, 4)).invert(torch.zeros(3, 1, 4, 4))


@pytest.mark.parametrize(
    ('resized', 'square', 'maps'),
    [((48, 64), 64, (16, 16)), ((45, 64), 64, (16, 16)), ((64, 1), 64, (16, 16)), ((33, 70), 70, (20, 20)),
     ((51, 77), 77, (13, 31)), ((10, 12), 96, (96, 96)), ((64, 64), 64, (16, 16))],
)  # fmt: skip
def test_padding_is_not_resized_and_changes_nothing(resized: Size, square: int, maps: Size) -> None:
    geometry, logits = Padding((40, 30), resized, (square, square)), 9 * torch.randn(3, *maps)
    whole = resize(logits, (square, square))[..., : resized[0], : resized[1]]
    assert torch.equal(geometry.invert(logits), resize(whole, (40, 30)))
