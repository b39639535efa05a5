"""Base class of the video data sets, and the transform that draws clips of consecutive frames for training.

Random numbers come from numpy's global generator. With `eomt_mm.datasets.sampling`, a clip therefore depends only on
the seed and the position in the run, and resumed runs see the same clips.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.datasets import BaseVideoDataset
from mmdet.datasets.transforms import BaseFrameSample
from mmengine.logging import print_log

from eomt_mm.annotations.categories import only_crowds
from eomt_mm.datasets.file_listing import check_files, check_prefix, picked
from eomt_mm.registry import TRANSFORMS

Item = dict[str, Any]


class VideoDataset(BaseVideoDataset):
    """A data set whose items are videos; subclasses list them in :meth:`load_videos`.

    Unlike mmdet's ``BaseVideoDataset``, it reads official files unchanged, keeps frames without annotations (clips are
    consecutive), and redraws a clip without targets only a bounded number of times.

    Args:
        filter_cfg: training only; ``filter_empty_gt`` drops videos (never frames) without any annotation.
        max_refetch: number of clips that may be drawn in place of one without targets.
        kwargs: ann_file, metainfo, data_root, data_prefix (``img``: folder of the frames), indices, pipeline,
            test_mode, backend_args and other arguments of mmengine's ``BaseDataset``.

    Raises:
        FileNotFoundError: an annotation file or a folder does not exist.
        ValueError: a video has no frames, annotations are invalid, or no video is left to train on.
    """

    def __init__(
        self, *args: Any, filter_cfg: Mapping[str, Any] | None = None, max_refetch: int = 100, **kwargs: Any
    ) -> None:
        super().__init__(*args, filter_cfg=dict(filter_cfg or {}), max_refetch=max_refetch, **kwargs)

    most_targets: tuple[int, str]  # most targets of a frame, and its path; for `QueryLimitHook`

    def load_videos(self) -> list[Item]:
        """List the videos: video_id, images (frames: img_path and what the loading transforms need), is_annotated."""
        raise NotImplementedError

    def load_data_list(self) -> list[Item]:
        """List the videos with video_length, and frames with frame_id and img_id, as samplers and mmdet need them."""
        videos = self.load_videos()
        if not videos:
            raise ValueError(f'{self.ann_file} lists no videos: check data_root and ann_file')
        number = 0
        for video in videos:
            if not video['images']:
                raise ValueError(
                    f'video {video["video_id"]} of {self.ann_file} has no frames: check data_root and data_prefix, or '
                    'remove the video'
                )
            video['video_length'] = len(video['images'])
            for frame_id, frame in enumerate(video['images']):
                frame.update(frame_id=frame_id, img_id=number)
                number += 1
        return videos

    def filter_data(self) -> list[Item]:
        """Drop videos without annotations if ``filter_cfg`` asks for it; check that the frames of the others exist.

        In test mode all videos are kept.
        """
        kept = self.data_list
        if not self.test_mode and self.filter_cfg.get('filter_empty_gt', False):
            kept = [video for video in kept if video['is_annotated']]
        if not kept:
            raise ValueError(
                f'filter_cfg={self.filter_cfg} leaves none of the {len(self.data_list)} videos of {self.ann_file}: '
                + (
                    _only_crowds(self.data_list)
                    or "check that its annotations are of these videos and of metainfo['classes']"
                )
            )
        if len(kept) < len(self.data_list):
            print_log(
                f'{self.ann_file}: {len(self.data_list) - len(kept)} of {len(self.data_list)} videos are left out of '
                'training: they have no visible annotation of these classes that is no crowd',
                logger='current',
            )
        self.most_targets = max((_num_targets(frame), frame['img_path']) for video in kept for frame in video['images'])
        frames = [frame for video in picked(kept, self._indices) for frame in video['images']]
        for key, what in (('img_path', 'frames'), ('seg_map_path', 'PNGs')):
            prefix = self.data_prefix.get('img' if key == 'img_path' else 'seg') or ''
            check_files(frames, key, what, self.ann_file, self.backend_args, prefix)
        return kept

    def _join_prefix(self) -> None:
        check_prefix(self.data_prefix, ('img', 'seg'), type(self).__name__, self.ann_file)
        super()._join_prefix()

    def get_data_info(self, idx: int) -> Item:
        """Return a video whose frames name the annotation file, so that `LoadImage` can check the stated image size."""
        video: Item = super().get_data_info(idx)
        for frame in video['images']:
            frame['ann_file'] = self.ann_file
        return video

    def __getitem__(self, idx: int | tuple[int, int]) -> Any:
        """Load a clip (training), or in test mode a video or, for (video, frame), one frame of it.

        Raises:
            RuntimeError: none of the drawn clips has a target.
        """
        if self.test_mode:
            return super().__getitem__(idx)
        for _ in range(self.max_refetch + 1):
            clip = self.prepare_data(idx)
            if clip is not None:
                return clip
            idx = self._rand_another()
        raise RuntimeError(
            f'{self.max_refetch + 1} clips of {self.ann_file} in a row had no target in any frame: check the '
            'annotations, the crop of the pipeline, and filter_cfg=dict(filter_empty_gt=True); max_refetch allows more'
        )


def _num_targets(frame: Item) -> int:
    tracks = [one for one in frame.get('instances', ()) if not one['ignore_flag']]
    return len(tracks) + len(frame.get('segments_info', ()))


def _only_crowds(videos: Sequence[Item]) -> str:
    """Error text if all masks of the videos are crowds; '' otherwise, or if there are none."""
    return only_crowds(
        one['ignore_flag'] for video in videos for frame in video['images'] for one in frame.get('instances', ())
    )


@TRANSFORMS.register_module()
class ConsecutiveFrames(BaseFrameSample):
    """Draw a clip of consecutive frames; a shorter video is padded with random repeats, in temporal order.

    Args:
        num_frames: number T of frames of the clip.
        official_starts: draw the start from [0, L - T) as the published training does, so that the last window of a
            video never occurs; otherwise every window is equally likely.
        collect_video_keys: keys that frames copy from their video.

    Raises:
        ValueError: ``num_frames`` is below 1.
    """

    def __init__(
        self,
        num_frames: int = 5,
        official_starts: bool = False,
        collect_video_keys: Sequence[str] = ('video_id', 'video_length'),
    ) -> None:
        if num_frames < 1:
            raise ValueError(f'num_frames={num_frames}: at least 1')
        super().__init__(collect_video_keys=list(collect_video_keys))
        self.num_frames = num_frames
        self.official_starts = official_starts

    def transform(self, video_infos: Item) -> Item:
        """Turn a video into a dict of lists, with one entry per frame of the clip."""
        frames = self.draw(len(video_infos['images']), video_infos.get('key_frame_id'))
        return dict(self.prepare_data(video_infos, frames))

    def draw(self, length: int, start: int | None = None) -> list[int]:
        """Draw the indices (T,) of frames, ascending.

        Args:
            length: number L of frames of the video.
            start: first frame, if a sampler of mmdet chose one; an earlier frame is used if the clip would not fit.
        """
        spare = length - self.num_frames
        if spare < 0:
            repeats = np.random.randint(0, length, -spare).tolist()
            return sorted([*range(length), *repeats])
        if start is None:
            start = int(np.random.randint(max(1, spare if self.official_starts else spare + 1)))
        first = min(start, spare)
        return list(range(first, first + self.num_frames))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_frames={self.num_frames}, official_starts={self.official_starts})'
