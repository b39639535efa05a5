"""Clips of consecutive frames: which frames, how videos without frames or targets are told, what a seed decides."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import videomt.datasets  # noqa: F401  registers
from mmengine.dataset import Compose
from videomt.datasets.clips import ConsecutiveFrames, VideoDataset

from eomt_mm.datasets.sampling import PositionSampler, SeededDataset


class Numbers(VideoDataset):
    """Videos whose frames are numbers; the even ones have targets."""

    METAINFO = {'classes': ('number',)}

    def __init__(self, lengths: list[int], **kwargs: Any) -> None:
        self.lengths = lengths
        super().__init__(ann_file='numbers.json', **kwargs)

    def load_videos(self) -> list[dict[str, Any]]:
        return [
            {
                'video_id': f'v{index}',
                'images': [{'img_path': f'{index}/{frame}'} for frame in range(length)],
                'is_annotated': index % 2 == 0,
            }
            for index, length in enumerate(self.lengths)
        ]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    np.random.seed(0)
    monkeypatch.setattr('videomt.datasets.clips.check_files', lambda *_: None)  # numbers have no files


def starts(length: int, num_frames: int, official: bool, draws: int = 400) -> Counter[int]:
    sampler = ConsecutiveFrames(num_frames, official_starts=official)
    return Counter(sampler.draw(length)[0] for _ in range(draws))


@pytest.mark.parametrize(('length', 'official', 'expected'), [
    (8, False, {0, 1, 2, 3}),
    (8, True, {0, 1, 2}),  # the last window never occurs
    (6, True, {0}),
    (5, True, {0}),  # the only window there is
    (5, False, {0}),
])  # fmt: skip
def test_starts(length: int, official: bool, expected: set[int]) -> None:
    assert set(starts(length, 5, official)) == expected


def test_all_windows_are_equally_likely() -> None:
    counts = starts(8, 5, False, draws=4000)
    assert all(abs(count - 1000) < 150 for count in counts.values())  # 5 standard deviations


@pytest.mark.parametrize('length', [1, 2, 4])
def test_short_videos_are_topped_up_in_the_order_of_time(length: int) -> None:
    found = [ConsecutiveFrames(5).draw(length) for _ in range(50)]
    for frames in found:
        assert len(frames) == 5 and frames == sorted(frames)
        assert set(frames) == set(range(length))  # each frame at least once
    assert length == 1 or len({tuple(frames) for frames in found}) > 1


def test_frames_are_consecutive_and_every_length_serves() -> None:
    for length in range(5, 20):
        frames = ConsecutiveFrames(5).draw(length)
        assert frames == list(range(frames[0], frames[0] + 5)) and frames[-1] < length


def test_a_key_frame_is_in_the_clip() -> None:
    sampler = ConsecutiveFrames(5)
    assert sampler.draw(10, start=3) == [3, 4, 5, 6, 7]
    assert sampler.draw(10, start=9) == [5, 6, 7, 8, 9]


def test_no_frames_are_no_clip() -> None:
    with pytest.raises(ValueError, match='num_frames=0'):
        ConsecutiveFrames(0)


def test_clip_lists_what_mmdet_lists() -> None:
    data = Numbers([7], pipeline=[dict(type='eomt_mm.ConsecutiveFrames', num_frames=3)])
    clip = data[0]
    first = clip['frame_id'][0]
    assert clip['frame_id'] == [first, first + 1, first + 2]
    assert clip['img_path'] == [f'0/{frame}' for frame in clip['frame_id']]
    assert clip['video_id'] == ['v0'] * 3
    assert clip['video_length'] == [3] * 3 and clip['ori_video_length'] == [7] * 3


def test_repeated_frames_do_not_share_their_dicts_with_the_data_set() -> None:
    data = Numbers([1], pipeline=[dict(type='eomt_mm.ConsecutiveFrames', num_frames=3)])
    data[0]['img_path'][0] = 'changed'
    assert data[0]['img_path'] == ['0/0'] * 3


def test_frames_are_numbered_over_the_data_set_and_in_their_video() -> None:
    data = Numbers([2, 3], test_mode=True)
    frames = [frame for index in range(2) for frame in data.get_data_info(index)['images']]
    assert [frame['img_id'] for frame in frames] == list(range(5))
    assert [frame['frame_id'] for frame in frames] == [0, 1, 0, 1, 2]


def test_test_mode_gives_videos_or_frames() -> None:
    data = Numbers([2, 3], test_mode=True)
    assert data[1]['img_path'] == ['1/0', '1/1', '1/2'] and data[1]['video_length'] == [3] * 3
    frame = data[1, 2]
    assert (frame['img_path'], frame['frame_id'], frame['ori_video_length']) == (['1/2'], [2], [3])


def test_videos_without_frames_are_named() -> None:
    with pytest.raises(ValueError, match='video v1 of numbers.json has no frames'):
        Numbers([3, 0])
    with pytest.raises(ValueError, match='numbers.json lists no videos'):
        Numbers([])


def test_filter_drops_videos_without_annotation_in_training_only() -> None:
    filter_cfg = dict(filter_empty_gt=True)
    assert len(Numbers([1, 1, 1], filter_cfg=filter_cfg)) == 2
    assert len(Numbers([1, 1, 1])) == 3
    assert len(Numbers([1, 1, 1], filter_cfg=filter_cfg, test_mode=True)) == 3


def test_filter_that_leaves_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Numbers.load_videos
    monkeypatch.setattr(Numbers, 'load_videos', lambda self: load(self)[1:2])
    with pytest.raises(ValueError, match='leaves none of the 1 videos of numbers.json'):
        Numbers([1, 1], filter_cfg=dict(filter_empty_gt=True))


def test_clips_without_target_are_replaced_a_bounded_number_of_times() -> None:
    calls = []

    def drop(clip: dict[str, Any]) -> None:
        calls.append(clip['video_id'])

    data = Numbers([1, 1, 1], max_refetch=4)
    data.pipeline = Compose([drop])
    with pytest.raises(RuntimeError, match='5 clips of numbers.json in a row had no target'):
        data[0]
    assert len(calls) == 5

    data.pipeline = Compose([lambda clip: clip if clip['video_id'] == 'v2' else None])
    assert data[0]['video_id'] == 'v2'


def test_clips_follow_from_seed_and_position() -> None:
    data = Numbers([20, 30, 40], pipeline=[dict(type='eomt_mm.ConsecutiveFrames', num_frames=5)])

    def run(start: int, count: int, seed: int = 3) -> list[list[str]]:
        sampler = iter(PositionSampler(data, seed=seed, start=start))
        return [SeededDataset(data, seed)[next(sampler)]['img_path'] for _ in range(count)]

    whole = run(0, 12)
    np.random.rand(7)  # what happened before does not matter
    assert run(5, 7) == whole[5:]  # a resumed run
    assert run(0, 12, seed=4) != whole
    assert len({tuple(clip) for clip in whole}) > 6
