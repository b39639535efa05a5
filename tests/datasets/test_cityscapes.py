"""Cityscapes panoptic and instance from instanceIds; label maps of Cityscapes and COCO-Stuff without conversion."""

import runpy
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import mmseg
import numpy as np
import pytest
from mmdet.datasets import CityscapesDataset as InstanceCityscapes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import CityscapesDataset, COCOStuffDataset
from mmseg.registry import DATASETS as MMSEG_DATASETS
from paths import ROOT
from PIL import Image

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS, COCO_STUFF_LABEL_IDS
from eomt_mm.datasets.cityscapes import CityscapesInstance, CityscapesPanoptic, LoadCityscapesSegments
from eomt_mm.registry import DATASETS, TRANSFORMS
from eomt_mm.synthetic.generate import write_cityscapes, write_coco_stuff

Results = dict[str, Any]
THING_IDS = tuple(CITYSCAPES_LABEL_IDS[name] for name in CITYSCAPES_THINGS)
SIZE = (48, 80)
PREFIX = dict(img='leftImg8bit/val', seg='gtFine/val')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(
        tmp_path_factory.mktemp('cities') / 'root', num_train=2, num_val=4, size=SIZE, progress=False
    )


@pytest.fixture(scope='module')
def stuff_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco_stuff(
        tmp_path_factory.mktemp('stuff') / 'root', num_train=2, num_val=4, size=SIZE, progress=False
    )


def naive_segments(path: str, category_ids: tuple[int, ...], crowds: bool) -> list[tuple[int, bytes]]:
    """(labelId, mask) of each segment, or of each crowd, straight from instanceIds."""
    values = np.asarray(Image.open(path)).astype(int)
    found = []
    for value in np.unique(values).tolist():
        label_id = value if value < 1000 else value // 1000
        is_crowd = value < 1000 and label_id in THING_IDS
        if label_id in category_ids and is_crowd == crowds:
            found.append((label_id, (values == value).tobytes()))
    return sorted(found)


@pytest.mark.parametrize('with_crowds', [True, False])
@pytest.mark.parametrize('name', ['CityscapesPanoptic', 'CityscapesInstance'])
def test_segments_are_those_of_the_files(name: str, with_crowds: bool, root: Path) -> None:
    dataset = DATASETS.build(dict(type=name, data_root=str(root), data_prefix=PREFIX))
    load, num_crowds = LoadCityscapesSegments(with_crowds=with_crowds), 0
    assert len(dataset) == 4
    for index in range(4):
        item = dataset.get_data_info(index)
        category_ids = dataset.metainfo['category_ids']
        loaded = load(dict(item))
        ids, labels = loaded['gt_seg_map'], loaded['gt_segment_labels'].tolist()
        masks = [(category_ids[label], (ids == place + 1).tobytes()) for place, label in enumerate(labels)]
        assert sorted(masks) == naive_segments(item['seg_map_path'], category_ids, crowds=False)
        assert ('gt_crowd_labels' in loaded) == with_crowds
        crowds = loaded.get('gt_crowd_labels', np.zeros(0)).tolist()
        masks = [(category_ids[label], (ids == len(labels) + k + 1).tobytes()) for k, label in enumerate(crowds)]
        assert sorted(masks) == naive_segments(item['seg_map_path'], category_ids, crowds=True) * with_crowds
        assert ids.max() == len(labels) + len(crowds)
        num_crowds += len(crowds)
    assert num_crowds == with_crowds  # one of the four images has a group


def test_items_are_paired(root: Path) -> None:
    item = CityscapesPanoptic(data_root=str(root), data_prefix=PREFIX).get_data_info(0)
    assert item['img_id'] == 'frankfurt_000000_000019'  # as Cityscapes' own evaluation names images
    assert item['img_path'] == f'{root}/leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png'
    assert item['seg_map_path'] == f'{root}/gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_instanceIds.png'
    test_set = CityscapesPanoptic(data_root=str(root), data_prefix=dict(img='leftImg8bit'), test_mode=True)
    assert len(test_set) == 6
    assert 'seg_map_path' not in test_set.get_data_info(0)


def write(path: Path, values: Any, category_ids: tuple[int, ...], dtype: type = np.uint16) -> Results:
    Image.fromarray(np.array(values, dtype)).save(path)
    return dict(img_path='a.png', seg_map_path=str(path), category_ids=category_ids)


# road 7, sky 23, person 24, car 26, bicycle 33; trailer 30 and static 4 are not evaluated
VALUES = [[7, 7, 26000, 26001], [26, 26, 24000, 30000], [33, 4, 0, 30], [23, 33012, 24, 26]]


def test_panoptic_by_hand(tmp_path: Path) -> None:
    item = write(tmp_path / 'a.png', VALUES, CityscapesPanoptic.METAINFO['category_ids'])
    loaded = LoadCityscapesSegments(with_crowds=True)(dict(item))
    assert loaded['gt_seg_map'].tolist() == [[1, 1, 4, 5], [8, 8, 3, 0], [9, 0, 0, 0], [2, 6, 7, 8]]
    assert loaded['gt_segment_labels'].tolist() == [8, 18, 0, 2, 2, 7]  # road, sky, person, car, car, bicycle
    assert loaded['gt_crowd_labels'].tolist() == [0, 2, 7]
    training = LoadCityscapesSegments()(dict(item))
    assert training['gt_seg_map'].tolist() == [[1, 1, 4, 5], [0, 0, 3, 0], [0, 0, 0, 0], [2, 6, 0, 0]]
    assert 'gt_crowd_labels' not in training


def test_instances_by_hand(tmp_path: Path) -> None:
    item = write(tmp_path / 'a.png', VALUES, CityscapesInstance.METAINFO['category_ids'])
    loaded = LoadCityscapesSegments(with_crowds=True)(item)
    assert loaded['gt_seg_map'].tolist() == [[0, 0, 2, 3], [6, 6, 1, 0], [7, 0, 0, 0], [0, 4, 5, 6]]
    assert loaded['gt_segment_labels'].tolist() == [0, 2, 2, 7]
    assert loaded['gt_crowd_labels'].tolist() == [0, 2, 7]


def test_stuff_is_one_segment_even_where_it_is_numbered(tmp_path: Path) -> None:
    item = write(tmp_path / 'a.png', [[7, 7000, 7001, 23999]], CityscapesPanoptic.METAINFO['category_ids'])
    assert LoadCityscapesSegments()(item)['gt_seg_map'].tolist() == [[1, 1, 1, 2]]


def test_all_void(tmp_path: Path) -> None:
    item = write(tmp_path / 'a.png', np.full((2, 3), 4), CityscapesPanoptic.METAINFO['category_ids'])
    loaded = LoadCityscapesSegments(with_crowds=True)(item)
    assert not loaded['gt_seg_map'].any()
    assert loaded['gt_segment_labels'].shape == loaded['gt_crowd_labels'].shape == (0,)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path, category_ids = tmp_path / 'a.png', CityscapesPanoptic.METAINFO['category_ids']
    load = LoadCityscapesSegments()
    with pytest.raises(ValueError, match=r'a.png is a PNG file of mode L: 16-bit grey .*instanceIds.png\) needed'):
        load(write(path, np.full((2, 3), 7), category_ids, np.uint8))
    item = write(path, VALUES, category_ids)
    with pytest.raises(ValueError, match=r'a.png is \(4, 4\), its image a.png \(4, 5\)'):
        load(dict(item, ori_shape=(4, 5)))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match='a.png cannot be decoded'):
        load(item)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='a.png does not exist'):
        load(item)
    assert load({'img_path': 'a.png'}) == {'img_path': 'a.png'}


# Classes


def test_classes_are_the_hosts() -> None:
    panoptic, instance = CityscapesPanoptic.METAINFO, CityscapesInstance.METAINFO
    assert panoptic['classes'] == panoptic['thing_classes'] + panoptic['stuff_classes']
    assert panoptic['thing_classes'] == instance['classes'] == InstanceCityscapes.METAINFO['classes']
    assert instance['palette'] == InstanceCityscapes.METAINFO['palette'] == panoptic['palette'][:8]
    names, colours = CityscapesDataset.METAINFO['classes'], CityscapesDataset.METAINFO['palette']
    by_name = dict(zip(names, zip(CITYSCAPES_LABEL_IDS.values(), map(tuple, colours), strict=True), strict=True))
    found = zip(panoptic['category_ids'], panoptic['palette'], strict=True)
    assert dict(zip(panoptic['classes'], found, strict=True)) == by_name
    assert panoptic['category_ids'][:8] == THING_IDS == instance['category_ids']
    assert len(panoptic['stuff_classes']) == 11
    assert tuple(CITYSCAPES_LABEL_IDS) == names


def test_transform_is_registered() -> None:
    built = TRANSFORMS.build(dict(type='LoadCityscapesSegments', with_crowds=True))
    assert repr(built) == 'LoadCityscapesSegments(with_crowds=True, backend_args=None)'


# Semantic, under mmseg


def label_maps(label_ids: tuple[int, ...] | None, **dataset: Any) -> list[np.ndarray]:
    """gt_seg_map of every item of an mmseg data set."""
    init_default_scope('mmseg')
    load = dict(type='eomt_mm.LoadSemanticMap', label_ids=label_ids)
    pipeline = [dict(type='eomt_mm.LoadImage'), load, dict(type='PackSegInputs')]
    built = MMSEG_DATASETS.build(dict(dataset, pipeline=pipeline))
    samples = [built[index]['data_samples'] for index in range(len(built))]
    assert all(sample.gt_sem_seg.shape == sample.ori_shape for sample in samples)
    return [sample.gt_sem_seg.data[0].numpy() for sample in samples]


def test_label_ids_of_cityscapes_give_train_ids(root: Path) -> None:
    prefix = dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val')
    dataset = dict(type='CityscapesDataset', data_root=str(root), data_prefix=prefix)
    raw = label_maps(tuple(CITYSCAPES_LABEL_IDS.values()), seg_map_suffix='_gtFine_labelIds.png', **dataset)
    converted = label_maps(None, **dataset)  # mmseg's usual labelTrainIds
    assert len(raw) == len(converted) == 4
    for ours, theirs in zip(raw, converted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(set(np.unique(raw)) - {255}) > 4


def test_label_ids_of_coco_stuff_are_mmsegs(stuff_root: Path) -> None:
    script = Path(mmseg.__file__).parent / '.mim/tools/dataset_converters/coco_stuff164k.py'
    if not script.is_file():
        script = Path(mmseg.__file__).parents[1] / 'tools/dataset_converters/coco_stuff164k.py'
    table = runpy.run_path(str(script))['clsID_to_trID']
    assert {value: label for label, value in enumerate(COCO_STUFF_LABEL_IDS)} | {255: 255} == table
    assert len(COCO_STUFF_LABEL_IDS) == len(COCOStuffDataset.METAINFO['classes']) == 171
    prefix = dict(img_path='images/val2017', seg_map_path='annotations/val2017')
    dataset = dict(type='COCOStuffDataset', data_root=str(stuff_root), data_prefix=prefix, seg_map_suffix='.png')
    maps = label_maps(COCO_STUFF_LABEL_IDS, **dataset)
    raw = [np.asarray(Image.open(path)) for path in (stuff_root / 'annotations/val2017').iterdir()]
    expected = sorted(np.vectorize(table.get)(labels).astype(np.uint8).tobytes() for labels in raw)
    assert sorted(labels.astype(np.uint8).tobytes() for labels in maps) == expected


@pytest.mark.parametrize(
    'name, ids', [('cityscapes', [*CITYSCAPES_LABEL_IDS.values()]), ('coco', COCO_STUFF_LABEL_IDS)]
)
def test_label_ids_of_the_configs_are_those_of_the_table(name: str, ids: tuple[int, ...]) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'eomt' / '_base_' / 'datasets' / f'{name}_semantic.py')
    assert tuple(cfg.label_ids) == tuple(ids)
