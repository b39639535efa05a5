"""Transforms against cv2, PIL and the published rules (spec, section 8)."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from PIL import Image
from torchvision.transforms.v2 import functional as colour

from eomt_mm.core import augment
from eomt_mm.core.augment import NearestCrop
from eomt_mm.datasets import transforms as transforms_module
from eomt_mm.datasets.transforms import ColorJitter, PackSegments, ResizeToInput, ScaleJitterCrop


def random_image(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    'size, fit, expected',
    [
        ((480, 640), 'inside', (96, 128)),
        ((640, 480), 'inside', (128, 96)),
        ((480, 640), 'cover', (128, 171)),
        ((5, 400), 'inside', (2, 128)),
        ((1, 1000), 'inside', (1, 128)),  # never below a pixel
        ((128, 128), 'cover', (128, 128)),
    ],
)
def test_resize_to_input(size: tuple[int, int], fit: str, expected: tuple[int, int]) -> None:
    image = random_image(*size)
    results = ResizeToInput(128, fit)(dict(img=image, ori_shape=size))
    assert results['img'].shape == (*expected, 3)
    assert results['img_shape'] == expected
    assert results['ori_shape'] == size
    reference = np.asarray(Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR))
    assert np.array_equal(results['img'], reference)


def test_resize_rounds_half_to_even() -> None:
    # 64 / 128 * 85 = 42.5
    assert ResizeToInput(64, 'inside')(dict(img=random_image(128, 85)))['img_shape'] == (64, 42)


def test_resize_to_a_non_square_input() -> None:
    assert ResizeToInput((64, 128), 'inside')(dict(img=random_image(100, 100)))['img_shape'] == (64, 64)


def test_unknown_fit_is_named() -> None:
    with pytest.raises(ValueError, match="fit='both'"):
        ResizeToInput(64, 'both')


@pytest.mark.parametrize('source, resized', [((37, 53), (90, 41)), ((64, 64), (31, 200)), ((100, 80), (100, 80))])
def test_nearest_crop_equals_cv2(source: tuple[int, int], resized: tuple[int, int]) -> None:
    label_map = np.random.default_rng(1).integers(0, 200, source).astype(np.int32)
    whole = cv2.resize(label_map, resized[::-1], interpolation=cv2.INTER_NEAREST)
    crop = NearestCrop(source, resized, (5, 7), (48, 48)).crop(label_map, fill=255)
    expected = np.full((48, 48), 255, np.int32)
    part = whole[5:53, 7:55]
    expected[: part.shape[0], : part.shape[1]] = part
    assert np.array_equal(crop, expected)


def panoptic_results(h: int = 40, w: int = 60) -> dict[str, Any]:
    id_map = np.zeros((h, w), np.int32)
    id_map[: h // 2] = 1
    id_map[h // 2 :, : w // 2] = 2
    return dict(
        img=np.repeat(id_map[..., None] * 60, 3, axis=2).astype(np.uint8),
        gt_seg_map=id_map,
        gt_segment_labels=np.array([3, 5]),
        seg_fields=['gt_seg_map'],
    )


@pytest.mark.parametrize('scale', [(0.1, 0.2), (1.0, 1.0), (1.5, 2.0)])
def test_crop_moves_image_and_map_together(scale: tuple[float, float]) -> None:
    np.random.seed(3)
    for _ in range(10):
        results = ScaleJitterCrop(64, scale)(panoptic_results())
        assert results['img'].shape == (64, 64, 3)
        assert results['gt_seg_map'].shape == results['img_shape'] == (64, 64)
        assert results['gt_seg_map'].dtype == np.int32
        # the image encodes the map: away from borders both agree
        agree = np.abs(results['img'][..., 0].astype(int) - 60 * results['gt_seg_map']) < 30
        assert agree.mean() > 0.9


def test_crop_size_is_truncated_and_padding_black() -> None:
    np.random.seed(0)
    results = dict(img=np.full((30, 50, 3), 200, np.uint8))
    results = ScaleJitterCrop(64, (0.5, 0.5))(results)
    h, w = int(30 * 0.5 * 64 / 50), int(50 * 0.5 * 64 / 50)
    assert (results['img'][:h, :w] == 200).all()
    assert results['img'].sum() == 200 * 3 * h * w


def test_semantic_map_is_padded_with_ignore() -> None:
    results = dict(img=random_image(30, 50), gt_seg_map=np.zeros((30, 50), np.uint8))
    seg_map = ScaleJitterCrop(64, (0.5, 0.5))(results)['gt_seg_map']
    assert set(np.unique(seg_map)) == {0, 255}
    assert (seg_map == 0).sum() == int(30 * 0.64) * int(50 * 0.64)


def test_empty_crop_is_drawn_again_on_the_same_image() -> None:
    # one labelled pixel block in the corner of a large image: most crops miss it
    id_map = np.zeros((200, 200), np.int32)
    id_map[:20, :20] = 1
    results = dict(img=random_image(200, 200), gt_seg_map=id_map, gt_segment_labels=np.array([0]))
    np.random.seed(0)
    crop = ScaleJitterCrop(32, (4.0, 4.0), max_tries=2000)
    for _ in range(5):
        assert (crop(dict(results))['gt_seg_map'] == 1).any()


def test_tries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    draw = augment.draw_crop
    monkeypatch.setattr(augment, 'draw_crop', lambda *args: counted.append(1) or draw(*args))
    id_map = np.zeros((400, 400), np.int32)
    id_map[0, 0] = 1
    results = dict(img=random_image(400, 400), gt_seg_map=id_map, gt_segment_labels=np.array([0]))
    np.random.seed(1)
    cut = ScaleJitterCrop(16, (20.0, 20.0), max_tries=3)(results)
    assert len(counted) == 3
    assert not cut['gt_seg_map'].any()
    counted.clear()  # an image that has no target at all is not tried again
    ScaleJitterCrop(16, max_tries=3)(dict(img=random_image(40, 40), gt_seg_map=np.zeros((40, 40), np.int32)))
    void = dict(img=random_image(40, 40), gt_seg_map=np.full((40, 40), 255, np.uint8))
    ScaleJitterCrop(16, max_tries=3)(void)
    assert len(counted) == 2


@pytest.mark.parametrize('kind', ['bitmap', 'polygon'])
def test_instances_are_cut_and_empty_ones_dropped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    h, w = 40, 60
    polygons = [[np.array([2.0, 2, 20, 2, 20, 20, 2, 20])], [np.array([55.0, 35, 59, 35, 59, 39, 55, 39])]]
    masks: Any = PolygonMasks(polygons, h, w)
    if kind == 'bitmap':
        masks = BitmapMasks(masks.to_ndarray(), h, w)
    crop = ScaleJitterCrop(30, (2.0, 2.0))
    monkeypatch.setattr(augment, 'draw_crop', lambda *_: ((40, 60), (0, 0)))
    results = dict(
        img=random_image(h, w), gt_masks=masks, gt_bboxes_labels=np.array([4, 7]), gt_ignore_flags=np.array([0, 0])
    )
    cut = crop(results)
    assert cut['gt_bboxes_labels'].tolist() == [4]
    assert cut['gt_ignore_flags'].tolist() == [0]
    assert cut['gt_masks'].masks.shape == (1, 30, 30)
    assert np.array_equal(cut['gt_masks'].masks[0], masks.to_ndarray()[0, :30, :30])
    assert cut['gt_bboxes'].tensor.shape == (1, 4)


def test_no_instances() -> None:
    results = dict(img=random_image(20, 20), gt_masks=BitmapMasks([], 20, 20), gt_bboxes_labels=np.zeros(0, np.int64))
    assert ScaleJitterCrop(32)(results)['gt_masks'].masks.shape == (0, 32, 32)


@pytest.mark.parametrize('arguments', [dict(scale_range=(0, 1)), dict(scale_range=(2, 1)), dict(max_tries=0)])
def test_wrong_crop_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ScaleJitterCrop(64, **arguments)


def test_color_jitter_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image(8, 8)
    draws = iter([0.7, 0.1, 0.1, 0.1, 0.1])  # contrast last, all four chosen
    monkeypatch.setattr(transforms_module.np.random, 'rand', lambda: next(draws))
    factors = iter([1.1, 0.8, 0.03, 1.4])  # brightness, saturation, hue, contrast
    monkeypatch.setattr(transforms_module.np.random, 'uniform', lambda low, high: next(factors))
    found = ColorJitter()(dict(img=image))['img']
    x = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    x = colour.adjust_brightness(x, 1.1)
    x = colour.adjust_hue(colour.adjust_saturation(x, 0.8), 0.03)
    x = colour.adjust_contrast(x, 1.4)
    assert np.array_equal(found[..., ::-1].transpose(2, 0, 1), x.numpy())


def test_color_jitter_ranges_and_rate() -> None:
    np.random.seed(0)
    grey = np.full((4, 4, 3), 100, np.uint8)
    jitter = ColorJitter(contrast=0, saturation=0, hue=0)
    values = np.array([jitter(dict(img=grey.copy()))['img'][0, 0, 0] for _ in range(400)])
    assert values.min() >= int(100 * (1 - 32 / 255)) - 1
    assert values.max() <= int(100 * (1 + 32 / 255)) + 1
    assert 0.4 < (values != 100).mean() < 0.6


def test_color_jitter_refuses_wrong_ranges() -> None:
    with pytest.raises(ValueError, match=r'hue=0\.7'):
        ColorJitter(hue=0.7)


def test_pack_segments() -> None:
    results = panoptic_results()
    packed = PackSegments(meta_keys=('img_id',))(dict(results, img_id=3))
    sample = packed['data_samples']
    assert sample.gt_panoptic_seg.segment_ids.shape == (1, 40, 60)
    assert sample.gt_instances.labels.tolist() == [3, 5]
    assert 'gt_sem_seg' not in sample
    assert packed['inputs'].dtype == torch.uint8
    assert 'gt_panoptic_seg' not in PackSegments(meta_keys=())(dict(img=random_image(8, 8)))['data_samples']


def test_pack_segments_with_crowds() -> None:
    results = panoptic_results()
    results['gt_seg_map'][-1] = 3
    sample = PackSegments(meta_keys=())(dict(results, gt_crowd_labels=np.array([4])))['data_samples']
    assert sample.gt_instances.labels.tolist() == [3, 5]
    assert sample.ignored_instances.labels.tolist() == [4]
    assert sample.ignored_instances.labels.dtype == torch.int64
    assert sample.gt_panoptic_seg.segment_ids.max() == 3
    none = PackSegments(meta_keys=())(dict(panoptic_results(), gt_crowd_labels=np.zeros(0, np.int64)))['data_samples']
    assert none.ignored_instances.labels.shape == (0,)
    assert 'labels' not in PackSegments(meta_keys=())(panoptic_results())['data_samples'].ignored_instances


def test_crop_does_not_take_crowds_for_targets() -> None:
    id_map = np.full((200, 200), 2, np.int32)  # a crowd behind the one segment
    id_map[:20, :20] = 1
    crowd = dict(gt_segment_labels=np.array([0]), gt_crowd_labels=np.array([3]))
    np.random.seed(0)
    crop = ScaleJitterCrop(32, (4.0, 4.0), max_tries=2000)
    for _ in range(3):
        cut = crop(dict(img=random_image(200, 200), gt_seg_map=id_map, **crowd))
        assert (cut['gt_seg_map'] == 1).any()
        assert cut['gt_crowd_labels'].tolist() == [3]
