"""Data sets that are folders of images."""

import zipfile
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
from PIL import Image

from eomt_mm.datasets.folders import FolderDataset

KNOWN: dict[str, Any] = dict(
    classes=('cat', 'dog', 'sky', 'grass'),
    thing_classes=('cat', 'dog'),
    stuff_classes=('sky', 'grass'),
    palette=[(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)],
    category_ids=(17, 18, 3, 9),
)


class Pets(FolderDataset):
    METAINFO = KNOWN
    img_suffix = '_photo.png'
    annotations = {'seg': ('seg_map_path', '_ids.png'), 'parts': ('part_map_path', '_parts.png')}
    source = 'pets.zip'


NAMES = ('b/2', 'a/9', 'a/10')
PREFIX = dict(img='photos', seg='maps', parts='maps')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        for path in (f'photos/{name}_photo.png', f'maps/{name}_ids.png', f'maps/{name}_parts.png'):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / path)
    (tmp_path / 'photos/readme.txt').write_text('not an image')
    return tmp_path


def pets(root: Path, **arguments: Any) -> Pets:
    return Pets(**{'data_root': str(root), 'data_prefix': PREFIX, **arguments})


def items(dataset: FolderDataset) -> list[dict[str, Any]]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_images_are_sorted_and_paired(root: Path) -> None:
    found = items(pets(root))
    assert [item['img_id'] for item in found] == ['10', '9', '2']
    assert found[0] == dict(
        img_path=f'{root}/photos/a/10_photo.png',
        img_id='10',
        seg_map_path=f'{root}/maps/a/10_ids.png',
        part_map_path=f'{root}/maps/a/10_parts.png',
        category_ids=(17, 18, 3, 9),
        sample_idx=0,
    )


def test_a_part_of_the_images(root: Path) -> None:
    assert [item['img_id'] for item in items(pets(root, indices=2))] == ['10', '9']
    assert [item['img_id'] for item in items(pets(root, indices=[2]))] == ['2']


def test_paths_in_a_zip(root: Path) -> None:
    with zipfile.ZipFile(root / 'pets.zip', 'w') as archive:
        for path in sorted(root.rglob('*.png')):
            archive.write(path, path.relative_to(root))
    found = items(pets(root, data_root=f'zip://{root}/pets.zip'))
    plain = items(pets(root))
    assert [item['img_id'] for item in found] == [item['img_id'] for item in plain]
    for key in ('img_path', 'seg_map_path', 'part_map_path'):
        start = f'{root}/'
        assert [item[key].removeprefix(f'zip://{root}/pets.zip/') for item in found] == [
            item[key].removeprefix(start) for item in plain
        ]
    with pytest.raises(FileNotFoundError, match=r'data_prefix\["img"\]: folder .*nowhere does not exist, .*pets'):
        pets(root, data_root=f'zip://{root}/pets.zip', data_prefix=dict(PREFIX, img='nowhere'))


# What is missing is said when the data set is built


@pytest.mark.parametrize('key', ['img', 'seg', 'parts'])
def test_missing_folder(root: Path, key: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf'data_prefix\["{key}"\]: folder .*/nowhere .*pets.zip.* check'):
        pets(root, data_prefix=dict(PREFIX, **{key: 'nowhere'}))


def test_file_in_place_of_a_folder(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'folder .*/photos/readme.txt'):
        pets(root, data_prefix=dict(PREFIX, img='photos/readme.txt'))


def test_no_image(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no file \*\.tif below .*/photos: .*pets.zip.*img_suffix'):
        pets(root, img_suffix='.tif')


def test_missing_annotations_are_counted(root: Path) -> None:
    for name in NAMES[:2]:
        (root / f'maps/{name}_parts.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'"parts"\]: 2 of 3 images .*/maps, the first would be a/9_parts.png'):
        pets(root)
    with pytest.raises(FileNotFoundError, match='2 of 3'):  # a test set has all annotations or none
        pets(root, test_mode=True)


def test_test_set_without_annotations(root: Path) -> None:
    for item in items(pets(root, data_prefix=dict(img='photos'), test_mode=True)):
        assert item.keys() == {'img_path', 'img_id', 'category_ids', 'sample_idx'}


@pytest.mark.parametrize(
    ('prefix', 'test_mode', 'missing'),
    [
        (dict(img='photos'), False, ['seg', 'parts']),
        (dict(img='photos', seg='maps'), False, ['parts']),
        (dict(img='photos', seg='maps'), True, ['parts']),
        (dict(img='photos', seg='', parts='maps'), True, ['seg']),
        ({}, True, ['img', 'seg', 'parts']),
    ],
)
def test_missing_prefixes_are_named(root: Path, prefix: dict[str, str], test_mode: bool, missing: list[str]) -> None:
    folders = {key: value and f'{root}/{value}' for key, value in prefix.items()}
    with pytest.raises(ValueError) as error:
        Pets(data_prefix=folders, test_mode=test_mode)
    assert f'has no {missing}: give folders' in str(error.value)


def test_lazy_init_reads_nothing(root: Path) -> None:
    dataset = pets(root / 'nowhere', lazy_init=True)
    assert dataset.metainfo['classes'] == KNOWN['classes']
    with pytest.raises(FileNotFoundError):
        dataset.full_init()


@pytest.mark.parametrize('argument', [dict(ann_file='train.txt'), dict(filter_cfg=dict(filter_empty_gt=True))])
def test_what_is_not_read_is_refused(root: Path, argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f'Pets reads folders, not .*{next(iter(argument))}'):
        pets(root, **argument)
    pets(root, ann_file='', filter_cfg=None)


def test_images_of_the_same_name_are_refused(root: Path) -> None:
    for kind in ('photos', 'maps'):
        for path in (root / kind / 'a').glob('9_*'):
            (root / kind / 'b' / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r'a/9_photo.png and .*b/9_photo.png have the same name'):
        pets(root)


# Classes


def test_known_classes_are_the_default(root: Path) -> None:
    assert pets(root).metainfo == KNOWN


def test_chosen_classes_bring_what_follows(root: Path) -> None:
    chosen = pets(root, metainfo=dict(classes=['dog', 'grass'], author='me')).metainfo
    assert chosen == dict(
        classes=('dog', 'grass'),
        thing_classes=('dog',),
        stuff_classes=('grass',),
        palette=[(2, 2, 2), (4, 4, 4)],
        category_ids=(18, 9),
        author='me',
    )
    assert items(pets(root, metainfo=dict(classes=['grass'])))[0]['category_ids'] == (9,)
    assert Pets.METAINFO == KNOWN


def test_palette_of_ones_own(root: Path) -> None:
    palette = [(9, 9, 9), (8, 8, 8)]
    metainfo = dict(classes=('dog', 'cat'), thing_classes=['dog', 'cat'], stuff_classes=[], palette=palette)
    assert pets(root, metainfo=metainfo).metainfo['palette'] == palette
    assert pets(root, metainfo=metainfo).metainfo['category_ids'] == (18, 17)


@pytest.mark.parametrize(
    ('metainfo', 'message'),
    [
        (dict(classes=('dog', 'cow')), r"\['cow'\] are unknown"),
        (dict(classes=('dog', 'dog')), 'repeat'),
        (dict(classes=()), 'choose among'),
        (dict(classes=('sky', 'dog')), 'things followed by stuff'),
        (dict(classes=('dog', 'sky'), thing_classes=('dog', 'sky')), r"\['thing_classes'\]"),
        (dict(stuff_classes=('sky',)), r"\['stuff_classes'\]"),
    ],
)
def test_classes_that_cannot_be(root: Path, metainfo: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pets(root, metainfo=metainfo, lazy_init=True)
