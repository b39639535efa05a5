"""Official downloads read in place give what the unpacked trees give, in every kind of process."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.structures.bbox import BaseBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine import fileio
from mmengine.structures import BaseDataElement
from mmseg.datasets import ADE20KDataset
from torch.utils.data import DataLoader
from zip_samples import Contents, pack_ade20k, pack_cityscapes, pack_coco, write_zip

import eomt_mm  # noqa: F401
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.fileio import zip_archive
from eomt_mm.synthetic.generate import write_cityscapes
from eomt_mm.synthetic.shapes import SHAPES_METAINFO


@pytest.fixture(scope='module')
def coco_zips(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_coco(coco_root, tmp_path_factory.mktemp('zips') / 'coco')


@pytest.fixture(scope='module')
def ade20k_zips(ade20k_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_ade20k(ade20k_root, tmp_path_factory.mktemp('zips') / 'ade')


def files_below(root: Path, folder: str = '') -> list[str]:
    """Paths of all files relative to ``root``, without the note of the generator."""
    found = [path for path in (root / folder).rglob('*') if path.is_file() and path.name != 'generated.json']
    return sorted(str(path.relative_to(root)) for path in found)


# The official downloads


def test_coco_downloads_hold_the_tree(coco_root: Path, coco_zips: Path) -> None:
    names = files_below(coco_root)
    assert len(names) == 10 + 4 + 10  # images, jsons, PNGs
    for name in names:
        assert fileio.get(f'zip://{coco_zips}/{name}') == (coco_root / name).read_bytes()


def test_ade20k_downloads_hold_the_tree(ade20k_root: Path, ade20k_zips: Path) -> None:
    top, zipped = 'ADEChallengeData2016/', 'ADEChallengeData2016.zip/'
    for name in [*files_below(ade20k_root, 'images'), *files_below(ade20k_root, 'annotations')]:
        for root in ('', top, zipped, zipped + top):
            assert fileio.get(f'zip://{ade20k_zips}/{root}{name}') == (ade20k_root / name).read_bytes()
    instances = files_below(ade20k_root, 'annotations_instance')
    assert len(instances) == 10
    for name in instances:
        inside = name.removeprefix('annotations_instance/')
        for path in (name, f'annotations_instance.zip/{name}', f'annotations_instance.zip/{inside}'):
            assert fileio.get(f'zip://{ade20k_zips}/{path}') == (ade20k_root / name).read_bytes()


def test_coco_stuff_downloads_where_mmseg_wants_them_or_together(tmp_path: Path) -> None:
    images, maps = ('train2017/1.jpg', 'train2017/2.jpg'), ('train2017/1.png', 'train2017/2.png', 'val2017/3.png')
    for root in ('apart/images', 'together'):
        write_zip(tmp_path / root / 'train2017.zip', *images, content='image')
    for root in ('apart/annotations', 'together'):
        write_zip(tmp_path / root / 'stuffthingmaps_trainval2017.zip', *maps, content='map')
    for images_of, maps_of in (('apart/images', 'apart/annotations'), ('together', 'together')):
        folders = [f'zip://{tmp_path}/{root}/train2017' for root in (images_of, maps_of)]
        assert [fileio.get_text(f'{folders[0]}/2.jpg'), fileio.get_text(f'{folders[1]}/2.png')] == ['image', 'map']
        assert list(fileio.list_dir_or_file(folders[0], list_dir=False, suffix='.jpg')) == ['1.jpg', '2.jpg']
        assert list(fileio.list_dir_or_file(folders[1], list_dir=False, suffix='.png')) == ['1.png', '2.png']


def test_cityscapes_downloads_hold_the_tree(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / 'root', num_train=3, num_val=2, size=(64, 64), progress=False)
    zips = f'zip://{pack_cityscapes(root, tmp_path / "zips")}'
    for name in files_below(root):
        assert fileio.get(f'{zips}/{name}') == (root / name).read_bytes()
    found = fileio.list_dir_or_file(f'{zips}/gtFine/train', list_dir=False, suffix='_labelIds.png', recursive=True)
    assert list(found) == [
        'aachen/aachen_000000_000019_gtFine_labelIds.png',
        'aachen/aachen_000001_000019_gtFine_labelIds.png',
        'bochum/bochum_000000_000019_gtFine_labelIds.png',
    ]
    assert list(fileio.list_dir_or_file(f'{zips}/leftImg8bit/val')) == ['frankfurt', 'lindau']


def test_one_zip_as_root(coco_root: Path, coco_zips: Path) -> None:
    image = files_below(coco_root, 'train2017')[0]
    for name in (image, Path(image).name):
        assert fileio.get(f'zip://{coco_zips}/train2017.zip/{name}') == (coco_root / image).read_bytes()
    png = files_below(coco_root, 'annotations/panoptic_val2017')[0]
    outer = f'zip://{coco_zips}/panoptic_annotations_trainval2017.zip'
    for folder in ('_val2017/', '_val2017.zip/', '_val2017/panoptic_val2017/'):
        name = png.replace('_val2017/', folder)
        assert fileio.get(f'{outer}/{name}') == (coco_root / png).read_bytes()


# Samples


def plain(value: Any, root: str) -> Any:
    """A sample as plain values that can be compared, paths made relative to ``root``."""
    if isinstance(value, BaseDataElement):
        fields = {key: plain(item, root) for key, item in value.all_items()}
        return {'type': type(value).__name__, **fields}
    if isinstance(value, dict):
        return {key: plain(item, root) for key, item in value.items()}
    if isinstance(value, BaseBoxes):
        return plain(value.tensor, root)
    if isinstance(value, torch.Tensor):
        return plain(value.numpy(), root)
    if isinstance(value, BitmapMasks | PolygonMasks):
        return plain(value.to_ndarray(), root)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, str):
        return value.removeprefix(f'{root}/')
    return value


def samples(build: Any, root: str) -> list[Any]:
    dataset = build(root)
    return [plain(dataset[i], root) for i in range(len(dataset))]


def coco_panoptic(root: str) -> CocoPanoptic:
    return CocoPanoptic(
        data_root=root,
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        metainfo=SHAPES_METAINFO,
        pipeline=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='eomt_mm.LoadPanopticSegments'),
            dict(type='eomt_mm.PackSegments'),
        ],
    )


def coco_instance(root: str) -> CocoDataset:
    return CocoDataset(
        data_root=root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        metainfo=dict(classes=SHAPES_METAINFO['thing_classes']),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='mmdet.PackDetInputs'),
        ],
    )


def ade20k_semantic(root: str) -> ADE20KDataset:
    return ADE20KDataset(
        data_root=root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmseg.LoadAnnotations', reduce_zero_label=True),
            dict(type='mmseg.PackSegInputs'),
        ],
    )


@pytest.mark.parametrize('build', [coco_panoptic, coco_instance])
def test_same_coco_samples_from_zips_and_folders(build: Any, coco_root: Path, coco_zips: Path) -> None:
    from_folders = samples(build, str(coco_root))
    assert len(from_folders) >= 4
    assert samples(build, f'zip://{coco_zips}') == from_folders


def test_same_ade20k_samples_from_zips_and_folders(ade20k_root: Path, ade20k_zips: Path) -> None:
    from_folders = samples(ade20k_semantic, str(ade20k_root))
    assert len(from_folders) == 6
    for root in ('', '/ADEChallengeData2016', '/ADEChallengeData2016.zip'):
        assert samples(ade20k_semantic, f'zip://{ade20k_zips}{root}') == from_folders


def test_unpacked_annotations_beside_zipped_images(coco_root: Path, coco_zips: Path, tmp_path: Path) -> None:
    expected = samples(coco_panoptic, str(coco_root))
    shutil.copytree(coco_root / 'annotations', tmp_path / 'all/annotations')
    shutil.copy(coco_zips / 'train2017.zip', tmp_path / 'all')
    assert samples(coco_panoptic, f'zip://{tmp_path}/all') == expected
    # of annotations only the panoptic download is unpacked, and the zips in it are not
    shutil.copytree(coco_zips, tmp_path / 'some')
    with zipfile.ZipFile(tmp_path / 'some/panoptic_annotations_trainval2017.zip') as file:
        file.extractall(tmp_path / 'some')
    (tmp_path / 'some/panoptic_annotations_trainval2017.zip').unlink()
    assert not (tmp_path / 'some/annotations/panoptic_train2017').exists()
    assert samples(coco_panoptic, f'zip://{tmp_path}/some') == expected
    assert fileio.isfile(f'zip://{tmp_path}/some/annotations/instances_val2017.json')


def test_coco_metric_takes_a_zipped_json(coco_root: Path, coco_zips: Path) -> None:
    name = 'annotations/instances_val2017.json'
    apis = [CocoMetric(ann_file=f'{root}/{name}')._coco_api for root in (coco_root, f'zip://{coco_zips}')]
    assert apis[0].dataset['annotations'] and apis[0].dataset == apis[1].dataset


# Processes


@pytest.mark.parametrize('opened_before', [True, False])
def test_forked_workers_read_the_same_bytes(
    coco_root: Path, coco_zips: Path, opened_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = files_below(coco_root)
    dataset = Contents([f'zip://{coco_zips}/{name}' for name in names] * 5)
    monkeypatch.setattr(zip_archive, '_archives', {})
    if opened_before:
        list(map(fileio.get, dataset.paths))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context='fork')
    assert list(loader) == [(coco_root / name).read_bytes() for name in names] * 5


@pytest.mark.slow
def test_spawned_worker_reads_the_same_bytes(coco_root: Path, coco_zips: Path) -> None:
    names = files_below(coco_root)
    dataset = Contents([f'zip://{coco_zips}/{name}' for name in names])
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context='spawn')
    assert list(loader) == [(coco_root / name).read_bytes() for name in names]
