"""Which files of one's own folders are read: nothing is left out in silence, and what is missing is counted."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
from input_files import touch_listed
from mmengine.dataset import BaseDataset
from PIL import Image

from eomt_mm.datasets import CocoInstance, CocoPanoptic
from eomt_mm.datasets.label_maps import LabelMaps

PREFIX = dict(img_path='images', seg_map_path='labels')
METAINFO = dict(classes=('x',), palette=[(0, 0, 0)])
NAMES = ('a.jpg', 'b.JPG', 'c.jpeg', 'd.png', 'e.bmp', 'f.Tif', 'g.webp', 'sub/h.jpg')


def write(root: Path, *names: str, size: tuple[int, int] = (4, 5)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.zeros(size, np.uint8))
        kind = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.tif': 'TIFF'}.get(Path(name).suffix.lower())
        if Path(name).suffix.lower() in ('.txt', '.heic'):
            (root / name).write_bytes(b'no image')
        else:
            image.save(root / name, kind)


def build(root: Path | str, **more: Any) -> LabelMaps:
    return LabelMaps(**{**dict(data_root=str(root), data_prefix=PREFIX, metainfo=METAINFO), **more})


def names(dataset: BaseDataset, key: str = 'img_path') -> list[str]:
    paths = [dataset.get_data_info(index)[key] for index in range(len(dataset))]
    return [path.rpartition('/images/' if key == 'img_path' else '/labels/')[2] for path in paths]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of the log."""
    lines: list[str] = []
    for module in ('file_listing', 'coco_json'):
        monkeypatch.setattr(f'eomt_mm.datasets.{module}.print_log', lambda text, **_: lines.append(text))
    return lines


# Folders of images and label maps


def test_every_suffix_that_decoders_read_is_found(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, *(f'images/{name}' for name in NAMES))
    write(tmp_path, *(f'labels/{Path(name).with_suffix(".png")}' for name in NAMES[1:]), 'labels/a.PNG')
    dataset = build(tmp_path)
    assert names(dataset) == list(NAMES)
    assert names(dataset, 'seg_map_path') == [
        'a.PNG', *(str(Path(name).with_suffix('.png')) for name in NAMES[1:])
    ]  # fmt: skip
    assert log == []


def test_images_in_a_zip_are_found_too(tmp_path: Path) -> None:
    write(tmp_path, *(f'images/{name}' for name in NAMES[:3]), 'labels/a.png', 'labels/b.png', 'labels/c.png')
    with zipfile.ZipFile(tmp_path / 'own.zip', 'w') as archive:
        for path in sorted(tmp_path.rglob('*.*')):
            archive.write(path, path.relative_to(tmp_path))
    for folder in ('images', 'labels'):
        (tmp_path / folder).rename(tmp_path / f'other_{folder}')
    assert names(build(f'zip://{tmp_path}')) == list(NAMES[:3])


def test_one_warning_counts_what_is_left_out(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, 'images/a.jpg', 'images/b.heic', 'images/c.txt', 'images/d.heic')
    write(tmp_path, 'labels/a.png', 'labels/q.png')
    assert len(build(tmp_path)) == 1
    (line,) = log
    assert 'LabelMaps reads 1 image and leaves out 3 files (2 .heic, 1 .txt), such as b.heic' in line
    assert 'and 1 file (1 .png), such as q.png' in line
    assert 'label maps without an image' in line


def test_a_stated_suffix_is_exact_and_names_what_it_leaves_out(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, *(f'images/{name}' for name in NAMES), 'labels/a.png', 'labels/sub/h.png')
    assert names(build(tmp_path, img_suffix='.jpg')) == ['a.jpg', 'sub/h.jpg']
    (line,) = log
    assert '6 files (1 .JPG, 1 .jpeg, 1 .png, 1 .bmp, 1 .Tif), such as b.JPG' in line
    assert "do not end with img_suffix='.jpg'" in line


def test_images_and_label_maps_in_one_folder(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, 'all/a.jpg', 'all/a.png', 'all/b.JPG', 'all/b.png')
    one = dict(img_path='all', seg_map_path='all')
    assert [Path(path).name for path in names(build(tmp_path, data_prefix=one))] == ['a.jpg', 'b.JPG']
    write(tmp_path, 'two/a.png', 'two/a_mask.png')
    one = dict(img_path='two', seg_map_path='two')
    dataset = build(tmp_path, data_prefix=one, seg_map_suffix='_mask.png')
    assert [Path(path).name for path in names(dataset)] == ['a.png']
    assert log == []


def test_label_maps_below_the_images(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, 'images/a.png', 'images/labels/a.png')
    assert len(build(tmp_path, data_prefix=dict(img_path='images', seg_map_path='images/labels'))) == 1
    assert log == []


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 'images/a.jpg', 'images/a.png', 'labels/a.png')
    message = r"data_prefix\.img_path=.*: a\.jpg and a\.png differ only in their suffix.*img_suffix='\.jpg'"
    with pytest.raises(ValueError, match=message):
        build(tmp_path)
    assert len(build(tmp_path, img_suffix='.jpg')) == 1


def test_lists_of_images(tmp_path: Path, log: list[str]) -> None:
    write(tmp_path, 'images/a.jpg', 'images/b.JPG', 'images/c.png', 'labels/a.png', 'labels/b.png', 'labels/c.png')
    (tmp_path / 'train.txt').write_bytes(b'\xef\xbb\xbfc\n\n  a.jpg \r\n\n')
    assert names(build(tmp_path, ann_file='train.txt')) == ['c.png', 'a.jpg']
    (tmp_path / 'train.txt').write_text('c\nz\n\ny\n')
    with pytest.raises(FileNotFoundError, match=r"train\.txt: 2 of 3 images .* below data_prefix\.img_path=.*be 'z'"):
        build(tmp_path, ann_file='train.txt')
    (tmp_path / 'train.txt').write_text('c\n\na\n')
    (tmp_path / 'labels/a.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images have no label map, the first would be a\.png'):
        build(tmp_path, ann_file='train.txt')
    (tmp_path / 'train.txt').write_text('\n\n')
    with pytest.raises(ValueError, match=r'train\.txt is empty'):
        build(tmp_path, ann_file='train.txt')
    with pytest.raises(FileNotFoundError, match=r'list of images .*val\.txt does not exist'):
        build(tmp_path, ann_file='val.txt')


# Files that a json lists

IMAGES = [{'id': i, 'file_name': f'{i % 2}/{i}.jpg', 'height': 4, 'width': 5} for i in range(1, 9)]
SQUARE = [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]]


def instances(root: Path, **more: Any) -> CocoInstance:
    annotations = [
        {'id': i, 'image_id': i, 'category_id': 1, 'bbox': [1, 1, 3, 2], 'segmentation': SQUARE} for i in range(1, 9)
    ]
    data = {'images': IMAGES, 'categories': [{'id': 1, 'name': 'x'}], 'annotations': annotations}
    (root / 'own.json').write_text(json.dumps(data))
    metainfo = dict(classes=('x',))
    return CocoInstance(
        ann_file='own.json', data_root=str(root), data_prefix=dict(img='img'), metainfo=metainfo, **more
    )


def panoptic(root: Path, **more: Any) -> CocoPanoptic:
    annotations = [
        {'image_id': i, 'file_name': f'{i}.png', 'segments_info': [{'id': 1, 'category_id': 1}]} for i in range(1, 9)
    ]
    data = {'images': IMAGES, 'categories': [{'id': 1, 'name': 'x', 'isthing': 1}], 'annotations': annotations}
    (root / 'own.json').write_text(json.dumps(data))
    touch_listed(root / 'nowhere', data, root / 'png')
    metainfo = dict(classes=('x',), thing_classes=('x',), stuff_classes=())
    prefix = dict(img='img', seg='png')
    return CocoPanoptic(ann_file='own.json', data_root=str(root), data_prefix=prefix, metainfo=metainfo, **more)


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize('make', [instances, panoptic])
def test_missing_images_are_counted_at_once(make: Callable[..., BaseDataset], test_mode: bool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'own\.json: 8 of 8 images do not exist, .*img/1/1\.jpg'):
        make(tmp_path, test_mode=test_mode)
    touch_listed(tmp_path / 'img', {'images': IMAGES[:5]})
    with pytest.raises(FileNotFoundError, match=r'own\.json: 3 of 8 images do not exist, .*img/1/7\.jpg: add'):
        make(tmp_path, test_mode=test_mode)
    assert len(make(tmp_path, test_mode=test_mode, indices=5)) == 5
    with pytest.raises(FileNotFoundError, match='1 of 2 images'):
        make(tmp_path, test_mode=test_mode, indices=[0, 7])


def test_missing_panoptic_pngs_are_counted(tmp_path: Path) -> None:
    touch_listed(tmp_path / 'img', {'images': IMAGES})
    dataset = panoptic(tmp_path, lazy_init=True)
    (tmp_path / 'png' / '3.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'own\.json: 1 of 8 panoptic PNGs do not exist, .*png/3\.png'):
        dataset.full_init()
