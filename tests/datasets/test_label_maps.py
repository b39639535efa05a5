"""Folders of images and label maps: what is missing is named when the data set is built."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.datasets.label_maps import LabelMaps

PREFIX = dict(img_path='images', seg_map_path='labels')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ('a/1', 'a/2', 'b'):
        for folder, suffix in (('images', '.jpg'), ('labels', '.png')):
            path = tmp_path / folder / f'{name}{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    return tmp_path


def build(root: Path, **more: Any) -> LabelMaps:
    settings = dict(data_root=str(root), data_prefix=PREFIX, metainfo=dict(classes=('x',), palette=[(0, 0, 0)]))
    return LabelMaps(**{**settings, **more})


def test_images_are_paired(root: Path) -> None:
    found = [build(root)[k] for k in range(3)]
    assert [Path(item['img_path']).relative_to(root).as_posix() for item in found] == [
        'images/a/1.jpg', 'images/a/2.jpg', 'images/b.jpg',
    ]  # fmt: skip
    assert found[1]['seg_map_path'] == f'{root}/labels/a/2.png'


def test_missing_label_map_is_named(root: Path) -> None:
    (root / 'labels' / 'a' / '2.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 3 images have no label map, the first would be a/2\.png'):
        build(root)


def test_wrong_ending_folder_and_prefix_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file \*\.tif below it.*img_suffix='\.png'"):
        build(root, img_suffix='.tif')
    with pytest.raises(FileNotFoundError, match=r'data_prefix\.img_path: folder .*nowhere does not exist'):
        build(root, data_prefix=dict(PREFIX, img_path='nowhere'))
    with pytest.raises(FileNotFoundError, match='has no seg_map_path'):
        build(root, data_prefix=dict(img_path='images'))


def test_test_sets_need_no_label_maps(root: Path) -> None:
    assert len(build(root, data_prefix=dict(img_path='images'), test_mode=True)) == 3
