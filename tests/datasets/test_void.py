"""Losses without void: what the model says there does not matter; off, nothing changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.matcher import HungarianMatcher
from eomt_mm.core.point_sampling import pixels_at_points, sample_at_points, uncertain_points
from eomt_mm.core.targets import with_valid
from eomt_mm.registry import MODELS

# isort: split
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

K, Q, P = 3, 6, 200
SIZE, STRIDE = 32, 4  # ground truth, and pixels per mask logit
# Logits whose bilinear reach is void only: void is the left half of the ground truth, 4 of 8 columns of logits.
DEEP = slice(0, 3)


def half_void(num: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Targets in the right half of an image, none in the left, which is void."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.randint(num, (SIZE, SIZE), generator=generator)
    owner[:, : SIZE // 2] = -1
    masks = owner == torch.arange(num)[:, None, None]
    return with_valid(dict(labels=torch.randint(K, (num,), generator=generator), masks=masks))


def make_logits(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(batch, Q, K + 1, generator=generator)
    return classes, 3 * torch.randn(batch, Q, SIZE // STRIDE, SIZE // STRIDE, generator=generator)


def changed_under_void(masks: Tensor) -> Tensor:
    masks = masks.clone()
    masks[..., DEEP] = 1e4 * torch.randn(masks[..., DEEP].shape, generator=torch.Generator().manual_seed(7))
    return masks


def test_pixels_that_points_fall_on() -> None:
    pixels = torch.arange(6).reshape(2, 3)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert pixels_at_points(pixels, corners).tolist() == [0, 2, 3, 5]
    inside = torch.tensor([[[0.32, 0.49]], [[0.34, 0.51]]])
    assert pixels_at_points(pixels, inside).tolist() == [[0], [4]]


def test_void_is_what_no_target_covers() -> None:
    target = half_void()
    assert not target['valid'][:, : SIZE // 2].any() and target['valid'][:, SIZE // 2 :].all()
    nothing = with_valid(dict(labels=torch.zeros(0), masks=torch.zeros(0, 4, 5, dtype=torch.bool)))
    assert nothing['valid'].shape == (4, 5) and not nothing['valid'].any()


def test_costs_do_not_depend_on_logits_under_void() -> None:
    (classes, masks), target, points = make_logits(), half_void(), torch.rand(P, 2)
    [cost] = HungarianMatcher().cost_matrices([classes[0]], [masks[0]], target, points)
    [changed] = HungarianMatcher().cost_matrices([classes[0]], [changed_under_void(masks)[0]], target, points)
    assert torch.equal(cost, changed)
    del target['valid']
    [published] = HungarianMatcher().cost_matrices([classes[0]], [changed_under_void(masks)[0]], target, points)
    assert (published - cost).abs().min() > 1


def test_costs_are_those_of_the_valid_points() -> None:
    (classes, masks), target, points = make_logits(), half_void(), torch.rand(P, 2)
    [cost] = HungarianMatcher().cost_matrices([classes[0]], [masks[0]], target, points)
    del target['valid']
    right = points[points[:, 0] >= 0.5]
    assert 0 < len(right) < P
    [expected] = HungarianMatcher().cost_matrices([classes[0]], [masks[0]], target, right)
    assert torch.equal(cost, expected)


def test_without_a_valid_point_classes_alone_decide() -> None:
    (classes, masks), target = make_logits(), half_void()
    points = torch.tensor([[0.1, 0.1], [0.2, 0.9]])
    matcher = HungarianMatcher()
    [cost] = matcher.cost_matrices([classes[0]], [masks[0]], target, points)
    torch.testing.assert_close(cost, -2 * classes[0].softmax(-1)[:, target['labels']])


@pytest.mark.parametrize('given', [True, False])
def test_gradient_under_void_is_exactly_zero(given: bool) -> None:
    classes, masks = make_logits()
    masks.requires_grad_()
    targets = [half_void(3), half_void(2, seed=1)]
    points = [torch.rand(5, P, 2)] if given else None
    losses = Criterion(K, num_points=P)([classes], [masks], targets, loss_points=points)
    (losses['loss_mask'] + losses['loss_dice']).backward()
    gradient = masks.grad.abs().sum((0, 1))
    assert (gradient[:, DEEP] == 0).all()
    assert (gradient[:, 4:] > 0).all()
    published = [{key: target[key] for key in ('labels', 'masks')} for target in targets]
    masks.grad = None
    sum(Criterion(K, num_points=P)([classes], [masks], published).values()).backward()
    assert (masks.grad.abs().sum((0, 1))[:, DEEP] > 0).all()


def test_losses_do_not_depend_on_logits_under_void() -> None:
    """Points are drawn, too: the uncertain ones are chosen among the valid."""
    classes, masks = make_logits()
    targets = [half_void(3), half_void(2, seed=1)]
    criterion = Criterion(K, num_points=P)
    found = []
    for logits in (masks, changed_under_void(masks)):
        torch.manual_seed(0)
        found.append(criterion([classes], [logits], targets))
    assert found[0] == found[1]


def test_losses_are_means_over_valid_points() -> None:
    classes, masks = make_logits(1)
    target, points = half_void(2), torch.rand(2, P, 2)
    points[..., 0] = points[..., 0].sort(-1).values  # void first
    matches = [(torch.tensor([1, 4]), torch.tensor([1, 0]))]
    losses = Criterion(K).matched_losses([classes], [masks], [target], [matches], [points])
    bce = dice = 0.0
    for row, (query, index) in zip(points, zip(*matches[0], strict=True), strict=True):
        right = row[row[:, 0] >= 0.5][None]
        logits = sample_at_points(masks[0, query][None], right)
        truth = sample_at_points(target['masks'][index][None], right)
        probs = logits.sigmoid()
        bce += torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).item() / 2
        dice += (1 - (2 * (probs * truth).sum() + 1) / (probs.sum() + truth.sum() + 1)).item() / 2
    assert losses['loss_mask'].item() == pytest.approx(5 * bce, rel=1e-5)
    assert losses['loss_dice'].item() == pytest.approx(5 * dice, rel=1e-5)


def test_pairs_without_a_valid_point_have_no_mask_loss() -> None:
    classes, masks = make_logits(1)
    masks.requires_grad_()
    points, matches = torch.full((1, 9, 2), 0.2), [(torch.tensor([1]), torch.tensor([0]))]
    losses = Criterion(K).matched_losses([classes], [masks], [half_void()], [matches], [points])
    assert losses['loss_mask'] == 0 and losses['loss_dice'] == 0
    sum(losses.values()).backward()
    assert not masks.grad.any()


def test_uncertain_points_are_valid_as_long_as_there_are_enough() -> None:
    logits = 1 + torch.rand(2, 8, 8)
    logits[..., DEEP] = 0  # most uncertain where void is
    torch.manual_seed(0)
    points = uncertain_points(logits, 100, 3.0, 0.75, lambda at, _: at[..., 0] >= 0.5)
    assert (points[:, :75, 0] >= 0.5).all() and (points[:, 75:, 0] < 0.5).any()
    torch.manual_seed(0)
    assert (uncertain_points(logits, 100, 3.0, 0.75)[:, :75, 0] < 0.5).all()
    none = uncertain_points(logits, 10, 3.0, 1.0, lambda at, _: at[..., 0] > 2)
    assert none.shape == (2, 10, 2)


def test_all_valid_is_as_published() -> None:
    (classes, masks), targets = make_logits(), [half_void(3), half_void(2, seed=1)]
    for target in targets:
        target['valid'] = torch.ones(SIZE, SIZE, dtype=torch.bool)
    published = [{key: target[key] for key in ('labels', 'masks')} for target in targets]
    found = []
    for some in (targets, published):
        torch.manual_seed(0)
        found.append(Criterion(K, num_points=P)([classes], [masks], some))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-6, atol=0)


# ---- the option of the heads


def head(kind: str, **kwargs: Any) -> Any:
    sizes = dict(embed_dim=8, depth=2, patch_size=16, num_queries=Q, criterion=dict(num_points=P))
    if kind == 'semantic':
        return MODELS.build(dict(type='EoMTSegHead', num_classes=K, **sizes, **kwargs))
    things = dict(num_things_classes=K - 1, num_stuff_classes=1) if kind != 'instance' else dict(num_things_classes=K)
    task = 'instance' if kind == 'instance' else 'panoptic'
    return MODELS.build(dict(type='EoMTDetHead', task=task, **things, **sizes, **kwargs))


def sample(kind: str) -> Any:
    """A sample of 32 x 24 pixels for an input of 32 x 32, whose left half is void; the lower half is a thing."""
    ids = torch.zeros(SIZE, 24, dtype=torch.int64)
    ids[:16, 16:], ids[16:, 16:] = 1, 2
    meta = dict(batch_input_shape=(SIZE, SIZE))
    if kind == 'semantic':
        return SegDataSample(gt_sem_seg=PixelData(data=torch.where(ids == 0, 255, ids)[None]), metainfo=meta)
    labels = torch.tensor([2, 0])  # stuff, thing
    if kind == 'panoptic':
        maps = PixelData(segment_ids=ids[None])
        return DetDataSample(gt_instances=InstanceData(labels=labels), gt_panoptic_seg=maps, metainfo=meta)
    instances = InstanceData(labels=labels[1:], masks=(ids == 2)[None])
    stuff = PixelData(sem_seg=torch.where(ids == 1, 2, torch.where(ids == 2, 0, 255))[None])
    return DetDataSample(gt_instances=instances, gt_sem_seg=stuff, metainfo=meta)


@pytest.mark.parametrize('kind', ['semantic', 'panoptic', "mmdet's own panoptic"])
def test_void_and_padding_do_not_matter(kind: str) -> None:
    classes, masks = make_logits(1)
    masks.requires_grad_()
    one = sample(kind)
    torch.manual_seed(0)
    losses = head(kind, ignore_void=True).loss(([classes], [masks]), [one])
    (losses['loss_mask'] + losses['loss_dice']).backward()
    gradient = masks.grad.abs().sum((0, 1))
    assert (gradient[:, DEEP] == 0).all() and (gradient[:, 7:] == 0).all()
    assert (gradient[:, 4:6] > 0).all()


@pytest.mark.parametrize('kind', ['semantic', 'panoptic', "mmdet's own panoptic", 'instance'])
def test_off_by_default_and_void_is_background_as_published(kind: str) -> None:
    classes, masks = make_logits(1)
    masks.requires_grad_()
    plain, one = head(kind), sample('panoptic' if kind == 'instance' else kind)
    torch.manual_seed(0)
    losses = plain.loss(([classes], [masks]), [one])
    target = plain.target(one)
    assert set(target) == {'labels', 'masks'}
    torch.manual_seed(0)
    assert losses == plain.criterion([classes], [masks], [target])
    (losses['loss_mask'] + losses['loss_dice']).backward()
    assert (masks.grad.abs().sum((0, 1)) > 0).all()


def test_instances_know_no_void() -> None:
    with pytest.raises(ValueError, match="ignore_void=True with task='instance'"):
        head('instance', ignore_void=True)


@pytest.mark.parametrize('kind', ['semantic', 'panoptic'])
def test_image_of_void_alone_has_a_loss(kind: str) -> None:
    (classes, masks), one = make_logits(1), sample(kind)
    masks.requires_grad_()
    if kind == 'semantic':
        one.gt_sem_seg.data.fill_(255)
    else:
        one.gt_panoptic_seg.segment_ids.zero_()
    losses = head(kind, ignore_void=True).loss(([classes.requires_grad_()], [masks]), [one])
    assert losses['loss_cls'] > 0 and losses['loss_mask'] == losses['loss_dice'] == 0
    sum(losses.values()).backward()
    assert masks.grad is not None
