"""Generated data sets in the formats of COCO-Stuff, ADE20K, Cityscapes and CamVid, read back with Pillow."""

from pathlib import Path

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
from mmseg.datasets import COCOStuffDataset
from PIL import Image

from eomt_mm.annotations.class_tables import ADE20K_STUFF, COCO_STUFF_LABEL_IDS
from eomt_mm.synthetic import formats as generate_formats, generate
from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS, Array

NUM_TRAIN, NUM_VAL, SIZE = 12, 4, (64, 80)
SPLITS = {'train': NUM_TRAIN, 'val': NUM_VAL}
VOID_TRAIN_ID = 255


def pixels(path: Path) -> Array:
    return np.asarray(Image.open(path))


@pytest.fixture(scope='module')
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp('trees')
    names = ('coco_stuff', 'ade20k', 'cityscapes', 'camvid')
    options = dict(num_train=NUM_TRAIN, num_val=NUM_VAL, size=SIZE, progress=False)
    return {name: generate.WRITERS[name](parent / name, **options) for name in names}


@pytest.mark.parametrize('split', SPLITS)
def test_ade20k_read_back(split: str, trees: dict[str, Path]) -> None:
    long_name = {'train': 'training', 'val': 'validation'}[split]
    stems = [f'ADE_{split}_{number:08d}' for number in range(1, SPLITS[split] + 1)]
    folders = [trees['ade20k'] / kind / long_name for kind in ('images', 'annotations')]
    for folder, suffix in zip(folders, ('.jpg', '.png'), strict=True):
        assert sorted(path.name for path in folder.iterdir()) == [stem + suffix for stem in stems]
    values = []
    for stem in stems:
        with Image.open(folders[0] / f'{stem}.jpg') as picture, Image.open(folders[1] / f'{stem}.png') as labels:
            assert picture.size == labels.size
            assert (picture.mode, labels.mode) == ('RGB', 'L')
            values.append(set(np.unique(np.asarray(labels)).tolist()))
    assert [found for found in values if found == {0}] == [values[1]]
    assert any(0 in found for found in values[2:])
    found = set().union(*values)
    assert found <= {0, *generate_formats.ADE20K_LABELS}
    assert found == {0, *generate_formats.ADE20K_LABELS} or split == 'val'


@pytest.mark.parametrize('split', SPLITS)
def test_ade20k_instances_read_back(split: str, trees: dict[str, Path]) -> None:
    long_name = {'train': 'training', 'val': 'validation'}[split]
    paths = sorted((trees['ade20k'] / 'annotations_instance' / long_name).iterdir())
    assert len(paths) == SPLITS[split]
    label_of = dict(zip(generate_formats.ADE20K_RANKS, generate_formats.ADE20K_LABELS[:NUM_THINGS], strict=True))
    gaps, without_number = 0, []
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == 'RGB'
            ranks, numbers, rest = np.asarray(image).astype(int).transpose(2, 0, 1)
        labels = pixels(trees['ade20k'] / 'annotations' / long_name / path.name)
        is_thing = np.isin(labels, generate_formats.ADE20K_LABELS[:NUM_THINGS])
        np.testing.assert_array_equal(ranks > 0, is_thing)
        assert all(label_of[rank] == label for rank, label in {*zip(ranks[is_thing], labels[is_thing], strict=True)})
        assert not rest.any()
        assert not numbers[~is_thing].any()
        found = np.unique(numbers[numbers > 0])
        assert all(len(np.unique(ranks[numbers == number])) == 1 for number in found)
        gaps += (np.diff(found) > 1).any()
        if (numbers[is_thing] == 0).any():
            without_number.append(paths.index(path))
    assert gaps
    assert without_number == [2]


def test_ade20k_ranks_are_those_of_the_labels() -> None:
    categories = [label - 1 for label in generate_formats.ADE20K_LABELS]
    assert generate_formats.ADE20K_RANKS == (76, 23, 100, 69)
    assert [category in ADE20K_STUFF for category in categories] == [not entry.is_thing for entry in CLASSES]


@pytest.mark.parametrize('split', SPLITS)
def test_coco_stuff_read_back(split: str, trees: dict[str, Path]) -> None:
    images, maps = (
        sorted((trees['coco_stuff'] / kind / f'{split}2017').iterdir()) for kind in ('images', 'annotations')
    )
    assert [path.stem for path in images] == [path.stem for path in maps]
    assert {path.suffix for path in images} == {'.jpg'}
    values = []
    for image, path in zip(images, maps, strict=True):
        with Image.open(image) as picture, Image.open(path) as labels:
            assert picture.size == labels.size
            assert labels.mode == 'L'
            values.append(set(np.unique(np.asarray(labels)).tolist()))
    assert [found for found in values if found == {255}] == [values[1]]
    found = set().union(*values)
    assert found <= {255, *generate_formats.COCO_STUFF_LABELS}
    assert found == {255, *generate_formats.COCO_STUFF_LABELS} or split == 'val'


def test_coco_stuff_values_are_those_of_the_names() -> None:
    names = ('sports ball', 'book', 'kite', 'frisbee', 'sky-other', 'grass', 'wall-brick', 'floor-tile')
    classes = COCOStuffDataset.METAINFO['classes']
    values = tuple(COCO_STUFF_LABEL_IDS[classes.index(name)] for name in names)
    assert values == generate_formats.COCO_STUFF_LABELS


@pytest.mark.parametrize('split', SPLITS)
def test_cityscapes_read_back(split: str, trees: dict[str, Path]) -> None:
    images = sorted((trees['cityscapes'] / 'leftImg8bit' / split).rglob('*.png'))
    assert len(images) == SPLITS[split]
    assert {path.parent.name for path in images} == set(generate_formats.CITYSCAPES_CITIES[split])
    train_ids = dict(zip(generate_formats.CITYSCAPES_LABELS, generate_formats.CITYSCAPES_TRAIN_IDS, strict=True))
    train_ids |= dict.fromkeys(generate_formats.CITYSCAPES_VOID, VOID_TRAIN_ID)
    bare, crowded, voids = [], [], set()
    for path in images:
        city, sequence, frame, _ = path.stem.split('_')
        start = f'{trees["cityscapes"]}/gtFine/{split}/{city}/{city}_{sequence}_{frame}_gtFine_'
        labels, instances, trained = (
            pixels(Path(f'{start}{kind}.png')) for kind in ('labelIds', 'instanceIds', 'labelTrainIds')
        )
        assert city == path.parent.name
        assert pixels(path).shape == (*SIZE, 3)
        assert [array.dtype for array in (labels, instances, trained)] == [np.uint8, np.uint16, np.uint8]
        np.testing.assert_array_equal(trained, np.vectorize(train_ids.get)(labels))
        is_instance = instances >= 1000
        np.testing.assert_array_equal(np.where(is_instance, instances // 1000, instances), labels)
        things = set(generate_formats.CITYSCAPES_LABELS[:NUM_THINGS])
        assert set(np.unique(labels[is_instance]).tolist()) <= things
        for label in np.unique(labels[is_instance]).tolist():  # numbered from 0 without gaps
            numbers = np.unique(instances[is_instance & (labels == label)] - 1000 * label).tolist()
            assert numbers == list(range(len(numbers)))
        if (trained == VOID_TRAIN_ID).all():
            bare.append(path)
        if set(np.unique(labels[~is_instance]).tolist()) & things:
            crowded.append(path)
        voids |= set(np.unique(labels[trained == VOID_TRAIN_ID]).tolist())
    assert len(bare) == 1
    assert len(crowded) == 1
    assert voids == set(generate_formats.CITYSCAPES_VOID)


@pytest.mark.parametrize('split', SPLITS)
def test_camvid_read_back(split: str, trees: dict[str, Path]) -> None:
    pictures, maps = (sorted((trees['camvid'] / folder).iterdir()) for folder in (split, f'{split}annot'))
    assert [path.name for path in pictures] == [path.name for path in maps] and len(maps) == SPLITS[split]
    found = set().union(*(np.unique(pixels(path)).tolist() for path in maps))
    assert {pixels(path).shape for path in pictures} == {(*SIZE, 3)} and {pixels(path).shape for path in maps} == {SIZE}
    assert found == {*generate_formats.CAMVID_LABELS, generate_formats.CAMVID_VOID} or split == 'val'
