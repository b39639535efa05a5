"""The head: its arguments, ground truth of samples, steps of several micro-batches."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import TrackDataSample
from torch import Tensor
from videomt import matcher
from videomt.network import ClipPredictions
from videomt_models import SIZE, Standstill, batch, build, losses_of, video
from videomt_samples import true_frame

from eomt_mm.core.criterion import StepTotals


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(task='tracking'), "task='tracking': .*'instance', 'panoptic', 'semantic'"),
        (dict(num_stuff_classes=2), "num_stuff_classes=2 with task='instance'"),
        (dict(criterion=dict(no_object_weight=0)), 'no_object_weight=0'),
        (dict(task='semantic', criterion=dict(official_labels=True)), "official_labels=True with task='semantic'"),
        (dict(num_blocks=5), 'num_blocks=5: between 1 and the 4 blocks'),
    ],
)
def test_argument_that_does_not_fit_is_named(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(**kwargs)


def test_rules_are_of_the_head() -> None:
    options = dict(
        num_things_classes=2, num_stuff_classes=1, score_thr=0.3, overlap_thr=0.4, max_per_video=7, rle=False
    )
    head = build(task='panoptic', **options).panoptic_head
    rules = head.rules
    assert (rules.task, rules.num_things, rules.max_per_video) == ('panoptic', 2, 7)
    assert (rules.score_thr, rules.overlap_thr, rules.rle, head.num_classes) == (0.3, 0.4, False, 3)
    assert build().panoptic_head.rules.rle  # long videos


@pytest.mark.parametrize(
    ('task', 'drop_last_auxiliary', 'layers'),
    [('instance', True, 2), ('panoptic', True, 2), ('semantic', False, 3)],
)
def test_losses_of_every_layer(task: str, drop_last_auxiliary: bool, layers: int) -> None:
    losses = losses_of(build(task=task, drop_last_auxiliary=drop_last_auxiliary), batch(video()))
    prefixes = [*(f'd{i}.' for i in range(layers - 1)), '']
    assert list(losses) == [prefix + name for prefix in prefixes for name in ('loss_cls', 'loss_mask', 'loss_dice')]
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_padding_does_not_count_as_target() -> None:
    """The smaller clip's masks lie at the top left of the larger input."""
    model = build()
    small, large = video(2, (33, 40)), video(2, (60, 90), seed=1)
    data = model.data_preprocessor(batch(small, large), training=True)
    seen = []
    model.panoptic_head.criterion.clip_losses = lambda predictions, targets, totals: seen.extend(targets) or {}
    model.train()
    model(**data, mode='loss')
    assert [tuple(target.masks.shape) for target in seen] == [(2, 2, 64, 96)] * 2
    assert not seen[0].masks[..., 33:, :].any() and not seen[0].masks[..., 40:].any() and seen[0].masks.any()


@pytest.mark.parametrize(('task', 'first_frames'), [('instance', [0, 1]), ('panoptic', [0, 0]), ('semantic', [0, 0])])
def test_instances_are_matched_when_they_appear(task: str, first_frames: list[int]) -> None:
    model, seen = build(task=task), []
    model.panoptic_head.criterion.clip_losses = lambda predictions, targets, totals: seen.extend(targets) or {}
    losses_of(model, batch(video()))
    assert [target.first_frames.tolist() for target in seen] == [first_frames]


def test_totals_of_a_step() -> None:
    """Frames are counted, and queries (6) are the most that can be matched in one."""
    head = build().panoptic_head
    clips = [video(3)[1], video(3, empty=True)[1], video(2)[1]]
    many = [(i, 0, np.ones(SIZE, bool)) for i in range(9)]
    clips.append(TrackDataSample(video_data_samples=[true_frame('film', 0, SIZE, many)]))
    assert head.count_step([clips[:1], clips[1:]]) == StepTotals(3 + 3 + 2 + 1, 3 * 2 + 0 + 2 * 2 + 6, 2)


def test_micro_batches_give_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, and at the same points everywhere; one clip has no targets."""
    points = torch.rand(20, 2, dtype=torch.float64)
    costs = matcher.FirstAppearanceMatcher.cost_matrices
    monkeypatch.setattr(matcher.FirstAppearanceMatcher, 'cost_matrices', lambda *args: costs(*args[:-1], points))
    monkeypatch.setattr(
        'eomt_mm.core.criterion.uncertain_points', lambda logits, *_: points.expand(len(logits), -1, -1)
    )
    found = []
    for micro_batches in (1, 2, 4):
        model = build().double()
        clips = [video(2, seed=i, empty=i == 1) for i in range(4)]
        size = 4 // micro_batches
        parts = [batch(*clips[i : i + size]) for i in range(0, 4, size)]
        if micro_batches > 1:
            head = model.panoptic_head
            head.step_totals = head.count_step([one['data_samples'] for one in parts])
        optimiser = Standstill(model, accumulative_counts=micro_batches)
        optimiser.initialize_count_status(model, 0, micro_batches)
        model.train()
        for one in parts:
            model.train_step(one, optimiser)
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for other in found[1:]:
        for name, expected in found[0].items():
            torch.testing.assert_close(other[name], expected, rtol=1e-6, atol=1e-9)


def test_losses_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From predictions and samples on, as if the predictions were elsewhere; see the criterion's test."""
    transfers = []

    def on_the_host(all_costs: list[list[Tensor]]) -> list[list[Tensor]]:
        transfers.append(1)
        return [[torch.rand(cost.shape) for cost in layer] for layer in all_costs]

    monkeypatch.setattr(matcher, 'on_the_host', on_the_host)
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: torch.no_grad())
    model = build()
    data = model.data_preprocessor(batch(video(), video(empty=True)), training=True)
    logits = torch.zeros(2, 3, 6, 4, device='meta'), torch.zeros(2, 3, 6, 16, 16, device='meta')
    losses = model.panoptic_head.loss(ClipPredictions([logits[0]], [logits[1]]), data['data_samples'])
    assert transfers == [1] and all(loss.device.type == 'meta' for loss in losses.values())


def test_ground_truth_is_needed() -> None:
    frames, sample = video()
    del sample[1].gt_instances
    with pytest.raises(ValueError, match=r'00001.jpg has no tracks'):
        losses_of(build(), batch((frames, sample)))
