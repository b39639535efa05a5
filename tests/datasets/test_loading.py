"""Loading transforms: what they read, and that bad files are named."""

import io

import cv2
import numpy as np
import pytest
from mmcv.transforms import RandomFlip, Resize
from PIL import Image
from pycocotools import mask as mask_utils

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.annotations.segments import MapSegment
from eomt_mm.datasets.loading import LoadImage, LoadInstances, LoadPanopticSegments, LoadSemanticMap
from eomt_mm.datasets.segment_maps import store_segments
from eomt_mm.registry import TRANSFORMS

H, W = 40, 60


def photo(height=H, width=W):
    """Smooth colours with some noise, so that JPEG has something to keep."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 50, height)[:, None, None]
    return (ramp + rng.integers(0, 6, (height, width, 3))).astype(np.uint8)


def encoded(suffix='.jpg', **size):
    return cv2.imencode(suffix, photo(**size))[1].tobytes()


@pytest.mark.parametrize('name', ['LoadImage', 'LoadSemanticMap', 'LoadPanopticSegments', 'LoadInstances'])
def test_registered(name):
    assert type(TRANSFORMS.build(dict(type=name))).__name__ == name


# Images


def load_image(path, content, **arguments):
    path.write_bytes(content)
    return LoadImage(**arguments)({'img_path': str(path)})


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_truncated_or_damaged_images(tmp_path, backend):
    path = tmp_path / 'a.jpg'
    jpeg, png = encoded(), encoded('.png')
    for content in (b'', b'junk', jpeg[:100], jpeg[: len(jpeg) // 2], jpeg[:-200], png[: len(png) // 2]):
        with pytest.raises(ValueError, match='cannot be decoded') as error:
            load_image(path, content, imdecode_backend=backend)
        assert str(path) in str(error.value)
        assert load_image(path, content, imdecode_backend=backend, ignore_empty=True) is None
    with pytest.raises(FileNotFoundError, match='no.jpg does not exist') as missing:
        LoadImage(imdecode_backend=backend)({'img_path': str(tmp_path / 'no.jpg')})
    assert isinstance(missing.value.__cause__, FileNotFoundError)
    assert LoadImage(ignore_empty=True)({'img_path': str(tmp_path / 'no.jpg')}) is None


def test_truncated_jpeg_is_found_whatever_the_decoder_does(tmp_path, monkeypatch):
    # as OpenCV does it in some versions: a full image, missing rows grey
    monkeypatch.setattr('eomt_mm.datasets.loading.mmcv.imfrombytes', lambda *args, **others: photo())
    jpeg = encoded()
    with pytest.raises(ValueError, match='truncated'):
        load_image(tmp_path / 'a.jpg', jpeg[: len(jpeg) // 2])
    # the end marker of an embedded thumbnail is not that of the image
    thumbnail = b'\xff\xd8thumbnail\xff\xd9'
    embedded = jpeg[:2] + b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail + jpeg[2:]
    with pytest.raises(ValueError, match='truncated'):
        load_image(tmp_path / 'a.jpg', embedded[: len(embedded) // 2])
    load_image(tmp_path / 'a.jpg', embedded)
    load_image(tmp_path / 'a.jpg', jpeg)
    load_image(tmp_path / 'a.jpg', jpeg + bytes(100))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_bytes_behind_the_end_of_a_jpeg(tmp_path, backend):
    jpeg = encoded()
    whole = load_image(tmp_path / 'a.jpg', jpeg, imdecode_backend=backend)['img']
    for behind in (b'\0', b'camera' * 50):
        loaded = load_image(tmp_path / 'a.jpg', jpeg + behind, imdecode_backend=backend)
        assert (loaded['img'] == whole).all()


def test_image_is_the_parents(tmp_path):
    path = tmp_path / 'a.png'
    loaded = load_image(path, encoded('.png'))
    assert (loaded['img'] == photo()).all() and loaded['img'].dtype == np.uint8
    assert loaded['img_shape'] == loaded['ori_shape'] == (H, W)
    assert load_image(path, encoded('.png'), to_float32=True)['img'].dtype == np.float32
    assert load_image(path, encoded('.png'), color_type='grayscale')['img'].shape == (H, W)
    with pytest.raises(ValueError, match='backend_args'):
        LoadImage(file_client_args=dict(backend='disk'))


@pytest.mark.parametrize('loader', [LoadImage, LoadSemanticMap, LoadPanopticSegments])
def test_pixels_are_limited_before_decoding(tmp_path, monkeypatch, loader):
    path = tmp_path / 'a.png'
    path.write_bytes(encoded('.png'))
    results = {'img_path': str(path), 'seg_map_path': str(path), 'segments_info': [{'id': 1, 'category': 0}]}
    monkeypatch.setenv('EOMT_MM_MAX_PIXELS', '2399')
    with pytest.raises(ValueError, match=r'a.png has 60 x 40 pixels, .* EOMT_MM_MAX_PIXELS'):
        loader()({**results, 'reduce_zero_label': False})


def test_pixels_are_limited_by_an_argument(tmp_path):
    assert load_image(tmp_path / 'a.png', encoded('.png'), max_pixels=2400)['img_shape'] == (H, W)
    with pytest.raises(ValueError, match=r'image .*a.png has 60 x 40 pixels, .* or max_pixels of LoadImage'):
        load_image(tmp_path / 'a.png', encoded('.png'), max_pixels=2399)


# Label maps


def label_map(path, labels, **arguments):
    Image.fromarray(labels).save(path)
    results = {'seg_map_path': str(path), 'img_path': 'a.jpg', 'reduce_zero_label': False, 'seg_fields': []}
    return LoadSemanticMap()({**results, **arguments})


def test_bad_label_maps(tmp_path):
    path = tmp_path / 'a.png'
    with pytest.raises(ValueError, match=r'a.png has shape \(40, 60, 3\)'):
        label_map(path, photo())
    with pytest.raises(ValueError, match=r'a.png is \(40, 60\), its image a.jpg \(60, 40\)'):
        label_map(path, photo()[..., 0], ori_shape=(60, 40))
    content = path.read_bytes()
    results = {'seg_map_path': str(path), 'reduce_zero_label': False, 'seg_fields': []}
    for backend in ('pillow', 'cv2'):
        for bad in (b'', b'junk', content[: len(content) // 2]):
            path.write_bytes(bad)
            with pytest.raises(ValueError, match='a.png cannot be decoded') as error:
                LoadSemanticMap(imdecode_backend=backend)(dict(results))
            assert error.value.__cause__ is not None
    path.unlink()
    with pytest.raises(FileNotFoundError, match='a.png does not exist'):
        LoadSemanticMap()(dict(results))


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_flipped_bits_of_label_maps_are_named(tmp_path, backend):
    rng = np.random.default_rng(3)
    path = tmp_path / 'a.png'
    Image.fromarray(np.kron(rng.integers(0, 150, (10, 10)), np.ones((12, 12))).astype(np.uint8)).save(path)
    content = path.read_bytes()
    for bit in rng.choice(8 * len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='label map .*a.png'):
            LoadSemanticMap(imdecode_backend=backend)({'seg_map_path': str(path), 'reduce_zero_label': False})


def test_faults_of_the_data_set_are_not_blamed_on_the_file(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.zeros((H, W), np.uint8)).save(path)
    with pytest.raises(KeyError, match='reduce_zero_label'):
        LoadSemanticMap()({'seg_map_path': str(path), 'seg_fields': []})


def test_label_map_is_the_parents(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    loaded = label_map(tmp_path / 'a.png', labels, ori_shape=(16, 16))
    assert (loaded['gt_seg_map'] == labels).all() and loaded['seg_fields'] == ['gt_seg_map']
    reduced = label_map(tmp_path / 'a.png', labels, reduce_zero_label=True)['gt_seg_map'].ravel()
    assert reduced[[0, 1, 150, 255]].tolist() == [255, 0, 149, 255]
    mapped = label_map(tmp_path / 'a.png', labels, label_map={1: 2, 2: 1})['gt_seg_map'].ravel()
    assert mapped[:4].tolist() == [0, 2, 1, 3]


def test_sixteen_bit_label_maps_do_not_wrap(tmp_path):
    path = tmp_path / 'a.png'
    labels = np.array([[0, 7, 255], [1, 2, 3]], np.uint16)
    for backend in ('pillow', 'cv2'):
        loader = LoadSemanticMap(imdecode_backend=backend)
        Image.fromarray(labels).save(path)
        loaded = loader({'seg_map_path': str(path), 'reduce_zero_label': False})
        assert (loaded['gt_seg_map'] == labels).all() and loaded['gt_seg_map'].dtype == np.uint8
        Image.fromarray(labels + np.uint16(250)).save(path)
        with pytest.raises(ValueError, match=r'a.png has values from 250 to 505, not within 0 .. 255: label_ids'):
            loader({'seg_map_path': str(path), 'reduce_zero_label': False})


def test_label_ids_say_what_values_mean(tmp_path):
    path = tmp_path / 'a.png'
    for dtype, values in ((np.uint8, (7, 0, 33)), (np.uint16, (7, 0, 33000))):
        labels = np.array([[0, 1, 6], values, [8, 7, 255]], dtype)
        Image.fromarray(labels).save(path)
        results = {'seg_map_path': str(path), 'img_path': 'a.jpg', 'reduce_zero_label': False, 'ori_shape': (3, 3)}
        loaded = LoadSemanticMap(label_ids=list(values))(dict(results))
        assert loaded['gt_seg_map'].tolist() == [[1, 255, 255], [0, 1, 2], [255, 0, 255]]
        assert loaded['gt_seg_map'].dtype == np.uint8 and loaded['seg_fields'] == ['gt_seg_map']
    # mmseg's choice among the classes comes afterwards: class 2 becomes 0, the others void
    chosen = LoadSemanticMap(label_ids=values)({**results, 'label_map': {0: 255, 1: 255, 2: 0}})
    assert chosen['gt_seg_map'].tolist() == [[255] * 3, [255, 255, 0], [255] * 3]


@pytest.mark.parametrize('label_ids', [[], [1, 1], [-1], [65536], [1.5], range(256)])
def test_wrong_label_ids_are_refused(label_ids):
    with pytest.raises(ValueError, match='label_ids='):
        LoadSemanticMap(label_ids=label_ids)


def test_label_ids_with_reduce_zero_label_are_refused(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.zeros((H, W), np.uint8)).save(path)
    results = {'seg_map_path': str(path), 'reduce_zero_label': True}
    with pytest.raises(ValueError, match='leave 0 out of label_ids'):
        LoadSemanticMap(label_ids=[1, 2])(results)
    with pytest.warns(UserWarning, match='reduce_zero_label'):  # mmseg's
        contradicting = LoadSemanticMap(reduce_zero_label=False)
    with pytest.raises(ValueError, match='reduce_zero_label=True in the data set, False in LoadSemanticMap'):
        contradicting(results)


@pytest.mark.parametrize('shape', [(1, 5), (5, 1), (1, 1)])
def test_label_map_of_one_row_or_column(tmp_path, shape):
    assert (
        label_map(tmp_path / 'a.png', np.full(shape, 3, np.uint8))['gt_seg_map'].tolist() == np.full(shape, 3).tolist()
    )


@pytest.mark.parametrize('mode', ['1', 'P', 'LA', 'F'])
def test_modes_of_label_maps(tmp_path, mode):
    path = tmp_path / ('a.tiff' if mode == 'F' else 'a.png')
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    if mode == 'P':
        image.putpalette([0, 0, 0] * 256)
    else:
        image = image.convert(mode)
    image.save(path)
    results = {'seg_map_path': str(path), 'reduce_zero_label': False}
    if mode in ('LA', 'F'):
        with pytest.raises(ValueError, match='one channel of whole numbers'):
            LoadSemanticMap()(results)
        return
    expected = [[0, 1], [1, 0]] if mode == '1' else [[0, 255], [255, 0]]
    assert LoadSemanticMap()(results)['gt_seg_map'].tolist() == expected


# Panoptic segments


def panoptic(tmp_path, ids, rows, **arguments):
    path = tmp_path / 'pan.png'
    write_panoptic_png(path, ids)
    info = [{'id': id_, 'category': category, 'iscrowd': bool(crowd)} for id_, category, crowd in rows]
    return {'img_path': 'a.jpg', 'seg_map_path': str(path), 'segments_info': info, **arguments}


def test_segments_by_hand(tmp_path):
    ids = np.array([[70000, 70000, 0, 9], [256, 256, 33, 70000]])
    # 256 is a crowd, 1 has no pixel, 33 and 0 are not listed
    rows = [(9, 5, 0), (256, 2, 1), (1, 7, 0), (70000, 3, 0)]
    loaded = LoadPanopticSegments()(panoptic(tmp_path, ids, rows, ori_shape=(2, 4)))
    assert loaded['gt_seg_map'].tolist() == [[2, 2, 0, 1], [0, 0, 0, 2]]
    assert loaded['gt_seg_map'].dtype == np.int32
    assert loaded['gt_segment_labels'].tolist() == [5, 3]
    assert loaded['gt_segment_labels'].dtype == np.int64
    assert loaded['seg_fields'] == ['gt_seg_map']


def test_crowds_follow_the_segments(tmp_path):
    ids = np.array([[70000, 70000, 0, 9], [256, 256, 33, 8]])
    # 1 and 2 have no pixel
    rows = [(256, 2, 1), (9, 5, 0), (2, 1, 1), (8, 4, 1), (1, 7, 0), (70000, 3, 0)]
    loaded = LoadPanopticSegments(with_crowds=True)(panoptic(tmp_path, ids, rows, ori_shape=(2, 4)))
    assert loaded['gt_seg_map'].tolist() == [[2, 2, 0, 1], [3, 3, 0, 4]]
    assert loaded['gt_segment_labels'].tolist() == [5, 3]
    assert loaded['gt_crowd_labels'].tolist() == [2, 4]
    assert loaded['gt_crowd_labels'].dtype == np.int64
    without = LoadPanopticSegments()(panoptic(tmp_path, ids, rows, ori_shape=(2, 4)))
    assert 'gt_crowd_labels' not in without
    assert without['gt_seg_map'].tolist() == [[2, 2, 0, 1], [0, 0, 0, 0]]


def test_no_segments_at_all_with_crowds(tmp_path):
    loaded = LoadPanopticSegments(with_crowds=True)(panoptic(tmp_path, np.full((2, 3), 5), [], ori_shape=(2, 3)))
    assert not loaded['gt_seg_map'].any()
    assert loaded['gt_segment_labels'].shape == loaded['gt_crowd_labels'].shape == (0,)
    only_crowd = LoadPanopticSegments(with_crowds=True)(panoptic(tmp_path, np.full((2, 3), 5), [(5, 1, 1)]))
    assert (only_crowd['gt_seg_map'] == 1).all()
    assert only_crowd['gt_segment_labels'].shape == (0,) and only_crowd['gt_crowd_labels'].tolist() == [1]


def test_segments_are_stored_once_in_seg_fields():
    results = {}
    for _ in range(2):
        store_segments(results, np.array([[4, 4, 9]]), [MapSegment(9, 1, False)], with_crowds=False)
    assert results['gt_seg_map'].tolist() == [[0, 0, 1]] and results['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize('rows', [[], [(5, 1, 1)]])
def test_all_void_or_crowd(tmp_path, rows):
    results = panoptic(tmp_path, np.full((H, W), 5), rows, ori_shape=(H, W))
    loaded = LoadPanopticSegments()(results)
    assert loaded['gt_seg_map'].shape == (H, W) and not loaded['gt_seg_map'].any()
    assert loaded['gt_segment_labels'].shape == (0,)


def test_image_without_annotation_needs_no_png(tmp_path):
    results = {'img_path': 'a.jpg', 'seg_map_path': str(tmp_path / 'no.png'), 'segments_info': []}
    loaded = LoadPanopticSegments()({**results, 'height': 3, 'width': 4})
    assert loaded['gt_seg_map'].shape == (3, 4)
    with pytest.raises(FileNotFoundError, match='no.png does not exist'):
        LoadPanopticSegments()({**results, 'segments_info': [{'id': 1, 'category': 0}], 'ori_shape': (3, 4)})
    with pytest.raises(ValueError, match='seg_map_path'):
        LoadPanopticSegments()({**results, 'seg_map_path': None})


@pytest.mark.parametrize(
    ('sizes', 'fits'),
    [
        (dict(ori_shape=(H, W), img_shape=(H, W)), True),
        (dict(ori_shape=(H, W), img_shape=(2 * H, 2 * W)), True),  # the image was resized before
        (dict(height=H, width=W), True),
        ({}, True),
        (dict(ori_shape=(W, H), img_shape=(W, H)), False),
        (dict(height=W, width=H), False),
        (dict(ori_shape=(W, H), height=H, width=W), False),  # the file, not what the json says of it
    ],
)
def test_size_must_be_the_images(tmp_path, sizes, fits):
    results = panoptic(tmp_path, np.full((H, W), 5), [(5, 1, 0)], **sizes)
    if fits:
        assert LoadPanopticSegments()(results)['gt_seg_map'].shape == (H, W)
        return
    with pytest.raises(ValueError, match=r'pan.png is \(40, 60\), its image a.jpg \(60, 40\).*EXIF'):
        LoadPanopticSegments()(results)


def test_host_transforms_move_the_segments(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.choice(np.array([0, 4, 70000, 1 << 20]), (H, W))
    results = panoptic(tmp_path, ids, [(4, 1, 0), (70000, 2, 0), (1 << 20, 3, 0)], ori_shape=(H, W), img=photo())
    results['img_shape'] = (H, W)
    loaded = LoadPanopticSegments()(results)
    before = loaded['gt_seg_map'].copy()
    doubled = Resize(scale=(2 * W, 2 * H))(loaded)
    assert (doubled['gt_seg_map'] == before.repeat(2, 0).repeat(2, 1)).all()
    flipped = RandomFlip(prob=1.0)(doubled)
    assert (flipped['gt_seg_map'] == before.repeat(2, 0).repeat(2, 1)[:, ::-1]).all()


# Instances


def rle(mask, compressed=True):
    code = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {'size': code['size'], 'counts': code['counts'].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int), prepend=0, append=2))
    return {'size': list(mask.shape), 'counts': np.diff(edges, prepend=0).tolist()}


def instance(mask, label=1, ignore_flag=0):
    return {'bbox': [1, 2, 9, 9], 'bbox_label': label, 'ignore_flag': ignore_flag, 'mask': mask}


def load_instances(*instances, **arguments):
    results = {'img_path': 'a.jpg', 'ori_shape': (H, W), 'height': H, 'width': W, 'instances': list(instances)}
    return LoadInstances(**arguments)(results)


SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


def test_no_instances_at_all():
    for instances in ([], [instance(SQUARE, ignore_flag=1)]):
        loaded = load_instances(*instances)
        assert len(loaded['gt_masks']) == len(loaded['gt_bboxes']) == len(loaded['gt_bboxes_labels']) == 0


def test_crowds_and_degenerate_polygons_are_left_out():
    instances = [
        instance(SQUARE, label=4),
        instance(SQUARE, label=5, ignore_flag=1),
        instance([[1, 1, 5, 5]], label=6),
        instance([[1, 1, 5, 5], *SQUARE], label=7),
    ]
    with pytest.warns(UserWarning, match='a.jpg.*fewer than 3 points'):
        loaded = load_instances(*instances)
    assert loaded['gt_bboxes_labels'].tolist() == [4, 7]
    assert not loaded['gt_ignore_flags'].any() and len(loaded['gt_bboxes']) == 2
    assert loaded['gt_masks'].masks.sum(axis=(1, 2)).tolist() == [100, 100]
    assert loaded['instances'] == instances  # metrics read crowds there


def test_run_lengths():
    mask = np.zeros((H, W), bool)
    mask[3:9, 20:44] = True
    for compressed in (True, False):
        assert (load_instances(instance(rle(mask, compressed)))['gt_masks'].masks[0] == mask).all()
        with pytest.raises(ValueError, match=r'a.jpg: .* size \[60, 40\], the image \(40, 60\).*EXIF'):
            load_instances(instance(rle(mask.T, compressed)))
    short = rle(mask, compressed=False)
    short['counts'][-1] -= 1
    with pytest.raises(ValueError, match='a.jpg'):
        load_instances(instance(short))


@pytest.mark.parametrize('mask', [None, [], {}])
def test_instance_without_mask(mask):
    with pytest.raises(ValueError, match='a.jpg has no mask'):
        load_instances(instance(mask))
    assert len(load_instances(instance(mask), with_mask=False)['gt_bboxes']) == 1


def test_mask_that_pycocotools_refuses():
    with pytest.raises(ValueError, match='a.jpg: a polygon is not a list of numbers') as error:
        load_instances(instance([['a', 'b', 'c', 'd', 'e', 'f']]))
    assert error.value.__cause__ is not None


def test_exif_rotation_can_be_ignored(tmp_path):
    # what the hint in messages says
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, 'jpeg', exif=exif)
    assert load_image(tmp_path / 'a.jpg', buffer.getvalue())['img_shape'] == (W, H)
    kept = load_image(tmp_path / 'a.jpg', buffer.getvalue(), color_type='color_ignore_orientation')
    assert kept['img_shape'] == (H, W)
