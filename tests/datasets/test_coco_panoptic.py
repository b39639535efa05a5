"""Panoptic PNGs and the COCO panoptic data set."""

import json
import shutil

import cv2
import numpy as np
import pytest
from input_files import touch_listed
from PIL import Image

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import (
    index_of,
    read_panoptic_png,
    relabel_segments,
    run_starts,
    write_panoptic_png,
)
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.registry import DATASETS

# In the order of the json: neither that of labels nor things first.
CATEGORIES = [
    {'id': 7, 'name': 'sky', 'isthing': 0},
    {'id': 3, 'name': 'dog', 'isthing': 1},
    {'id': 40, 'name': 'grass', 'isthing': 0},
    {'id': 11, 'name': 'cat', 'isthing': 1},
]
METAINFO = dict(classes=('cat', 'dog', 'grass', 'sky'), thing_classes=('cat', 'dog'), stuff_classes=('grass', 'sky'))


def segment(id_, category_id, iscrowd=0, **others):
    return {'id': id_, 'category_id': category_id, 'iscrowd': iscrowd, 'bbox': [0, 1, 2, 3], 'area': 6, **others}


def tree(tmp_path, annotations, images=None, categories=CATEGORIES):
    """A json and an empty folder of PNGs; returns the arguments of the data set."""
    if images is None:
        images = [
            {'id': i, 'file_name': f'{i}.jpg', 'height': 20, 'width': 30} for i in sorted({1, 2} | annotations.keys())
        ]
    entries = [
        {'image_id': i, 'file_name': f'pan_{i}.png', 'segments_info': segments} for i, segments in annotations.items()
    ]
    data = {'images': images, 'annotations': entries, 'categories': categories}
    return write_tree(tmp_path, data)


def write_tree(tmp_path, data):
    (tmp_path / 'png').mkdir(exist_ok=True)
    (tmp_path / 'panoptic.json').write_text(json.dumps(data))
    touch_listed(tmp_path / 'images', data, tmp_path / 'png')
    return dict(
        ann_file='panoptic.json',
        data_root=str(tmp_path),
        data_prefix=dict(img='images', seg='png'),
        metainfo=METAINFO,
        filter_cfg=dict(filter_empty_gt=True),
    )


# PNGs


def test_png_round_trip_at_the_ends_of_the_range(tmp_path):
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 2**24 - 1, 131]], dtype=np.int64)
    path = tmp_path / 'new' / 'a.png'
    write_panoptic_png(path, ids)
    back = read_panoptic_png(path)
    assert back.dtype == np.int32
    assert (back == ids).all()
    # the format itself, through another library
    rgb = np.array(Image.open(path)).astype(np.int64)
    assert (rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2] == ids).all()
    assert [file.name for file in path.parent.iterdir()] == ['a.png']


@pytest.mark.parametrize(
    ('ids', 'message'),
    [
        (np.zeros((2, 2)), 'integers'),
        (np.zeros((1, 2, 2), np.int32), 'shape'),
        (np.zeros((0, 2), np.int32), 'non-empty'),
        (np.array([[-1]]), r'\[-1, -1\]'),
        (np.array([[1 << 24]]), 'three bytes'),
    ],
)
def test_png_refuses_what_it_cannot_hold(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message):
        write_panoptic_png(tmp_path / 'a.png', ids)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', '1', 'I;16'])
def test_png_of_another_mode(tmp_path, mode):
    path = tmp_path / 'a.png'
    pixels = np.zeros((4, 5), np.uint16) if mode == 'I;16' else np.zeros((4, 5, 3), np.uint8)
    image = Image.fromarray(pixels)
    (image if mode == 'I;16' else image.convert(mode)).save(path)
    with pytest.raises(ValueError, match='8-bit RGB') as error:
        read_panoptic_png(path)
    assert str(path) in str(error.value)


def test_png_missing_damaged_truncated_or_no_png(tmp_path):
    path = tmp_path / 'a.png'
    with pytest.raises(FileNotFoundError, match='a.png does not exist') as missing:
        read_panoptic_png(path)
    assert isinstance(missing.value.__cause__, FileNotFoundError)
    rng = np.random.default_rng(0)
    write_panoptic_png(path, rng.integers(0, 1 << 24, (40, 50)))
    content = path.read_bytes()
    middle = bytearray(content)
    middle[len(content) // 2] ^= 0x55
    for bad, message in (
        (b'', 'not a PNG'),
        (content[:20], 'not a PNG'),
        (b'\xff\xd8' + content, 'not a PNG'),
        (content[:-4000], 'truncated'),
        (content[:-12], 'truncated'),
        (bytes(middle), 'damaged'),
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message) as error:
            read_panoptic_png(path)
        assert str(path) in str(error.value)
    path.write_bytes(content)
    assert read_panoptic_png(path).shape == (40, 50)


def test_runs_index_and_relabelling():
    assert run_starts(np.zeros((0, 3))).tolist() == []
    a, b = np.array([[1, 1, 2], [2, 2, 1]]), np.array([[0, 0, 0], [5, 5, 5]])
    assert run_starts(a).tolist() == [0, 2, 5]
    assert run_starts(a, b).tolist() == [0, 2, 3, 5]
    assert index_of(np.array([4, 9, 0, 7]), np.array([9, 4])).tolist() == [2, 1, 0, 0]
    assert index_of(np.array([4]), np.array([], np.int64)).tolist() == [0]

    ids = np.random.default_rng(0).choice([0, 17, 200, 90000, 5], (13, 7)).astype(np.int32)
    kept = np.array([90000, 33, 17, 5])  # 33 has no pixel, 200 is not kept
    seg_map, present, others = relabel_segments(ids, kept)
    assert others.tolist() == [0, 200] if 0 in ids else [200]
    assert seg_map.dtype == np.int32
    assert present.tolist() == [True, False, True, True]
    expected = np.zeros_like(ids)
    for number, id_ in enumerate([90000, 17, 5], start=1):
        expected[ids == id_] = number
    assert (seg_map == expected).all()
    void, present, _ = relabel_segments(ids, np.zeros(0, np.int64))
    assert not void.any() and present.shape == (0,)


# What is wrong is said at build time


def test_folder_or_json_missing(tmp_path):
    arguments = tree(tmp_path, {1: [segment(5, 3)]})
    shutil.rmtree(tmp_path / 'png')
    with pytest.raises(FileNotFoundError, match=r'data_prefix\["seg"\].*png'):
        CocoPanoptic(**arguments)
    with pytest.raises(ValueError, match='"seg"'):
        CocoPanoptic(**{**arguments, 'data_prefix': dict(img='images')})
    with pytest.raises(FileNotFoundError, match='other.json does not exist'):
        CocoPanoptic(**{**arguments, 'ann_file': 'other.json', 'data_prefix': dict(img='', seg='.')})


def broken(**changes):
    data = {
        'images': [{'id': 1, 'file_name': '1.jpg', 'height': 2, 'width': 3}],
        'annotations': [{'image_id': 1, 'file_name': '1.png', 'segments_info': [segment(5, 3)]}],
        'categories': CATEGORIES,
    }
    return {key: value for key, value in {**data, **changes}.items() if value is not None}


def one_annotation(segments):
    return [{'image_id': 1, 'file_name': '1.png', 'segments_info': segments}]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (broken(annotations=None), r"no \['annotations'\]"),
        (broken(categories=None), r"no \['categories'\]"),
        ([1, 2], 'expected `object`, got `array`'),
        (broken(annotations=[{'image_id': 1, 'bbox': [], 'segmentation': []}]), 'instances'),
        (broken(images=[{'id': 1, 'file_name': '1.jpg'}]), '"height"'),
        (broken(categories=[{'id': 3, 'name': 'dog'}]), '"isthing"'),
        (broken(annotations=2 * one_annotation([])), 'two annotations'),
        (broken(annotations=one_annotation([segment(5, 3), segment(5, 7)])), 'unique'),
        (broken(annotations=one_annotation([segment(0, 3)])), '0 is void'),
        (broken(annotations=one_annotation([segment(5, 99)])), r'\[99\]'),
        (broken(annotations=one_annotation([{'id': 5}])), '"category_id"'),
        (broken(categories=[*CATEGORIES, {**CATEGORIES[0], 'id': 99}]), r"named 'sky', with the ids \[7, 99\]"),
        (broken(categories=CATEGORIES[:3]), r"1 of the 4 classes .* 3 categories.*Missing: \['cat'\]"),
    ],
)
def test_faulty_json(tmp_path, data, message):
    with pytest.raises(ValueError, match=message) as error:
        CocoPanoptic(**write_tree(tmp_path, data))
    assert str(tmp_path / 'panoptic.json') in str(error.value)


def test_json_that_is_none(tmp_path):
    arguments = tree(tmp_path, {1: [segment(5, 3)]})
    (tmp_path / 'panoptic.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='not valid json'):
        CocoPanoptic(**arguments)


@pytest.mark.parametrize(
    'metainfo',
    [
        dict(classes=METAINFO['classes']),  # the parent's 80 things stay
        dict(METAINFO, classes=('sky', 'cat', 'dog', 'grass')),  # not things first
        dict(METAINFO, thing_classes=('cat',), stuff_classes=('dog', 'grass', 'sky')),  # not what the file says
    ],
)
def test_classes_are_things_first(tmp_path, metainfo):
    with pytest.raises(ValueError, match='thing_classes followed by stuff_classes'):
        CocoPanoptic(**{**tree(tmp_path, {1: [segment(5, 3)]}), 'metainfo': metainfo})


def test_nothing_left_to_train_on(tmp_path):
    arguments = tree(tmp_path, {1: [segment(5, 3, iscrowd=1)]})
    with pytest.raises(ValueError, match='none of the 2 images'):
        CocoPanoptic(**arguments)


# Items


def test_labels_follow_names_not_the_json(tmp_path):
    dataset = DATASETS.build(
        dict(type='CocoPanoptic', **tree(tmp_path, {1: [segment(5, 3), segment(6, 11), segment(7, 7), segment(8, 40)]}))
    )
    assert type(dataset) is CocoPanoptic
    assert dataset.cat2label == {11: 0, 3: 1, 40: 2, 7: 3}
    segments = dataset.get_data_info(0)['segments_info']
    assert [(each['category'], each['is_thing']) for each in segments] == [
        (1, True),
        (0, True),
        (3, False),
        (2, False),
    ]


def test_crowds_are_marked_and_stay_things(tmp_path):
    item = CocoPanoptic(**tree(tmp_path, {1: [segment(5, 3, iscrowd=1), segment(6, 11), segment(7, 7)]})).get_data_info(
        0
    )
    assert item['segments_info'] == [
        {'id': 5, 'category': 1, 'is_thing': True, 'iscrowd': True},
        {'id': 6, 'category': 0, 'is_thing': True, 'iscrowd': False},
        {'id': 7, 'category': 3, 'is_thing': False, 'iscrowd': False},
    ]
    assert item['instances'] == [
        {'bbox': [0, 1, 2, 4], 'bbox_label': 1, 'ignore_flag': 1},
        {'bbox': [0, 1, 2, 4], 'bbox_label': 0, 'ignore_flag': 0},
    ]
    assert (item['img_id'], item['height'], item['width']) == (1, 20, 30)


def test_segments_without_box_or_area_stay(tmp_path):
    bare = {'id': 9, 'category_id': 3}
    thin = segment(8, 3, bbox=[0, 0, 0.5, 9])
    item = CocoPanoptic(**tree(tmp_path, {1: [segment(5, 3, area=0), thin, bare]})).get_data_info(0)
    assert [each['id'] for each in item['segments_info']] == [5, 8, 9]
    assert len(item['instances']) == 2


def test_fewer_classes_than_the_file_has(tmp_path):
    metainfo = dict(classes=('dog', 'sky'), thing_classes=('dog',), stuff_classes=('sky',))
    arguments = {**tree(tmp_path, {1: [segment(5, 3), segment(6, 11)], 2: [segment(7, 40)]}), 'metainfo': metainfo}
    dataset = CocoPanoptic(**arguments)
    assert len(dataset) == 1  # image 2 shows none of the classes
    assert [each['id'] for each in dataset.get_data_info(0)['segments_info']] == [5]


def test_paths_of_pngs(tmp_path):
    names = {1: 'sub/a.jpg', 2: 'b.jpeg', 3: 'c.png', 4: 'd.x.jpg'}
    data = {
        'images': [{'id': i, 'file_name': name, 'height': 2, 'width': 3} for i, name in names.items()],
        'annotations': [
            {'image_id': 1, 'file_name': 'elsewhere/a_pan.png', 'segments_info': [segment(5, 3)]},
            {'image_id': 2, 'segments_info': [segment(5, 3)]},
            {'image_id': 4, 'segments_info': [segment(5, 3)]},
        ],
        'categories': CATEGORIES,
    }
    dataset = CocoPanoptic(**{**write_tree(tmp_path, data), 'filter_cfg': None})
    items = [dataset.get_data_info(i) for i in range(4)]
    expected = ['elsewhere/a_pan.png', 'b.png', 'c.png', 'd.x.png']
    assert [item['seg_map_path'] for item in items] == [str(tmp_path / 'png' / name) for name in expected]
    assert [item['img_path'] for item in items] == [str(tmp_path / 'images' / name) for name in names.values()]
    assert items[2]['segments_info'] == []  # no annotation


def test_same_segment_id_in_two_images(tmp_path):
    dataset = CocoPanoptic(**tree(tmp_path, {1: [segment(5, 3)], 2: [segment(5, 7)]}))
    assert [len(dataset.get_data_info(i)['segments_info']) for i in range(2)] == [1, 1]
    assert dataset.get_data_info(1)['segments_info'][0]['category'] == 3


# Filtering

MIXED = {
    1: [segment(5, 3)],  # thing
    2: [segment(5, 7)],  # stuff only: mmdet's parent drops it
    3: [segment(5, 3, iscrowd=1)],  # crowd only
    4: [],
    5: [segment(5, 3, iscrowd=1), segment(6, 40)],
    6: [segment(5, 3, area=0)],  # areas are not read
}


@pytest.mark.parametrize(
    ('filter_cfg', 'test_mode', 'expected'),
    [
        (dict(filter_empty_gt=True), False, [1, 2, 5, 6]),
        (dict(filter_empty_gt=True, min_size=20), False, [1, 2, 5, 6]),
        (dict(filter_empty_gt=False), False, [1, 2, 3, 4, 5, 6]),
        (None, False, [1, 2, 3, 4, 5, 6]),
        (dict(filter_empty_gt=True, min_size=99), True, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_filtering(tmp_path, filter_cfg, test_mode, expected):
    dataset = CocoPanoptic(**{**tree(tmp_path, MIXED), 'filter_cfg': filter_cfg}, test_mode=test_mode)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == expected


def test_min_size_is_the_shorter_side(tmp_path):
    images = [
        {'id': 1, 'file_name': '1.jpg', 'height': 20, 'width': 100},
        {'id': 2, 'file_name': '2.jpg', 'height': 50, 'width': 32},
    ]
    arguments = tree(tmp_path, {1: [segment(5, 3)], 2: [segment(5, 3)]}, images)
    dataset = CocoPanoptic(**{**arguments, 'filter_cfg': dict(min_size=32)})
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [2]


def test_test_set_without_annotations(tmp_path):
    arguments = write_tree(tmp_path, broken(annotations=None))
    arguments['data_prefix'] = dict(img='images')
    item = CocoPanoptic(**arguments, test_mode=True).get_data_info(0)
    assert item['seg_map_path'] is None and item['segments_info'] == []


def test_coco_classes_are_the_default(tmp_path, capsys):
    defaults = CocoPanoptic.METAINFO
    categories = [
        {'id': 2 * i + 1, 'name': name, 'isthing': int(name in defaults['thing_classes'])}
        for i, name in enumerate(defaults['classes'])
    ]
    arguments = tree(tmp_path, {1: [segment(5, 265)]}, categories=categories[::-1])
    del arguments['metainfo']
    dataset = CocoPanoptic(**arguments)
    assert dataset.get_data_info(0)['segments_info'][0]['category'] == 132
    assert capsys.readouterr().out == ''  # pycocotools prints, we do not


def test_lazy_init_reads_nothing(tmp_path):
    dataset = CocoPanoptic(**{**tree(tmp_path, {}), 'ann_file': 'nowhere.json'}, lazy_init=True)
    assert tuple(dataset.metainfo['classes']) == METAINFO['classes']


def test_item_goes_through_a_pipeline(tmp_path):
    ids = np.zeros((20, 30), np.int32)
    ids[:, :10], ids[:, 20:] = 5, 70000
    arguments = tree(tmp_path, {1: [segment(70000, 7), segment(5, 11)]})
    write_panoptic_png(tmp_path / 'png' / 'pan_1.png', ids)
    cv2.imwrite(str(tmp_path / 'images' / '1.jpg'), np.full((20, 30, 3), 128, np.uint8))
    pipeline = [dict(type='eomt_mm.LoadImage'), dict(type='eomt_mm.LoadPanopticSegments')]
    item = CocoPanoptic(**arguments, pipeline=pipeline)[0]
    assert item['gt_segment_labels'].tolist() == [3, 0]
    assert (item['gt_seg_map'][0] == np.repeat([2, 0, 1], 10)).all()
