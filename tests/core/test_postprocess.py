"""Results from logits: against mmdet's rules, a naive sum, and the cases in which nothing is left."""

import itertools
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core import postprocess
from eomt_mm.core.geometry import Padding, Size, resize
from eomt_mm.core.postprocess import (
    Segment,
    ToImage,
    areas,
    instance_parts,
    instance_prediction,
    max_of_parts,
    panoptic_prediction,
    resized_strips,
    semantic_scores,
)

THINGS, STUFF = 4, 3
K = THINGS + STUFF
SIZE = (24, 32)


def identity(maps: Tensor) -> Tensor:
    return maps


def to_size(size: Size) -> ToImage:
    return lambda maps: resize(maps, size)


def sharp_case(seed: int, queries: int = 30, noise: float = 1.5) -> tuple[Tensor, Tensor]:
    """Class logits (Q, K + 1) and mask logits (Q, 24, 32) of overlapping blobs, many of which survive as segments."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(queries, 6, generator=generator)
    y, x = (torch.arange(n) + 0.5 for n in SIZE)
    cy, cx, radius = draw[:, 0] * SIZE[0], draw[:, 1] * SIZE[1], 2 + 5 * draw[:, 2]
    distance = ((y[:, None] - cy[:, None, None]) ** 2 + (x - cx[:, None, None]) ** 2).sqrt()
    mask_logits = 3 * (radius[:, None, None] - distance)
    mask_logits += noise * torch.randn(mask_logits.shape, generator=generator)
    class_logits = torch.randn(queries, K + 1, generator=generator)
    best = (draw[:, 3] * (K + 1)).long()
    class_logits[range(queries), best] += 2 + 6 * draw[:, 4]  # on both sides of a probability of 0.8
    return class_logits, mask_logits


def fusion_head(**test_cfg: Any) -> Any:
    from mmdet.models import MaskFormerFusionHead

    stuff = 0 if 'max_per_image' in test_cfg else STUFF
    return MaskFormerFusionHead(K - stuff, stuff, test_cfg=test_cfg)


def regions(segment_map: Tensor, labels: dict[int, int]) -> set[tuple[int, bytes]]:
    """Each non-empty segment as its label and its pixels, whatever its number."""
    return {(label, (segment_map == i).numpy().tobytes()) for i, label in labels.items() if (segment_map == i).any()}


def test_panoptic_equals_mmdet_on_200_cases() -> None:
    from mmdet.evaluation.functional import INSTANCE_OFFSET

    head = fusion_head(object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True)
    num_segments = num_merged = 0
    for seed in range(200):
        class_logits, mask_logits = sharp_case(seed)
        segment_map, segments = panoptic_prediction(class_logits, mask_logits, identity, THINGS)
        theirs = head.panoptic_postprocess(class_logits, mask_logits).sem_seg[0]
        their_labels = {i: i % INSTANCE_OFFSET for i in theirs.unique().tolist() if i != K}
        our_regions = regions(segment_map, {segment.id: segment.label for segment in segments})
        assert our_regions == regions(theirs, their_labels)
        assert torch.equal(segment_map == 0, theirs == K)
        assert segment_map.dtype == torch.int32
        assert [segment.id for segment in segments] == list(range(1, len(segments) + 1))
        assert set(segment_map.unique().tolist()) - {0} == {segment.id for segment in segments}
        num_segments += len(segments)
        stuff = [segment.label for segment in segments if segment.label >= THINGS]
        assert len(stuff) == len(set(stuff))
        num_merged += len(stuff)
    assert num_segments > 800 and num_merged > 100  # the comparison saw enough


def test_thresholds_are_used_as_in_mmdet() -> None:
    for seed, (score_thr, overlap_thr) in enumerate(itertools.product([0.0, 0.5, 0.95], [0.0, 0.5, 0.95])):
        class_logits, mask_logits = sharp_case(seed)
        head = fusion_head(object_mask_thr=score_thr, iou_thr=overlap_thr, filter_low_score=True)
        theirs = head.panoptic_postprocess(class_logits, mask_logits).sem_seg[0]
        segment_map, segments = panoptic_prediction(class_logits, mask_logits, identity, THINGS, score_thr, overlap_thr)
        their_labels = {i: i % 1000 for i in theirs.unique().tolist() if i != K}
        ours = regions(segment_map, {segment.id: segment.label for segment in segments})
        assert ours == regions(theirs, their_labels)


def confident(labels: list[int]) -> Tensor:
    """Class logits with a probability near 1 for the labels."""
    return 20.0 * torch.nn.functional.one_hot(torch.tensor(labels), K + 1)


def blocks(*columns: tuple[int, int], value: float = 8.0) -> Tensor:
    """One mask (4, 8) per range of columns."""
    masks = torch.full((len(columns), 4, 8), -value)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = value
    return masks


@pytest.mark.parametrize('case', ['no object', 'low scores', 'empty masks', 'all split'])
def test_nothing_is_left(case: str) -> None:
    class_logits, mask_logits = confident([0, 1, 4]), blocks((0, 3), (3, 6), (6, 8))
    if case == 'no object':
        class_logits = confident([K, K, K])
    elif case == 'low scores':
        class_logits = torch.zeros(3, K + 1)
    elif case == 'empty masks':
        mask_logits = blocks((0, 0), (0, 0), (0, 0))
    else:  # each wins a third of its area: all overlap
        mask_logits = blocks((0, 8), (0, 8), (0, 8), value=1.0)
        for q in range(3):
            mask_logits[q, :, 3 * q : 3 * q + 3] += 1
    geometry = Padding((11, 13), (4, 8), (8, 8))
    size = (11, 13) if case == 'no object' else (4, 8)
    to_image = geometry.invert if case == 'no object' else identity
    segment_map, segments = panoptic_prediction(class_logits, mask_logits, to_image, THINGS)
    assert segments == [] and segment_map.shape == size
    assert segment_map.dtype == torch.int32 and not segment_map.any()


def test_stuff_is_merged_and_things_are_not() -> None:
    """Query 3 is stuff of the class of query 1; its score is not reported."""
    class_logits = confident([0, 5, 0, 5])
    class_logits[3] *= 0.5
    segment_map, segments = panoptic_prediction(class_logits, blocks((0, 2), (2, 4), (4, 6), (6, 8)), identity, THINGS)
    assert [(segment.id, segment.label) for segment in segments] == [(1, 0), (2, 5), (3, 0)]
    assert segment_map[0].tolist() == [1, 1, 2, 2, 3, 3, 2, 2]
    assert segments[1].score == pytest.approx(class_logits[1].softmax(0)[5].item())
    assert isinstance(segments[0], Segment)


def test_pixels_below_one_half_are_void_but_count_as_won() -> None:
    mask_logits = blocks((0, 2))
    mask_logits[0, :, 2:4] = -0.1
    segment_map, segments = panoptic_prediction(confident([1]), mask_logits, identity, THINGS)
    assert len(segments) == 1
    assert segment_map[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_ties_go_to_the_first_query() -> None:
    segment_map, segments = panoptic_prediction(confident([2, 3]), blocks((0, 4), (0, 4)), identity, THINGS)
    assert [segment.label for segment in segments] == [2]
    assert segment_map[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_overlap_exactly_at_the_threshold_is_kept() -> None:
    """4 of 5 columns won."""
    class_logits = confident([0, 1])
    class_logits[0] *= 0.5
    won = panoptic_prediction(class_logits, blocks((0, 5), (4, 8)), identity, THINGS, overlap_thr=0.8)[1]
    lost = panoptic_prediction(class_logits, blocks((0, 5), (4, 8)), identity, THINGS, overlap_thr=0.81)[1]
    assert [segment.label for segment in won] == [0, 1]
    assert [segment.label for segment in lost] == [1]


def test_score_exactly_at_the_threshold_is_not_kept() -> None:
    class_logits = torch.full((1, K + 1), -200.0)
    class_logits[0, :2] = 0.0  # one half each
    assert panoptic_prediction(class_logits, blocks((0, 8)), identity, THINGS, score_thr=0.5)[1] == []
    assert panoptic_prediction(class_logits, blocks((0, 8)), identity, THINGS, score_thr=0.49)[1] != []


def test_only_kept_masks_are_resized() -> None:
    seen: list[int] = []

    def counting(maps: Tensor) -> Tensor:
        seen.append(len(maps))
        return maps

    class_logits = confident([0, K, K, 5])
    panoptic_prediction(class_logits, blocks(*[(0, 8)] * 4), counting, THINGS)
    instance_prediction(class_logits[:, [0, 7]], blocks(*[(0, 8)] * 4), counting, max_per_image=3)
    assert sum(seen) == 2 + 3


def test_maps_of_large_images_are_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part, here of three maps, while the one before it may still be in use, whatever the number of queries."""
    monkeypatch.setattr(postprocess, 'PART_BYTES', 3 * 4 * 30 * 40)
    parts: list[weakref.ref[Tensor]] = []

    def to_image(maps: Tensor) -> Tensor:
        assert sum(part() is not None for part in parts) <= 1 and len(maps) <= 3
        large = resize(maps, (30, 40))
        parts.append(weakref.ref(large))
        return large

    logits = sharp_case(0, queries=60)
    assert panoptic_prediction(*logits, to_image, THINGS)[1]
    assert len(instance_prediction(*logits, to_image).labels) == 100
    assert len(parts) > 20


def test_instances_below_a_score_are_left_out_before_their_masks_are_resized() -> None:
    seen: list[int] = []

    def counting(maps: Tensor) -> Tensor:
        seen.append(len(maps))
        return maps

    for seed in range(10):
        logits = sharp_case(seed)
        whole = instance_prediction(*logits, identity)
        for score in (0.05, 0.3, whole.scores[3].item(), 0.9):
            seen.clear()
            found = list(instance_parts(*logits, counting, min_score=score))
            kept = whole.scores >= score
            assert torch.equal(torch.cat([part.labels for part in found]), whole.labels[kept])
            assert torch.equal(torch.cat([part.scores for part in found]), whole.scores[kept])
            assert torch.equal(torch.cat([part.masks for part in found]), whole.masks[kept])
            assert sum(seen) <= (logits[0].softmax(-1)[:, :-1].amax(1) > 0.99 * score).sum()
    seen.clear()
    assert [len(part.masks) for part in instance_parts(*sharp_case(0), counting, min_score=1.1)] == [0]
    assert seen == [0]


@pytest.mark.parametrize('max_per_image', [20, 100])
def test_instances_equal_mmdet(max_per_image: int) -> None:
    head = fusion_head(max_per_image=max_per_image)
    for seed in range(20):
        class_logits, mask_logits = sharp_case(seed)
        mask_logits[3] = -1.0  # an empty mask: score 0
        theirs = head.instance_postprocess(class_logits, mask_logits)
        ours = instance_prediction(class_logits, mask_logits, identity, max_per_image)
        assert len(ours.scores) == len(theirs.scores) == max_per_image

        def in_order(labels: Tensor, masks: Tensor) -> list[int]:
            keys = [(int(label), mask.numpy().tobytes()) for label, mask in zip(labels, masks, strict=True)]
            return sorted(range(len(keys)), key=keys.__getitem__)

        mine, other = in_order(ours.labels, ours.masks), in_order(theirs.labels, theirs.masks)
        assert torch.equal(ours.labels[mine], theirs.labels[other])
        assert torch.equal(ours.masks[mine], theirs.masks[other])
        torch.testing.assert_close(ours.scores[mine], theirs.scores[other], rtol=0, atol=1e-5)


def test_fewer_pairs_than_instances_asked_for() -> None:
    found = instance_prediction(*sharp_case(0, queries=3), identity, max_per_image=100)
    assert found.labels.shape == found.scores.shape == (3 * K,)
    assert found.masks.shape == (3 * K, *SIZE) and found.masks.dtype == torch.bool
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_no_instances_asked_for() -> None:
    found = instance_prediction(*sharp_case(0), Padding((9, 9), SIZE, SIZE).invert, max_per_image=0)
    assert found.masks.shape == (0, 9, 9) and found.labels.shape == (0,)


def test_score_of_an_instance_by_hand() -> None:
    class_logits, mask_logits = confident([2]), torch.full((1, 4, 8), -5.0)
    mask_logits[0, 0, :2] = torch.tensor([1.0, 3.0])
    found = instance_prediction(class_logits, mask_logits, identity, max_per_image=1)
    inside = torch.tensor([1.0, 3.0]).sigmoid().mean()
    assert found.labels.tolist() == [2] and found.masks.sum() == 2
    assert found.scores[0].item() == pytest.approx((inside * class_logits[0].softmax(0)[2]).item(), rel=1e-5)


def test_semantic_scores_are_the_naive_sum() -> None:
    class_logits, mask_logits = torch.randn(2, 5, K + 1), torch.randn(2, 5, 4, 6)
    scores = semantic_scores(class_logits, mask_logits, (8, 12))
    masks = torch.nn.functional.interpolate(mask_logits, (8, 12), mode='bilinear')
    expected = torch.zeros(2, K, 8, 12)
    for b, q, k in itertools.product(range(2), range(5), range(K)):
        expected[b, k] += class_logits[b, q].softmax(0)[k] * masks[b, q].sigmoid()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_inputs_are_left_alone(dtype: torch.dtype) -> None:
    """At equal size nothing is resized, and results must not be computed in place."""
    class_logits, mask_logits = (x.to(dtype) for x in sharp_case(0))
    before = class_logits.clone(), mask_logits.clone()
    semantic_scores(class_logits[None], mask_logits[None], SIZE)
    instance_prediction(class_logits, mask_logits, identity)
    panoptic_prediction(class_logits, mask_logits, identity, THINGS)
    assert torch.equal(class_logits, before[0]) and torch.equal(mask_logits, before[1])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precisions(dtype: torch.dtype) -> None:
    """Computed in float32: equal to casting first."""
    class_logits, mask_logits = (x.to(dtype) for x in sharp_case(0))
    wide = class_logits.float(), mask_logits.float()
    scores = semantic_scores(class_logits[None], mask_logits[None], (30, 40))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, semantic_scores(wide[0][None], wide[1][None], (30, 40)))
    found, expected = (
        instance_prediction(*logits, to_size((30, 40))) for logits in ((class_logits, mask_logits), wide)
    )
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.masks, expected.masks)
    half = panoptic_prediction(class_logits, mask_logits, to_size((30, 40)), THINGS)
    full = panoptic_prediction(*wide, to_size((30, 40)), THINGS)
    assert torch.equal(half[0], full[0]) and half[1] == full[1] and len(half[1]) > 2


def test_one_class_and_one_query() -> None:
    class_logits, mask_logits = torch.tensor([[9.0, 0.0]]), torch.full((1, 4, 4), 5.0)
    assert instance_prediction(class_logits, mask_logits, identity).labels.tolist() == [0]
    segment_map, segments = panoptic_prediction(class_logits, mask_logits, identity, num_things=0)
    assert segment_map.eq(1).all() and segments[0].label == 0
    assert semantic_scores(class_logits[None], mask_logits[None], (4, 4)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize('at_once', [1, 3, 1000])
def test_size_of_parts_does_not_matter(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def to_image(maps: Tensor) -> Tensor:
        seen.append(len(maps))
        return resize(maps, (30, 41))

    for seed in range(5):
        logits = sharp_case(seed, queries=60)
        whole = panoptic_prediction(*logits, to_image, THINGS), instance_prediction(*logits, to_image)
        seen.clear()
        with monkeypatch.context() as patch:
            patch.setattr(postprocess, 'MAPS_AT_ONCE', at_once)
            parts = panoptic_prediction(*logits, to_image, THINGS), instance_prediction(*logits, to_image)
        assert max(seen) <= at_once and sum(seen) > 20
        assert torch.equal(whole[0][0], parts[0][0]) and whole[0][1] == parts[0][1] != []
        assert torch.equal(whole[1].masks, parts[1].masks) and torch.equal(whole[1].labels, parts[1].labels)
        torch.testing.assert_close(whole[1].scores, parts[1].scores, rtol=1e-6, atol=0)


def test_products_tell_whether_a_probability_is_at_least_one_half() -> None:
    """s * p >= s / 2 exactly where p >= 0.5: the neighbours of one half, under scores of all mantissas and sizes."""
    below = torch.tensor(0.5).nextafter(torch.tensor(0.0))
    above = torch.tensor(0.5).nextafter(torch.tensor(1.0))
    mantissas = torch.arange(2**23, 2**24, dtype=torch.float32) * 2.0**-24  # all of [0.5, 1)
    for scores in (mantissas, mantissas / 2, mantissas * 2.0**-10, torch.ones(1)):
        assert not (scores * below >= scores / 2).any()
        assert (scores * 0.5 >= scores / 2).all() and (scores * above >= scores / 2).all()


def test_max_of_parts_takes_the_first_among_equals() -> None:
    maps = torch.randint(0, 4, (9, 20, 30), generator=torch.Generator().manual_seed(0)).float() - 3
    value, index = max_of_parts(maps.split(2))
    assert torch.equal(value, maps.max(0).values)
    assert torch.equal(index, (maps == value).int().argmax(0))


def test_areas_of_large_and_of_empty_masks() -> None:
    masks = torch.zeros(3, 300, 300, dtype=torch.bool)
    masks[0], masks[1, :2, 7] = True, True
    assert areas(masks).tolist() == [90000, 2, 0]
    assert areas(masks[:0]).tolist() == []


SAME_BITS = [((10, 12), (40, 48)), ((40, 40), (160, 160)), ((16, 8), (8, 4)), ((9, 9), (9, 9)), ((5, 7), (20, 15))]
ROUNDED = [((36, 36), (126, 126)), ((7, 9), (11, 5)), ((30, 30), (20, 50)), ((10, 10), (30, 30)), ((6, 6), (4, 4))]


@pytest.mark.parametrize('bytes_each', [1, 10_000, 2**40])
@pytest.mark.parametrize('source, size', SAME_BITS + ROUNDED)
def test_strips_are_the_resized_maps(
    source: Size, size: Size, bytes_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, 'STRIP_BYTES', bytes_each)
    maps = torch.randn(3, *source, generator=torch.Generator().manual_seed(0))
    tops, strips = zip(*resized_strips(maps, size), strict=True)
    heights = [strip.shape[1] for strip in strips]
    assert list(tops) == [sum(heights[:k]) for k in range(len(heights))]
    found, expected = torch.cat(strips, dim=1), resize(maps, size)
    if (source, size) in SAME_BITS:
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)  # float32 coordinates
    if bytes_each == 1:
        assert max(heights) == size[0] // math.gcd(source[0], size[0])


def test_strips_do_not_change_semantic_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    class_logits, mask_logits = torch.randn(2, 20, K + 1), 5 * torch.randn(2, 20, 16, 24)
    monkeypatch.setattr(postprocess, 'STRIP_BYTES', 20_000)
    scores = semantic_scores(class_logits, mask_logits, (64, 96))
    masks = resize(mask_logits, (64, 96)).sigmoid()
    expected = torch.einsum('bqk,bqhw->bkhw', class_logits.softmax(-1)[..., :-1], masks)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


def test_boxes_are_tight_and_zero_for_empty_masks() -> None:
    from eomt_mm.models.heads import boxes_of_masks

    masks = torch.rand(40, 13, 17, generator=torch.Generator().manual_seed(0)) > 0.99
    masks[0], masks[1] = False, True
    for mask, box in zip(masks, boxes_of_masks(masks), strict=True):
        y, x = mask.nonzero().T.tolist() if mask.any() else ([-1], [-1])
        expected = [min(x), min(y), max(x) + 1, max(y) + 1] if mask.any() else [0, 0, 0, 0]
        assert box.tolist() == expected and box.dtype == torch.float32
    assert boxes_of_masks(masks[:0]).shape == (0, 4)
    assert torch.equal(boxes_of_masks(masks.transpose(1, 2)), boxes_of_masks(masks)[:, [1, 0, 3, 2]])  # not contiguous
