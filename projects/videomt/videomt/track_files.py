"""Write the results of videos to a folder: tracks in YouTube-VIS's format, maps frame by frame."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eomt_mm.apis.inputs import ImageInput
from eomt_mm.apis.result_files import PredictionFiles, origin_of
from eomt_mm.apis.results import Prediction

SPOOLED = 2**20  # bytes of a track's masks in memory; more go to a temporary file


class TrackFiles(PredictionFiles):
    """Write the results of videos; ids of tracks and segments are the same in all frames of a video.

    - instance: ``instance_results.json``, tracks in YouTube-VIS's result format (``video_id``, ``category_id``,
      ``score``, and in ``segmentations`` a mask or null for each frame), each with its ``track_id``; and
      ``video_info.json``, videos and categories as YouTube-VIS states them. A track's score is the mean over the frames
      in which it was found, its category the most frequent one.
    - panoptic and semantic: a file per frame, as for images; see
      :class:`~eomt_mm.apis.result_files.PredictionFiles`.

    A video's id is its name, converted to a number if it is one. ``info.class_scores`` states over which frames class
    scores are averaged. Every file gets its final name when it is complete. Until a video ends, the masks of its tracks
    are kept in temporary files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.task == 'instance':
            self.info_name = 'video_info.json'
        self._videos: list[dict[str, Any]] = []
        self._name: str | None = None
        self._tracks: dict[int, _Track] = {}

    @contextmanager
    def opened(self) -> Iterator['TrackFiles']:
        with super().opened():
            try:
                yield self
                self._end_video()
            finally:
                self._drop_tracks()

    def add(self, image: ImageInput, prediction: Prediction) -> None:
        """Write the prediction of a frame (:class:`~videomt.inferencer.VideoInferencer`); one video after the other."""
        if self.task != 'instance':
            return super().add(image, prediction)
        name = image.name if image.video is None else image.video.name
        if name != self._name:
            self._end_video()
            height, width = prediction['segmentation'].shape
            id_ = self.new_id(name)
            self._videos.append(dict(id=id_, name=name, file_names=[], height=height, width=width, length=0))
            self._name = name
        video = self._videos[-1]
        for segment in prediction['segments_info']:
            self._tracks.setdefault(segment['id'], _Track()).add(video['length'], segment)
        video['file_names'].append(origin_of(image))
        video['length'] += 1

    def _end_video(self) -> None:
        """Write the tracks of the finished video."""
        for id_, track in self._tracks.items():
            label, score, masks = track.result(self._videos[-1]['length'])
            category = label + self.first_id
            self.append(
                dict(
                    video_id=self._videos[-1]['id'], track_id=id_, category_id=category, score=score,
                    segmentations=masks,
                )
            )  # fmt: skip
        self._drop_tracks()

    def _drop_tracks(self) -> None:
        for track in self._tracks.values():
            track.masks.close()
        self._tracks = {}

    def info_text(self) -> str:
        if self.task != 'instance':
            return super().info_text()
        return json.dumps({**self.about, 'videos': self._videos, 'categories': self.categories})


class _Track:
    """A track so far, with a line of JSON per frame."""

    def __init__(self) -> None:
        self.masks = tempfile.SpooledTemporaryFile(SPOOLED, 'w+', encoding='utf-8')  # noqa: SIM115  until its end
        self._length = 0
        self._labels: Counter[int] = Counter()
        self._score_sum = 0.0

    def add(self, frame: int, segment: Prediction) -> None:
        self._pad(frame)
        self.masks.write(json.dumps(segment['mask']) + '\n')
        self._length += 1
        self._labels[segment['label_id']] += 1
        self._score_sum += segment['score']

    def result(self, num_frames: int) -> tuple[int, float, list[Any]]:
        """Return label, score, and a mask or None for each frame."""
        self._pad(num_frames)
        self.masks.seek(0)
        (label, _), *_ = self._labels.most_common(1)
        return label, self._score_sum / self._labels.total(), [json.loads(line) for line in self.masks]

    def _pad(self, length: int) -> None:
        self.masks.write('null\n' * (length - self._length))
        self._length = length
