"""Videos of what a user gives: what belongs together, in which order, and what it is called."""

from pathlib import Path

import pytest
from input_files import IMAGE, write, write_video
from PIL import Image
from videomt.sequences import ImageSequence, as_videos

from eomt_mm.apis.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Video, find_sources


def videos_of(inputs: object, **kwargs: object) -> list[Video]:
    return as_videos(find_sources(inputs, suffixes=(*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)), **kwargs)


def test_every_folder_is_a_video(tmp_path: Path) -> None:
    for name in ('b/2.jpg', 'b/10.jpg', 'a/0.jpg', 'a/0.png', 'a/deep/0.jpg', 'a/deep/1.jpg', '1.jpg', '0.jpg'):
        write(tmp_path / 'set' / name)
    write_video(tmp_path / 'set' / 'a' / 'clip.mp4')
    found = {video.name: [frame.name for frame in video.frames()] for video in videos_of(tmp_path / 'set')}
    assert found == {
        'set': ['set/0', 'set/1'],
        'a': ['a/0', 'a/0_2'],
        'a/clip': [f'a/clip/{k:06d}' for k in range(5)],
        'a/deep': ['a/deep/0', 'a/deep/1'],
        'b': ['b/2', 'b/10'],
    }


def test_patterns_and_lists(tmp_path: Path) -> None:
    for name in ('a/0.jpg', 'a/1.jpg', 'b/0.jpg', 'b/1.jpg', 'x/b/0.jpg', 'x/b/1.jpg'):
        write(tmp_path / name)
    assert [video.name for video in videos_of(str(tmp_path / '?/*.jpg'))] == ['a', 'b']
    backwards = videos_of([tmp_path / 'a/1.jpg', tmp_path / 'a/0.jpg'])
    assert [frame.name for frame in backwards[0].frames()] == ['a/1', 'a/0']
    folders = videos_of([tmp_path / 'b', tmp_path / 'x/b', tmp_path / 'b'])
    assert [video.name for video in folders] == ['b', 'b_2', 'b_3']


def test_arrays_are_a_video_and_files_between_them_end_it(tmp_path: Path) -> None:
    clip = write_video(tmp_path / 'clip.mp4')
    videos = videos_of([IMAGE, IMAGE, clip, clip, Image.fromarray(IMAGE), IMAGE, IMAGE])
    assert [(video.name, video.num_frames) for video in videos] == [
        ('00000000', 2), ('clip', 5), ('clip_2', 5), ('00000002', 3),
    ]  # fmt: skip
    assert [frame.name for frame in videos[0].frames()] == ['00000000/000000', '00000000/000001']
    assert all(frame.video is videos[0] for frame in videos[0].frames())


def test_a_single_image_stays_one(tmp_path: Path) -> None:
    (video,) = videos_of(write(tmp_path / 'a.jpg'))
    assert isinstance(video, ImageSequence) and video.num_frames == 1
    assert [(frame.name, frame.video) for frame in video.frames()] == [('a', None)]


def test_frames_per_second(tmp_path: Path) -> None:
    given = [IMAGE, IMAGE, write_video(tmp_path / 'clip.mp4')]
    assert [video.fps for video in videos_of(given)] == [10, 7]
    assert [video.fps for video in videos_of(given, fps=2.5)] == [2.5, 7]
    with pytest.raises(ValueError, match='fps=-1: frames per second, above 0'):
        videos_of(given, fps=-1)
