"""Own files that are missing, hidden, or named otherwise: found, or an error that says what is there instead."""

import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
from input_files import write as picture
from PIL import Image
from videomt.datasets.youtube_vis import YouTubeVIS

from eomt_mm.datasets import ADE20KPanoptic, CocoInstance, CocoPanoptic, LabelMaps
from eomt_mm.datasets.file_listing import list_files

SIZE = (8, 12)
RING = [[1.0, 1.0, 6.0, 1.0, 6.0, 5.0, 1.0, 5.0]]
METAINFO = dict(classes=('cow',), thing_classes=('cow',), stuff_classes=(), palette=[(0, 0, 0)])
CATEGORIES = [{'id': 7, 'name': 'cow', 'isthing': 1}]


def write(path: Path, **content: Any) -> str:
    path.write_text(json.dumps({**content, 'categories': CATEGORIES}))
    return path.name


def instances(root: Path, name: str = '1.png', **more: Any) -> Any:
    images = [{'id': 1, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]}]
    annotations = [{'id': 1, 'image_id': 1, 'category_id': 7, 'segmentation': RING}]
    ann_file = write(root / 'own.json', images=images, annotations=annotations)
    given = dict(ann_file=ann_file, data_root=f'{root}/', data_prefix=dict(img='images/'), metainfo=METAINFO)
    return CocoInstance(**{**given, **more})


def panoptic(root: Path, name: str = '1.png', **more: Any) -> Any:
    """A data set whose PNG has this name."""
    picture(root / 'images/1.png')
    images = [{'id': 1, 'file_name': '1.png', 'height': SIZE[0], 'width': SIZE[1]}]
    annotations = [{'image_id': 1, 'file_name': name, 'segments_info': [{'id': 5, 'category_id': 7}]}]
    ann_file = write(root / 'own.json', images=images, annotations=annotations)
    prefix = dict(img='images/', seg='pngs/')
    given = dict(ann_file=ann_file, data_root=f'{root}/', data_prefix=prefix, metainfo=METAINFO)
    return CocoPanoptic(**{**given, **more})


def video(root: Path, name: str = '1.png', **more: Any) -> Any:
    videos = [{'id': 1, 'file_names': [name], 'height': SIZE[0], 'width': SIZE[1]}]
    annotations = [{'id': 1, 'video_id': 1, 'category_id': 7, 'iscrowd': 0, 'segmentations': [RING]}]
    ann_file = write(root / 'own.json', videos=videos, annotations=annotations)
    given = dict(
        ann_file=ann_file, data_root=f'{root}/', data_prefix=dict(img='images/'), metainfo=dict(classes=['cow'])
    )
    return YouTubeVIS(**{**given, **more})


def label_maps(root: Path, **more: Any) -> LabelMaps:
    prefix = dict(img_path='images', seg_map_path='labels')
    return LabelMaps(**{**dict(data_root=str(root), data_prefix=prefix, metainfo=METAINFO), **more})


def grey(path: Path, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', SIZE[::-1]).save(path, kind)


def names(dataset: LabelMaps) -> list[str]:
    return [Path(dataset.get_data_info(index)['img_path']).name for index in range(len(dataset))]


READERS = {'images': instances, 'pngs': panoptic, 'frames': video}
FOLDERS = {'images': 'images', 'pngs': 'pngs', 'frames': 'images'}


# Files of a json


@pytest.mark.parametrize('kind', READERS)
def test_what_is_there_in_place_of_a_missing_file(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS[kind]
    picture(folder / '1.png')
    for name, message in {
        '1.jpg': r"1\.jpg \(there is '1\.png' in that folder\): add",
        '%20 1.jpg': r"\(there is '1\.png' in that folder\)",
        ' 1.PNG ': r"\(there is '1\.png' in that folder\)",
        f'{folder.name}/1.png': rf'\(there is .*{folder.name}/1\.png\)',
        '/home/nobody/1.png': r'/home/nobody/1\.png \(there is .*/1\.png\)',
        r'C:\data\1.png': r'\(there is .*/1\.png\)',
        'sub/2.png': r'2\.png \(folder .*/sub does not exist\)',
    }.items():
        with pytest.raises(FileNotFoundError, match=r'own\.json: 1 of 1 .* the first would be .*' + message):
            READERS[kind](tmp_path, name)


@pytest.mark.parametrize('kind', READERS)
def test_links_and_folders_are_no_files(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / FOLDERS[kind]
    folder.mkdir()
    (folder / '1.png').symlink_to(tmp_path / 'gone.png')
    picture(tmp_path / 'images/9.png')
    if kind == 'pngs':
        picture(tmp_path / 'images/1.png')
    with pytest.raises(FileNotFoundError, match=r'1\.png \(it is a link to .*gone\.png, which does not exist'):
        READERS[kind](tmp_path)
    (folder / '1.png').unlink()
    (folder / '1.png').mkdir()
    with pytest.raises(FileNotFoundError, match='1 of 1 .* do not exist'):
        READERS[kind](tmp_path)


@pytest.mark.parametrize('kind', READERS)
def test_backslashes_are_slashes_and_addresses_are_refused(kind: str, tmp_path: Path) -> None:
    picture(tmp_path / FOLDERS[kind] / 'sub/1.png')
    assert len(READERS[kind](tmp_path, r'sub\1.png')) == 1
    with pytest.raises(ValueError, match=r'own\.json names .* by addresses, .* joined to .*http://host/1\.png: '):
        READERS[kind](tmp_path, 'http://host/1.png')


def test_empty_file_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'own\.json: image .* needs "file_name"'):
        instances(tmp_path, '')


@pytest.mark.parametrize('read', [instances, panoptic, video])
def test_annotation_file_that_is_none(read: Callable[..., Any], tmp_path: Path) -> None:
    picture(tmp_path / 'pngs/1.png')
    for ann_file, message in {
        'pngs': r'pngs is a folder: name the json',
        'Own.txt': r"Own\.txt does not exist \(there is 'own\.json' in that folder\)",
        'sub/own.json': r'sub/own\.json does not exist \(there is .*/own\.json\)',
    }.items():
        with pytest.raises(FileNotFoundError, match=f'annotation file .*{message}'):
            read(tmp_path, ann_file=ann_file)
    with pytest.raises(FileNotFoundError, match="ann_file=''"):
        read(tmp_path, ann_file='')


@pytest.mark.parametrize('read', [instances, panoptic])
def test_json_without_images(read: Callable[..., Any], tmp_path: Path) -> None:
    picture(tmp_path / 'pngs/1.png')
    for test_mode in (False, True):
        write(tmp_path / 'none.json', images=[], annotations=[])
        with pytest.raises(ValueError, match=r'none\.json lists no images'):
            read(tmp_path, ann_file='none.json', test_mode=test_mode)


@pytest.mark.parametrize(
    ('build', 'prefix', 'key'),
    [
        (instances, dict(img='images'), 'img_path'),
        (panoptic, dict(img='images', seg='pngs'), 'img_path'),
        (video, dict(img='images'), 'img_path'),
        (label_maps, dict(img_path='images', seg_map_path='labels'), 'img'),
    ],
)
def test_folders_and_lists_that_nothing_reads(
    build: Callable[..., Any], prefix: dict[str, Any], key: str, tmp_path: Path
) -> None:
    picture(tmp_path / 'images/1.png')
    picture(tmp_path / 'pngs/1.png')
    grey(tmp_path / 'labels/1.png')
    assert len(build(tmp_path, data_prefix=dict(prefix))) == 1
    with pytest.raises(ValueError, match=rf"data_prefix: \w+ reads the folders .*, not .'{key}': 'elsewhere'"):
        build(tmp_path, data_prefix={**prefix, key: 'elsewhere'})
    for bad in ('images', {**prefix, 'img': None}):
        with pytest.raises(ValueError, match=r'data_prefix=.*: \w+ needs dict\(img'):
            build(tmp_path, data_prefix=bad)
    with pytest.raises(ValueError, match=r"ann_file=\['a', 'b'\]: \w+ reads one file"):
        build(tmp_path, ann_file=['a', 'b'])


def test_folder_data_sets_check_their_keys() -> None:
    with pytest.raises(ValueError, match=r"ADE20KPanoptic reads the folders .*, not .'img_path': 'b'"):
        ADE20KPanoptic(data_prefix=dict(img='a', img_path='b'), lazy_init=True)


# Zip files


def test_what_a_zip_holds_in_place_of_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / 'made/1.png')
    panoptic(tmp_path, lazy_init=True)
    with zipfile.ZipFile(tmp_path / 'data.zip', 'w') as archive:
        archive.write(tmp_path / 'made/1.png', 'export/pictures/1.png')
        archive.write(tmp_path / 'own.json', 'export/own.json')
    (tmp_path / 'own.json').unlink()
    root = f'zip://{tmp_path}/data.zip/'
    holds = r'data\.zip holds export/, first file: export/pictures/1\.png'
    metainfo = dict(classes=('cow',), palette=[(0, 0, 0)])
    prefix = dict(img='images', seg='pngs')
    for build in (
        lambda: CocoPanoptic(ann_file='own.json', data_root=root, data_prefix=prefix, metainfo=METAINFO),
        lambda: LabelMaps(
            data_root=root, data_prefix=dict(img_path='images', seg_map_path='labels'), metainfo=metainfo
        ),
        lambda: ADE20KPanoptic(data_root=root, data_prefix=dict(img='images', seg='a', instances='b')),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=rf'(?s)folder zip://.*{holds}'):
            build()


# Folders of images and label maps


def test_hidden_folders_are_left_out(tmp_path: Path) -> None:
    for folder in ('.ipynb_checkpoints', '__MACOSX', '@eaDir/1.png'):
        picture(tmp_path / 'images' / folder / '1-checkpoint.png')
    picture(tmp_path / 'images/1.png')
    grey(tmp_path / 'labels/1.png')
    assert names(label_maps(tmp_path)) == ['1.png']
    with zipfile.ZipFile(tmp_path / 'some.zip', 'w') as archive:
        for path in sorted((tmp_path / 'images').rglob('*.png')):
            if path.is_file():
                archive.write(path, path.relative_to(tmp_path))
    assert list(list_files()(f'zip://{tmp_path}/some.zip/images')) == ['1.png']


def test_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    picture(tmp_path / 'store/1.png')
    grey(tmp_path / 'labels/1.png')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/1.png').symlink_to(tmp_path / 'store/1.png')
    assert len(label_maps(tmp_path)) == 1
    (tmp_path / 'images/2.png').symlink_to(tmp_path / 'store/2.png')
    for root in (str(tmp_path), f'zip://{tmp_path}'):
        with pytest.raises(ValueError, match=r'images/2\.png is a link to .*store/2\.png, which does not exist'):
            label_maps(root)  # type: ignore[arg-type]


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    for form in ('NFC', 'NFD'):
        root = tmp_path / form
        picture(root / 'images' / unicodedata.normalize('NFD' if form == 'NFC' else 'NFC', 'é.png'))
        grey(root / 'labels' / unicodedata.normalize(form, 'é.png'))
        (root / 'list.txt').write_text(unicodedata.normalize(form, 'é.png'))
        assert len(label_maps(root)) == len(label_maps(root, ann_file='list.txt')) == 1


@pytest.mark.parametrize(
    ('image', 'label', 'message'),
    [
        ('1.png', '1_mask.png', r"there is 1_mask\.png, which seg_map_suffix='_mask\.png' finds"),
        ('1.png', '1.png.png', r"which seg_map_suffix='\.png\.png' finds"),
        ('1.png', '1.jpg', r'there is 1\.jpg, of a format that changes values: export PNG'),
        ('cam/1.png', '1.png', r'there is 1\.png: label maps need the same sub-folders as their images'),
        ('1.png', '10.png', r'there are 1 file \(1 \.png\), such as 10\.png'),
    ],
)
def test_label_maps_of_other_names(image: str, label: str, message: str, tmp_path: Path) -> None:
    picture(tmp_path / 'images' / image)
    grey(tmp_path / 'labels' / label)
    with pytest.raises(FileNotFoundError, match=rf'1 of 1 images have no label map, .*{message}'):
        label_maps(tmp_path)


def test_images_and_label_maps_in_one_folder_need_a_suffix(tmp_path: Path) -> None:
    picture(tmp_path / 'all/1.png')
    grey(tmp_path / 'all/1_mask.png')
    prefix = dict(img_path='all', seg_map_path='all')
    with pytest.raises(
        FileNotFoundError, match=r'all images in it count as label maps: 2 files .*; give seg_map_suffix'
    ):
        label_maps(tmp_path, data_prefix=prefix)
    assert names(label_maps(tmp_path, data_prefix=prefix, seg_map_suffix='_mask.png')) == ['1.png']


def test_classes_in_other_letters(tmp_path: Path) -> None:
    picture(tmp_path / 'images/1.png')
    for read in (instances, video):
        with pytest.raises(ValueError, match=r"There: .*\. In other letters: \{'Cow ': 'cow'\}\. Pass metainfo"):
            read(tmp_path, metainfo=dict(classes=('Cow ',)))


def test_lists_with_other_forms_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr('eomt_mm.datasets.file_listing.print_log', lambda text, **_: lines.append(text))
    for number in '123':
        picture(tmp_path / f'images/{number}.png')
        grey(tmp_path / f'labels/{number}.png')
    (tmp_path / 'list.txt').write_text(f'{tmp_path}/images/3.png\nimages/2.png\n.\\1.png\n./3\n')
    assert names(label_maps(tmp_path, ann_file='list.txt')) == ['3.png', '2.png', '1.png']
    assert lines == [f'{tmp_path}/list.txt: 4 lines name 3 images: each is read once']
    (tmp_path / 'list.txt').write_text('1.png labels/1.png\n')
    message = r"be '1\.png labels/1\.png' \(there are 3 files \(3 \.png\), such as 1\.png\): give one name per line"
    with pytest.raises(FileNotFoundError, match=message):
        label_maps(tmp_path, ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('1.png\n', encoding='utf-16')
    with pytest.raises(ValueError, match=r'list of images .*list\.txt is not UTF-8 text .*: save it as UTF-8'):
        label_maps(tmp_path, ann_file='list.txt')
