"""Matching: costs by definition, assignments by brute force, inputs that break scipy, precisions."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from eomt_mm.core.matcher import LARGE_COST, HungarianMatcher, Matches, pairwise_bce, pairwise_dice
from eomt_mm.core.point_sampling import sample_at_points

Target = dict[str, Tensor]
K = 3


def target(num: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> Target:
    generator = torch.Generator().manual_seed(seed)
    return dict(
        labels=torch.randint(K, (num,), generator=generator),
        masks=torch.rand(num, *size, generator=generator) > 0.5,
    )


def logits(batch: int, queries: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(batch, queries, K + 1, generator=generator)
    return classes, 3 * torch.randn(batch, queries, 4, 4, generator=generator)


def match(matcher: HungarianMatcher, one_layer: tuple[Tensor, Tensor], targets: list[Target]) -> list[Matches]:
    return matcher([one_layer[0]], [one_layer[1]], targets)


def as_lists(matches: list[Matches]) -> list[Any]:
    return [[[index.tolist() for index in image] for image in layer] for layer in matches]


def cost_by_hand(classes: Tensor, masks: Tensor, one: Target, points: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Pair by pair and point by point, in float64."""
    values = sample_at_points(masks.double(), points.double()[None])
    truths = sample_at_points(one['masks'].double(), points.double()[None])
    cost = torch.zeros(len(masks), len(truths), dtype=torch.float64)
    for q, n in itertools.product(range(len(masks)), range(len(truths))):
        exps = [math.exp(value) for value in classes[q].tolist()]
        bce = overlap = sum_p = sum_t = 0.0
        for x, t in zip(values[q].tolist(), truths[n].tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            bce -= (t * math.log(p) + (1 - t) * math.log(1 - p)) / len(points)
            overlap, sum_p, sum_t = overlap + p * t, sum_p + p, sum_t + t
        dice = 1 - (2 * overlap + 1) / (sum_p + sum_t + 1)
        probability = exps[int(one['labels'][n])] / sum(exps)
        cost[q, n] = -weights[0] * probability + weights[1] * bce + weights[2] * dice
    return cost


@pytest.mark.parametrize('kwargs', [dict(class_weight=-1), dict(mask_weight=-0.1), dict(dice_weight=-5)])
def test_negative_weight_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'class_weight, mask_weight, dice_weight = .*at least 0'):
        HungarianMatcher(**kwargs)


def test_all_weights_zero_and_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match='not all 0'):
        HungarianMatcher(0, 0, 0)
    with pytest.raises(ValueError, match='num_points=0: at least 1'):
        HungarianMatcher(num_points=0)


def test_no_targets_and_no_images() -> None:
    matcher = HungarianMatcher(num_points=10)
    [matches] = match(matcher, logits(2, 5), [target(0), target(2)])
    assert [len(queries) for queries, _ in matches] == [0, 2]
    assert all(index.dtype == torch.int64 for match in matches for index in match)
    assert match(matcher, logits(0, 5), []) == [[]]


@pytest.mark.parametrize('num_targets', [1, 4, 9])
def test_every_target_gets_a_query_while_there_are_queries(num_targets: int) -> None:
    [[(queries, targets)]] = match(HungarianMatcher(num_points=30), logits(1, 5), [target(num_targets)])
    assert len(queries) == len(targets) == min(5, num_targets)
    assert len(set(queries.tolist())) == len(set(targets.tolist())) == len(queries)
    assert queries.tolist() == sorted(queries.tolist())


@pytest.mark.parametrize('weights', [(2.0, 5.0, 5.0), (1.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 4.0)])
def test_costs_by_definition_and_assignment_by_brute_force(weights: tuple[float, float, float]) -> None:
    matcher, (classes, masks) = HungarianMatcher(*weights, num_points=23), logits(2, 5)
    targets, points = [target(3, seed=1), target(4, seed=2)], torch.rand(2, 23, 2)
    [matches] = matcher([classes], [masks], targets, [points])
    for b in range(2):
        expected = cost_by_hand(classes[b], masks[b], targets[b], points[b], weights)
        [costs] = matcher.cost_matrices([classes[b]], [masks[b]], targets[b], points[b])
        torch.testing.assert_close(costs.double(), expected, rtol=0, atol=1e-5)
        num = len(targets[b]['labels'])
        best = min(sum(expected[q, n] for n, q in enumerate(qs)) for qs in itertools.permutations(range(5), num))
        queries, indices = matches[b]
        assert expected[queries, indices].sum().item() == pytest.approx(float(best), abs=1e-4)


def test_pairwise_costs_at_the_ends() -> None:
    right, wrong = torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]])
    truth = torch.tensor([[1.0, 0.0]])
    assert pairwise_bce(right, truth).item() == pytest.approx(0, abs=1e-6)
    assert pairwise_bce(wrong, truth).item() == pytest.approx(50)
    assert pairwise_dice(right, truth).item() == pytest.approx(0, abs=1e-6)
    assert pairwise_dice(wrong, truth).item() == pytest.approx(1 - 1 / 3)
    nothing = torch.full((1, 2), -50.0)
    assert pairwise_dice(nothing, torch.zeros(1, 2)).item() == pytest.approx(0, abs=1e-6)


def test_points_are_drawn_per_image_and_image_by_image() -> None:
    """Equal seeds give the points that a loop over images would draw (mmdet, transformers)."""
    matcher, (classes, masks) = HungarianMatcher(num_points=8), logits(3, 6)
    targets = [target(2), target(0), target(4, seed=3)]
    torch.manual_seed(4)
    [drawn] = matcher([classes], [masks], targets)
    torch.manual_seed(4)
    points = torch.cat([torch.rand(1, 8, 2) for _ in range(3)])
    [given] = matcher([classes], [masks], targets, [points])
    costs = [matcher.cost_matrices([classes[b]], [masks[b]], targets[b], points[b])[0] for b in (0, 2)]
    assert not torch.equal(costs[0][:, 0], costs[1][:, 0])
    assert all(torch.equal(a, b) for one, two in zip(drawn, given, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize('nums', [(2, 0, 4), (9, 6, 1), (0, 0, 0)])
def test_layers_are_matched_each_on_its_own(nums: tuple[int, ...]) -> None:
    """As if one after the other: at the points of their own, or all at the same drawn ones."""
    matcher, layers = HungarianMatcher(num_points=30), [logits(3, 6, seed) for seed in range(3)]
    class_logits, mask_logits = ([layer[i] for layer in layers] for i in range(2))
    targets = [target(num, seed=b) for b, num in enumerate(nums)]
    given = [torch.rand(3, 30, 2) for _ in layers]
    torch.manual_seed(1)
    found = matcher(class_logits, mask_logits, targets), matcher(class_logits, mask_logits, targets, given)
    torch.manual_seed(1)
    drawn = [torch.rand(3, 30, 2)] * 3
    for matches, points in zip(found, (drawn, given), strict=True):
        expected = [matcher([c], [m], targets, [p])[0] for (c, m), p in zip(layers, points, strict=True)]
        assert as_lists(matches) == as_lists(expected)
        assert [len(queries) for queries, _ in matches[-1]] == [min(num, 6) for num in nums]
        assert sum(nums) == 0 or as_lists(matches[:1]) != as_lists(matches[1:2])


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize('where', ['masks', 'classes', 'one query', 'all'])
def test_broken_logits_never_reach_scipy(value: float, where: str) -> None:
    classes, masks = logits(1, 5)
    if where in ('masks', 'all'):
        masks.fill_(value)
    if where in ('classes', 'all'):
        classes.fill_(value)
    if where == 'one query':
        masks[0, 2], classes[0, 2] = value, value
    matcher, one = HungarianMatcher(num_points=50), target(4)
    [costs] = matcher.cost_matrices([classes[0]], [masks[0]], one, torch.rand(50, 2))
    assert costs.isfinite().all()
    [[(queries, targets)]] = matcher([classes], [masks], [one])
    assert sorted(targets.tolist()) == [0, 1, 2, 3]
    if where == 'one query':
        assert 2 not in queries.tolist()  # healthy queries come first


def test_large_cost_is_no_number_that_costs_can_reach() -> None:
    """Half precision ends at 6.5e4, bfloat16 logits of 1e8 are long since broken."""
    masks = torch.full((1, 4, 4), -1e8)
    matcher = HungarianMatcher(num_points=9)
    [cost] = matcher.cost_matrices([torch.zeros(1, K + 1)], [masks], target(1), torch.rand(9, 2))
    assert 0 < cost.item() < LARGE_COST


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype: torch.dtype) -> None:
    classes, masks = (x.to(dtype) for x in logits(1, 6))
    matcher, one, points = HungarianMatcher(num_points=2000), target(4), torch.rand(2000, 2)
    [costs] = matcher.cost_matrices([classes[0]], [masks[0]], one, points)
    assert costs.dtype == torch.float32
    [expected] = matcher.cost_matrices([classes[0].float()], [masks[0].float()], one, points)
    torch.testing.assert_close(costs, expected)
    matcher([classes], [masks], [one])


def test_float64_stays_float64() -> None:
    classes, masks = (x.double() for x in logits(1, 6))
    [costs] = HungarianMatcher(num_points=9).cost_matrices([classes[0]], [masks[0]], target(2), torch.rand(9, 2))
    assert costs.dtype == torch.float64


def test_autocast_changes_nothing() -> None:
    (classes, masks), one, points = logits(1, 6), target(4), torch.rand(500, 2)
    matcher = HungarianMatcher(num_points=500)
    [plain] = matcher.cost_matrices([classes[0]], [masks[0]], one, points)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(matcher.cost_matrices([classes[0]], [masks[0]], one, points)[0], plain)


def test_huge_but_finite_logits() -> None:
    """All wrong by 6e4 at every point: the mean is taken before anything can overflow."""
    masks = torch.full((1, 2, 4, 4), 6e4, dtype=torch.float16)
    one = dict(labels=torch.tensor([0]), masks=torch.zeros(1, 8, 8, dtype=torch.bool))
    matcher = HungarianMatcher()
    [costs] = matcher.cost_matrices([torch.zeros(2, K + 1)], [masks[0]], one, torch.rand(12544, 2))
    assert costs.isfinite().all() and 1e5 < costs.max() < LARGE_COST
