"""Video data sets read the official formats as the films show them, and say what is wrong with files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import videomt.datasets  # noqa: F401  registers
from mmdet.datasets.samplers import TrackImgSampler
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from paths import ROOT
from videomt.datasets import generate
from videomt.datasets.film import Film, draw_film
from videomt.datasets.film_files import OVIS_SHAPES, WILD_SHAPES, YTVIS_SHAPES
from videomt.datasets.vipseg import VIPSeg
from videomt.datasets.vspw import VSPW
from videomt.datasets.youtube_vis import OVIS, YouTubeVIS, YouTubeVIS2019, YouTubeVIS2021

from eomt_mm.synthetic.shapes import NUM_THINGS

FRAGMENTS = ROOT / 'projects/videomt/configs/_base_/datasets'
SIZE = (48, 64)
FRAMES = 6

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('videos')
    return {
        name: write(folder / name, num_videos=2, num_frames=FRAMES, size=SIZE)
        for name, write in generate.WRITERS.items()
    }


def pipeline(loader: str, **arguments: Any) -> list[dict[str, Any]]:
    inner = [dict(type='eomt_mm.LoadImage'), dict(type=f'eomt_mm.{loader}', **arguments)]
    return [dict(type='TransformBroadcaster', transforms=inner), dict(type='eomt_mm.PackClip')]


def track_set(roots: dict[str, Path], name: str = 'youtube_vis', **kwargs: Any) -> Any:
    kind, ann_file, folder = {
        'youtube_vis': (YouTubeVIS2019, 'train.json', 'train/JPEGImages'),
        'ovis': (OVIS, 'annotations/annotations_train.json', 'train'),
    }[name]
    given = dict(ann_file=ann_file, data_prefix=dict(img=folder), pipeline=pipeline('LoadTracks'), test_mode=True)
    return kind(data_root=str(roots[name]), **{**given, **kwargs})


def vipseg(roots: dict[str, Path], **kwargs: Any) -> VIPSeg:
    given = dict(
        ann_file='panoptic_gt_VIPSeg_train.json',
        data_prefix=dict(img='images', seg='panomasksRGB'),
        pipeline=pipeline('LoadVIPSegTracks'),
        test_mode=True,
    )
    return VIPSeg(data_root=str(roots['vipseg']), **{**given, **kwargs})


def vspw(roots: dict[str, Path], **kwargs: Any) -> VSPW:
    given = dict(
        ann_file='train.txt', data_prefix=dict(img='data'), pipeline=pipeline('LoadVSPWTracks'), test_mode=True
    )
    return VSPW(data_root=str(roots['vspw']), **{**given, **kwargs})


def film(index: int, split: int = 0) -> Film:
    return draw_film(np.random.default_rng((0, split, index)), FRAMES, SIZE)


def check_tracks(data: Any, names: tuple[str, ...], segments: Callable[[Film], dict[int, set[int]]]) -> None:
    """Every track is a segment of the film (or several ids of it), under one id and its class through the video."""
    classes = data.metainfo['classes']
    for index in range(len(data)):
        truth = film(index)
        packed = data[index]
        assert packed['inputs'].shape == (FRAMES, 3, *SIZE) and packed['inputs'].dtype.is_floating_point is False
        samples = packed['data_samples'].video_data_samples
        partners: dict[int, set[int]] = {}
        for frame, sample in enumerate(samples):
            assert sample.metainfo['frame_id'] == frame and sample.metainfo['ori_shape'] == SIZE
            found = sample.gt_instances
            for id_, label, mask in zip(
                found.instances_ids.tolist(), found.labels.tolist(), found.masks.masks, strict=True
            ):
                numbers = set(np.unique(truth.ids[frame][mask > 0]).tolist())
                partners.setdefault(id_, set()).update(numbers)
                np.testing.assert_array_equal(mask > 0, np.isin(truth.ids[frame], sorted(numbers)))
                assert {names[truth.labels[number]] for number in numbers} == {classes[label]}
            shown = set(np.unique(truth.ids[frame]).tolist()) & set().union(*segments(truth).values())
            assert shown <= {number for id_ in found.instances_ids.tolist() for number in partners[id_]}
        assert sorted(map(sorted, partners.values())) == sorted(map(sorted, segments(truth).values()))


def things(truth: Film) -> dict[int, set[int]]:
    return {i: {i} for i, label in truth.labels.items() if label < NUM_THINGS and (truth.ids == i).any()}


def everything(truth: Film) -> dict[int, set[int]]:
    return {i: {i} for i in truth.labels if (truth.ids == i).any()}


def by_class(truth: Film) -> dict[int, set[int]]:
    merged: dict[int, set[int]] = {}
    for id_ in everything(truth):
        merged.setdefault(truth.labels[id_], set()).add(id_)
    return merged


def test_youtube_vis_and_ovis_are_the_films(roots: dict[str, Path]) -> None:
    check_tracks(track_set(roots), YTVIS_SHAPES, things)
    check_tracks(track_set(roots, 'ovis'), OVIS_SHAPES, things)


def test_vipseg_is_the_films(roots: dict[str, Path]) -> None:
    check_tracks(vipseg(roots), WILD_SHAPES, everything)


def test_vspw_is_the_films(roots: dict[str, Path]) -> None:
    check_tracks(vspw(roots), WILD_SHAPES, by_class)


def test_frames_without_annotation_stay_and_clips_are_consecutive(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: [
        one['segmentations'].__setitem__(slice(2, 4), [None, None]) for one in data['annotations']
    ])  # fmt: skip
    frames = [dict(type='eomt_mm.ConsecutiveFrames', num_frames=FRAMES), *pipeline('LoadTracks')]
    clip = track_set({'youtube_vis': root}, test_mode=False, pipeline=frames, filter_cfg=dict(filter_empty_gt=True))[0]
    counts = [len(sample.gt_instances.labels) for sample in clip['data_samples'].video_data_samples]
    assert len(counts) == FRAMES and counts[2:4] == [0, 0] and min(counts[:2] + counts[4:]) > 0


def test_classes_and_their_ids(roots: dict[str, Path]) -> None:
    meta = track_set(roots).metainfo
    assert len(meta['classes']) == len(meta['palette']) == 40 and meta['category_ids'] == tuple(range(1, 41))
    assert track_set(roots, 'ovis').metainfo['category_ids'] == tuple(range(1, 26))
    assert YouTubeVIS2021.METAINFO['classes'][25] == 'person'
    meta = vipseg(roots).metainfo
    assert meta['classes'][0] == 'door' and meta['classes'][58] == 'wall'
    assert (len(meta['thing_classes']), len(meta['stuff_classes']), len(meta['palette'])) == (58, 66, 124)
    assert meta['classes'] == vspw(roots).metainfo['classes']


@pytest.mark.parametrize('build', [vipseg, vspw])
def test_chosen_classes_of_wild_scenes(roots: dict[str, Path], build: Callable[..., Any]) -> None:
    data = build(roots, metainfo=dict(classes=('ball', 'sculpture', 'wall')))
    assert data.metainfo['thing_classes'] == ('ball', 'sculpture') and data.metainfo['stuff_classes'] == ('wall',)
    for index in range(len(data)):
        truth = film(index)
        expected = {0, 3, 6} & {label for id_, label in truth.labels.items() if (truth.ids == id_).any()}
        labels = {
            WILD_SHAPES.index(data.metainfo['classes'][label])
            for sample in data[index]['data_samples'].video_data_samples
            for label in sample.gt_instances.labels.tolist()
        }
        assert labels == expected
    with pytest.raises(ValueError, match='banana'):
        build(roots, metainfo=dict(classes=('banana',)))


def test_own_classes_in_the_youtube_vis_format(roots: dict[str, Path]) -> None:
    given = dict(data_root=str(roots['youtube_vis']), ann_file='train.json', data_prefix=dict(img='train/JPEGImages'))
    data = YouTubeVIS(metainfo=dict(classes=YTVIS_SHAPES), pipeline=pipeline('LoadTracks'), **given)
    labels = {
        one['bbox_label'] for index in range(2) for f in data.get_data_info(index)['images'] for one in f['instances']
    }
    expected = {label for index in range(2) for label in film(index).labels.values() if label < NUM_THINGS}
    assert labels == expected
    with pytest.raises(ValueError, match='YouTubeVIS needs metainfo'):
        YouTubeVIS(**given)
    with pytest.raises(ValueError, match='Missing: .*banana'):
        YouTubeVIS(metainfo=dict(classes=('banana',)), **given)


def test_an_unused_category_of_the_same_name_is_not_meant(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: [
        data['categories'].insert(0, dict(id=99, name=YTVIS_SHAPES[0])),
        data['categories'].extend(dict(id=id_, name='of nobody') for id_ in (97, 98)),
    ])  # fmt: skip
    ids = track_set({'youtube_vis': root}).metainfo['category_ids']
    assert ids == track_set(roots).metainfo['category_ids'] and 99 not in ids


def test_crowds_are_ignored_in_evaluation_and_dropped_in_training(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: [
        one.update(iscrowd=1) for one in data['annotations'][::2]
    ])  # fmt: skip
    kept = track_set({'youtube_vis': root}, pipeline=pipeline('LoadTracks', with_crowds=True))[0]['data_samples'][0]
    dropped = track_set({'youtube_vis': root})[0]['data_samples'][0]
    assert len(kept.ignored_instances.labels) > 0 and len(dropped.ignored_instances.labels) == 0
    assert kept.gt_instances.instances_ids.tolist() == dropped.gt_instances.instances_ids.tolist()
    assert len(kept.ignored_instances.masks) == len(kept.ignored_instances.instances_ids)


def test_polygons_are_read(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: [
        one.update(segmentations=[[[4, 4, 20, 4, 20, 12, 4, 12]]] * FRAMES) for one in data['annotations']
    ])  # fmt: skip
    masks = track_set({'youtube_vis': root})[0]['data_samples'][0].gt_instances.masks.masks
    expected = np.zeros(SIZE, bool)
    expected[4:12, 4:20] = True
    assert all(np.array_equal(mask > 0, expected) for mask in masks)


def test_validation_files_without_annotations(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: data.pop('annotations'))
    data = track_set({'youtube_vis': root})
    assert len(data[0]['data_samples'][0].gt_instances.labels) == 0
    with pytest.raises(ValueError, match=r"train.json has no \['annotations'\]"):
        track_set({'youtube_vis': root}, test_mode=False)
    seen = vipseg(roots, data_prefix=dict(img='images'))
    assert len(seen[0]['data_samples'][0].gt_instances.labels) == 0


def test_frame_by_frame_is_the_whole_video(roots: dict[str, Path]) -> None:
    data = track_set(roots)
    whole = data[1]
    keys = [key for key in TrackImgSampler(data, seed=0) if key[0] == 1]
    assert len(keys) == FRAMES
    for video, frame in keys:
        one = data[video, frame]
        assert (one['inputs'][0] == whole['inputs'][frame]).all()
        assert one['data_samples'][0].metainfo['frame_id'] == frame
        assert one['data_samples'][0].metainfo['ori_video_length'] == FRAMES


def edited(root: Path, tmp_path: Path, name: str, edit: Edit) -> Path:
    """A copy of a tree's json, changed, in a folder whose other entries are the tree's."""
    data = json.loads((root / name).read_text())
    edit(data)
    for entry in root.iterdir():
        if entry.name != name:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / name).write_text(json.dumps(data))
    return tmp_path


def no_frames(data: dict[str, Any]) -> None:
    data['videos'][1]['file_names'] = []
    data['annotations'] = [one for one in data['annotations'] if one['video_id'] != data['videos'][1]['id']]


@pytest.mark.parametrize(('edit', 'message'), [
    (no_frames, 'video 2 of .* has no frames'),
    (lambda data: data['annotations'][0].update(category_id=77), 'annotation 1 has category_id 77'),
    (lambda data: data['annotations'][0].update(video_id=77), 'annotation 1 has video_id 77'),
    (lambda data: data['annotations'][0]['segmentations'].pop(), 'annotation 1 has 5 segmentations, its video 1 6'),
    (lambda data: data['annotations'][1].update(id=1), 'ids of annotations must be there and unique'),
    (lambda data: data['videos'][1].update(id=1), 'ids of videos must be unique'),
    (lambda data: data['videos'][0].pop('width'), 'video 1 needs "id", "file_names"'),
    (lambda data: data.pop('categories'), r"has no \['categories'\]"),
    (lambda data: data['categories'].pop(0), 'Missing'),
])  # fmt: skip
def test_faulty_youtube_vis_files(roots: dict[str, Path], tmp_path: Path, edit: Edit, message: str) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', edit)
    with pytest.raises(ValueError, match=message):
        track_set({'youtube_vis': root})


def test_faulty_masks_are_named_with_their_frame(roots: dict[str, Path], tmp_path: Path) -> None:
    root = edited(roots['youtube_vis'], tmp_path, 'train.json', lambda data: [
        one.update(segmentations=[{'counts': [10, 10], 'size': [4, 5]}] * FRAMES) for one in data['annotations']
    ])  # fmt: skip
    with pytest.raises(
        ValueError, match=r'train.json: annotation . in frame .*00000.jpg: .* size \[4, 5\], the image \(48, 64\)'
    ):
        track_set({'youtube_vis': root})[0]


def test_missing_and_broken_files_are_named(roots: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere.json does not exist'):
        track_set(roots, ann_file='nowhere.json')
    with pytest.raises(FileNotFoundError, match=r'of \d+ frames do not exist, .*nowhere.*00000.jpg .*: add'):
        track_set(roots, data_prefix=dict(img='nowhere'))
    (tmp_path / 'bad.json').write_text('{"videos": [')
    with pytest.raises(ValueError, match='bad.json is not valid json'):
        track_set(roots, ann_file=str(tmp_path / 'bad.json'))
    with pytest.raises(FileNotFoundError, match='nowhere.json does not exist .*create_panoptic_video_labels'):
        vipseg(roots, ann_file='nowhere.json')
    with pytest.raises(FileNotFoundError, match=r'of \d+ PNGs do not exist, .*nowhere'):
        vipseg(roots, data_prefix=dict(img='images', seg='nowhere'))
    with pytest.raises(ValueError, match="seg='panomasksRGB' are needed"):
        vipseg(roots, data_prefix=dict(img='images'), test_mode=False)
    with pytest.raises(FileNotFoundError, match='list of videos .*nowhere.txt does not exist'):
        vspw(roots, ann_file='nowhere.txt')
    with pytest.raises(ValueError, match='video 0_generated of .* has no frames'):
        vspw(roots, data_prefix=dict(img='nowhere'))


def test_vipseg_category_outside(roots: dict[str, Path], tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data['annotations'][0]['annotations'][0]['segments_info'][0]['category_id'] = 124

    root = edited(roots['vipseg'], tmp_path, 'panoptic_gt_VIPSeg_train.json', edit)
    with pytest.raises(ValueError, match=r'frame 00000030.png of video 0_generated has segments of categories \[124\]'):
        vipseg({'vipseg': root})


def test_vspw_missing_masks(tmp_path: Path) -> None:
    root = generate.write_vspw(tmp_path / 'vspw', num_videos=1, num_frames=2, size=SIZE)
    mask = root / 'data/0_generated/mask'
    (mask / '00000001.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 frames of video 0_generated have no mask .* 00000001.png'):
        vspw({'vspw': root})
    (mask / '00000000.png').unlink()
    assert len(vspw({'vspw': root})[0]['data_samples'][0].gt_instances.labels) == 0  # a test video
    with pytest.raises(FileNotFoundError, match='2 of 2 frames'):
        vspw({'vspw': root}, test_mode=False)


@pytest.mark.parametrize(('name', 'tree'), [
    ('ytvis2019', 'youtube_vis'), ('ytvis2021', 'youtube_vis'), ('ytvis2022', 'youtube_vis'), ('ovis', 'ovis'),
    ('vipseg', 'vipseg'), ('vspw', 'vspw'), ('shapes_vis', 'youtube_vis'),
])  # fmt: skip
def test_config_fragments_load_generated_data(
    name: str, tree: str, roots: dict[str, Path], coco_root: Path, tmp_path: Path
) -> None:
    """Each builds its loaders; sizes and labels of a batch are what the recipe says."""
    cfg = Config.fromfile(FRAGMENTS / f'{name}.py')
    assert 'evaluate_at' not in cfg
    root = roots[tree]
    if name in ('ytvis2021', 'ytvis2022'):  # their categories
        root = generate.write_youtube_vis(tmp_path / 'tree', num_videos=2, num_frames=FRAMES, size=SIZE, version='2021')
        (root / 'gt_long.json').symlink_to(root / 'valid.json')
    init_default_scope('mmdet')
    train = cfg.train_dataloader.dataset
    for part in train.get('datasets', [train]):
        part.data_root = str(coco_root if part.type.endswith('CocoClips') else root)
    cfg.val_dataloader.dataset.data_root = str(root)
    frames = 3 if name == 'shapes_vis' else 5
    data = DATASETS.build(train)
    for index in range(2):  # of a mix: a clip of the videos, a pseudo-clip
        np.random.seed(index)
        clip = data[index]
        assert clip['inputs'].shape[:2] == (frames, 3)
        for sample in clip['data_samples'].video_data_samples:
            found = sample.gt_instances
            assert found.masks.masks.shape[1:] == clip['inputs'].shape[2:] == sample.metainfo['img_shape']
            assert len(found.labels) == len(found.instances_ids) == len(found.masks)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(cfg.val_dataloader)))
    short, (height, width) = min(batch['inputs'][0].shape[2:]), SIZE
    expected = {'ovis': 544, 'vipseg': 720, 'vspw': 720, 'shapes_vis': 96}.get(name, 448)
    assert short == expected and batch['inputs'][0].shape[3] == round(expected * width / height)
    assert batch['data_samples'][0][0].gt_instances.masks.to_ndarray().shape[1:] == SIZE  # at the file's size
