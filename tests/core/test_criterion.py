"""Losses by definition, in the cases that break them, across precisions, and against mmdet's."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from criterion_samples import K, P, Q, Target, make_logits, make_targets
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.criterion import Criterion, SumOfBCE
from eomt_mm.core.matcher import HungarianMatcher
from eomt_mm.core.point_sampling import sample_at_points


def loss_by_hand(
    classes: Tensor, masks: Tensor, targets: list[Target], matches: list[tuple[Tensor, Tensor]], points: Tensor
) -> dict[str, float]:
    """One prediction layer, query by query and point by point, in float64; points of pairs in order of the matches."""
    cls = cls_norm = bce = dice = 0.0
    pair = 0
    for b, target in enumerate(targets):
        matched = dict(zip(*(index.tolist() for index in matches[b]), strict=True))
        for q in range(classes.shape[1]):
            label = int(target['labels'][matched[q]]) if q in matched else K
            weight = 1.0 if q in matched else 0.1
            exps = [math.exp(value) for value in classes[b, q].tolist()]
            cls -= weight * math.log(exps[label] / sum(exps))
            cls_norm += weight
        for q, n in matched.items():
            values = sample_at_points(masks[b, q].detach().double()[None], points[pair].double()[None])[0].tolist()
            truths = sample_at_points(target['masks'][n].double()[None], points[pair].double()[None])[0].tolist()
            probs = [1 / (1 + math.exp(-x)) for x in values]
            entropy = [t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in zip(probs, truths, strict=True)]
            bce -= sum(entropy) / len(entropy)
            overlap = sum(p * t for p, t in zip(probs, truths, strict=True))
            dice += 1 - (2 * overlap + 1) / (sum(probs) + sum(truths) + 1)
            pair += 1
    return dict(loss_cls=2 * cls / cls_norm, loss_mask=5 * bce / max(pair, 1), loss_dice=5 * dice / max(pair, 1))


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(oversample_ratio=0.9), 'oversample_ratio=0.9: at least 1'),
        (dict(importance_ratio=-0.1), 'importance_ratio=-0.1: between 0 and 1'),
        (dict(importance_ratio=1.1), 'importance_ratio=1.1: between 0 and 1'),
        (dict(no_object_weight=0.0), 'no_object_weight=0.0: above 0'),
        (dict(no_object_weight=-1.0), 'no_object_weight=-1.0: above 0'),
        (dict(num_points=0), 'num_points=0'),
        (dict(mask_weight=-1), 'mask_weight'),
        (dict(class_weight=[1.0, 2.0]), r'class_weight=\[1.0, 2.0\] has 2 weights, the model 3 classes'),
        (dict(class_weight=[1.0, -2.0, 1.0]), 'class_weight=.* at least 0'),
        (dict(class_weight=[0, 0, 0]), 'class_weight=.* not all 0'),
    ],
)
def test_argument_that_does_not_fit_is_named(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Criterion(K, **kwargs)


@pytest.mark.parametrize('nums', [(2, 3), (0, 4), (3, 0), (0, 0), (1,), (9, 2), (8, 9)])
def test_losses_by_definition(nums: tuple[int, ...]) -> None:
    """Images without targets, and with more targets than queries, among them."""
    criterion, targets = Criterion(K, num_points=P), make_targets(*nums)
    class_logits, mask_logits = make_logits(len(nums))
    match_points = [torch.rand(len(nums), P, 2) for _ in range(2)]
    loss_points = [torch.rand(sum(min(Q, num) for num in nums), P, 2) for _ in range(2)]
    losses = criterion(class_logits, mask_logits, targets, match_points, loss_points)
    matcher = HungarianMatcher(num_points=P)
    for layer, prefix in enumerate(['d0.', '']):
        [matches] = matcher([class_logits[layer]], [mask_logits[layer]], targets, [match_points[layer]])
        expected = loss_by_hand(class_logits[layer], mask_logits[layer], targets, matches, loss_points[layer])
        for name, value in expected.items():
            assert losses[prefix + name].item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert list(losses) == [prefix + name for prefix in ('d0.', '') for name in expected]


@pytest.mark.parametrize('layers, prefixes', [(1, {''}), (4, {'', 'd0.', 'd1.', 'd2.'})])
def test_names_of_layers(layers: int, prefixes: set[str]) -> None:
    losses = Criterion(K, num_points=P)(*make_logits(1, layers), make_targets(2))
    assert set(losses) == {p + name for p in prefixes for name in ('loss_cls', 'loss_mask', 'loss_dice')}
    assert all(value.shape == () for value in losses.values())


@pytest.mark.parametrize('nums', [(0, 0), (0, 3), (9, 0)])
def test_every_logit_is_in_the_graph(nums: tuple[int, ...]) -> None:
    """Without targets too: a process that lacks the gradient of a parameter stops all others."""
    class_logits, mask_logits = make_logits(2)
    losses = Criterion(K, num_points=P)(class_logits, mask_logits, make_targets(*nums))
    for name, loss in losses.items():
        assert loss.isfinite() and loss.requires_grad, name
    sum(losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in class_logits + mask_logits)
    assert all(x.grad.abs().sum() > 0 for x in class_logits)
    assert all((x.grad.abs().sum() > 0) == (sum(nums) > 0) for x in mask_logits)


def test_only_matched_queries_have_mask_gradients() -> None:
    class_logits, mask_logits = make_logits(2, layers=1)
    targets, points = make_targets(2, 0), torch.rand(2, P, 2)
    losses = Criterion(K, num_points=P)(class_logits, mask_logits, targets, [points])
    (losses['loss_mask'] + losses['loss_dice']).backward()
    [[(queries, _), _]] = HungarianMatcher(num_points=P)(class_logits, mask_logits, targets, [points])
    touched = mask_logits[0].grad.abs().sum((2, 3)).nonzero().tolist()
    assert touched == [[0, q] for q in queries.tolist()]


@pytest.mark.parametrize('value', [6e4, -6e4])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_extreme_logits_give_finite_losses(value: float, dtype: torch.dtype) -> None:
    """12 masks at 12544 points: mmdet's normaliser overflows float16 from 6 masks on."""
    class_logits, mask_logits = make_logits(2, layers=1, queries=12)
    mask_logits = [torch.full_like(x, value).to(dtype).requires_grad_() for x in mask_logits]
    class_logits = [(x.detach().sign() * abs(value)).to(dtype).requires_grad_() for x in class_logits]
    losses = Criterion(K)(class_logits, mask_logits, make_targets(12, 12))
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert 0 < losses['loss_mask'] < 5 * 6.1e4
    assert all(x.grad.isfinite().all() for x in class_logits + mask_logits)


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_broken_logits_do_not_stop_the_matching(value: float) -> None:
    class_logits, mask_logits = make_logits(2, layers=1)
    with torch.no_grad():
        mask_logits[0].fill_(value)
    Criterion(K, num_points=P)(class_logits, mask_logits, make_targets(2, 9))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precisions_and_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    class_logits, mask_logits = ([x.detach().to(dtype) for x in logits] for logits in make_logits(2))
    criterion, targets = Criterion(K, num_points=500), make_targets(3, 2)
    torch.manual_seed(0)
    expected = criterion([x.float() for x in class_logits], [x.float() for x in mask_logits], targets)
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        losses = criterion(class_logits, mask_logits, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected[name])


def test_float64_stays_float64_with_given_points_of_another_precision() -> None:
    class_logits, mask_logits = ([x.detach().double() for x in logits] for logits in make_logits(1))
    points = [torch.rand(2, P, 2) for _ in range(2)]
    losses = Criterion(K, num_points=P)(class_logits, mask_logits, make_targets(2), loss_points=points)
    assert all(loss.dtype == torch.float64 for loss in losses.values())


def test_class_loss_is_a_weighted_mean() -> None:
    """Every query at the same logits: the weights cancel, whatever is matched."""
    class_logits, mask_logits = torch.zeros(2, Q, K + 1), torch.zeros(2, Q, 4, 4)
    for nums in ((0, 0), (2, 1), (9, 9)):
        loss = Criterion(K, num_points=P)([class_logits], [mask_logits], make_targets(*nums))['loss_cls']
        assert loss.item() == pytest.approx(2 * math.log(K + 1))


def test_weights_scale_their_own_loss() -> None:
    matches = [[(torch.tensor([1, 4]), torch.tensor([0, 1]))]]
    class_logits, mask_logits = make_logits(1, layers=1)
    targets, points = make_targets(2), [torch.rand(2, P, 2)]
    plain = Criterion(K, 1, 1, 1).matched_losses(class_logits, mask_logits, targets, matches, points)
    scaled = Criterion(K, 7, 11, 0).matched_losses(class_logits, mask_logits, targets, matches, points)
    for name, factor in dict(loss_cls=7, loss_mask=11, loss_dice=0).items():
        torch.testing.assert_close(scaled[name], factor * plain[name])


@pytest.mark.parametrize('nums', [(2, 3), (0, 0), (9, 2)])
def test_weights_of_classes_are_factors_of_matched_queries(nums: tuple[int, ...]) -> None:
    factors = [0.5, 2.0, 3.0]
    criterion, targets = Criterion(K, class_weight=factors, num_points=P), make_targets(*nums)
    class_logits, mask_logits = make_logits(len(nums), layers=1)
    match_points = [torch.rand(len(nums), P, 2)]
    [matches] = HungarianMatcher(num_points=P)(class_logits, mask_logits, targets, match_points)
    total = norm = 0.0
    for logits, target, (queries, indices) in zip(class_logits[0], targets, matches, strict=True):
        labels = dict(zip(queries.tolist(), target['labels'][indices].tolist(), strict=True))
        for query, log_probs in enumerate(logits.double().log_softmax(-1).tolist()):
            label = labels.get(query)
            total -= 0.1 * log_probs[K] if label is None else factors[label] * log_probs[label]
            norm += 0.1 if label is None else 1
    losses = criterion(class_logits, mask_logits, targets, match_points)
    assert losses['loss_cls'].item() == pytest.approx(2 * total / norm, rel=1e-5)
    plain, ones = (
        Criterion(K, num_points=P, **given)(class_logits, mask_logits, targets, match_points)['loss_cls']
        for given in ({}, dict(class_weight=[1] * K))
    )
    assert plain == ones


class BareMask2FormerHead:
    """mmdet's loss without its network: the published settings, fed with given logits."""

    def __new__(cls, num_points: int) -> Any:
        from mmdet.models import Mask2FormerHead
        from mmdet.registry import MODELS, TASK_UTILS
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
        head = Mask2FormerHead.__new__(Mask2FormerHead)
        nn.Module.__init__(head)
        head.num_classes, head.num_queries, head.num_points = K, Q, num_points
        head.oversample_ratio, head.importance_sample_ratio = 3.0, 0.75
        head.class_weight = [1.0] * K + [0.1]
        cross_entropy, dice = 'mmdet.CrossEntropyLoss', 'mmdet.DiceLoss'
        head.loss_cls = MODELS.build(
            dict(type=cross_entropy, use_sigmoid=False, loss_weight=2.0, class_weight=head.class_weight)
        )
        head.loss_mask = MODELS.build(dict(type=cross_entropy, use_sigmoid=True, loss_weight=5.0))
        head.loss_dice = MODELS.build(dict(type=dice, use_sigmoid=True, naive_dice=True, eps=1.0, loss_weight=5.0))
        costs = [
            dict(type='mmdet.ClassificationCost', weight=2.0),
            dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
            dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
        ]
        head.assigner = TASK_UTILS.build(dict(type='mmdet.HungarianAssigner', match_costs=costs))
        head.sampler = TASK_UTILS.build(dict(type='mmdet.MaskPseudoSampler'))
        return head


@pytest.mark.parametrize('nums', [(2, 3), (1, 9), (6, 8)])
def test_equals_mmdet_on_equal_seeds(nums: tuple[int, int]) -> None:
    """Value and gradient, of each layer. Images without targets are left out: mmdet counts them as one mask."""
    from mmengine.structures import InstanceData

    head, criterion, targets = BareMask2FormerHead(400), Criterion(K, num_points=400), make_targets(*nums)
    instances = [InstanceData(labels=t['labels'], masks=t['masks'].long()) for t in targets]
    for classes, masks in zip(*make_logits(2, layers=3), strict=True):
        torch.manual_seed(5)
        theirs = head.loss_by_feat([classes], [masks], instances, [{}, {}])
        their_gradients = torch.autograd.grad(sum(theirs.values()), [classes, masks])
        torch.manual_seed(5)
        ours = criterion([classes], [masks], targets)
        our_gradients = torch.autograd.grad(sum(ours.values()), [classes, masks])
        assert ours.keys() == theirs.keys()
        for name, loss in ours.items():
            assert loss.item() == pytest.approx(theirs[name].item(), abs=1e-5)
        for one, other in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize('nums', [(2, 3), (0, 9), (0, 0)])
def test_layers_together_are_layers_one_by_one(nums: tuple[int, int]) -> None:
    """Names, values and gradients, the search for uncertain points among them: of these alone draws come in order."""
    criterion, targets = Criterion(K, num_points=P, importance_ratio=1.0), make_targets(*nums)
    class_logits, mask_logits = make_logits(2, layers=3)
    match_points = list(torch.rand(3, 2, P, 2))
    torch.manual_seed(3)
    together = criterion(class_logits, mask_logits, targets, match_points)
    gradients = torch.autograd.grad(sum(together.values()), class_logits + mask_logits)
    torch.manual_seed(3)
    layers = [
        criterion([c], [m], targets, [p]) for c, m, p in zip(class_logits, mask_logits, match_points, strict=True)
    ]
    alone = {
        prefix + name: layer[name] for prefix, layer in zip(['d0.', 'd1.', ''], layers, strict=True) for name in layer
    }
    assert together.keys() == alone.keys()
    for name, loss in together.items():
        torch.testing.assert_close(loss, alone[name])
    for one, other in zip(gradients, torch.autograd.grad(sum(alone.values()), class_logits + mask_logits), strict=True):
        torch.testing.assert_close(one, other)


def test_sum_of_bce_is_torchs_and_its_gradient_too() -> None:
    """At 0, where relu and abs have corners, and where sigmoid ends, as well."""
    logits = torch.cat([10 * torch.randn(3, 20), torch.tensor([[0.0, -0.0, 1e4, -1e4]] * 3)], 1).double()
    masks = torch.rand(3, 24).double()
    masks[:, 22:] = torch.tensor([1.0, 0.0])
    logits.requires_grad_()
    theirs = F.binary_cross_entropy_with_logits(logits, masks, reduction='none').sum(1)
    ours = SumOfBCE.apply(logits, masks)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    weights = torch.tensor([1.0, 2.0, 3.0]).double()
    [gradient] = torch.autograd.grad(ours @ weights, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs @ weights, logits)[0], rtol=1e-12, atol=1e-15)


class FirstQueries(HungarianMatcher):
    """There are no numbers to solve with."""

    def assign(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.arange(min(costs.shape)),) * 2


class DeviceToHost(TorchDispatchMode):
    """Counts copies from the accelerator to the host; what needs a value there is an error of the fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device.type == 'cpu':
            self.number += any(isinstance(x, Tensor) and x.device.type != 'cpu' for x in tree_leaves((args, kwargs)))
        return out


def test_one_transfer_to_the_host_for_all_images_and_layers() -> None:
    """On tensors without content that pretend to be on a GPU: waiting for one anywhere else would raise.

    The backward pass is left out: autograd would look for the GPU.
    """
    criterion = Criterion(K, num_points=P)
    criterion.matcher = FirstQueries(num_points=P)
    logits, targets = make_logits(3, layers=4), make_targets(2, 0, 9)
    with FakeTensorMode(allow_non_fake_inputs=True), DeviceToHost() as transfers:
        on_device = [{name: torch.empty_like(x, device='cuda') for name, x in target.items()} for target in targets]
        classes, masks = ([torch.empty_like(x, device='cuda') for x in layers] for layers in logits)
        losses = criterion(classes, masks, on_device)
        assert transfers.number == 1
        with pytest.raises(DataDependentOutputException):
            losses['loss_cls'].item()
    assert len(losses) == 12 and all(loss.device.type == 'cuda' for loss in losses.values())


def test_equals_transformers_on_equal_seeds() -> None:
    from transformers import EomtConfig
    from transformers.models.eomt.modeling_eomt import EomtLoss

    weights = dict(loss_cross_entropy=2.0, loss_mask=5.0, loss_dice=5.0)
    theirs = EomtLoss(EomtConfig(num_labels=K, train_num_points=400), weights)
    [classes], [masks] = make_logits(2, layers=1)
    targets = make_targets(2, 5)
    torch.manual_seed(6)
    expected = theirs(masks, classes, [t['masks'].float() for t in targets], [t['labels'] for t in targets])
    torch.manual_seed(6)
    losses = Criterion(K, num_points=400)([classes], [masks], targets)
    for name, other in dict(loss_cls='loss_cross_entropy', loss_mask='loss_mask', loss_dice='loss_dice').items():
        assert losses[name].item() == pytest.approx(weights[other] * expected[other].item(), abs=1e-5)
