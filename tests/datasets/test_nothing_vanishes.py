"""Targets that would vanish without a word: each is counted or refused, alike in training, evaluation and browsing."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import cv2
import numpy as np
import pytest
from input_files import touch_listed
from PIL import Image
from videomt.datasets.youtube_vis import YouTubeVIS

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.apis.inputs import find_sources
from eomt_mm.datasets import CocoInstance, CocoPanoptic, LoadImage, LoadPanopticSegments
from eomt_mm.evaluation import InstanceAP

SIZE = (20, 30)
SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]
NORMALISED = [[0.1, 0.2, 0.4, 0.2, 0.4, 0.5, 0.1, 0.5]]
WHOLE = [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]]  # the whole image, normalised
SPECK = [[4.1, 4.1, 4.3, 4.1, 4.3, 4.3, 4.1, 4.3]]  # less than a pixel
OUTSIDE = [[31.0, 3.0, 40.0, 3.0, 40.0, 9.0, 31.0, 9.0]]
NOTHING = {'size': list(SIZE), 'counts': [600]}
CATEGORIES = [{'id': 7, 'name': 'cow', 'isthing': 1}, {'id': 3, 'name': 'sky', 'isthing': 0}]
DATA_LOGS = ('eomt_mm.datasets.coco_json', 'videomt.datasets.youtube_vis')


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of the log."""
    lines: list[str] = []
    for module in DATA_LOGS:
        monkeypatch.setattr(f'{module}.print_log', lambda text, **_: lines.append(text))
    return lines


def images(count: int) -> list[dict[str, Any]]:
    return [{'id': n, 'file_name': f'{n}.png', 'height': SIZE[0], 'width': SIZE[1]} for n in range(1, count + 1)]


def write(folder: Path, *masks: Any, iscrowd: int = 0) -> Path:
    """An instances json with one image per mask."""
    annotations = [
        {'id': n, 'image_id': n, 'category_id': 7, 'segmentation': mask, 'iscrowd': iscrowd}
        for n, mask in enumerate(masks, start=1)
    ]
    data = {'images': images(len(masks)), 'annotations': annotations, 'categories': CATEGORIES}
    (folder / 'own.json').write_text(json.dumps(data))
    touch_listed(folder, data)
    return folder / 'own.json'


def training(path: Path) -> Any:
    metainfo = dict(classes=('cow',))
    filter_cfg = dict(filter_empty_gt=True)
    return CocoInstance(
        ann_file=str(path), data_prefix=dict(img=str(path.parent)), metainfo=metainfo, filter_cfg=filter_cfg
    )


def evaluation(path: Path) -> Any:
    return InstanceAP(ann_file=str(path))


def video(path: Path) -> Any:
    """The same masks as frames of a video."""
    data = json.loads(path.read_text())
    names = [image['file_name'] for image in data['images']]
    tracks = [
        {
            'id': one['id'],
            'video_id': 1,
            'category_id': 7,
            'iscrowd': one['iscrowd'],
            'segmentations': [one['segmentation'] if n == one['image_id'] else None for n in range(1, len(names) + 1)],
        }
        for one in data['annotations']
    ]
    videos = [{'id': 1, 'file_names': names, 'height': SIZE[0], 'width': SIZE[1]}]
    path = path.with_name('tracks.json')
    path.write_text(json.dumps({'videos': videos, 'annotations': tracks, 'categories': CATEGORIES}))
    metainfo = dict(classes=('cow',))
    filter_cfg = dict(filter_empty_gt=True)
    return YouTubeVIS(
        ann_file=str(path), data_prefix=dict(img=str(path.parent)), metainfo=metainfo, filter_cfg=filter_cfg
    )


# Masks without a pixel


@pytest.mark.parametrize('read', [training, evaluation, video])
def test_normalised_coordinates_are_refused(read: Callable[[Path], Any], tmp_path: Path) -> None:
    message = (
        r'\.json: 2 of 3 masks have all coordinates between 0 and 1, such as annotation 1.*multiply x by the width'
    )
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, NORMALISED, WHOLE, SQUARE))


@pytest.mark.parametrize('read', [training, evaluation, video])
@pytest.mark.parametrize('mask', [SPECK, OUTSIDE])
def test_masks_without_a_pixel_are_counted(
    mask: Any, read: Callable[[Path], Any], tmp_path: Path, log: list[str]
) -> None:
    read(write(tmp_path, SQUARE, mask, SQUARE))
    (line,) = log
    assert '1 of 3 masks have no pixel in their image, such as annotation 2' in line
    with pytest.raises(ValueError, match='2 of 3 masks have no pixel'):
        read(write(tmp_path, SQUARE, mask, mask))


@pytest.mark.parametrize('read', [training, evaluation])
def test_run_lengths_without_a_pixel_are_counted(read: Callable[[Path], Any], tmp_path: Path, log: list[str]) -> None:
    read(write(tmp_path, SQUARE, NOTHING, SQUARE))
    assert ['1 of 3 masks have no pixel' in line for line in log] == [True]


def test_small_masks_with_pixels_are_no_fault(tmp_path: Path, log: list[str]) -> None:
    training(
        write(tmp_path, [[0, 0, 2, 0, 2, 2, 0, 2]], [[5, 5, 6, 5, 6, 6, 5, 6]], [[0, 3, 29, 3.4, 29, 3.9, 0, 3.6]])
    )
    assert log == []


# Crowds


@pytest.mark.parametrize('read', [training, video])
def test_only_crowds(read: Callable[[Path], Any], tmp_path: Path, log: list[str]) -> None:
    with pytest.raises(ValueError, match=r'all 3 annotations .* are crowds \(iscrowd=1\).* set iscrowd to 0'):
        read(write(tmp_path, SQUARE, SQUARE, SQUARE, iscrowd=1))
    (line,) = log
    assert '3 of 3 annotations are crowds (iscrowd=1)' in line
    assert 'set it to 0' in line


def test_some_crowds_are_counted(tmp_path: Path, log: list[str]) -> None:
    path = write(tmp_path, SQUARE, SQUARE, SQUARE)
    data = json.loads(path.read_text())
    data['annotations'][1]['iscrowd'] = 1
    path.write_text(json.dumps(data))
    assert len(training(path)) == 2
    assert log[0] == f'{path}: 1 of 3 annotations are crowds (iscrowd=1), which are no targets of training'


# Panoptic segments


def panoptic(folder: Path, listed: list[int], in_png: list[int], **changes: Any) -> CocoPanoptic:
    """One image; its PNG has one stripe per id."""
    segments = [{'id': id_, 'category_id': 7} for id_ in listed]
    data = {
        'images': images(1),
        'annotations': [{'image_id': 1, 'file_name': 'pan.png', 'segments_info': segments}],
        'categories': CATEGORIES,
        **changes,
    }
    (folder / 'own.json').write_text(json.dumps(data))
    touch_listed(folder, data)
    ids = np.zeros(SIZE, np.int32)
    for place, id_ in enumerate(in_png):
        ids[2 * place : 2 * place + 2] = id_
    write_panoptic_png(folder / 'pan.png', ids)
    metainfo = dict(classes=('cow', 'sky'), thing_classes=('cow',), stuff_classes=('sky',))
    prefix = dict(img=str(folder), seg=str(folder))
    return CocoPanoptic(ann_file=str(folder / 'own.json'), data_prefix=prefix, metainfo=metainfo)


@pytest.mark.parametrize('with_crowds', [False, True])  # training, evaluation
def test_panoptic_segments_without_a_pixel(with_crowds: bool, tmp_path: Path) -> None:
    load = LoadPanopticSegments(with_crowds=with_crowds)
    with pytest.raises(ValueError, match=r'PNG .*pan\.png: 2 of the 2 segments that the json lists have no pixel'):
        load(panoptic(tmp_path, [5, 6], [1280, 1536])[0])  # B and R swapped, or another file
    with pytest.warns(
        UserWarning, match=r'pan\.png: 1 of the 2 segments that the json lists .* such as id 6: they are'
    ):
        item = load(panoptic(tmp_path, [5, 6], [5])[0])
    assert item['gt_segment_labels'].tolist() == [0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load(panoptic(tmp_path, [5, 6], [5, 6, 7])[0])
        load(panoptic(tmp_path, [5, 6], [5])[0])  # each file is named once


@pytest.fixture(autouse=True)
def no_file_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('eomt_mm.annotations.panoptic_png._named', set())


def test_warnings_of_panoptic_segments_are_bounded(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        for number in range(8):
            folder = tmp_path / str(number)
            folder.mkdir()
            LoadPanopticSegments()(panoptic(folder, [5, 6], [5])[0])
    texts = [str(one.message) for one in found if 'no pixel' in str(one.message)]
    assert len(texts) == 5
    assert 'further files are not named' in texts[-1]


def test_panoptic_image_ids_of_another_type(tmp_path: Path) -> None:
    segments = [{'id': 5, 'category_id': 7}]
    message = r"own\.json: an annotation has image_id '1', which none of the 1 images has \(str, those are int\)"
    with pytest.raises(ValueError, match=message):
        panoptic(tmp_path, [5], [5], annotations=[{'image_id': '1', 'segments_info': segments}])


# Sizes


@pytest.mark.parametrize('task', ['instance', 'panoptic', 'video'])
def test_images_of_another_size_than_the_json_states(task: str, tmp_path: Path) -> None:
    """As `LoadImage` meets them in training, evaluation and browsing."""
    if task == 'panoptic':
        item = panoptic(tmp_path, [5], [5])[0]
    else:
        path = write(tmp_path, SQUARE)
        item = training(path)[0] if task == 'instance' else video(path).get_data_info(0)['images'][0]
    cv2.imwrite(str(tmp_path / '1.png'), np.zeros((*SIZE, 3), np.uint8))
    assert LoadImage()(dict(item))['ori_shape'] == SIZE
    cv2.imwrite(str(tmp_path / '1.png'), np.zeros((*SIZE[::-1], 3), np.uint8))
    with pytest.raises(
        ValueError, match=r'json is \(20, 30\), its image .*1\.png \(30, 20\) \(height, width\): .*EXIF'
    ):
        LoadImage()(dict(item))


# Images of more than 8 bits


def deep_file(folder: Path, kind: str) -> Path:
    values = np.linspace(0, 4095, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE)
    path = folder / f'deep.{kind}'
    cv2.imwrite(str(path), values if kind == 'pgm' else np.repeat(values[..., None], 3, 2))
    return path


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', ['png', 'tif', 'pgm'])
def test_deep_images_are_refused_or_scaled(
    kind: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deep_file(tmp_path, kind)
    message = rf'image .*deep\.{kind} has values of type uint16 from 0 to 4095, .* \(12 hold .*EOMT_MM_IMAGE_BITS'
    with pytest.raises(ValueError, match=message):
        LoadImage(imdecode_backend=backend)({'img_path': str(path)})
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    scaled = LoadImage(imdecode_backend=backend, bits=12)({'img_path': str(path)})['img']
    assert scaled.dtype == np.uint8 and (scaled == stored >> 4).all() and scaled.max() == 255
    monkeypatch.setenv('EOMT_MM_IMAGE_BITS', '16')
    assert (LoadImage(imdecode_backend=backend)({'img_path': str(path)})['img'] == stored >> 8).all()
    monkeypatch.setenv('EOMT_MM_IMAGE_BITS', 'many')
    with pytest.raises(ValueError, match='EOMT_MM_IMAGE_BITS=many: 9 to 16'):
        LoadImage()({'img_path': str(path)})


def test_every_way_in_has_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 4095, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE)
    ways = {'array': lambda: values, 'PIL': lambda: Image.fromarray(values), 'wide': lambda: values.astype(np.int32)}
    for way in ways.values():
        with pytest.raises(ValueError, match='from 0 to 4095, .*EOMT_MM_IMAGE_BITS'):
            find_sources(way())[0].pixels()
    with pytest.raises(ValueError, match='type float32: give uint8'):
        find_sources(np.full(SIZE, 0.5, np.float32))
    monkeypatch.setenv('EOMT_MM_IMAGE_BITS', '12')
    for way in ways.values():
        pixels = find_sources(way())[0].pixels()
        assert (pixels == (values >> 4)[..., None]).all() and pixels.shape == (*SIZE, 3)
