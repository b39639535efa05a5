"""Generated video data sets: the films hold what they promise, the files say what the films show."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from videomt.datasets import generate
from videomt.datasets.classes import (
    COCO_MAPS,
    INSTANCE_CLASSES,
    WILD_PALETTE,
    WILD_SCENES,
    WILD_THINGS,
    wild_metainfo,
)
from videomt.datasets.film import draw_film
from videomt.datasets.film_files import WILD_SHAPES

from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS

SIZE = (48, 64)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.mark.parametrize(('num_frames', 'size'), [(0, SIZE), (2, (31, 64)), (2, (64, 31))])
def test_film_refuses_what_it_cannot_show(num_frames: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'num_frames={num_frames}'):
        draw_film(np.random.default_rng(0), num_frames, size)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('num_frames', [5, 6])
def test_film_hides_shows_late_and_lets_leave(seed: int, num_frames: int) -> None:
    film = draw_film(np.random.default_rng(seed), num_frames, SIZE)
    assert film.frames.shape == (num_frames, *SIZE, 3) and film.frames.dtype == np.uint8
    assert film.ids.shape == (num_frames, *SIZE)
    seen = {id_: (film.ids == id_).any(axis=(1, 2)).tolist() for id_ in film.labels}
    leaving, late, hidden, cover = (seen[id_] for id_ in (3, 4, 5, 6))
    middle = num_frames // 2
    assert leaving[0] and not any(leaving[middle:])
    assert not any(late[:middle]) and late[-1]
    assert not hidden[middle] and sum(hidden) == num_frames - 1
    assert all(cover) and (film.ids == 0).any()
    assert set(np.unique(film.ids)) <= {0, *film.labels}


def test_film_of_one_frame() -> None:
    film = draw_film(np.random.default_rng(0), 1, SIZE)
    assert film.ids.shape == (1, *SIZE)


@pytest.mark.parametrize('name', generate.WRITERS)
def test_same_seed_same_files_and_more_videos_change_none(name: str, tmp_path: Path) -> None:
    write = generate.WRITERS[name]
    first = tree(write(tmp_path / 'a', num_videos=1, num_frames=2, size=SIZE))
    assert first == tree(write(tmp_path / 'b', num_videos=1, num_frames=2, size=SIZE))
    more = tree(write(tmp_path / 'c', num_videos=2, num_frames=2, size=SIZE))
    pictures = {path for path in first if not path.endswith(('.json', '.txt'))}
    assert pictures and all(more[path] == first[path] for path in pictures)
    other = tree(write(tmp_path / 'd', num_videos=1, num_frames=2, size=SIZE, seed=1))
    assert all(other[path] != first[path] for path in pictures)


def test_refuses_a_folder_in_use_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used' / 'file').touch()
    with pytest.raises(FileExistsError, match='used'):
        generate.write_vspw(tmp_path / 'used')
    with pytest.raises(ValueError, match='num_videos=0'):
        generate.write_vspw(tmp_path / 'new', num_videos=0)
    with pytest.raises(ValueError, match="version='2020'"):
        generate.write_youtube_vis(tmp_path / 'new', version='2020')

    def fail(*_: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr(generate, 'write_panoptic_png', fail)
    with pytest.raises(OSError, match='disk full'):
        generate.write_vipseg(tmp_path / 'new', num_videos=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['used']


@pytest.mark.parametrize(
    ('name', 'ann_file', 'folder'),
    [
        ('youtube_vis', 'train.json', 'train/JPEGImages'),
        ('youtube_vis', 'valid.json', 'valid/JPEGImages'),
        ('ovis', 'annotations/annotations_train.json', 'train'),
    ],
)
def test_instances_are_the_things_of_the_films(name: str, ann_file: str, folder: str, tmp_path: Path) -> None:
    root = generate.WRITERS[name](tmp_path / 'root', num_videos=2, num_frames=3, size=SIZE, seed=7)
    data = json.loads((root / ann_file).read_text())
    names = INSTANCE_CLASSES['ytvis2019' if name == 'youtube_vis' else 'ovis']
    assert [category['name'] for category in data['categories']] == list(names)
    split = 1 if 'valid' in ann_file else 0
    for index, video in enumerate(data['videos']):
        assert video['length'] == len(video['file_names']) == 3
        assert all((root / folder / file).is_file() for file in video['file_names'])
        film = draw_film(np.random.default_rng((7, split, index)), 3, SIZE)
        things = [id_ for id_, label in film.labels.items() if label < NUM_THINGS and (film.ids == id_).any()]
        annotations = [one for one in data['annotations'] if one['video_id'] == video['id']]
        assert len(annotations) == len(things)
        for id_, annotation in zip(things, annotations, strict=True):
            for frame, runs in enumerate(annotation['segmentations']):
                mask = film.ids[frame] == id_
                assert (runs is None) == (not mask.any()) == (annotation['bboxes'][frame] is None)
                if runs is None:
                    continue
                if isinstance(runs['counts'], list):
                    runs = mask_api.frPyObjects(runs, *SIZE)
                np.testing.assert_array_equal(mask_api.decode(runs), mask)
                assert annotation['areas'][frame] == mask.sum()
                assert annotation['bboxes'][frame] == mask_api.toBbox(runs).tolist()
    ids = [annotation['id'] for annotation in data['annotations']]
    assert ids == list(range(1, len(ids) + 1))


def test_vipseg_ids_are_those_of_the_films(tmp_path: Path) -> None:
    root = generate.write_vipseg(tmp_path / 'root', num_videos=2, num_frames=3, size=SIZE)
    data = json.loads((root / 'panoptic_gt_VIPSeg_train.json').read_text())
    assert [category['id'] for category in data['categories']] == list(range(124))
    for index, (video, annotation) in enumerate(zip(data['videos'], data['annotations'], strict=True)):
        film = draw_film(np.random.default_rng((0, 0, index)), 3, SIZE)
        partner: dict[int, int] = {}
        for frame, (image, entry) in enumerate(zip(video['images'], annotation['annotations'], strict=True)):
            assert (root / 'images' / video['video_id'] / f'{image["id"]}.jpg').is_file()
            ids = read_panoptic_png(root / 'panomasksRGB' / video['video_id'] / entry['file_name'])
            np.testing.assert_array_equal(ids == 0, film.ids[frame] == 0)
            assert {one['id'] for one in entry['segments_info']} == set(np.unique(ids)) - {0}
            for one in entry['segments_info']:
                number = np.unique(film.ids[frame][ids == one['id']]).item()  # one segment of the film
                assert partner.setdefault(one['id'], number) == number  # the same through the video
                assert WILD_SCENES[one['category_id']] == WILD_SHAPES[film.labels[number]]
                assert one['area'] == (ids == one['id']).sum()
    assert (root / 'train.txt').read_text().split() == [video['video_id'] for video in data['videos']]


def test_vspw_values_are_the_classes_and_both_kinds_of_void(tmp_path: Path) -> None:
    root = generate.write_vspw(tmp_path / 'root', num_videos=2, num_frames=2, size=SIZE)
    for index, name in enumerate((root / 'train.txt').read_text().split()):
        film = draw_film(np.random.default_rng((0, 0, index)), 2, SIZE)
        assert len(list((root / 'data' / name / 'origin').glob('*.jpg'))) == 2
        for frame, path in enumerate(sorted((root / 'data' / name / 'mask').glob('*.png'))):
            with Image.open(path) as picture:
                values = np.asarray(picture)
            assert set(values[film.ids[frame] == 0]) == {generate.VSPW_VOID[index]}
            for id_, label in film.labels.items():
                assert set(values[film.ids[frame] == id_]) <= {WILD_SCENES.index(WILD_SHAPES[label]) + 1}
    labels = json.loads((root / 'label_num_dic_final.json').read_text())
    assert labels['wall'] == '1' and labels['train'] == '124' and labels['others'] == '0'


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate.main(['ovis', str(tmp_path / 'root'), '--num-videos', '1', '--num-frames', '1', '--size', '32', '48'])
    assert capsys.readouterr().out.strip() == str(tmp_path / 'root')
    assert (tmp_path / 'root' / 'annotations' / 'annotations_valid.json').is_file()


def test_classes_are_complete() -> None:
    assert {key: len(names) for key, names in INSTANCE_CLASSES.items()} == {
        'ytvis2019': 40, 'ytvis2021': 40, 'ytvis2022': 40, 'ovis': 25,
    }  # fmt: skip
    assert all(len(set(names)) == len(names) for names in (*INSTANCE_CLASSES.values(), WILD_SCENES))
    assert len(WILD_SCENES) == len(WILD_PALETTE) == 124 and len(CLASSES) == len(WILD_SHAPES)
    meta = wild_metainfo()
    assert len(meta['thing_classes']) == len(WILD_THINGS) == 58
    assert meta['classes'] == meta['thing_classes'] + meta['stuff_classes']
    assert sorted(meta['category_ids']) == list(range(124))
    assert [WILD_SCENES[id_] for id_ in meta['category_ids']] == list(meta['classes'])


@pytest.mark.parametrize(
    ('target', 'expected'),
    [
        ('ytvis2019', {1: 'person', 5: 'airplane', 17: 'cat', 42: 'surfboard', 43: 'tennis_racket'}),
        ('ytvis2021', {1: 'person', 5: 'airplane', 16: 'bird', 34: 'flying_disc', 43: 'tennis_racket'}),
        ('ytvis2022', {1: 'person', 24: 'zebra'}),
        ('ovis', {1: 'Person', 2: 'Bicycle', 3: 'Vehical', 9: 'Boat', 25: 'Giraffe'}),
    ],
)
def test_coco_categories_meet_their_names(target: str, expected: dict[int, str]) -> None:
    """The maps count from 1: were they off by one, a person would be something else."""
    found = {coco: INSTANCE_CLASSES[target][COCO_MAPS[target][coco] - 1] for coco in expected}
    assert found == expected
