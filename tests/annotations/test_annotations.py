"""Annotation files: what is refused, before pycocotools sees it and by whom; what is accepted, and means the same."""

import copy
import json
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copies import in_copies
from pycocotools import mask as mask_api
from videomt.datasets.vipseg import read_vipseg_json
from videomt.datasets.youtube_vis import YouTubeVIS

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations import masks
from eomt_mm.datasets.coco_instance import CocoInstance
from eomt_mm.datasets.coco_json import InstanceAnnotations, read_instances_json
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.datasets.loading import LoadInstances
from eomt_mm.evaluation.ap_counting import encode_masks
from eomt_mm.evaluation.ground_truth import InstancesInFile
from eomt_mm.evaluation.instance_ap import InstanceAP
from eomt_mm.evaluation.panoptic_files import pq_of_files
from eomt_mm.evaluation.panoptic_quality import PanopticQuality

Data = Any
SIZE = (20, 30)
SQUARE = [2, 3, 12, 3, 12, 9, 2, 9]
PAIRS = [[2, 3], [12, 3], [12, 9], [2, 9]]
CATEGORIES = [{'id': 7, 'name': 'cow', 'isthing': 1}, {'id': 3, 'name': 'sky', 'isthing': 0}]


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are read here, the images that they list are nowhere."""
    for module in ('eomt_mm.datasets.coco_json', 'eomt_mm.datasets.coco_panoptic', 'videomt.datasets.clips'):
        monkeypatch.setattr(f'{module}.check_files', lambda *_: None)


def hostile(value: float, place: int = 2) -> list[list[float]]:
    return [[*SQUARE[:place], value, *SQUARE[place + 1 :]]]


def runs(counts: Any, size: Any = SIZE) -> dict[str, Any]:
    return {'size': list(size), 'counts': counts}


FAULTY = [
    *[(hostile(value), 'coordinate') for value in (float('nan'), 1e9, -1e9, 2**31, 1e308, 61, -31)],
    *[(hostile(value, 3), 'coordinate') for value in (float('inf'), float('-inf'), 41, -21)],
    (hostile(10**400), 'not a list of numbers'),
    ([[*SQUARE, 1]], 'has 9 numbers'),
    ([[1, 2, 3]], 'has 3 numbers'),
    ([1, 2, 3, 4, 5, 6, 7], 'has 7 numbers'),
    ([['1', 2, 3, 4, 5, 6]], 'polygon'),
    ([[None, 2, 3, 4, 5, 6]], 'polygon'),
    ([SQUARE, 4], 'mix numbers and lists'),
    ([[0, 0, 29, 19] * 600], 'outline of its polygons is'),
    ('polygon', 'mask'),
    (runs('\x7f~~~~~~~~zzzz'), 'damaged'),
    (runs(''), 'damaged'),
    (runs('é'), 'damaged'),
    (runs('P'), 'damaged'),
    (runs('PPPPPPPP0'), 'damaged'),
    (runs('11'), 'do not add up'),
    (runs('O'), 'do not add up'),  # -1
    (runs([300, 299]), 'do not add up'),
    (runs([-1, 601]), 'do not add up'),
    (runs([2**40]), 'do not add up'),
    (runs([]), 'do not add up'),
    (runs([1.5, 598.5]), 'whole numbers|expected'),
    (runs([[600]]), 'whole numbers|expected'),
    (runs(None), 'whole numbers|expected'),
    (runs([600], (30, 20)), r'size \[30, 20\], the image \(20, 30\)'),
    (runs([600], ()), 'size'),
]


def document(*segmentations: Any, **changes: Any) -> Data:
    """A COCO json with one image per mask."""
    numbers = range(1, len(segmentations) + 1)
    images = [{'id': n, 'file_name': f'{n}.jpg', 'height': SIZE[0], 'width': SIZE[1]} for n in numbers]
    annotations = [
        {
            'id': n,
            'image_id': n,
            'category_id': 7,
            'segmentation': mask,
            'bbox': [2, 3, 10, 6],
            'area': 60,
            'iscrowd': 0,
        }
        for n, mask in zip(numbers, segmentations, strict=True)
    ]
    return {'images': images, 'annotations': annotations, 'categories': CATEGORIES, **changes}


def write(folder: Path, data: Data, name: str = 'some.json') -> str:
    path = folder / name
    path.write_text(json.dumps(data))
    return str(path)


def data_set(path: str, **others: Any) -> CocoInstance:
    metainfo = dict(classes=('cow',))
    return CocoInstance(ann_file=path, data_prefix=dict(img=''), metainfo=metainfo, serialize_data=False, **others)


def items(path: str) -> list[dict[str, Any]]:
    found = data_set(path)
    return [found.get_data_info(i) for i in range(len(found))]


def ground_truth(path: str) -> list[tuple[Any, list[Any]]]:
    """Instances of each image, of the metric."""
    source = InstanceAnnotations(path, read_instances_json(path)).compact(InstancesInFile)
    assert source.instances is not None
    ids = [category['id'] for category in source.categories(dict(classes=('cow',)))]
    source.check_masks(ids)
    return sorted(source.unseen([], ids).items(), key=str)


def targets(path: str) -> list[np.ndarray]:
    """Masks (N, H, W) that training loads, image by image."""
    loaded = [LoadInstances()({**item, 'ori_shape': SIZE}) for item in items(path)]
    return [one['gt_masks'].masks for one in loaded]


# Masks


@pytest.mark.parametrize(('mask', 'message'), FAULTY)
def test_faulty_masks_are_refused_alike(mask: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'a.json: annotation 1: .*({message})'):
        masks.normalise(mask, SIZE, 'a.json: annotation 1')
    if mask == hostile(10**400):  # no float: the parser refuses it
        message = 'out of range'
    path = write(tmp_path, document([SQUARE], mask))
    said = []
    for read in (data_set, InstanceAP):
        with pytest.raises(ValueError, match=f'some.json: .*({message}|expected)') as error:
            read(path)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert 'annotation 2 of 2.jpg' in said[0] or 'annotations[1].segmentation' in said[0]


@pytest.mark.parametrize('mask', [SQUARE, PAIRS, [PAIRS], [SQUARE, []], [SQUARE, [1, 2, 3, 4]], [[1, 2], SQUARE]])
def test_forms_of_polygons(mask: Any, tmp_path: Path) -> None:
    expected = mask_api.decode(mask_api.merge(mask_api.frPyObjects([SQUARE], *SIZE)))
    path = write(tmp_path, document(mask))
    assert (targets(path)[0] == expected).all()
    ((_, (instance,)),) = ground_truth(path)
    assert (mask_api.decode(instance.rle) == expected).all()


def test_corners_at_the_bound() -> None:
    outside = [[-30, -20, 60, -20, 60, 40, -30, 40]]
    assert masks.decode(masks.normalise(outside, SIZE, ''), SIZE).all()


@pytest.mark.parametrize('mask', [[[]], [[1, 2]], [[1, 2, 3, 4]], [1, 2, 3, 4], [[1, 2], [3, 4]], [[[1, 2]]]])
def test_no_outline_is_left_out_and_counted(mask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.datasets.coco_json.print_log', lambda text, **_: said.append(text))
    path = write(tmp_path, document([SQUARE], mask, mask))
    assert [len(one) for one in targets(path)] == [1, 0, 0]
    assert [len(instances) for _, instances in ground_truth(path)] == [1, 0, 0]
    assert len(said) == 2 and said[0] == said[1]
    assert '2 of 3 annotations' in said[0] and 'annotation 2 of 2.jpg' in said[0]
    for read in (data_set, InstanceAP):
        with pytest.raises(ValueError, match='1 of 1 annotations .*boxes are not enough'):
            read(write(tmp_path, document(mask)))


@pytest.mark.parametrize('mask', [None, []])
def test_no_mask_is_an_error(mask: Any, tmp_path: Path) -> None:
    for read in (data_set, ground_truth):
        with pytest.raises(ValueError, match='annotation 2 of .* no "segmentation"'):
            read(write(tmp_path, document([SQUARE], mask)))


def test_run_lengths_are_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(rng.integers(1, 40, 2).tolist())
        pixels = np.asfortranarray(rng.random(size) < rng.random(), dtype=np.uint8)
        expected = mask_api.encode(pixels)
        text = {'size': list(size), 'counts': expected['counts'].decode()}
        assert masks.normalise(text, size, '') == text
        counts = masks.parse_runs(text['counts'], '').tolist()
        place = int(rng.integers(len(counts)))
        first = int(rng.integers(counts[place] + 1))
        counts[place : place + 1] = [first, 0, counts[place] - first]  # empty runs mean nothing
        assert masks.normalise({'size': list(size), 'counts': counts}, size, '') == text


def test_large_runs() -> None:
    pixels = np.zeros((1500, 2000), np.uint8, order='F')
    pixels[:, 1000:] = 1
    expected = mask_api.encode(pixels)
    assert (
        masks.normalise(runs(expected['counts'], pixels.shape), pixels.shape, '')['counts']
        == expected['counts'].decode()
    )


def test_many_rings_are_merged() -> None:
    rings = [[x, y, x + 2.0, y, x + 2.0, y + 2.0] for y in range(0, 300, 3) for x in range(0, 300, 3)]
    size = (300, 300)
    expected = mask_api.merge(mask_api.frPyObjects(rings[:2000], *size))
    assert masks.to_rle(masks.normalise(rings[:2000], size, ''), size)['counts'] == expected['counts'].decode()


def test_areas_of_any_number() -> None:
    pixels = np.random.default_rng(0).random((600, 5, 7)) < 0.5
    rles = encode_masks(pixels)
    for count in (0, 1, 255, 256, 300, 600):
        assert masks.areas(rles[:count]).tolist() == pixels[:count].sum((1, 2)).tolist()


@pytest.mark.parametrize('as_runs', [False, True])
def test_300_predictions(as_runs: bool, tmp_path: Path) -> None:
    metric = InstanceAP(ann_file=write(tmp_path, document([SQUARE])))
    metric.dataset_meta = dict(classes=('cow',))
    pixels = np.repeat(masks.decode([SQUARE], SIZE)[None].astype(bool), 300, axis=0)
    found: Any = encode_masks(pixels) if as_runs else torch.from_numpy(pixels)
    found = dict(masks=found, labels=torch.zeros(300, dtype=torch.int64), scores=torch.linspace(1, 0.1, 300))
    metric.process(None, [dict(img_id=1, pred_instances=found)])
    assert metric.evaluate(1)['coco/segm_mAP'] == 1


@pytest.mark.parametrize('mask', [runs('\x7f~~~~~~~~zzzz'), runs('11'), runs('')])
def test_faulty_predictions_are_named(mask: Any, tmp_path: Path) -> None:
    metric = InstanceAP(ann_file=write(tmp_path, document([SQUARE])))
    metric.dataset_meta = dict(classes=('cow',))
    found = dict(masks=[mask], labels=torch.zeros(1, dtype=torch.int64), scores=torch.ones(1))
    with pytest.raises(ValueError, match='prediction 0 of image 1'):
        metric.process(None, [dict(img_id=1, pred_instances=found)])


def test_hostile_files_end_no_process(tmp_path: Path) -> None:
    """Data set and metric, in a process of their own with limits of time and memory."""
    cases = [hostile(float('nan')), hostile(1e9), hostile(2**31), hostile(1e308), runs('\x7f~~~~~~~~zzzz')]
    paths = [write(tmp_path, document([SQUARE], mask), f'{n}.json') for n, mask in enumerate(cases)]
    in_copies(1, read_within_limits, paths)


def read_within_limits(_: int, paths: list[str]) -> None:
    signal.alarm(100)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for path in paths:
        for read in (data_set, InstanceAP):
            with pytest.raises(ValueError, match='annotation 2 of 2.jpg') as refused:
                read(path)
            assert path in str(refused.value)


# Documents


def test_what_is_accepted_means_the_same(tmp_path: Path) -> None:
    plain = document([SQUARE], [SQUARE])
    expected = items(write(tmp_path, plain)), ground_truth(write(tmp_path, plain))
    path = tmp_path / 'some.json'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(plain).encode())
    assert (items(str(path)), ground_truth(str(path))) == expected
    for edit in (
        lambda data: data['annotations'][0].pop('bbox'),
        lambda data: data['annotations'][0].update(bbox=None),
        lambda data: data['annotations'][0].update(area=None),
        lambda data: data['annotations'][0].update(iscrowd=None),
        lambda data: data['annotations'][0].update(iscrowd=False),
        lambda data: data['annotations'][0].update(score=float('nan')),  # spreadsheets
        lambda data: data['images'][0].update(height=20.0),
        lambda data: data['annotations'][0].update(image_id=1.0),
    ):
        data = copy.deepcopy(plain)
        edit(data)
        assert (items(write(tmp_path, data)), ground_truth(write(tmp_path, data))) == expected


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda data: data['images'][1].update(height=0), 'height 0'),
    (lambda data: data['images'][1].update(height=-4), 'height -4'),
    (lambda data: data['images'][1].update(width=1e9), 'width 1000000000.0'),
    (lambda data: data['images'][1].update(width=2.5), 'width 2.5'),
    (lambda data: data['images'][1].update(width=float('nan')), 'width nan'),
    (lambda data: data['images'][1].update(height='20'), r'images\[1\].height: expected `int \| float`, got `str`'),
    (lambda data: data['images'][1].update(height=None), r'images\[1\].height: expected `int \| float`, got `null`'),
    (lambda data: data['images'][1].update(file_name=4), r'images\[1\].file_name: expected `str`, got `int`'),
    (lambda data: data['images'][1].update(id=1), 'ids of images must be unique'),
    (lambda data: data['images'][1].update(id='2'), "none of the 2 images has|image_id 2"),
    (lambda data: data['annotations'][1].update(image_id='2'), r"image_id '2', .*\(str, those are int\)"),
    (lambda data: data['annotations'][1].update(category_id='7'), "category_id '7'"),
    (lambda data: data['annotations'][1].update(category_id=[]), r'annotations\[1\].category_id: expected'),
    (lambda data: data['annotations'][1].update(bbox=[1, 2, float('nan'), 4]), r'bbox \[1.0, 2.0, nan'),
    (lambda data: data['annotations'][1].update(bbox=[1, 2, 3]), 'bbox'),
    (lambda data: data['annotations'][1].update(bbox=[1, 2, '3', 4]), r'annotations\[1\].bbox\[2\]'),
    (lambda data: data['annotations'][1].update(area='60'), r'annotations\[1\].area'),
    (lambda data: data['annotations'][1].update(area=-1), 'area -1'),
    (lambda data: data['annotations'][1].update(area=float('nan')), 'area nan'),
    (lambda data: data['annotations'][1].update(iscrowd='0'), r'annotations\[1\].iscrowd'),
    (lambda data: data['categories'].append(CATEGORIES[0]), 'ids of categories must be unique'),
    (lambda data: data.update(images={}), 'images: expected `array`, got `object`'),
])  # fmt: skip
def test_faulty_documents_are_refused_alike(edit: Callable[[Data], Any], message: str, tmp_path: Path) -> None:
    data = copy.deepcopy(document([SQUARE], [SQUARE]))
    edit(data)
    path = write(tmp_path, data)
    said = []
    for read in (data_set, InstanceAP):
        with pytest.raises(ValueError, match=f'some.json: .*({message})') as error:
            read(path)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize('content', [b'', b'[' * 100_000, b'\xff\xfe\x00', b'{"images": [', b'{"images": NaN'])
def test_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'some.json'
    path.write_bytes(content)
    for read in (items, ground_truth, panoptic_set, youtube_vis, read_vipseg_json):
        with pytest.raises(ValueError, match='some.json.*not valid json|some.json: the document: expected'):
            read(str(path))


# Any value of another type is refused by name


def panoptic_document() -> Data:
    data = document([SQUARE], [SQUARE])
    data['annotations'] = [
        {
            'image_id': n,
            'file_name': f'{n}.png',
            'segments_info': [
                {'id': 5, 'category_id': 7, 'iscrowd': 0, 'bbox': [1, 2, 3, 4], 'area': 12},
                {'id': 9, 'category_id': 3, 'iscrowd': 0, 'bbox': [1, 2, 3, 4], 'area': 12},
            ],
        }
        for n in (1, 2)
    ]
    return data


def panoptic_set(path: str) -> Any:
    folder = Path(path).parent
    metainfo = dict(classes=('cow', 'sky'), thing_classes=('cow',), stuff_classes=('sky',))
    found = CocoPanoptic(
        ann_file=path, data_prefix=dict(img='', seg=str(folder)), metainfo=metainfo, serialize_data=False
    )
    return [found.get_data_info(i) for i in range(len(found))]


def panoptic_metric(path: str) -> Any:
    metric = PanopticQuality(ann_file=path, seg_prefix=str(Path(path).parent))
    metric.dataset_meta = dict(classes=('cow', 'sky'))
    return metric


def tracks_document() -> Data:
    return {
        'videos': [{'id': 1, 'file_names': ['a.jpg', 'b.jpg'], 'height': 20, 'width': 30, 'length': 2}],
        'categories': CATEGORIES,
        'annotations': [
            {'id': 4, 'video_id': 1, 'category_id': 7, 'iscrowd': 0, 'segmentations': [runs([100, 500]), None]},
            {'id': 5, 'video_id': 1, 'category_id': 7, 'iscrowd': 0, 'segmentations': [None, [SQUARE]]},
        ],
    }


def youtube_vis(path: str) -> Any:
    found = YouTubeVIS(
        ann_file=path, data_prefix=dict(img=''), metainfo=dict(classes=('cow', 'sky')), serialize_data=False
    )
    return [found.get_data_info(i) for i in range(len(found))]


def vipseg_document() -> Data:
    segments = [{'id': 5, 'category_id': 7}, {'id': 9, 'category_id': 3}]
    return {
        'videos': [{'video_id': 'a', 'images': [{'id': 'a', 'width': 30, 'height': 20, 'file_name': '0.png'}]}],
        'categories': CATEGORIES,
        'annotations': [{'video_id': 'a', 'annotations': [{'file_name': '0.png', 'segments_info': segments}]}],
    }


def results(path: str) -> Any:
    """PQ of results; the PNGs are missing, which a good file leads to."""
    folder = Path(path).parent
    gt = write(folder, panoptic_document(), 'gt.json')
    try:
        return pq_of_files(gt, str(folder), path, str(folder))
    except FileNotFoundError:
        return None


OTHERS = (None, 'x', '', 1.5, -1, 10**30, True, [], {}, [1], [None], [[]], {'a': 1}, ['x'])


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a document."""
    entries = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    return [(node, key) for key, _ in entries] + [place for _, child in entries for place in places(child)]


def mutated(data: Data, rng: random.Random) -> Data:
    data = copy.deepcopy(data)
    container, key = rng.choice(places(data))
    old = type(container[key])
    container[key] = rng.choice([value for value in OTHERS if type(value) is not old])
    return data


@pytest.mark.parametrize(
    ('make', 'readers'),
    [
        (lambda: document([SQUARE], runs([100, 500]), runs('b27=0000000R=')), (items, ground_truth)),
        (panoptic_document, (panoptic_set, panoptic_metric)),
        (panoptic_document, (results,)),
        (tracks_document, (youtube_vis,)),
        (vipseg_document, (read_vipseg_json,)),
    ],
)
def test_values_of_another_type(
    make: Callable[[], Data], readers: tuple[Callable[[str], Any], ...], tmp_path: Path
) -> None:
    """170 seeded mutations: a named error, for data set and metric alike, or no error at all."""
    rng, good = random.Random(0), make()
    for read in readers:
        read(write(tmp_path, good))
    refused = 0
    for _ in range(170):
        data = mutated(good, rng)
        path = write(tmp_path, data)
        verdicts = []
        for read in readers:
            try:
                read(path)
                verdicts.append('')
            except ValueError as error:
                assert 'some.json' in str(error), json.dumps(data)
                verdicts.append(str(error))
        assert len({bool(one) for one in verdicts}) == 1, (verdicts, json.dumps(data))
        refused += bool(verdicts[0])
    assert refused > 80
