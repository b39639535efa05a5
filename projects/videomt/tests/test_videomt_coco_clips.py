"""COCO's images as videos of one frame, and their 1 : 1 mix with a video data set."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from pycocotools import mask as mask_api
from videomt.datasets.classes import COCO_MAPS, INSTANCE_CLASSES
from videomt.datasets.coco_clips import CocoClips
from videomt.datasets.mixing import MixedClips

from eomt_mm.datasets.sampling import PositionSampler, SeededDataset
from eomt_mm.synthetic.formats import COCO_CATEGORY_IDS

PIPELINE = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=1),
    dict(type='TransformBroadcaster', transforms=[dict(type='eomt_mm.LoadImage'), dict(type='eomt_mm.LoadTracks')]),
    dict(type='eomt_mm.RotateIntoClip', num_frames=3),
    dict(type='eomt_mm.PackClip', needs_target=True),
]


def coco_clips(root: Path, **kwargs: Any) -> CocoClips:
    init_default_scope('mmdet')
    given = dict(
        target='ytvis2019',
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017'),
        pipeline=PIPELINE,
    )
    return CocoClips(data_root=str(root), **{**given, **kwargs})


def annotations(root: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((root / 'annotations/instances_train2017.json').read_text())
    return data


@pytest.mark.parametrize('target', COCO_MAPS)
def test_labels_are_those_of_the_video_data_set(target: str, coco_root: Path) -> None:
    """The generated COCO has categories 2, 3, 7 and 11; the last is in no map."""
    data = coco_clips(coco_root, target=target)
    places = COCO_MAPS[target]
    assert set(COCO_CATEGORY_IDS[:4]) == {2, 3, 7, 11} and 11 not in places
    raw = annotations(coco_root)
    expected = Counter(places[one['category_id']] - 1 for one in raw['annotations'] if one['category_id'] in places)
    videos = [data.get_data_info(index) for index in range(len(data))]
    found = Counter(one['bbox_label'] for video in videos for one in video['images'][0]['instances'])
    kept = {video['video_id'] for video in videos}
    dropped = Counter(
        places[one['category_id']] - 1
        for one in raw['annotations']
        if one['category_id'] in places and one['image_id'] not in kept
    )
    assert found == expected - dropped and found
    assert all(len(video['images']) == video['video_length'] == 1 for video in videos)
    assert data.metainfo['classes'] == INSTANCE_CLASSES[target] and len(data.metainfo['palette']) == len(
        INSTANCE_CLASSES[target]
    )
    with_targets = {
        one['image_id'] for one in raw['annotations'] if one['category_id'] in places and not one['iscrowd']
    }
    assert kept == with_targets
    assert len(coco_clips(coco_root, target=target, filter_cfg={})) == len(raw['images'])


def test_pseudo_clip_shows_the_annotated_masks(coco_root: Path) -> None:
    steps = [*PIPELINE[:2], dict(type='eomt_mm.RotateIntoClip', num_frames=2, max_angle=0), PIPELINE[3]]
    data = coco_clips(coco_root, pipeline=steps)
    raw = annotations(coco_root)
    by_image = {video: [] for video in (data.get_data_info(index)['video_id'] for index in range(len(data)))}
    for one in raw['annotations']:
        if one['category_id'] in COCO_MAPS['ytvis2019'] and one['image_id'] in by_image and not one['iscrowd']:
            by_image[one['image_id']].append(one)
    for index in range(len(data)):
        samples = data[index]['data_samples'].video_data_samples
        expected = by_image[samples[0].metainfo['video_id']]
        assert [sample.metainfo['frame_id'] for sample in samples] == [0, 1]
        for sample in samples:
            masks = sample.gt_instances.masks.masks
            assert len(masks) == len(expected)
            for mask, one in zip(masks, expected, strict=True):
                runs = mask_api.frPyObjects(one['segmentation'], *mask.shape)
                runs = mask_api.merge(runs) if isinstance(runs, list) else runs
                np.testing.assert_array_equal(mask, mask_api.decode(runs))


def test_chosen_classes(coco_root: Path) -> None:
    data = coco_clips(coco_root, metainfo=dict(classes=('train', 'motorbike')))
    found = {one['bbox_label'] for i in range(len(data)) for one in data.get_data_info(i)['images'][0]['instances']}
    assert data.cat2label == {2: 1, 7: 0}
    assert found <= {0, 1} and found
    with pytest.raises(ValueError, match=r"classes \['boat_house'\] are not among the 40 of target='ytvis2019'"):
        coco_clips(coco_root, metainfo=dict(classes=('boat_house',)))
    with pytest.raises(ValueError, match='none of the 4 categories'):
        coco_clips(coco_root, metainfo=dict(classes=('zebra',)))
    with pytest.raises(ValueError, match="target='coco': one of"):
        coco_clips(coco_root, target='coco')


def test_faulty_files(coco_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='nowhere.json does not exist'):
        coco_clips(coco_root, ann_file='nowhere.json')
    for change, message in (
        (dict(category_id=55), 'category_id 55, which none of the 4 categories has'),
        (dict(image_id=-1), 'image_id -1'),
        (dict(category_id=2, iscrowd=0, segmentation=[]), 'has no "segmentation"'),
    ):
        data = annotations(coco_root)
        data['annotations'][0].update(change)
        (tmp_path / 'bad.json').write_text(json.dumps(data))
        with pytest.raises(ValueError, match=message):
            coco_clips(coco_root, ann_file=str(tmp_path / 'bad.json'))


class Named:
    """A data set of (name, index)."""

    def __init__(self, name: str, size: int, classes: tuple[str, ...] = ('a', 'b')) -> None:
        self.name, self.size = name, size
        self.metainfo = {'classes': classes}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[str, int, float]:
        return self.name, index, float(np.random.rand())


@pytest.mark.parametrize('sizes', [(3, 10), (10, 3), (4, 4), (1, 7)])
def test_mix_is_one_to_one_and_shows_every_sample(sizes: tuple[int, int]) -> None:
    mix = MixedClips([Named('video', sizes[0]), Named('coco', sizes[1])])
    assert len(mix) == 2 * max(sizes)
    shown = Counter(mix[index][:2] for index in range(len(mix)))
    for name, size in zip(('video', 'coco'), sizes, strict=True):
        counts = [shown[name, index] for index in range(size)]
        assert sum(counts) == max(sizes)
        assert max(counts) - min(counts) <= 1 and min(counts) >= 1


def test_mix_follows_from_seed_and_position() -> None:
    mix = MixedClips([Named('video', 5), Named('coco', 40)])

    def run(start: int, count: int) -> list[tuple[str, int, float]]:
        sampler = iter(PositionSampler(mix, seed=1, start=start))
        return [SeededDataset(mix, 1)[next(sampler)] for _ in range(count)]

    whole = run(0, 30)
    np.random.rand(3)
    assert run(11, 19) == whole[11:]
    names = Counter(name for name, _, _ in whole)
    assert 5 < names['video'] < 25  # shuffled, not all of one first


def test_mix_checks_its_parts() -> None:
    with pytest.raises(ValueError, match='datasets='):
        MixedClips([])
    with pytest.raises(ValueError, match='Named is empty'):
        MixedClips([Named('video', 2), Named('coco', 0)])
    with pytest.raises(ValueError, match='Named has 2 classes, Named 2, or in another order'):
        MixedClips([Named('video', 2), Named('coco', 2, ('b', 'a'))])
