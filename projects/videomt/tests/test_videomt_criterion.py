"""Losses of clips by definition, with their options, in parts of a step, and against EoMT's on clips of one frame."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from videomt import matcher
from videomt.criterion import ClipCriterion
from videomt.matcher import FirstAppearanceMatcher
from videomt.network import ClipPredictions
from videomt.targets import ClipTarget

from eomt_mm.core import criterion as core
from eomt_mm.core.criterion import Criterion, StepTotals
from eomt_mm.core.matcher import Match
from eomt_mm.core.point_sampling import sample_at_points

K, Q, T, P = 3, 6, 3, 17
NAMES = ('loss_cls', 'loss_mask', 'loss_dice')


def make_target(num: int, seed: int = 0, length: int = T) -> ClipTarget:
    """Target n appears in frame n (the later ones in the last); about half of them are absent from frames after it."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.arange(num).clamp(max=length - 1)
    frames = torch.arange(length)[:, None]
    shown = (frames == first) | ((frames > first) & (torch.rand(length, num, generator=generator) > 0.5))
    masks = (torch.rand(length, num, 16, 16, generator=generator) > 0.6) & shown[..., None, None]
    return ClipTarget(torch.randint(K, (num,), generator=generator), masks, first, shown)


def make_predictions(batch: int, layers: int = 2, length: int = T, seed: int = 0) -> ClipPredictions:
    generator = torch.Generator().manual_seed(seed)
    classes = [torch.randn(batch, length, Q, K + 1, generator=generator).double() for _ in range(layers)]
    masks = [3 * torch.randn(batch, length, Q, 4, 4, generator=generator).double() for _ in range(layers)]
    return ClipPredictions([x.requires_grad_() for x in classes], [x.requires_grad_() for x in masks])


def clips_of(predictions: ClipPredictions, clips: slice) -> ClipPredictions:
    return ClipPredictions([x[clips] for x in predictions.class_logits], [x[clips] for x in predictions.mask_logits])


@pytest.fixture
def equal_points(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Every target is matched, and every mask evaluated, at the same points (P, 2)."""
    points = torch.rand(P, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    cost_matrices = FirstAppearanceMatcher.cost_matrices

    def costs_at_points(self: Any, classes: Any, masks: Any, target: Any, _: Tensor) -> Any:
        return cost_matrices(self, classes, masks, target, points)

    monkeypatch.setattr(FirstAppearanceMatcher, 'cost_matrices', costs_at_points)
    monkeypatch.setattr(core, 'uncertain_points', lambda logits, *_: points.expand(len(logits), -1, -1))
    return points


def by_hand(
    classes: Tensor, masks: Tensor, targets: list[ClipTarget], matches: list[Match], points: Tensor, **options: bool
) -> dict[str, float]:
    """One layer, query by query in every frame, in float64; options as of `ClipCriterion`."""
    cls = cls_norm = bce = dice = 0.0
    pairs = 0
    for b, target in enumerate(targets):
        matched = dict(zip(*(index.tolist() for index in matches[b]), strict=True))
        for t in range(masks.shape[1]):
            values = sample_at_points(masks[b, t].detach(), points[None]).tolist()
            truths = sample_at_points(target.masks[t].double(), points[None]).tolist()
            for q, x in enumerate(values):
                label, weight = K, 0.1
                if q in matched:
                    n = matched[q]
                    label, weight = int(target.labels[n]), 1.0
                    if options.get('official_labels') and not target.shown[-1, n]:
                        label = K - 1
                    if options.get('class_on_absent_frames') is False and not target.shown[t, n]:
                        label, weight = K, 0.1
                    probs = [1 / (1 + math.exp(-value)) for value in x]
                    both = list(zip(probs, truths[n], strict=True))
                    bce -= sum(y * math.log(p) + (1 - y) * math.log(1 - p) for p, y in both) / len(both)
                    dice += 1 - (2 * sum(p * y for p, y in both) + 1) / (sum(probs) + sum(truths[n]) + 1)
                    pairs += 1
                exps = [math.exp(value) for value in classes[b, t, q].tolist()]
                cls -= weight * math.log(exps[label] / sum(exps))
                cls_norm += 1.0 if q in matched else 0.1
    pairs = max(pairs, 1)
    return dict(loss_cls=2 * cls / cls_norm, loss_mask=5 * bce / pairs, loss_dice=5 * dice / pairs)


OPTIONS = [
    {},
    dict(class_on_absent_frames=False),
    dict(official_labels=True),
    dict(class_on_absent_frames=False, official_labels=True),
]


@pytest.mark.parametrize('options', OPTIONS)
@pytest.mark.parametrize('nums', [(2,), (0,), (3, 2), (0, 4), (9, 2), (0, 0)])
def test_losses_by_definition(nums: tuple[int, ...], options: dict[str, bool], equal_points: Tensor) -> None:
    """Clips without targets, and with more targets than queries, among them."""
    criterion, predictions = ClipCriterion(K, num_points=P, **options), make_predictions(len(nums))
    targets = [make_target(num, seed) for seed, num in enumerate(nums)]
    losses = criterion.clip_losses(predictions, targets)
    assert list(losses) == [prefix + name for prefix in ('d0.', '') for name in NAMES]
    for layer, prefix in enumerate(['d0.', '']):
        classes, masks = predictions.class_logits[layer], predictions.mask_logits[layer]
        [matches] = criterion.matcher.match_clips([classes], [masks], targets, cost_labels(targets, options))
        assert [len(q) for q, _ in matches] == [min(Q, num) for num in nums]
        for name, value in by_hand(classes, masks, targets, matches, equal_points, **options).items():
            assert losses[prefix + name].item() == pytest.approx(value, rel=1e-6, abs=1e-9)


def cost_labels(targets: list[ClipTarget], options: dict[str, bool]) -> list[Tensor] | None:
    """Columns of the class logits that costs read: with official labels "no object" for what the last frame lacks."""
    if not options.get('official_labels'):
        return None
    return [torch.where(target.shown[-1], target.labels, K) for target in targets]


def test_official_labels_differ_where_the_last_frame_lacks_targets(equal_points: Tensor) -> None:
    predictions, target = make_predictions(1), make_target(3, seed=1)
    assert not target.shown[-1].all() and not (target.labels == K - 1).all()
    seen = ClipTarget(target.labels, target.masks, target.first_frames, target.shown | True)
    plain, official = (ClipCriterion(K, num_points=P, official_labels=o) for o in (False, True))
    assert (
        plain.clip_losses(predictions, [target])['loss_cls'] != official.clip_losses(predictions, [target])['loss_cls']
    )
    assert plain.clip_losses(predictions, [seen]) == official.clip_losses(predictions, [seen])


def one_target() -> tuple[ClipTarget, ClipPredictions]:
    """A target of class 1 that only the middle of three frames shows, and predictions in which query 2 finds it."""
    masks = torch.zeros(T, 1, 16, 16, dtype=torch.bool)
    masks[1, 0, :8] = True
    target = ClipTarget(torch.tensor([1]), masks, torch.tensor([1]), masks.any((2, 3)))
    logits = torch.full((1, T, Q, 16, 16), -2.0)
    logits[0, :, 2, :8] = 2
    return target, ClipPredictions([torch.zeros(1, T, Q, K + 1).requires_grad_()], [logits.requires_grad_()])


@pytest.mark.parametrize('on_absent', [True, False])
def test_absent_frames_teach_empty_masks_and_the_class_or_no_object(on_absent: bool) -> None:
    """Earlier frames as well as later ones."""
    target, predictions = one_target()
    losses = ClipCriterion(K, num_points=200, class_on_absent_frames=on_absent).clip_losses(predictions, [target])
    sum(losses.values()).backward()
    class_grad, mask_grad = (x[0].grad[0] for x in (predictions.class_logits, predictions.mask_logits))
    for t, wanted in enumerate([1, 1, 1] if on_absent else [K, 1, K]):
        assert (class_grad[t, 2] < 0).nonzero().tolist() == [[wanted]]  # what descent raises
        assert all((class_grad[t, q] < 0).nonzero().tolist() == [[K]] for q in range(Q) if q != 2)
        assert ((mask_grad[t, 2] < 0).any().item(), (mask_grad[t, 2] > 0).any().item()) == (t == 1, True)
    assert not mask_grad[:, [0, 1, 3, 4, 5]].any()


def test_a_clip_of_one_frame_is_an_image() -> None:
    """EoMT's criterion, with equal seeds: values and gradients of each layer."""
    predictions = make_predictions(2, length=1)
    targets = [make_target(2, length=1), make_target(4, seed=1, length=1)]
    torch.manual_seed(1)
    losses = ClipCriterion(K, num_points=P).clip_losses(predictions, targets)
    logits = predictions.class_logits + predictions.mask_logits
    gradients = torch.autograd.grad(sum(losses.values()), logits)
    torch.manual_seed(1)
    expected = Criterion(K, num_points=P)(
        [x[:, 0] for x in predictions.class_logits],
        [x[:, 0] for x in predictions.mask_logits],
        [dict(labels=target.labels, masks=target.masks[0]) for target in targets],
    )
    assert losses == expected
    for one, other in zip(gradients, torch.autograd.grad(sum(expected.values()), logits), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


NUMS = (2, 0, 9, 1)


@pytest.mark.parametrize('sizes', [(4,), (1, 1, 1, 1), (2, 2), (1, 3)])
def test_parts_of_a_step_add_up_to_the_whole(sizes: tuple[int, ...], equal_points: Tensor) -> None:
    """The optimiser wrapper averages parts; a clip without targets and one with more than queries are among them."""
    criterion, predictions = ClipCriterion(K, num_points=P), make_predictions(4)
    targets = [make_target(num, seed) for seed, num in enumerate(NUMS)]
    totals = StepTotals(4 * T, T * sum(min(Q, num) for num in NUMS), len(sizes))
    whole, parts, start = criterion.clip_losses(predictions, targets), [], 0
    for size in sizes:
        part = slice(start, start := start + size)
        parts.append(criterion.clip_losses(clips_of(predictions, part), targets[part], totals))
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).mean(), value)


@pytest.mark.parametrize('nums', [(0, 0), (0, 3), (9, 0)])
def test_every_logit_is_in_the_graph(nums: tuple[int, ...]) -> None:
    predictions = make_predictions(2)
    targets = [make_target(num) for num in nums]
    losses = ClipCriterion(K, num_points=P).clip_losses(predictions, targets)
    sum(losses.values()).backward()
    for layer in predictions.class_logits:
        assert (layer.grad.abs().sum((2, 3)) > 0).all()  # in every frame
    for layer in predictions.mask_logits:
        assert layer.grad.isfinite().all()
        assert [bool(clip.any()) for clip in layer.grad] == [num > 0 for num in nums]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precisions_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    """12 masks in 3 frames at 12544 points: sums over them overflow float16."""
    half = make_predictions(2)
    classes, masks = ([x.detach().to(dtype) for x in part] for part in (half.class_logits, half.mask_logits))
    full = ClipPredictions([x.float() for x in classes], [x.float() for x in masks])
    criterion, targets = ClipCriterion(K), [make_target(6), make_target(6, seed=1)]
    torch.manual_seed(0)
    expected = criterion.clip_losses(full, targets)
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        losses = criterion.clip_losses(ClipPredictions(classes, masks), targets)
    assert losses == expected and all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())


def test_arguments_reach_the_matcher() -> None:
    criterion = ClipCriterion(K, class_weight=1, mask_weight=2, dice_weight=3, num_points=4)
    found = criterion.matcher
    assert (found.class_weight, found.mask_weight, found.dice_weight, found.num_points) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match='no_object_weight=0: above 0'):
        ClipCriterion(K, no_object_weight=0)


@pytest.mark.parametrize('options', [OPTIONS[0], *(pytest.param(x, marks=pytest.mark.slow) for x in OPTIONS[1:])])
def test_one_transfer_to_the_host(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without content: to read one of them anywhere else would raise."""
    transfers = []

    def on_the_host(costs: list[list[Tensor]]) -> list[list[Tensor]]:
        transfers.append(costs)
        return [[torch.rand(cost.shape) for cost in layer] for layer in costs]

    monkeypatch.setattr(matcher, 'on_the_host', on_the_host)
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # such tensors know none
    logits, targets = make_predictions(3, layers=4), [make_target(num) for num in (2, 0, 9)]
    on_device = [
        ClipTarget(one.labels.to('meta'), one.masks.to('meta'), one.first_frames, one.shown) for one in targets
    ]
    predictions = ClipPredictions(
        [x.to('meta') for x in logits.class_logits], [x.to('meta') for x in logits.mask_logits]
    )
    losses = ClipCriterion(K, num_points=P, **options).clip_losses(predictions, on_device)
    assert len(transfers) == 1 and all(cost.device.type == 'meta' for layer in transfers[0] for cost in layer)
    assert len(losses) == 12 and all(loss.device.type == 'meta' for loss in losses.values())
    with pytest.raises(RuntimeError, match='cannot be called on meta tensors'):
        losses['loss_cls'].item()
