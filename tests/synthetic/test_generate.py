"""Generated data sets, read back with pycocotools and Pillow."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from eomt_mm.synthetic import formats as generate_formats, generate, shapes
from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS, SHAPES_METAINFO, Array, draw_scene

NUM_TRAIN, NUM_VAL, SIZE = 12, 4, (64, 80)
SPLITS = {'train': NUM_TRAIN, 'val': NUM_VAL}


def write(name: str, root: Path, **options: Any) -> Path:
    return generate.WRITERS[name](
        root, **{'num_train': NUM_TRAIN, 'num_val': NUM_VAL, 'size': SIZE, 'progress': False, **options}
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def pixels(path: Path) -> Array:
    return np.asarray(Image.open(path))


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope='module')
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp('trees')
    return {name: write(name, parent / name) for name in generate.WRITERS}


# Refusals and interruptions


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_train': -1}, 'num_train is -1'),
        ({'num_val': -2}, 'num_val is -2'),
        ({'seed': -3}, 'seed is -3'),
        ({'size': (31, 64)}, r'size is \(31, 64\)'),
        ({'size': (64,)}, r'size is \(64,\)'),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write('coco', tmp_path / 'tree', **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', generate.WRITERS)
def test_interruption_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return draw_scene(*args, **options)

    monkeypatch.setattr(generate, 'draw_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(name, tmp_path / 'tree')
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())


def test_interrupted_overwrite_keeps_the_old_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write('ade20k', tmp_path / 'tree', num_train=2, num_val=1)
    before = contents(root)
    monkeypatch.setattr(generate, 'draw_scene', lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write('ade20k', root, overwrite=True)
    assert contents(root) == before
    assert list(tmp_path.iterdir()) == [root]


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    root = tmp_path / 'tree'
    root.mkdir()  # an empty folder is no obstacle
    write('ade20k', root, num_train=1, num_val=0)
    with pytest.raises(FileExistsError, match=r'tree exists .* overwrite=True'):
        write('ade20k', root)
    assert len(list((root / 'images' / 'training').iterdir())) == 1
    write('ade20k', root, num_train=2, num_val=0, overwrite=True)
    assert len(list((root / 'images' / 'training').iterdir())) == 2
    assert list(tmp_path.iterdir()) == [root]


def test_overwrite_spares_what_was_not_generated(tmp_path: Path) -> None:
    (tmp_path / 'holiday.jpg').write_bytes(b'irreplaceable')
    with pytest.raises(FileExistsError, match=r'was not generated .* remove it yourself'):
        write('coco', tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match=r'holiday\.jpg'):
        write('coco', tmp_path / 'holiday.jpg', overwrite=True)
    assert contents(tmp_path) == {'holiday.jpg': b'irreplaceable'}


# Determinism


@pytest.mark.parametrize('name', generate.WRITERS)
def test_same_seed_gives_the_same_bytes(name: str, trees: dict[str, Path], tmp_path: Path) -> None:
    first = contents(trees[name])
    assert contents(write(name, tmp_path / 'again')) == first
    other = contents(write(name, tmp_path / 'other', seed=1))
    ends, folders = ('.jpg', '_leftImg8bit.png'), ('train/', 'val/')  # of CamVid
    pictures = [path for path in first if path.endswith(ends) or path.startswith(folders)]
    assert len(pictures) == NUM_TRAIN + NUM_VAL
    assert not any(first[path] == other[path] for path in pictures)


@pytest.mark.parametrize('name', generate.WRITERS)
def test_first_images_do_not_depend_on_the_count(name: str, trees: dict[str, Path], tmp_path: Path) -> None:
    few = contents(write(name, tmp_path / 'few', num_train=5, num_val=0))
    many = contents(trees[name])
    pictures = [path for path in few if not path.endswith('.json')]
    assert len(pictures) == 5 * {'coco': 2, 'coco_stuff': 2, 'ade20k': 3, 'cityscapes': 4, 'camvid': 2}[name]
    assert all(few[path] == many[path] for path in pictures)


def test_splits_differ(trees: dict[str, Path]) -> None:
    for index in range(NUM_VAL):
        train, val = (
            pixels(trees['ade20k'] / f'images/{long}/ADE_{short}_{index + 1:08d}.jpg')
            for long, short in (('training', 'train'), ('validation', 'val'))
        )
        assert train.shape != val.shape or np.abs(train.astype(int) - val).mean() > 1


# Scenes


@pytest.mark.parametrize('seed', range(30))
def test_scene_is_consistent(seed: int) -> None:
    special = {'crowd': seed % 2 == 0, 'border': seed % 3 == 0, 'patch': seed % 5 == 0}
    scene = draw_scene(np.random.default_rng(seed), 48, 37, first=seed, **special)
    assert scene.image.shape == (48, 37, 3)
    assert scene.image.dtype == np.uint8
    ids = [segment.id for segment in scene.segments]
    assert ids == sorted(set(ids))
    assert sorted(set(np.unique(scene.ids).tolist()) - {0}) == ids
    stuff = [segment.label for segment in scene.segments if not segment.is_thing]
    assert len(stuff) == len(set(stuff)) <= 2
    assert all(segment.is_thing == CLASSES[segment.label].is_thing for segment in scene.segments)
    assert [segment for segment in scene.segments if segment.is_crowd] == scene.segments[-1:] * special['crowd']
    assert 1 <= len(ids) - len(stuff) - special['crowd'] <= 4
    assert (scene.ids == 0).any() or not special['border']


def test_no_thing_is_mostly_hidden() -> None:
    overlaps = 0
    for seed in range(150):
        placed = shapes.place_things(np.random.default_rng(seed), 32, 32, first=seed, crowd=False)
        masks = [alpha > 0.5 for _, _, alpha in placed]  # from back to front
        for place, mask in enumerate(masks):
            in_front = np.any([np.zeros_like(mask), *masks[place + 1 :]], axis=0)
            overlaps += (mask & in_front).any()
            assert (mask & ~in_front).sum() >= 0.4 * mask.sum()
    assert overlaps > 5


def test_tiny_segments_become_void() -> None:
    for seed in range(150):
        scene = draw_scene(np.random.default_rng(seed), 32, 32, first=seed, border=True, patch=True)
        ids, counts = np.unique(scene.ids[scene.ids > 0], return_counts=True)
        assert sorted(segment.id for segment in scene.segments) == ids.tolist()
        assert counts.min(initial=shapes.MIN_PIXELS) >= shapes.MIN_PIXELS


def test_scenes_show_all_classes_and_no_constant_colour() -> None:
    seen = set()
    for index in range(8):
        scene = draw_scene(np.random.default_rng(index), 64, 64, first=index)
        seen |= {segment.label for segment in scene.segments}
        for segment in scene.segments:
            assert scene.image[scene.ids == segment.id].std(axis=0).max() > 5
    assert seen == set(range(len(CLASSES)))


def test_metainfo_lists_things_first() -> None:
    assert SHAPES_METAINFO['classes'] == SHAPES_METAINFO['thing_classes'] + SHAPES_METAINFO['stuff_classes']
    assert len(SHAPES_METAINFO['thing_classes']) == NUM_THINGS == 4
    assert len({*SHAPES_METAINFO['palette'], (0, 0, 0)}) == len(CLASSES) + 1


# COCO


def test_coco_instances_read_back(trees: dict[str, Path]) -> None:
    kinds = set()
    for split, count in SPLITS.items():
        coco = COCO(trees['coco'] / f'annotations/instances_{split}2017.json')
        assert len(coco.imgs) == count
        assert [category['name'] for category in coco.cats.values()] == list(SHAPES_METAINFO['thing_classes'])
        assert list(coco.anns) == list(range(1, len(coco.anns) + 1))
        for annotation in coco.anns.values():
            mask, image = coco.annToMask(annotation), coco.imgs[annotation['image_id']]
            assert mask.shape == (image['height'], image['width'])
            assert mask.sum() == annotation['area']
            assert annotation['bbox'] == box_of(mask)
            assert isinstance(annotation['segmentation'], dict) or not annotation['iscrowd']
            kinds.add((type(annotation['segmentation']), annotation['iscrowd']))
    assert kinds >= {(list, 0), (dict, 1)}


def box_of(mask: Array) -> list[int]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def coco_ids(path: Path) -> Array:
    colours = pixels(path).astype(np.int64)
    assert colours.shape[2] == 3
    return colours[..., 0] + 256 * colours[..., 1] + 256**2 * colours[..., 2]


@pytest.mark.parametrize('split', SPLITS)
def test_coco_panoptic_read_back(split: str, trees: dict[str, Path]) -> None:
    folder = trees['coco'] / 'annotations'
    panoptic = load(folder / f'panoptic_{split}2017.json')
    thing_ids = {category['id'] for category in panoptic['categories'] if category['isthing']}
    assert sorted(path.name for path in (folder / f'panoptic_{split}2017').iterdir()) == sorted(
        annotation['file_name'] for annotation in panoptic['annotations']
    )
    coco = COCO(folder / f'instances_{split}2017.json')
    seen: set[int] = set()
    for image, annotation in zip(panoptic['images'], panoptic['annotations'], strict=True):
        ids = coco_ids(folder / f'panoptic_{split}2017' / annotation['file_name'])
        assert image['id'] == annotation['image_id'] == int(Path(annotation['file_name']).stem)
        assert len(image['file_name']) == len('000000000001.jpg')
        with Image.open(trees['coco'] / f'{split}2017' / image['file_name']) as picture:
            assert picture.size == (image['width'], image['height']) == ids.shape[::-1]
        assert set(np.unique(ids).tolist()) - {0} == {segment['id'] for segment in annotation['segments_info']}
        for segment in annotation['segments_info']:
            assert segment['area'] == np.count_nonzero(ids == segment['id'])
            assert segment['bbox'] == box_of(ids == segment['id'])
        # The instances are the things of the panoptic map, in its order and to the pixel.
        things = [segment for segment in annotation['segments_info'] if segment['category_id'] in thing_ids]
        for segment, instance in zip(things, coco.imgToAnns[image['id']], strict=True):
            assert (segment['category_id'], segment['iscrowd']) == (instance['category_id'], instance['iscrowd'])
            np.testing.assert_array_equal(coco.annToMask(instance), ids == segment['id'])
        seen |= {segment['id'] for segment in annotation['segments_info']}
    assert all(any(number >> shift & 255 for number in seen) for shift in (0, 8, 16))
    assert len({(image['height'], image['width']) for image in panoptic['images']}) > 1


@pytest.mark.parametrize('split', SPLITS)
def test_coco_has_crowds_void_and_an_image_without_annotation(split: str, trees: dict[str, Path]) -> None:
    folder = trees['coco'] / 'annotations'
    panoptic, instances = (load(folder / f'{task}_{split}2017.json') for task in ('panoptic', 'instances'))
    assert instances['images'] == panoptic['images']
    bare = [index for index, found in enumerate(panoptic['annotations']) if not found['segments_info']]
    assert bare == [1]
    bare_id = panoptic['images'][1]['id']
    assert not [found for found in instances['annotations'] if found['image_id'] == bare_id]
    for index, void, crowds in ((0, True, 0), (1, True, 0), (2, False, 1), (3, True, 0)):
        annotation = panoptic['annotations'][index]
        ids = coco_ids(folder / f'panoptic_{split}2017' / annotation['file_name'])
        assert (ids == 0).any() == void
        assert sum(segment['iscrowd'] for segment in annotation['segments_info']) == crowds


def test_coco_categories_follow_the_metainfo(trees: dict[str, Path]) -> None:
    categories = load(trees['coco'] / 'annotations/panoptic_val2017.json')['categories']
    numbers = [category['id'] for category in categories]
    assert numbers == sorted(numbers)
    assert numbers[0] > 0
    assert numbers != list(range(numbers[0], numbers[0] + len(numbers)))
    assert tuple(category['name'] for category in categories) == SHAPES_METAINFO['classes']
    assert [tuple(category['color']) for category in categories] == SHAPES_METAINFO['palette']
    assert [category['isthing'] for category in categories] == [1] * NUM_THINGS + [0] * (len(categories) - NUM_THINGS)


@pytest.mark.parametrize(
    ('rows', 'kind'),
    [
        (['.....', '.#...', '.....'], list),  # one pixel
        (['#....', '.#...', '..###'], list),  # touching at corners, and at the edge of the image
        (['##.##', '##.##', '...#.'], list),  # two pieces
        (['#####', '#####', '#####'], list),  # the whole image
        (['.###.', '.#.#.', '.###.'], dict),  # a hole
        (['###..', '#.#..', '###.#'], dict),  # a hole, and the first pixel set
    ],
)
def test_outline_is_exact(rows: list[str], kind: type) -> None:
    mask = np.array([[pixel == '#' for pixel in row] for row in rows])
    outline = generate_formats.coco_outline(mask, is_crowd=False)
    assert isinstance(outline, kind)
    assert isinstance(generate_formats.coco_outline(mask, is_crowd=True), dict)
    coco = COCO()
    coco.imgs = {1: {'height': mask.shape[0], 'width': mask.shape[1]}}
    for segmentation in (outline, generate_formats.coco_outline(mask, is_crowd=True)):
        np.testing.assert_array_equal(coco.annToMask({'image_id': 1, 'segmentation': segmentation}), mask)


def test_splits_without_images_are_valid(tmp_path: Path) -> None:
    root = write('coco', tmp_path / 'tree', num_train=0, num_val=3)
    train, val = (load(root / f'annotations/panoptic_{split}2017.json') for split in ('train', 'val'))
    assert train['images'] == train['annotations'] == []
    assert all(annotation['segments_info'] for annotation in val['annotations'])  # too few for a bare image
    assert (root / 'train2017').is_dir()


# Command line


def test_command_line(tmp_path: Path, trees: dict[str, Path]) -> None:
    root = tmp_path / 'tree'
    numbers = ['--num-train', str(NUM_TRAIN), '--num-val', str(NUM_VAL), '--size', *map(str, SIZE), '--seed', '0']
    command = [sys.executable, '-m', 'eomt_mm.synthetic.generate', 'coco', str(root), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f'coco written to {root}\n'
    assert f'{NUM_TRAIN}/{NUM_TRAIN}' in done.stderr  # the progress bar
    assert contents(root) == contents(trees['coco'])


def test_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts: list[tuple[list[str], str]] = [
        (['ade20k', str(tmp_path / 'tree'), '--size', '8', '64'], 'size is (8, 64)'),
        (['ade20k', str(Path(__file__).parent)], '--overwrite'),
    ]
    for argv, message in attempts:
        with pytest.raises(SystemExit) as stopped:
            generate.main(argv)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_writers_return_the_root_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_any: Callable[..., Path] = generate.write_cityscapes
    assert write_any('deep/tree', 1, 0, progress=False) == Path('deep/tree')
    made = load(tmp_path / 'deep/tree' / generate.MARKER)
    assert (made['format'], made['train'], made['val'], made['seed']) == ('cityscapes', 1, 0, 0)
