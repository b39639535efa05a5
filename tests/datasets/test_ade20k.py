"""ADE20K panoptic and instance from the official files."""

from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from mmdet.datasets import ADE20KInstanceDataset, ADE20KPanopticDataset
from mmdet.datasets.ade20k import ADE20KSegDataset
from PIL import Image

from eomt_mm.annotations.class_tables import ADE20K_STUFF, ADE20K_THINGS_FIRST
from eomt_mm.checkpoints.class_order import is_ade20k_panoptic
from eomt_mm.datasets.ade20k import ADE20KInstance, ADE20KPanoptic, LoadADE20KSegments
from eomt_mm.registry import DATASETS, TRANSFORMS

Results = dict[str, Any]
THINGS = [category for category in range(150) if category not in ADE20K_STUFF]


def prefix(split: str) -> dict[str, str]:
    return dict(img=f'images/{split}', seg=f'annotations/{split}', instances=f'annotations_instance/{split}')


def naive_segments(item: Results, panoptic: bool) -> list[tuple[int, bytes]]:
    """(category in ADE20K's order, mask) of each segment, straight from the files and the spec, section 8."""
    labels = np.asarray(Image.open(item['seg_map_path']))
    instances = np.asarray(Image.open(item['instance_map_path']))
    found, taken = [], np.zeros(labels.shape, bool)
    for rank, number in {tuple(pixel) for pixel in instances[..., :2].reshape(-1, 2).tolist()}:
        if rank and number:
            mask = (instances[..., 0] == rank) & (instances[..., 1] == number)
            found.append((THINGS[rank - 1], mask.tobytes()))
            taken |= mask
    for category in ADE20K_STUFF if panoptic else ():
        mask = (labels == category + 1) & ~taken
        if mask.any():
            found.append((category, mask.tobytes()))
    return sorted(found)


def loaded_segments(loaded: Results, classes: tuple[int, ...]) -> list[tuple[int, bytes]]:
    ids = loaded['gt_seg_map']
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) | {0} == set(range(len(loaded['gt_segment_labels']) + 1))
    masks = enumerate(loaded['gt_segment_labels'].tolist())
    return sorted((classes[label], (ids == place + 1).tobytes()) for place, label in masks)


@pytest.mark.parametrize('split', ['training', 'validation'])
@pytest.mark.parametrize('name', ['ADE20KPanoptic', 'ADE20KInstance'])
def test_segments_are_those_of_the_files(name: str, split: str, ade20k_root: Path) -> None:
    dataset = DATASETS.build(dict(type=name, data_root=str(ade20k_root), data_prefix=prefix(split)))
    assert len(dataset) == {'training': 6, 'validation': 4}[split]
    load, counts = LoadADE20KSegments(), []
    for index in range(len(dataset)):
        item = dataset.get_data_info(index)
        assert item['img_id'] == f'ADE_{dict(training="train", validation="val")[split]}_{index + 1:08d}'
        expected = naive_segments(item, panoptic=name == 'ADE20KPanoptic')
        assert loaded_segments(load(dict(item)), dataset.metainfo['category_ids']) == expected
        counts.append(len(expected))
    assert counts[1] == 0  # the image without any class
    assert min(count for index, count in enumerate(counts) if index != 1) > 0


# By hand


def write(root: Path, labels: Any, ranks: Any, numbers: Any) -> Results:
    """The files of an image and its item; ``labels`` as in the files."""
    paths = root / 'labels.png', root / 'instances.png'
    Image.fromarray(np.array(labels, np.uint8)).save(paths[0])
    channels = [np.array(ranks, np.uint8), np.array(numbers, np.uint8), np.full_like(np.array(ranks, np.uint8), 9)]
    Image.fromarray(np.stack(channels, axis=2)).save(paths[1])
    return dict(
        img_path='a.jpg', seg_map_path=str(paths[0]), instance_map_path=str(paths[1]), category_ids=ADE20K_THINGS_FIRST
    )


# wall 1 (stuff), bed 8 (first thing), windowpane 9 (second thing), flag 150 (last thing), shower 146 (last stuff)
LABELS = [[1, 1, 8, 8], [9, 9, 0, 146], [150, 150, 1, 8]]
RANKS = [[0, 1, 1, 1], [2, 2, 1, 0], [100, 100, 0, 1]]
NUMBERS = [[0, 7, 7, 0], [200, 7, 3, 0], [5, 5, 0, 3]]


def test_panoptic_by_hand(tmp_path: Path) -> None:
    loaded = LoadADE20KSegments()(write(tmp_path, LABELS, RANKS, NUMBERS))
    # a bed over the wall; a bed without number, void; a bed partly over void; two windows, one with the bed's number
    assert loaded['gt_seg_map'].tolist() == [[1, 4, 4, 0], [6, 5, 3, 2], [7, 7, 1, 3]]
    assert loaded['gt_segment_labels'].tolist() == [100, 149, 0, 0, 1, 1, 99]
    assert loaded['gt_segment_labels'].dtype == np.int64
    assert loaded['gt_crowd_labels'].shape == (0,)
    assert loaded['seg_fields'] == ['gt_seg_map']


def test_instances_by_hand(tmp_path: Path) -> None:
    item = dict(write(tmp_path, LABELS, RANKS, NUMBERS), category_ids=ADE20KInstance.METAINFO['category_ids'])
    (tmp_path / 'labels.png').unlink()  # not needed
    loaded = LoadADE20KSegments()(item)
    assert loaded['gt_seg_map'].tolist() == [[0, 2, 2, 0], [4, 3, 1, 0], [5, 5, 0, 1]]
    assert loaded['gt_segment_labels'].tolist() == [0, 0, 1, 1, 99]


def test_chosen_classes_only(tmp_path: Path) -> None:
    item = dict(write(tmp_path, LABELS, RANKS, NUMBERS), category_ids=(8, 0))  # windowpane, wall
    loaded = LoadADE20KSegments()(item)
    assert loaded['gt_seg_map'].tolist() == [[1, 0, 0, 0], [3, 2, 0, 0], [0, 0, 1, 0]]
    assert loaded['gt_segment_labels'].tolist() == [1, 0, 0]


def test_image_without_any_instance(tmp_path: Path) -> None:
    nothing = np.zeros((2, 3))
    loaded = LoadADE20KSegments()(write(tmp_path, [[1, 1, 8], [0, 2, 1]], nothing, nothing))
    assert loaded['gt_seg_map'].tolist() == [[1, 1, 0], [0, 2, 1]]
    assert loaded['gt_segment_labels'].tolist() == [100, 101]
    void = LoadADE20KSegments()(write(tmp_path, nothing, nothing, nothing))
    assert not void['gt_seg_map'].any() and void['gt_seg_map'].shape == (2, 3)
    assert void['gt_segment_labels'].shape == (0,)


def test_number_without_rank_is_no_thing(tmp_path: Path) -> None:
    loaded = LoadADE20KSegments()(write(tmp_path, [[1, 8]], [[0, 0]], [[4, 4]]))
    assert loaded['gt_seg_map'].tolist() == [[1, 0]]


def test_bare_image_stays_bare() -> None:
    assert LoadADE20KSegments()({'img_path': 'a.jpg'}) == {'img_path': 'a.jpg'}


# Bad files


@pytest.mark.parametrize('key', ['seg_map_path', 'instance_map_path'])
def test_missing_or_damaged_file(tmp_path: Path, key: str) -> None:
    item = write(tmp_path, LABELS, RANKS, NUMBERS)
    path = Path(item[key])
    content = path.read_bytes()
    for bad in (b'', b'junk', content[: len(content) // 2]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=f'{path.name} cannot be decoded'):
            LoadADE20KSegments()(dict(item))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{path.name} does not exist'):
        LoadADE20KSegments()(dict(item))


def test_wrong_mode_is_named(tmp_path: Path) -> None:
    item = write(tmp_path, LABELS, RANKS, NUMBERS)
    swapped = dict(item, seg_map_path=item['instance_map_path'])
    with pytest.raises(ValueError, match='instances.png is a PNG file of mode RGB: one channel of labels'):
        LoadADE20KSegments()(swapped)
    with pytest.raises(ValueError, match='labels.png is a PNG file of mode L: R = rank'):
        LoadADE20KSegments()(dict(item, instance_map_path=item['seg_map_path']))
    Image.open(item['instance_map_path']).save(tmp_path / 'a.jpg')
    with pytest.raises(ValueError, match='a.jpg is a JPEG file'):
        LoadADE20KSegments()(dict(item, instance_map_path=str(tmp_path / 'a.jpg')))


def test_wrong_size_is_named(tmp_path: Path) -> None:
    item = write(tmp_path, LABELS, RANKS, NUMBERS)
    with pytest.raises(ValueError, match=r'instances.png is \(3, 4\), its image a.jpg \(4, 3\)'):
        LoadADE20KSegments()(dict(item, ori_shape=(4, 3)))
    Image.fromarray(np.zeros((4, 3), np.uint8)).save(item['seg_map_path'])
    with pytest.raises(ValueError, match=r'labels.png is \(4, 3\), its image a.jpg \(3, 4\)'):
        LoadADE20KSegments()(item)


def test_values_of_no_class_are_named(tmp_path: Path) -> None:
    # labels that somebody has reduced already have 255 for void
    with pytest.raises(ValueError, match='labels.png: the label is 255, above 150'):
        LoadADE20KSegments()(write(tmp_path, [[255, 3]], [[0, 0]], [[0, 0]]))
    with pytest.raises(ValueError, match='instances.png: R .the rank of a thing. is 101, above 100'):
        LoadADE20KSegments()(write(tmp_path, [[0, 3]], [[101, 0]], [[1, 0]]))


def test_items_of_other_data_sets_are_refused(tmp_path: Path) -> None:
    item = write(tmp_path, LABELS, RANKS, NUMBERS)
    del item['category_ids']
    with pytest.raises(ValueError, match='LoadADE20KSegments loads the items of'):
        LoadADE20KSegments()(item)


# Classes


def test_classes_are_mmdets() -> None:
    meta, host = ADE20KPanoptic.METAINFO, ADE20KPanopticDataset.METAINFO
    for key in ('classes', 'thing_classes', 'stuff_classes'):
        assert meta[key] == host[key]
    assert is_ade20k_panoptic(meta['classes'], len(meta['thing_classes']))
    assert sorted(meta['category_ids']) == list(range(150))


def test_instance_classes_are_mmdets_under_other_names() -> None:
    ours, host = ADE20KInstance.METAINFO, ADE20KInstanceDataset.METAINFO
    assert len(ours['classes']) == len(host['classes']) == 100
    assert ours['palette'] == host['palette']  # colours are unique among things, so the order is the same
    assert len(set(ours['palette'])) == 100
    different = {(a, b) for a, b in zip(ours['classes'], host['classes'], strict=True) if a.split(',')[0] != b}
    assert different == {
        ('window', 'windowpane'),
        ('tub', 'bathtub'),
        ('rail', 'railing'),
        ('street lamp', 'streetlight'),
        ('tv', 'television receiver'),
        ('clothes', 'apparel'),
        ('trash can', 'ashcan'),
    }


def test_category_ids_lead_to_names_and_colours_of_the_semantic_set() -> None:
    names, colours = ADE20KSegDataset.METAINFO['classes'], ADE20KSegDataset.METAINFO['palette']
    meta = ADE20KPanoptic.METAINFO
    assert [colours[category] for category in meta['category_ids']] == meta['palette']
    same = sum(
        names[category].strip() == name.split(',')[0]
        for category, name in zip(meta['category_ids'], meta['classes'], strict=True)
    )
    assert same > 130


# Through a pipeline


def test_samples_hold_what_metrics_read(ade20k_root: Path) -> None:
    pipeline = [
        dict(type='eomt_mm.LoadImage'),
        dict(type='eomt_mm.ResizeToInput', img_size=64, fit='inside'),
        dict(type='eomt_mm.LoadADE20KSegments'),
        dict(type='eomt_mm.PackSegments'),
    ]
    config = dict(type='ADE20KPanoptic', data_root=str(ade20k_root), data_prefix=prefix('validation'), test_mode=True)
    dataset = DATASETS.build(dict(config, pipeline=pipeline))
    packed = dataset[0]
    sample = packed['data_samples'].to_dict()
    assert max(packed['inputs'].shape[1:]) == 64
    ids = sample['gt_panoptic_seg']['segment_ids']
    assert ids.dtype == torch.int32 and tuple(ids.shape[1:]) == packed['data_samples'].ori_shape
    assert ids.max() == len(sample['gt_instances']['labels'])
    assert sample['ignored_instances']['labels'].shape == (0,)
    # a test set: no ground truth, and nothing that looks like it
    bare = DATASETS.build(dict(config, pipeline=pipeline, data_prefix=dict(img='images/validation')))
    assert 'gt_panoptic_seg' not in bare[0]['data_samples']


def test_transform_is_registered() -> None:
    assert repr(TRANSFORMS.build(dict(type='LoadADE20KSegments'))) == 'LoadADE20KSegments(backend_args=None)'
