"""What training or evaluation leaves out of own data is counted in the log, and both leave out the same."""

import copy
import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from input_files import touch_listed
from mmengine.registry import init_default_scope
from videomt.datasets.youtube_vis import YouTubeVIS

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.datasets import CocoInstance, CocoPanoptic, LoadPanopticSegments, LoadSemanticMap
from eomt_mm.evaluation import InstanceAP, PanopticQuality
from eomt_mm.evaluation.panoptic_files import pq_of_files

SIZE = (20, 30)
RING = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]
CATEGORIES = [{'id': 7, 'name': 'cow', 'isthing': 1}, {'id': 3, 'name': 'sky', 'isthing': 0}]
CLASSES = dict(classes=('cow', 'sky'), thing_classes=('cow',), stuff_classes=('sky',))
Data = dict[str, Any]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of the log."""
    lines: list[str] = []
    modules = ('coco_json', 'coco_instance', 'file_listing')
    for module in [f'eomt_mm.datasets.{name}' for name in modules] + [
        'videomt.datasets.youtube_vis',
        'videomt.datasets.clips',
    ]:
        monkeypatch.setattr(f'{module}.print_log', lambda text, **_: lines.append(text))
    monkeypatch.setattr('eomt_mm.annotations.panoptic_png._named', set())
    return lines


def images(count: int = 2) -> list[Data]:
    return [{'id': n, 'file_name': f'{n}.png', 'height': SIZE[0], 'width': SIZE[1]} for n in range(1, count + 1)]


def instances() -> Data:
    """Two images, each with a cow and a sky."""
    annotations = [
        {'id': 2 * n + k, 'image_id': n, 'category_id': category, 'segmentation': RING}
        for n in (1, 2)
        for k, category in enumerate((7, 3))
    ]
    return {'images': images(), 'annotations': annotations, 'categories': CATEGORIES}


def segments() -> Data:
    """Two images, each with a cow (id 5) and a sky (id 6)."""
    listed = [{'id': 5, 'category_id': 7}, {'id': 6, 'category_id': 3}]
    annotations = [{'image_id': n, 'segments_info': copy.deepcopy(listed)} for n in (1, 2)]
    return {'images': images(), 'annotations': annotations, 'categories': CATEGORIES}


def tracks() -> Data:
    """Two videos of two frames, each with a cow and a sky."""
    videos = [{'id': n, 'file_names': [f'{n}.png', f'{n}.png'], 'height': SIZE[0], 'width': SIZE[1]} for n in (1, 2)]
    annotations = [
        {'id': 2 * n + k, 'video_id': n, 'category_id': category, 'iscrowd': 0, 'segmentations': [RING, None]}
        for n in (1, 2)
        for k, category in enumerate((7, 3))
    ]
    return {'videos': videos, 'annotations': annotations, 'categories': CATEGORIES}


def save(folder: Path, data: Data) -> str:
    (folder / 'own.json').write_text(json.dumps({**data, 'categories': data['categories']}))
    touch_listed(folder, data)
    for video in data.get('videos', ()):
        touch_listed(folder, {'images': [{'id': name, 'file_name': name} for name in video['file_names']]})
    return str(folder / 'own.json')


def build(folder: Path, data: Data, test_mode: bool = False, classes: tuple[str, ...] = ('cow', 'sky')) -> Any:
    path = save(folder, data)
    given: Data = dict(ann_file=path, data_prefix=dict(img=str(folder)), test_mode=test_mode)
    if not test_mode:
        given['filter_cfg'] = dict(filter_empty_gt=True)
    if 'videos' in data:
        return YouTubeVIS(**given, metainfo=dict(classes=classes))
    if 'segments_info' not in data['annotations'][0]:
        return CocoInstance(**given, metainfo=dict(classes=classes))
    for image in data['images']:
        if not (folder / 'png' / image['file_name']).exists():
            write_panoptic_png(folder / 'png' / image['file_name'], id_map(5, 6))
    meta = {key: tuple(name for name in names if name in classes) for key, names in CLASSES.items()}
    given['data_prefix']['seg'] = str(folder / 'png')
    return CocoPanoptic(**given, metainfo=meta)


def id_map(*ids: int) -> np.ndarray:
    """A stripe per id, and void."""
    found = np.zeros(SIZE, np.int32)
    for place, id_ in enumerate(ids):
        found[4 * place : 4 * place + 4] = id_
    return found


MAKERS = (instances, segments, tracks)


# Images, classes, categories


@pytest.mark.parametrize('make', MAKERS)
def test_images_and_classes_without_annotations(make: Callable[[], Data], tmp_path: Path, log: list[str]) -> None:
    data = make()
    build(tmp_path, data)
    assert log == []
    data['annotations'] = [
        one
        for one in data['annotations']
        if one.get('image_id', one.get('video_id')) == 1 and one.get('category_id') != 3
    ]
    if make is segments:
        data['annotations'][0]['segments_info'].pop()
    assert len(build(tmp_path, data)) == 1
    (unused,) = [line for line in log if 'classes have no annotation' in line]
    assert 'own.json: 1 of 2 classes have no annotation, so training cannot learn them: sky' in unused
    (empty,) = [line for line in log if 'are left out of training' in line]
    assert f'own.json: 1 of 2 {"videos" if make is tracks else "images"} are left out of training' in empty
    log.clear()
    assert len(build(tmp_path, data, test_mode=True)) == 2  # metrics warn about classes
    assert log == []


@pytest.mark.parametrize('make', MAKERS)
def test_categories_that_are_no_classes(make: Callable[[], Data], tmp_path: Path, log: list[str]) -> None:
    for test_mode in (False, True):
        log.clear()
        build(tmp_path, make(), test_mode, classes=('cow',))
        assert [
            'own.json: 1 annotated categories are not among the classes and are left out: sky' in one for one in log
        ] == [True]


@pytest.mark.parametrize('make', [instances, segments])
def test_files_of_several_entries(make: Callable[[], Data], tmp_path: Path, log: list[str]) -> None:
    data = make()
    data['images'][1]['file_name'] = '1.png'
    build(tmp_path, data)
    assert sum('own.json: 1 images are listed several times, such as ' in line for line in log) == 1
    if make is segments:
        assert sum('own.json: 1 panoptic PNGs are listed several times' in line for line in log) == 1


# Annotations


@pytest.mark.parametrize('make', MAKERS)
def test_flags_that_are_no_numbers(make: Callable[[], Data], tmp_path: Path) -> None:
    """Python takes NaN for true: all annotations would be crowds."""
    data = make()
    (data['annotations'][0].get('segments_info') or data['annotations'])[0]['iscrowd'] = float('nan')
    for test_mode in (False, True):
        with pytest.raises(ValueError, match=r'own\.json: .* has iscrowd NaN: give 0 or 1'):
            build(tmp_path, data, test_mode)


@pytest.mark.parametrize('make', [instances, tracks])
def test_category_ids_of_another_type(make: Callable[[], Data], tmp_path: Path) -> None:
    data = make()
    data['annotations'][0]['category_id'] = '7'
    message = r"own\.json: .* category_id '7', which none of the 2 categories has \(str, those are int\)"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, data)


def test_ignored_annotations_are_counted(tmp_path: Path, log: list[str]) -> None:
    data = instances()
    data['annotations'][0]['ignore'] = 1
    for test_mode in (False, True):
        log.clear()
        build(tmp_path, data, test_mode)
        assert ['own.json: 1 of 4 annotations have ignore=1' in line for line in log] == [True]
    data['annotations'][0]['ignore'] = float('nan')
    with pytest.raises(ValueError, match='has ignore NaN'):
        build(tmp_path, data)


@pytest.mark.parametrize('make', [instances, segments])
def test_empty_boxes_and_areas_mean_none(make: Callable[[], Data], tmp_path: Path) -> None:
    """As VIA writes them for points and lines."""
    data = make()
    for one in data['annotations']:
        for entry in one.get('segments_info', [one]):
            entry.update(bbox=[], area=[])
    for test_mode in (False, True):
        assert len(build(tmp_path, data, test_mode)) == 2
    for key, value in (('area', [3]), ('bbox', [3])):
        bad = make()
        (bad['annotations'][0].get('segments_info') or bad['annotations'])[0][key] = value
        with pytest.raises(ValueError, match=rf'own\.json: .* has {key} \[3'):
            build(tmp_path, bad)


def test_points_and_lines_are_left_out(tmp_path: Path, log: list[str]) -> None:
    data = instances()
    data['annotations'][0].update(segmentation=[[]], bbox=[], area=[])
    for test_mode in (False, True):
        log.clear()
        assert len(build(tmp_path, data, test_mode).get_data_info(0)['instances']) == 1
        assert [
            '1 of 4 annotations have no polygon of 3 or more points, such as annotation 2' in one for one in log
        ] == [True]


def test_an_area_of_0_is_not_stated(tmp_path: Path) -> None:
    data = instances()
    for one in data['annotations']:
        one['area'] = 0
    metric = InstanceAP()
    metric.dataset_meta = build(tmp_path, data, test_mode=True).metainfo
    assert {one.area for one in metric._source.instances[1]} == {60}  # type: ignore[union-attr]


def test_boxes_of_other_classes_need_no_mask(tmp_path: Path) -> None:
    data = instances()
    data['annotations'][0].pop('segmentation')
    data['annotations'][0]['bbox'] = [1, 2, 3, 4]
    assert len(build(tmp_path, data, classes=('sky',))) == 2
    metric = InstanceAP()
    metric.dataset_meta = build(tmp_path, data, True, classes=('sky',)).metainfo
    with pytest.raises(ValueError, match='annotation 2 of 1.png has no "segmentation"'):
        build(tmp_path, data)
    with pytest.raises(ValueError, match='annotation 2 of image 1 has no "segmentation"'):
        metric.dataset_meta = build(tmp_path, data, True).metainfo


def test_tracks_and_frames_without_a_pixel(tmp_path: Path, log: list[str]) -> None:
    data = tracks()
    data['annotations'][0]['segmentations'] = [None, None]
    build(tmp_path, data)
    assert '1 of 4 annotations have no mask in any frame, such as annotation 2: they are left out' in log[0]
    for counts in ([600], 'hb0', [0, 0, 600]):
        log.clear()
        data = tracks()
        data['annotations'][0]['segmentations'][0] = {'size': list(SIZE), 'counts': counts}
        build(tmp_path, data)
        assert ['1 of 4 masks have no pixel in their image, such as annotation 2, frame 0' in line for line in log] == [
            True
        ]


# Files in place of a json


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
            'is a pointer of Git LFS.*git lfs pull',
        ),
        (b'<!DOCTYPE html><html>log in</html>', 'is a web page'),
        (gzip.compress(b'{}'), 'is compressed by gzip: unpack it'),
    ],
    ids=['pointer', 'page', 'gzip'],  # gzip's content has the time in it
)
def test_other_files_in_place_of_a_json(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / 'own.json').write_bytes(content)
    given: Data = dict(ann_file=str(tmp_path / 'own.json'), data_prefix=dict(img='', seg=str(tmp_path)))
    for build_it in (CocoInstance, CocoPanoptic, YouTubeVIS):
        with pytest.raises(ValueError, match=rf'annotation file .*own\.json {message}'):
            build_it(**given, metainfo=CLASSES)


# Panoptic PNGs


def panoptic_metric(folder: Path, data: Data) -> dict[str, float]:
    """PQ of the maps as prediction, with the PNGs read by the metric alone."""
    dataset = build(folder, data, test_mode=True)
    metric = PanopticQuality()
    metric.dataset_meta = dataset.metainfo
    codes = torch.full(SIZE, 255)
    codes[:4], codes[4:8] = 0, 1
    for image in data['images']:
        metric.process(None, [dict(img_id=image['id'], ori_shape=SIZE, pred_panoptic_seg=dict(sem_seg=codes[None]))])
    found: dict[str, float] = metric.evaluate(len(data['images']))
    return found


@pytest.mark.parametrize('way', ['training', 'metric'])
def test_png_and_json_that_differ(way: str, tmp_path: Path, log: list[str]) -> None:
    def read() -> Any:
        return (
            LoadPanopticSegments()(build(tmp_path, data)[0]) if way == 'training' else panoptic_metric(tmp_path, data)
        )

    data = segments()
    build(tmp_path, data)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read()
    write_panoptic_png(tmp_path / 'png/1.png', id_map(5, 9, 10))
    message = r'1\.png: 1 of the 2 segments that the json lists have no pixel in it, such as id 6: they are left out; '
    with pytest.warns(
        UserWarning, match=message + '2 of its ids are not in the json, such as 9: their pixels are void'
    ):
        read()
    write_panoptic_png(tmp_path / 'png/1.png', id_map(9, 10))
    with pytest.raises(ValueError, match=r'1\.png: 2 of the 2 segments that the json lists have no pixel in it'):
        read()


def test_segments_of_other_classes_are_listed(tmp_path: Path, log: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        item = LoadPanopticSegments()(build(tmp_path, segments(), classes=('cow',))[0])
    assert item['gt_segment_labels'].tolist() == [0]


def test_crowds_are_listed(tmp_path: Path, log: list[str]) -> None:
    data = segments()
    data['annotations'][0]['segments_info'][1]['iscrowd'] = 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        LoadPanopticSegments()(build(tmp_path, data)[0])
        panoptic_metric(tmp_path, data)


def test_areas_of_segments_are_not_read(tmp_path: Path, log: list[str]) -> None:
    data = segments()
    for one in data['annotations']:
        for segment in one['segments_info']:
            segment['area'] = 0
    item = LoadPanopticSegments()(build(tmp_path, data)[0])
    assert item['gt_segment_labels'].tolist() == [0, 1]
    assert panoptic_metric(tmp_path, data)['coco_panoptic/PQ'] == 100


def test_several_segments_of_a_stuff_class(tmp_path: Path, log: list[str]) -> None:
    data = segments()
    data['annotations'][0]['segments_info'].append({'id': 8, 'category_id': 3})
    for test_mode in (False, True):
        log.clear()
        build(tmp_path, data, test_mode)
        assert ['1 of 2 images have several segments of one stuff class, such as ' in line for line in log] == [True]
    data['annotations'][0]['segments_info'][-1]['iscrowd'] = 1
    log.clear()
    build(tmp_path, data, True)
    assert not any('have several' in line for line in log)


def test_names_of_pngs_are_the_same_in_training_and_evaluation(tmp_path: Path, log: list[str]) -> None:
    data = segments()
    path = save(tmp_path, data)
    for n in (1, 2):
        write_panoptic_png(tmp_path / f'png/{n}_pan.png', id_map(5, 6))
    given: Data = dict(ann_file=path, data_prefix=dict(img=str(tmp_path), seg=str(tmp_path / 'png')), metainfo=CLASSES)
    dataset = CocoPanoptic(**given, seg_map_suffix='_pan.png', test_mode=True)
    metric = PanopticQuality()
    metric.dataset_meta = dataset.metainfo
    assert metric._source.png_name(dict(img_id=1, ori_shape=SIZE)) == '1_pan.png'


def test_results_of_a_json_without_names_of_pngs(tmp_path: Path) -> None:
    data = segments()
    path = save(tmp_path, data)
    results = copy.deepcopy(data['annotations'])
    for one in results:
        one['file_name'] = f'{one["image_id"]}.png'
        write_panoptic_png(tmp_path / 'png' / one['file_name'], id_map(5, 6))
    (tmp_path / 'results.json').write_text(json.dumps({'annotations': results}))
    folder = str(tmp_path / 'png')
    assert pq_of_files(path, folder, str(tmp_path / 'results.json'), folder)[0]['All']['pq'] == 1


# Label maps


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
@pytest.mark.parametrize('depth', [1, 2, 4])
def test_grey_maps_of_few_bits(depth: int, backend: str, tmp_path: Path) -> None:
    """Decoders spread their values over 0 .. 255."""
    init_default_scope('mmseg')
    values = (np.arange(8 * 16).reshape(8, 16) % (1 << depth)).astype(np.uint8)
    path = tmp_path / 'map.png'
    path.write_bytes(grey_png(values, depth))
    load = LoadSemanticMap(imdecode_backend=backend)
    item = load(dict(seg_map_path=str(path), ori_shape=(8, 16), reduce_zero_label=False))
    assert (item['gt_seg_map'] == values).all()


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A PNG of less than 8 bits, which our libraries do not write (https://www.w3.org/TR/png-3, 7.2)."""
    import struct
    import zlib

    bits = np.unpackbits(values[..., None], axis=-1)[..., -depth:].reshape(len(values), -1)
    rows = b''.join(b'\0' + np.packbits(row).tobytes() for row in bits)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    parts = ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ('pixels', 'hint'),
    [
        (np.zeros((8, 16, 3), np.uint8), 'its colours are equal, save one of them'),
        (np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3), 'where its colours stand for classes, convert it'),
        (np.zeros((8, 16), np.float32), 'save it as whole numbers'),
    ],
)
def test_hints_for_maps_of_another_form(pixels: np.ndarray, hint: str, tmp_path: Path) -> None:
    import cv2

    path = tmp_path / 'map.tif'
    cv2.imwrite(str(path), pixels)
    with pytest.raises(ValueError, match=rf'map\.tif has shape .*: one channel of whole numbers is needed; {hint}'):
        LoadSemanticMap()(dict(seg_map_path=str(path), ori_shape=(8, 16), reduce_zero_label=False))
