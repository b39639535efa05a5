"""Values of masks at points, and which points are chosen."""

import math

import pytest
import torch
from torch import Tensor

from eomt_mm.core import point_sampling
from eomt_mm.core.point_sampling import pixels_at_points, sample_at_points, uncertain_points


def sample_by_hand(mask: Tensor, x: float, y: float) -> float:
    """Bilinear value at (x, y) in [0, 1]; pixel centres at (j + 0.5) / size, zero outside."""
    h, w = mask.shape
    px, py = x * w - 0.5, y * h - 0.5
    value = 0.0
    for j in (math.floor(px), math.floor(px) + 1):
        for i in (math.floor(py), math.floor(py) + 1):
            if 0 <= i < h and 0 <= j < w:
                value += float(mask[i, j]) * (1 - abs(px - j)) * (1 - abs(py - i))
    return value


def test_values_by_hand_inside_and_across_the_border() -> None:
    masks = torch.randn(3, 4, 7, dtype=torch.float64)
    points = torch.rand(3, 50, 2, dtype=torch.float64)
    points[:, 0], points[:, 1] = 0.0, 1.0  # corners of the image: half outside in each direction
    values = sample_at_points(masks, points)
    expected = [[sample_by_hand(m, *p) for p in ps.tolist()] for m, ps in zip(masks, points, strict=True)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))
    assert values[0, 0].item() == pytest.approx(masks[0, 0, 0].item() / 4)


def test_x_comes_first() -> None:
    mask = torch.zeros(1, 10, 10)
    mask[0, 1, 8] = 1  # row 1, column 8
    assert sample_at_points(mask, torch.tensor([[[0.85, 0.15], [0.15, 0.85]]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize('num_masks', [0, 1, 5])
def test_shared_points_equal_own_points(num_masks: int) -> None:
    masks, points = torch.randn(num_masks, 6, 9), torch.rand(1, 20, 2)
    shared = sample_at_points(masks, points)
    assert shared.shape == (num_masks, 20)
    if num_masks > 1:
        torch.testing.assert_close(shared, sample_at_points(masks, points.expand(num_masks, -1, -1)))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bool_masks_and_their_size_do_not_matter(dtype: torch.dtype) -> None:
    """A mask and its enlarged copy agree at the centres of pixels."""
    masks = torch.rand(4, 5, 5) > 0.5
    centres = (torch.arange(5, dtype=dtype) + 0.5) / 5
    points = torch.stack(torch.meshgrid(centres, centres, indexing='xy'), -1).reshape(1, 25, 2)
    values = sample_at_points(masks, points)
    assert values.dtype == dtype
    torch.testing.assert_close(values, masks.to(dtype).flatten(1), rtol=0, atol=1e-6)
    enlarged = masks.repeat_interleave(3, 1).repeat_interleave(3, 2)
    torch.testing.assert_close(sample_at_points(enlarged, points), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize('floating', [False, True])
@pytest.mark.parametrize('num_rows', [0, 1, 7])
def test_rows_choose_their_masks(floating: bool, num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few masks are made floating at a time, the values are those of all at once."""
    masks = torch.rand(3, 6, 9) > 0.5
    chosen, points = torch.randint(3, (num_rows,)), torch.rand(num_rows, 20, 2)
    expected = sample_at_points(masks.float()[chosen], points)
    for chunk in (1, 2 * 54, point_sampling.CHUNK):
        monkeypatch.setattr(point_sampling, 'CHUNK', chunk)
        assert torch.equal(sample_at_points(masks.float() if floating else masks, points, chosen), expected)
        assert torch.equal(sample_at_points(masks, points[:1], chosen), sample_at_points(masks[chosen], points[:1]))


def test_pixels_of_chosen_maps() -> None:
    maps, points, chosen = torch.randint(100, (3, 4, 5)), torch.rand(6, 7, 2), torch.tensor([2, 0, 0, 1, 2, 2])
    expected = torch.stack([pixels_at_points(maps[i], at) for i, at in zip(chosen, points, strict=True)])
    assert torch.equal(pixels_at_points(maps, points, chosen), expected)


def test_gradient_reaches_the_masks() -> None:
    masks = torch.randn(2, 4, 4, requires_grad=True)
    sample_at_points(masks, torch.rand(2, 100, 2)).sum().backward()
    assert masks.grad is not None and (masks.grad > 0).all()


@pytest.mark.parametrize('num_masks', [0, 1, 3])
@pytest.mark.parametrize('importance', [0.0, 0.75, 1.0])
@pytest.mark.parametrize('oversample', [1.0, 1.01, 3.0])
def test_number_and_range_of_points(num_masks: int, importance: float, oversample: float) -> None:
    points = uncertain_points(torch.randn(num_masks, 8, 8), 33, oversample, importance)
    assert points.shape == (num_masks, 33, 2)
    assert ((points >= 0) & (points <= 1)).all()


def test_uncertain_points_are_those_of_smallest_logit() -> None:
    """Three quarters are the candidates nearest to the border of the mask, the rest is drawn anew."""
    logits = 5 * torch.randn(2, 8, 8)
    torch.manual_seed(0)
    points = uncertain_points(logits, 40, 3.0, 0.75)
    torch.manual_seed(0)
    candidates, random = torch.rand(2, 120, 2), torch.rand(2, 10, 2)
    assert torch.equal(points[:, 30:], random)
    for logit, chosen, drawn in zip(logits, points[:, :30].tolist(), candidates.tolist(), strict=True):
        by_certainty = sorted(drawn, key=lambda point: abs(sample_by_hand(logit, *point)))
        assert sorted(chosen) == sorted(by_certainty[:30])


def test_points_do_not_depend_on_how_many_masks_are_searched_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; each mask's points that do not count are its own, too."""
    logits, side = torch.randn(5, 8, 8), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])

    def counts_at(points: Tensor, part: slice) -> Tensor:
        return points[..., 0] > side[part, None]

    found = []
    for chunk in (1, 2 * 2 * 120, point_sampling.CHUNK):
        monkeypatch.setattr(point_sampling, 'CHUNK', chunk)
        torch.manual_seed(0)
        found.append(uncertain_points(logits, 40, 3.0, 0.25, counts_at))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[2])
    assert (found[0][:4, :10, 0] > side[:4, None]).all()


def test_points_of_nan_logits_are_still_points() -> None:
    points = uncertain_points(torch.full((2, 8, 8), math.nan), 16, 3.0, 0.75)
    assert points.isfinite().all()


def test_no_gradient_through_the_choice() -> None:
    assert not uncertain_points(torch.randn(2, 8, 8, requires_grad=True), 16, 3.0, 0.75).requires_grad
