"""mmseg's own data sets: images that they leave out are reported, missing files are counted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
from input_files import write as picture
from mmseg.datasets import ADE20KDataset
from PIL import Image

from eomt_mm.datasets import LabelMaps, SeededDataset
from eomt_mm.engine import FolderCheckHook

PREFIX = dict(img_path='images', seg_map_path='labels')


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('eomt_mm.datasets.file_listing.print_log', lambda text, **_: lines.append(text))
    return lines


def check(**datasets: Any) -> None:
    loaders = {f'{split}_dataloader': SimpleNamespace(dataset=dataset) for split, dataset in datasets.items()}
    runner = SimpleNamespace(val_loop=None, **loaders)
    hook = FolderCheckHook()
    (hook.before_train if 'train' in datasets else hook.before_test)(runner)


def build(root: Path, **more: Any) -> ADE20KDataset:
    return ADE20KDataset(data_root=str(root), data_prefix=dict(PREFIX), **more)


def test_images_that_are_left_out_are_counted(tmp_path: Path, log: list[str]) -> None:
    for name in ('a.jpg', 'b.JPG', 'c.png', 'd.txt'):
        picture(tmp_path / 'images' / 'x.jpg').rename(tmp_path / 'images' / name)
    (tmp_path / 'labels').mkdir()
    Image.new('L', (12, 8)).save(tmp_path / 'labels/a.png')
    check(train=SeededDataset(build(tmp_path)))
    (line,) = log
    assert 'ADE20KDataset reads 1 image and leaves out 2 files (1 .JPG, 1 .png), such as b.JPG' in line
    assert "do not end with img_suffix='.jpg'" in line
    log.clear()
    check(test=build(tmp_path, test_mode=True))
    assert len(log) == 1
    log.clear()
    (tmp_path / 'list.txt').write_text('a\n')
    check(train=build(tmp_path, ann_file='list.txt'))
    check(train=SimpleNamespace(dataset=build(tmp_path, indices=1)))
    own = LabelMaps(
        data_root=str(tmp_path), data_prefix=PREFIX, metainfo=dict(classes=('x',)), test_mode=True, lazy_init=True
    )
    check(train=own)
    assert log == []


def test_missing_files_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / 'images/a.jpg')
    picture(tmp_path / 'images/b.jpg')
    (tmp_path / 'labels').mkdir()
    Image.new('L', (12, 8)).save(tmp_path / 'labels/a.png')
    with pytest.raises(FileNotFoundError, match='ADE20KDataset: 1 of 2 label maps do not exist, .*b.png'):
        check(train=build(tmp_path))
    check(test=build(tmp_path, test_mode=True))
    (tmp_path / 'list.txt').write_text('a\n\n')
    with pytest.raises(FileNotFoundError, match=r'list\.txt: 1 of 2 images do not exist'):
        check(test=build(tmp_path, ann_file='list.txt', test_mode=True))
