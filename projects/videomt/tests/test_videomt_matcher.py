"""First-appearance matching against a second implementation that follows the text of the spec frame by frame."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from videomt.matcher import FirstAppearanceMatcher
from videomt.targets import ClipTarget

from eomt_mm.core.matcher import HungarianMatcher, Matches
from eomt_mm.core.point_sampling import sample_at_points

K, Q, T, P = 3, 6, 4, 25
Layers = tuple[list[Tensor], list[Tensor]]


def make_target(first_frames: list[int], seed: int = 0, length: int = T) -> ClipTarget:
    """Targets that are absent before their first frame, and now and then after it."""
    generator = torch.Generator().manual_seed(seed)
    num = len(first_frames)
    first = torch.tensor(first_frames, dtype=torch.long)
    frames = torch.arange(length)[:, None]
    shown = (frames == first) | ((frames > first) & (torch.rand(length, num, generator=generator) > 0.3))
    masks = (torch.rand(length, num, 8, 8, generator=generator) > 0.5) & shown[..., None, None]
    return ClipTarget(torch.randint(K, (num,), generator=generator), masks, first, shown)


def make_logits(batch: int, layers: int = 2, length: int = T, queries: int = Q, seed: int = 0) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(batch, length, queries, K + 1, generator=generator) for _ in range(layers)]
    masks = [3 * torch.randn(batch, length, queries, 4, 4, generator=generator) for _ in range(layers)]
    return classes, masks


def by_the_text(classes: Tensor, masks: Tensor, target: ClipTarget) -> list[tuple[int, int]]:
    """Pairs (query, target) of one clip and layer; points as the matcher draws them, with the same seed."""
    used: list[int] = []
    pairs = []
    for t in range(len(masks)):
        new = [n for n in range(len(target.labels)) if target.first_frames[n] == t]
        if not new:
            continue
        points = torch.rand(P, 2)[None]
        logits, truth = sample_at_points(masks[t], points), sample_at_points(target.masks[t, new], points)
        cost = np.zeros((len(logits), len(new)))
        for q, values in enumerate(logits):
            for place, n in enumerate(new):
                probability = classes[t, q].softmax(-1)[target.labels[n]].item()
                bce = F.binary_cross_entropy_with_logits(values, truth[place]).item()
                overlap, total = (values.sigmoid() * truth[place]).sum(), values.sigmoid().sum() + truth[place].sum()
                cost[q, place] = -2 * probability + 5 * bce + 5 * (1 - (2 * overlap + 1) / (total + 1)).item()
        cost[used] = 1e6
        for q, place in zip(*linear_sum_assignment(cost), strict=True):
            pairs.append((int(q), new[place]))
            used.append(int(q))
    return sorted(pairs)


def match(logits: Layers, *targets: ClipTarget, seed: int = 0) -> list[Matches]:
    torch.manual_seed(seed)
    return FirstAppearanceMatcher(num_points=P).match_clips(*logits, targets)


def as_pairs(matches: list[Matches]) -> list[list[list[tuple[int, int]]]]:
    return [[list(zip(q.tolist(), n.tolist(), strict=True)) for q, n in layer] for layer in matches]


def of_clip(logits: Layers, b: int) -> Layers:
    classes, masks = ([layer[b : b + 1] for layer in part] for part in logits)
    return classes, masks


@pytest.mark.parametrize('layers', [1, 3])
def test_no_targets(layers: int) -> None:
    matches = match(make_logits(2, layers), make_target([]), make_target([2]))
    assert len(matches) == layers
    for nothing, one in matches:
        assert [len(index) for index in nothing] == [0, 0] and [len(index) for index in one] == [1, 1]
        assert all(index.dtype == torch.int64 for index in (*nothing, *one))


@pytest.mark.parametrize(
    'first_frames',
    [[0], [3], [0, 0, 0], [0, 1, 2, 3], [3, 1, 1, 0], [2, 2, 0, 3, 0, 2], [1] * Q],
)
def test_as_the_spec_says(first_frames: list[int]) -> None:
    for seed in range(6):
        logits, target = make_logits(1, layers=1, seed=seed), make_target(first_frames, seed)
        [[found]] = as_pairs(match(logits, target, seed=seed))
        torch.manual_seed(seed)
        assert found == by_the_text(logits[0][0][0], logits[1][0][0], target)


def test_random_clips_in_a_batch() -> None:
    """Every layer of every clip; layers share their points."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        targets = [make_target(rng.integers(0, T, rng.integers(0, Q + 1)).tolist(), seed + i) for i in range(3)]
        logits = make_logits(3, seed=seed)
        for layer, found in enumerate(as_pairs(match(logits, *targets, seed=seed))):
            torch.manual_seed(seed)
            expected = [by_the_text(logits[0][layer][b], logits[1][layer][b], targets[b]) for b in range(3)]
            assert found == expected


def test_batch_is_clip_by_clip() -> None:
    logits, targets = make_logits(2), [make_target([0, 2]), make_target([1, 1, 0], seed=1)]
    together = match(logits, *targets)
    torch.manual_seed(0)
    matcher = FirstAppearanceMatcher(num_points=P)
    alone = [as_pairs(matcher.match_clips(*of_clip(logits, b), [targets[b]])) for b in range(2)]
    assert as_pairs(together) == [[clip[layer][0] for clip in alone] for layer in range(2)]


def test_a_frame_is_an_image() -> None:
    """With one frame, or all targets in the first one, it is EoMT's matching of that frame."""
    for length in (1, T):
        classes, masks = make_logits(2, length=length)
        targets = [make_target([0, 0], length=length), make_target([0, 0, 0], seed=1, length=length)]
        torch.manual_seed(0)
        expected = HungarianMatcher(num_points=P)(
            [layer[:, 0] for layer in classes],
            [layer[:, 0] for layer in masks],
            [dict(labels=target.labels, masks=target.masks[0]) for target in targets],
        )
        assert as_pairs(match((classes, masks), *targets)) == as_pairs(expected)


def perfect_logits(target: ClipTarget, queries: list[int], num_queries: int = Q) -> Layers:
    """One layer in which queries[n] shows target n in every frame, and no other query shows anything."""
    classes = torch.zeros(1, T, num_queries, K + 1)
    classes[..., -1] = 9
    masks = torch.full((1, T, num_queries, 8, 8), -9.0)
    for n, q in enumerate(queries):
        classes[0, :, q] = 9 * F.one_hot(target.labels[n], K + 1)
        masks[0, :, q] = 18 * target.masks[:, n].float() - 9
    return [classes], [masks]


def test_only_the_first_frame_counts() -> None:
    target = make_target([0, 2])
    classes, masks = perfect_logits(target, [4, 1])
    for t in (1, 3):  # nonsense where nothing appears
        classes[0][:, t], masks[0][:, t] = (torch.randn_like(part[0][:, t]) for part in (classes, masks))
    assert as_pairs(match((classes, masks), target)) == [[[(1, 1), (4, 0)]]]


def test_who_comes_first_is_served_first() -> None:
    """Query 2 fits both targets, and the later one better: it has been taken by then."""
    masks = torch.zeros(T, 2, 8, 8, dtype=torch.bool)
    masks[:, 0, :4], masks[2:, 1, 4:] = True, True
    target = ClipTarget(torch.tensor([0, 1]), masks, torch.tensor([0, 2]), masks.any((2, 3)))
    classes, logits = perfect_logits(target, [2, 2])  # the later target's class and masks
    logits[0][0, 0, 2] = 18 * masks[0, 0].float() - 9
    assert as_pairs(match((classes, logits), target))[0][0][-1] == (2, 0)
    alone = ClipTarget(target.labels[1:], masks[:, 1:], target.first_frames[1:], target.shown[:, 1:])
    assert as_pairs(match((classes, logits), alone)) == [[[(2, 0)]]]


def test_targets_of_the_first_frame_may_be_absent_from_it() -> None:
    """As with segments and classes, all of which are matched there."""
    target = make_target([0, 3])
    absent = ClipTarget(target.labels, target.masks, torch.zeros(2, dtype=torch.long), target.shown)
    assert not absent.masks[0, 1].any()
    logits = make_logits(1, layers=1)
    torch.manual_seed(0)
    expected = by_the_text(logits[0][0][0], logits[1][0][0], absent)
    assert as_pairs(match(logits, absent)) == [[expected]]


@pytest.mark.parametrize(
    ('first_frames', 'kept'),
    [([0] * 9, None), ([0, 1, 2] * 3, {0, 3, 6, 1, 4, 7}), ([1] * 4 + [0] * 5, {4, 5, 6, 7, 8}), ([3] + [0] * 6, None)],
)
def test_more_targets_than_queries(first_frames: list[int], kept: set[int] | None) -> None:
    """No query has two targets; the earliest ones have theirs."""
    matches = match(make_logits(1), make_target(first_frames))
    for [(queries, targets)] in matches:
        assert queries.tolist() == list(range(Q))
        assert len(set(targets.tolist())) == Q
        assert (kept or set()) <= set(targets.tolist())
    if first_frames == [3] + [0] * 6:
        assert all(0 not in targets.tolist() for [(_, targets)] in matches)


def test_other_labels_for_the_costs() -> None:
    """Masks are alike: classes decide, by the columns that are given, "no object" among them."""
    target = make_target([0, 0])
    classes, masks = make_logits(1, layers=1)
    masks[0].zero_()
    classes[0] = torch.zeros(1, T, Q, K + 1)
    classes[0][0, 0, 5, K], classes[0][0, 0, 3, 1] = 9, 9
    torch.manual_seed(0)
    matcher = FirstAppearanceMatcher(num_points=P)
    matches = matcher.match_clips(classes, masks, [target], [torch.tensor([1, K])])
    assert as_pairs(matches) == [[[(3, 0), (5, 1)]]]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_broken_logits_do_not_stop_the_matching(value: float) -> None:
    classes, masks = make_logits(1, layers=1)
    masks[0][:, 1].fill_(value)
    [[(queries, targets)]] = match((classes, masks), make_target([1, 0, 1]))
    assert len(queries) == 3 and set(targets.tolist()) == {0, 1, 2}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precisions_are_computed_in_float32(dtype: torch.dtype) -> None:
    classes, masks = ([layer.to(dtype) for layer in part] for part in make_logits(1))
    target = make_target([0, 1, 1, 3])
    expected = match(([c.float() for c in classes], [m.float() for m in masks]), target)
    with torch.autocast('cpu', torch.bfloat16):
        assert as_pairs(match((classes, masks), target)) == as_pairs(expected)
