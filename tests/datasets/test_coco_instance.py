"""The COCO instance data set: labels, what is kept, and errors at build time."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from input_files import touch_listed
from mmdet.datasets import CocoDataset
from pycocotools import mask as mask_api
from zip_samples import pack_coco

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.datasets.coco_instance import CocoInstance
from eomt_mm.registry import DATASETS
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

Data = dict[str, Any]

CLASSES = ('cat', 'dog', 'cow')
# In the order of the json: that of labels reversed, and ids in neither order.
CATEGORIES = [{'id': 7, 'name': 'cow'}, {'id': 40, 'name': 'dog'}, {'id': 11, 'name': 'cat'}]
SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]


def instance(image_id: int, category_id: int, **others: Any) -> Data:
    entry = {'image_id': image_id, 'category_id': category_id, 'bbox': [2, 3, 10, 6], 'segmentation': SQUARE}
    return {**entry, 'area': 60, 'iscrowd': 0, **others}


def content(*annotations: Data, num_images: int = 2, **changes: Any) -> Data:
    """A json; a part that is given as None is left out."""
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': 20, 'width': 30} for i in range(1, num_images + 1)]
    numbered = [{'id': number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    data = {'images': images, 'annotations': numbered, 'categories': CATEGORIES, **changes}
    return {key: value for key, value in data.items() if value is not None}


def arguments(folder: Path, data: Any, **others: Any) -> Data:
    """Write the json and empty images; return arguments of the data set."""
    (folder / 'instances.json').write_text(json.dumps(data))
    touch_listed(folder / 'images', data)
    return dict(
        data_root=str(folder),
        ann_file='instances.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=CLASSES),
        serialize_data=False,  # each time a full garbage collection
        **others,
    )


def items(dataset: CocoDataset) -> list[Data]:
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def of_shapes(kind: type[CocoDataset], root: Path | str, split: str, **others: Any) -> CocoDataset:
    return kind(
        data_root=str(root),
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
        metainfo=dict(classes=SHAPES_METAINFO['thing_classes']),
        **others,
    )


# What is wrong is said at build time


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([1, 2], 'expected `object`, got `array`'),
        (content(annotations=None), r"no \['annotations'\].*COCO format"),
        (content(categories=None), r"no \['categories'\]"),
        (content(annotations=[{'image_id': 1, 'segments_info': []}]), 'is a panoptic json'),
        (content(images=[{'id': 1, 'height': 2, 'width': 3}]), '"file_name"'),
        (content(images=[{'id': 1, 'file_name': '1.jpg', 'width': 3}]), '"height"'),
        (content(images=[{'id': 1, 'file_name': '1.jpg', 'height': 2}]), '"width"'),
        (content(images=2 * content(num_images=1)['images']), 'ids of images must be unique'),
        (content(categories=[{'id': 7}]), '"name"'),
        (content(instance(1, 7), instance(99, 7)), 'annotation 2 has image_id 99, .*none of the 2 images'),
        (content(instance('1', 7)), "annotation 1 has image_id '1'"),
        (content({'segmentation': SQUARE}), 'image_id None'),
        (content(instance(1, 99)), r'annotation 1 of 1.jpg has category_id 99'),
        (content(instance(1, 7), instance(2, 7, bbox=[1])), r'annotation 2 of 2.jpg has bbox \[1'),
        (content(instance(1, 7), instance(2, 7, segmentation=[])), 'annotation 2 of 2.jpg has no "segmentation"'),
        (content(instance(2, 7, segmentation=None)), 'annotation 1 of 2.jpg has no "segmentation"'),
        (content({'image_id': 2, 'category_id': 7, 'bbox': [0, 1, 2, 3]}), 'of 2.jpg has no "segmentation"'),
        (
            content(categories=[*CATEGORIES, {'id': 99, 'name': 'dog'}]),
            r"2 categories are named 'dog', with the ids \[40, 99\], and none of them has annotations",
        ),
        (
            content(instance(1, 40), instance(1, 99), categories=[*CATEGORIES, {'id': 99, 'name': 'dog'}]),
            r"2 categories are named 'dog', with the ids \[40, 99\], and 2 of them have annotations",
        ),
        (
            content(categories=[{'id': 7, 'name': 'cow'}, {'id': 8, 'name': 'Cat'}]),
            r"2 of the 3 classes .* 2 categories.*Missing: \['cat', 'dog'\]. There: \['cow', 'Cat'\]",
        ),
    ],
)
def test_faulty_json(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        CocoInstance(**arguments(tmp_path, data))
    assert str(tmp_path / 'instances.json') in str(error.value)


def test_repeated_class(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(1, 7)))
    with pytest.raises(ValueError, match=r"Repeated: \['cow'\]"):
        CocoInstance(**{**given, 'metainfo': dict(classes=('cow', 'dog', 'cow'))})


def test_missing_json_and_one_that_is_none(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(1, 7)))
    with pytest.raises(FileNotFoundError, match='other.json does not exist'):
        CocoInstance(**{**given, 'ann_file': 'other.json'})
    for text in (b'', b'{"images": [', b'\xff\xd8\xff'):
        (tmp_path / 'instances.json').write_bytes(text)
        with pytest.raises(ValueError, match='instances.json is not valid json'):
            CocoInstance(**given)


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    crowds = content(instance(1, 7, iscrowd=1), instance(2, 7, ignore=1), num_images=3)
    for filter_cfg in (dict(filter_empty_gt=True), dict(min_size=21)):
        with pytest.raises(ValueError, match='none of the 3 images'):
            CocoInstance(**arguments(tmp_path, crowds, filter_cfg=filter_cfg))


# Labels


def test_labels_follow_names_not_the_json(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(1, 7), instance(1, 40), instance(1, 11)))
    dataset = DATASETS.build(dict(type='CocoInstance', **given))
    assert type(dataset) is CocoInstance
    assert dataset.cat_ids == [11, 40, 7]
    assert dataset.cat2label == {11: 0, 40: 1, 7: 2}
    assert [one['bbox_label'] for one in dataset.get_data_info(0)['instances']] == [2, 1, 0]
    # the trap: mmdet calls cows cats
    assert [one['bbox_label'] for one in CocoDataset(**given).get_data_info(0)['instances']] == [0, 1, 2]


def test_fewer_classes_than_the_file_has(tmp_path: Path) -> None:
    boxes_only = instance(1, 40, segmentation=[])  # of a class that is not asked for
    data = content(instance(1, 7), boxes_only, instance(1, 11), instance(2, 40))
    given = arguments(tmp_path, data, filter_cfg=dict(filter_empty_gt=True))
    dataset = CocoInstance(**{**given, 'metainfo': dict(classes=('cat', 'cow'))})
    assert len(dataset) == 1  # image 2 shows none of the classes
    assert [one['bbox_label'] for one in dataset.get_data_info(0)['instances']] == [1, 0]


def test_coco_classes_are_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = CocoDataset.METAINFO['classes']
    categories = [{'id': 3 * label, 'name': name} for label, name in enumerate(names)]
    given = arguments(tmp_path, content(instance(1, 3 * 79), categories=categories[::-1]))
    del given['metainfo']
    assert CocoInstance(**given).get_data_info(0)['instances'][0]['bbox_label'] == 79
    assert capsys.readouterr().out == ''  # pycocotools prints, we do not


# Items


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(
    'others',
    [
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=32)),
        dict(test_mode=True),
        dict(return_classes=True, caption_prompt={'circle': {'name': 'disc'}}),
    ],
)
def test_items_are_mmdets_where_orders_agree(coco_root: Path, split: str, others: Data) -> None:
    expected = items(of_shapes(CocoDataset, coco_root, split, **others))
    found = [one for item in expected for one in item['instances']]
    given = items(of_shapes(CocoInstance, coco_root, split, **others))
    for theirs, ours in zip(found, (one for item in given for one in item['instances']), strict=True):
        if isinstance(theirs['mask'], dict):  # ours are compressed
            pixels = mask_api.decode(mask_api.frPyObjects(theirs['mask'], *theirs['mask']['size']))
            assert (mask_api.decode(ours.pop('mask')) == pixels).all()
            ours['mask'] = theirs['mask']
    assert [item.pop('ann_file') for item in given] == len(given) * [
        f'{coco_root}/annotations/instances_{split}2017.json'
    ]
    assert given == expected
    assert {type(one['mask']) for one in found} == {list, dict}
    assert {one['ignore_flag'] for one in found} == {0, 1}
    assert ('text' in expected[0]) == ('return_classes' in others)


def test_semantic_maps_beside_the_instances(tmp_path: Path) -> None:
    given = {**arguments(tmp_path, content(instance(1, 7))), 'data_prefix': dict(img='images', seg='maps')}
    assert CocoInstance(**given).get_data_info(0)['seg_map_path'] == str(tmp_path / 'maps' / '1.png')


def test_crowds_are_marked_and_need_no_mask(tmp_path: Path) -> None:
    crowd = instance(1, 40, iscrowd=1)
    bare = {'image_id': 1, 'category_id': 11, 'bbox': [0, 1, 2, 3], 'iscrowd': 1}
    item = CocoInstance(**arguments(tmp_path, content(crowd, bare, instance(1, 7)))).get_data_info(0)
    assert item['instances'] == [
        {'bbox': [2, 3, 12, 9], 'bbox_label': 1, 'mask': SQUARE, 'ignore_flag': 1},
        {'bbox': [0, 1, 2, 4], 'bbox_label': 0, 'ignore_flag': 1},
        {'bbox': [2, 3, 12, 9], 'bbox_label': 2, 'mask': SQUARE, 'ignore_flag': 0},
    ]


def test_area_crowd_flag_and_id_may_be_missing(tmp_path: Path) -> None:
    bare = {'image_id': 1, 'category_id': 7, 'bbox': [2, 3, 10, 6], 'segmentation': SQUARE}
    item = CocoInstance(**arguments(tmp_path, content(annotations=[bare, bare]))).get_data_info(0)
    assert [one['ignore_flag'] for one in item['instances']] == [0, 0]


def test_ignored_annotations_are_left_out_as_in_mmdet(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(1, 7, ignore=1), instance(1, 11, ignore=0)))
    assert [one['bbox_label'] for one in CocoInstance(**given).get_data_info(0)['instances']] == [0]


def test_the_mask_decides_not_the_box(tmp_path: Path) -> None:
    """Of thin, outside and area 0 none is dropped for its box; the pipeline drops what has no pixel."""
    line = {'size': [20, 30], 'counts': [5, 10, 585]}  # rows 5 .. 14 of column 0
    nothing = {'size': [20, 30], 'counts': [600]}
    data = content(
        instance(1, 7, bbox=[0, 5, 0.5, 10], segmentation=line),
        instance(1, 40, bbox=[2, 3, 0, 0], area=0),
        instance(1, 11, bbox=[-50, -50, 9, 9]),
        instance(1, 7, segmentation=nothing),
    )
    pipeline = [
        dict(type='eomt_mm.LoadImage'),
        dict(type='eomt_mm.LoadInstances'),
        dict(type='eomt_mm.ScaleJitterCrop', img_size=(20, 30), scale_range=(1, 1)),
        dict(type='mmdet.PackDetInputs'),
    ]
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images' / '1.jpg'), np.full((20, 30, 3), 128, np.uint8))
    given = arguments(tmp_path, data, filter_cfg=dict(filter_empty_gt=True))
    assert len(CocoDataset(**given).get_data_info(0)['instances']) == 1  # the one without a pixel
    targets = CocoInstance(**given, pipeline=pipeline)[0]['data_samples'].gt_instances
    assert targets.labels.tolist() == [2, 1, 0]
    assert targets.masks.masks.sum((1, 2)).tolist() == [10, 60, 60]
    assert targets.bboxes.tensor.tolist() == [[0, 5, 1, 15], [2, 3, 12, 9], [2, 3, 12, 9]]


def test_mmdets_own_transforms_take_the_items(coco_root: Path) -> None:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True),
        dict(type='mmdet.PackDetInputs'),
    ]
    dataset = of_shapes(CocoInstance, coco_root, 'train', filter_cfg=dict(filter_empty_gt=True), pipeline=pipeline)
    for i, item in enumerate(items(dataset)):
        sample = dataset[i]['data_samples']
        assert len(sample.gt_instances) == sum(not one['ignore_flag'] for one in item['instances']) > 0
        assert sample.gt_instances.masks.masks.any((1, 2)).all()


def test_same_items_from_zips(coco_root: Path, tmp_path: Path) -> None:
    packed = f'zip://{pack_coco(coco_root, tmp_path / "zips")}'
    dataset = of_shapes(CocoInstance, packed, 'train', pipeline=[dict(type='eomt_mm.LoadImage')])
    expected = of_shapes(CocoInstance, coco_root, 'train', pipeline=[dict(type='eomt_mm.LoadImage')])
    assert len(dataset) == len(expected) == 6
    for one, other in zip(dataset, expected, strict=True):
        assert one['img_path'] == other['img_path'].replace(str(coco_root), packed)
        assert one['instances'] == other['instances']
        assert (one['img'] == other['img']).all()


def test_json_through_backend_args(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(1, 7)))
    dataset = CocoInstance(**given, backend_args=dict(backend='local'))
    assert items(dataset) == items(CocoInstance(**given))
    with pytest.raises(KeyError, match='nowhere'):
        CocoInstance(**given, backend_args=dict(backend='nowhere'))


def test_lazy_init_reads_nothing(tmp_path: Path) -> None:
    given = {**arguments(tmp_path, content()), 'ann_file': 'nowhere.json'}
    assert tuple(CocoInstance(**given, lazy_init=True).metainfo['classes']) == CLASSES


# Filtering

MIXED = content(
    instance(1, 7),
    instance(2, 40, iscrowd=1),
    instance(4, 40, iscrowd=1),
    instance(4, 11, bbox=[2, 3, 0.5, 6]),
    instance(5, 11, ignore=1),
    num_images=5,  # the third has no annotation
)


@pytest.mark.parametrize(
    ('filter_cfg', 'test_mode', 'expected'),
    [
        (dict(filter_empty_gt=True), False, [1, 4]),
        (dict(filter_empty_gt=True, min_size=20), False, [1, 4]),
        (dict(filter_empty_gt=False), False, [1, 2, 3, 4, 5]),
        (None, False, [1, 2, 3, 4, 5]),
        (dict(filter_empty_gt=True, min_size=99), True, [1, 2, 3, 4, 5]),
    ],
)
def test_filtering(tmp_path: Path, filter_cfg: Data | None, test_mode: bool, expected: list[int]) -> None:
    dataset = CocoInstance(**arguments(tmp_path, MIXED, filter_cfg=filter_cfg), test_mode=test_mode)
    assert [item['img_id'] for item in items(dataset)] == expected


def test_min_size_is_the_shorter_side(tmp_path: Path) -> None:
    sizes = [(20, 100), (100, 20), (50, 32)]
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': h, 'width': w} for i, (h, w) in enumerate(sizes)]
    dataset = CocoInstance(**arguments(tmp_path, content(images=images), filter_cfg=dict(min_size=32)))
    assert [item['img_id'] for item in items(dataset)] == [2]


# Test mode


def test_test_set_without_annotations(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(annotations=None))
    found = items(CocoInstance(**given, test_mode=True))
    assert [(item['img_id'], item['instances']) for item in found] == [(1, []), (2, [])]
    assert found[0]['img_path'] == str(tmp_path / 'images' / '1.jpg')


def test_boxes_only_pass_in_test_mode(tmp_path: Path) -> None:
    given = arguments(tmp_path, content(instance(2, 11, segmentation=[])), test_mode=True)
    assert [item['instances'] for item in items(CocoInstance(**given))] == [
        [],
        [{'bbox': [2, 3, 12, 9], 'bbox_label': 0, 'ignore_flag': 0}],
    ]
