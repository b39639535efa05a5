"""Ground truth of both hosts as labels and masks: void, empty samples, labels that do not fit, padding."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.targets import Target, pad_masks, segments_target, semantic_target
from eomt_mm.models.sample_targets import det_sample_target, seg_sample_target

# isort: split
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

THINGS, K = 3, 5
SIZE = (6, 8)


def as_pairs(target: Target) -> list[tuple[int, Any]]:
    """Labels and masks, order-free."""
    assert target['labels'].dtype == torch.int64 and target['masks'].dtype == torch.bool
    assert len(target['labels']) == len(target['masks'])
    pairs = zip(target['labels'].tolist(), target['masks'].int().tolist(), strict=True)
    return sorted(pairs)


def seg_sample(label_map: Tensor) -> SegDataSample:
    return SegDataSample(metainfo=dict(img_path='a/b.jpg'), gt_sem_seg=PixelData(data=label_map[None]))


def det_sample(labels: Tensor, masks: Any = None, **maps: PixelData) -> DetDataSample:
    instances = InstanceData(labels=labels) if masks is None else InstanceData(labels=labels, masks=masks)
    return DetDataSample(metainfo=dict(img_path='a/b.jpg'), gt_instances=instances, **maps)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32, torch.int64])
def test_semantic_map(dtype: torch.dtype) -> None:
    label_map = torch.tensor([[0, 0, 4, 255], [2, 255, 4, 4]]).to(dtype)
    target = semantic_target(label_map, K)
    assert target['labels'].tolist() == [0, 2, 4] and target['labels'].dtype == torch.int64
    assert torch.equal(target['masks'], torch.stack([label_map == k for k in (0, 2, 4)]))


@pytest.mark.parametrize('ignore_index', [255, 0, 4, -1])
def test_ignore_index(ignore_index: int) -> None:
    label_map = torch.tensor([[0, 4, 1]])
    label_map[label_map == ignore_index] = ignore_index
    labels = semantic_target(torch.cat([label_map, torch.full((1, 3), ignore_index)]), K, ignore_index)['labels']
    assert labels.tolist() == [label for label in (0, 1, 4) if label != ignore_index]


def test_all_void() -> None:
    target = semantic_target(torch.full(SIZE, 255), K)
    assert target['labels'].shape == (0,) and target['masks'].shape == (0, *SIZE)
    assert as_pairs(target) == []
    target = segments_target(torch.zeros(SIZE, dtype=torch.int32), torch.tensor([1, 2]), K)
    assert target['labels'].shape == (0,) and target['masks'].shape == (0, *SIZE)
    assert as_pairs(target) == []


@pytest.mark.parametrize('label', [5, 254, -1, 255])
def test_label_outside_the_classes_names_label_range_and_file(label: int) -> None:
    label_map = torch.zeros(SIZE, dtype=torch.int64)
    label_map[2, 3] = label
    with pytest.raises(ValueError) as semantic:
        seg_sample_target(seg_sample(label_map), K, SIZE, ignore_index=100)
    with pytest.raises(ValueError) as segments:
        segments_target(torch.ones(SIZE), torch.tensor([0, label]), K, 'a/b.jpg')
    with pytest.raises(ValueError) as instances:
        det_sample_target(det_sample(torch.tensor([label]), torch.zeros(1, *SIZE)), THINGS, K, SIZE)
    for error in (semantic, segments, instances):
        for word in (f'[{label}]', '5 classes 0..4', 'a/b.jpg', 'num_classes', 'reduce_zero_label'):
            assert word in str(error.value)


def test_error_without_a_file() -> None:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, *SIZE), 9)))
    with pytest.raises(ValueError, match=r'^ground truth holds label\(s\) \[9\]'):
        seg_sample_target(sample, K, SIZE)


def test_id_map_with_missing_ids() -> None:
    """Segments 1 and 4 lost their last pixel to the crop."""
    id_map = torch.tensor([[0, 2, 2], [3, 3, 5]], dtype=torch.int32)
    target = segments_target(id_map, torch.tensor([0, 1, 1, 4, 2]), K)
    assert target['labels'].tolist() == [1, 1, 2]
    assert torch.equal(target['masks'], torch.stack([id_map == k for k in (2, 3, 5)]))


@pytest.mark.parametrize('labels', [[0, 1], []])
def test_id_without_a_label_names_id_and_file(labels: list[int]) -> None:
    id_map = torch.tensor([[0, 3]])
    with pytest.raises(ValueError, match=rf'a/b.jpg.*segment\(s\) \[3\].*{len(labels)} label'):
        segments_target(id_map, torch.tensor(labels, dtype=torch.int64), K, 'a/b.jpg')


@pytest.mark.parametrize('size', [SIZE, (9, 8), (6, 11), (16, 16)])
def test_padded_pixels_belong_to_no_mask(size: tuple[int, int]) -> None:
    target = seg_sample_target(seg_sample(torch.zeros(SIZE, dtype=torch.int64)), K, size)
    assert target['masks'].shape == (1, *size) and target['masks'].dtype == torch.bool
    assert target['masks'].sum() == 48 and target['masks'][0, :6, :8].all()


def test_padding_without_masks() -> None:
    empty = dict(labels=torch.zeros(0, dtype=torch.int64), masks=torch.zeros(0, *SIZE, dtype=torch.bool))
    assert pad_masks(empty, (10, 10))['masks'].shape == (0, 10, 10)


@pytest.mark.parametrize('size', [(5, 8), (6, 7), (4, 20)])
def test_masks_larger_than_the_input_are_refused(size: tuple[int, int]) -> None:
    """Padding by a negative amount would crop them, and hide that image and ground truth differ in size."""
    with pytest.raises(ValueError, match=rf'6 x 8 .*{size[0]} x {size[1]}'):
        seg_sample_target(seg_sample(torch.zeros(SIZE, dtype=torch.int64)), K, size)


def random_masks(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (num, *SIZE), dtype=np.uint8)


@pytest.mark.parametrize('kind', ['bitmap', 'bool tensor', 'uint8 tensor'])
@pytest.mark.parametrize('num', [0, 1, 3])
def test_instance_masks_of_every_kind(kind: str, num: int) -> None:
    array = random_masks(num)
    masks = {
        'bitmap': lambda: BitmapMasks(array, *SIZE),
        'bool tensor': lambda: torch.from_numpy(array).bool(),
        'uint8 tensor': lambda: torch.from_numpy(array),
    }[kind]()
    labels = torch.arange(num)
    target = det_sample_target(det_sample(labels, masks), THINGS, THINGS, (8, 8))
    assert target['labels'].tolist() == labels.tolist()
    assert target['masks'].dtype == torch.bool and target['masks'].shape == (num, 8, 8)
    assert torch.equal(target['masks'][:, :6], torch.from_numpy(array).bool())
    assert not target['masks'][:, 6:].any()


@pytest.mark.parametrize('num', [0, 2])
def test_polygon_masks(num: int) -> None:
    square = [np.array([1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0])]
    target = det_sample_target(
        det_sample(torch.zeros(num, dtype=torch.int64), PolygonMasks([square] * num, *SIZE)), THINGS, K, (8, 8)
    )
    assert target['masks'].shape == (num, 8, 8) and target['masks'].dtype == torch.bool
    assert target['masks'].sum() == 9 * num and (num == 0 or target['masks'][0, 1:4, 1:4].all())


def test_things_as_masks_and_stuff_as_a_map() -> None:
    """mmdet's map holds things as well, and 255 for void: both are no stuff."""
    label_map = torch.tensor([[0, 0, 3, 255], [4, 3, 1, 255]], dtype=torch.uint8)
    masks = torch.stack([label_map == 0, label_map == 1])
    sample = det_sample(torch.tensor([0, 1]), masks, gt_sem_seg=PixelData(sem_seg=label_map[None]))
    target = det_sample_target(sample, THINGS, K, (2, 4))
    assert target['labels'].tolist() == [0, 1, 3, 4] and target['labels'].dtype == torch.int64
    assert torch.equal(target['masks'], torch.stack([label_map == k for k in (0, 1, 3, 4)]))
    assert det_sample_target(sample, THINGS, THINGS, (2, 4))['labels'].tolist() == [0, 1]  # instances only


def test_map_of_things_only_and_stuff_outside_the_classes() -> None:
    label_map = torch.tensor([[0, 1, 255, 255]])
    sample = det_sample(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, 4), gt_sem_seg=PixelData(sem_seg=label_map[None])
    )
    assert as_pairs(det_sample_target(sample, THINGS, K, (1, 4))) == []
    sample.gt_sem_seg = PixelData(sem_seg=torch.tensor([[[3, 7, 0, 0]]]))
    with pytest.raises(ValueError, match=r'a/b.jpg holds label\(s\) \[7\]'):
        det_sample_target(sample, THINGS, K, (1, 4))


def test_id_map_of_a_sample() -> None:
    id_map = torch.tensor([[1, 1, 0, 3]], dtype=torch.int32)
    sample = det_sample(torch.tensor([2, 0, 4]), gt_panoptic_seg=PixelData(segment_ids=id_map[None]))
    target = det_sample_target(sample, THINGS, K, (2, 4))
    assert target['labels'].tolist() == [2, 4] and target['masks'].shape == (2, 2, 4)
    assert target['masks'].int().sum((1, 2)).tolist() == [2, 1]


def test_id_map_and_masks_give_the_same_target() -> None:
    id_map = torch.tensor([[1, 1, 0, 3], [2, 2, 2, 3]])
    labels = torch.tensor([0, 1, 4])
    by_ids = det_sample(labels, gt_panoptic_seg=PixelData(segment_ids=id_map[None]))
    stuff = torch.where(id_map == 3, 4, 255)
    things = torch.stack([id_map == 1, id_map == 2])
    by_masks = det_sample(labels[:2], things, gt_sem_seg=PixelData(sem_seg=stuff[None]))
    assert as_pairs(det_sample_target(by_ids, THINGS, K, (4, 4))) == as_pairs(
        det_sample_target(by_masks, THINGS, K, (4, 4))
    )
