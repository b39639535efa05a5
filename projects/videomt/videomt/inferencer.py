"""Segment videos: the inferencer of images, with queries that are passed from frame to frame."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

from mmdet.structures import DetDataSample
from mmengine.registry import INFERENCERS
from torch import Tensor

from eomt_mm.apis.calls import ColourOf, Loaded, Predicted, Request
from eomt_mm.apis.inferencer import EoMTInferencer
from eomt_mm.apis.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageInput, Source, Video, images_of, report
from eomt_mm.apis.results import Prediction
from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET
from eomt_mm.models.predictions import Segment, label_map_segments
from eomt_mm.visualization import Colour, DrawnSegment, distinct_palette, shade
from videomt.postprocess import RUNNING_MEAN, WHOLE_VIDEO, Rules
from videomt.sequences import as_videos
from videomt.streaming import OnlineVideo, StoredVideo
from videomt.track_files import TrackFiles

Item = dict[str, Any]


@INFERENCERS.register_module(name='VidEoMTDetector')
class VideoInferencer(EoMTInferencer):
    """A video model with its pre-processing, post-processing and classes.

    :func:`eomt_mm.apis.init_inferencer` builds one from a VidEoMT config::

        inferencer = init_inferencer('projects/videomt/configs/CONFIG.py', 'hf://tue-mps/videomt-dinov2-small-ytvis2019')
        for frame in inferencer.stream('clip.mp4', out_dir='results'):
            print(frame.name, [segment['id'] for segment in frame.prediction['segments_info']])

    Inputs are video files, folders of frames (each folder is a video), patterns of frames, and lists of frames: see
    :func:`~videomt.sequences.as_videos`. All frames of a video have the same size. Results are returned, drawn and
    written per frame, as for images, with these differences:

    - ``id`` is the id of the track, the same in all frames of a video: query number + 1. For stuff, and in semantic
      segmentation, it belongs to the class. A query has one label per frame, its best.
    - ``class_scores`` of a prediction states how class scores are averaged: 'mean of the frames so far', or with
      ``whole_video`` 'mean of all frames', as published. Masks are the same in both cases.
    - pictures are videos, ``NAME.mp4``; result files are those of :class:`~videomt.track_files.TrackFiles`.
    - ``return_datasamples`` gives mmdet's sample per frame, masks of tracks as booleans and queries under every label;
      see :func:`~videomt.postprocess.add_predictions`.

    In :meth:`~eomt_mm.apis.inferencer.EoMTInferencer.stream`, ``batch_size`` is the number of frames that go through
    the backbone together (it changes no result), and there are two more arguments:

    - ``whole_video``: read every video twice, to use class scores averaged over all its frames. Mask logits are kept in
      memory, beyond 512 MiB in a temporary file.
    - ``fps``: frame rate of videos written from images; 10 unless given.
    """

    kind = 'video'
    can_compile = False
    extra_options: Mapping[str, Any] = dict(whole_video=False, fps=None)

    def find_sources(self, find: Callable[..., list[Source]], options: Mapping[str, Any]) -> list[Video]:
        return as_videos(find(suffixes=(*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)), options['fps'])

    def prediction_files(self, folder: Path, options: Mapping[str, Any]) -> TrackFiles:
        info = dict(class_scores=WHOLE_VIDEO if options['whole_video'] else RUNNING_MEAN)
        return TrackFiles(folder, self.task, self.meta['classes'], self.num_things, info)

    def predict(
        self,
        sources: Sequence[Source],
        request: Request,
        counted: Callable[[Iterable[ImageInput]], Iterator[ImageInput]],
    ) -> Iterator[Predicted]:
        rules = self._rules(request.settings)
        for video in sources:
            assert isinstance(video, Video)  # of find_sources
            colour_of = self.new_colours().of
            images = images_of([video], request.skipped)
            frames = self.preprocess(counted(images), request.batch_size, request.skipped)
            if request.options['whole_video']:
                yield from self._whole(video, rules, frames, colour_of)
            else:
                online = OnlineVideo(self.model, rules, self.amp_dtype)
                for loaded, data in frames:
                    samples = [sample.cpu() for sample in online.segment_window(*self._prepared(data))]
                    yield loaded, samples, colour_of

    def _whole(
        self, video: Video, rules: Rules, frames: Iterator[tuple[list[Loaded], Item]], colour_of: ColourOf
    ) -> Iterator[Predicted]:
        """Run all frames of a video through the network, then read them again to yield them with their results."""
        stored, samples, names = StoredVideo(self.model, self.amp_dtype), [], set[str]()
        for loaded, data in frames:
            names.update(image.name for image, _ in loaded)
            images, window = self._prepared(data)
            stored.add(images)
            samples += window
        if not samples:
            return
        again = self.readable((frame for frame in video.frames() if frame.name in names), None)
        for (read, _), sample in zip(again, stored.results(samples, rules), strict=True):
            yield [read], [sample.cpu()], colour_of

    def forward(self, inputs: Item, **settings: Any) -> list[DetDataSample]:
        """Predict a clip from :meth:`preprocess` that starts with the first frame of a video; return its samples."""
        online = OnlineVideo(self.model, self._rules(settings), self.amp_dtype)
        return [sample.cpu() for sample in online.segment_window(*self._prepared(inputs))]

    def _rules(self, settings: Item) -> Rules:
        """Return the head's rules, with a call's thresholds."""
        thresholds = {key: value for key, value in settings.items() if key in ('score_thr', 'overlap_thr', 'min_score')}
        return replace(self.head.rules, rle=False, **thresholds)

    def _prepared(self, data: Item) -> tuple[Tensor, list[DetDataSample]]:
        """Prepare a window: the network's input (t, 3, H, W), and the samples of its frames."""
        preprocessor = self.model.data_preprocessor
        data = preprocessor(data, training=False)
        (frames,), (window,) = data['inputs'], data['data_samples']
        return preprocessor.prepare(frames), window.video_data_samples

    def readable(self, inputs: Iterable[ImageInput], skipped: list[Path] | None) -> Iterator[tuple[Loaded, Item]]:
        """Load the frames of one video, and add the ids that data sets give to frames."""
        size, number = None, 0
        for (image, pixels), item in super().readable(inputs, skipped):
            size = size or pixels.shape[:2]
            if pixels.shape[:2] != size:
                error = ValueError(
                    f'frame {image.name} is {pixels.shape[:2]}, those before it {size} (height, width): a video has '
                    f'one size: resize or remove the frame; give images that do not belong together one by one'
                )
                report(error, image.origin, skipped)
                continue
            name = image.name if image.video is None else image.video.name
            yield (image, pixels), {**item, 'video_id': name, 'frame_id': number, 'img_id': number}
            number += 1

    def prepared(
        self, readable: Iterable[tuple[Loaded, Item]], skipped: list[Path] | None
    ) -> Iterator[tuple[Loaded, Item]]:
        """Leave the pipeline to :meth:`packed`, which runs it on windows."""
        return iter(readable)

    def packed(self, items: list[Item]) -> Item:
        """Run the pipeline on a window of frames and collate it."""
        window = {key: [item[key] for item in items] for key in items[0]}
        return dict(self.collate_fn([self.pipeline(window)]))

    def postprocess(self, preds: Sequence[DetDataSample], score_thr: float) -> list[Prediction]:
        """Convert samples to dictionaries (:func:`~eomt_mm.apis.results.prediction_of`), with ``class_scores``."""
        found = super().postprocess(preds, score_thr)
        return [{**one, 'class_scores': sample.class_scores} for one, sample in zip(found, preds, strict=True)]

    def drawn(self, segments: Sequence[Segment], colour_of: ColourOf | None = None) -> list[DrawnSegment]:
        """Segments with names and colours, the best on top.

        A track keeps its colour in all calls with the same ``colour_of``; None: the segments are of a video's first
        frame.
        """
        colour_of = colour_of or self.new_colours().of
        return [self._drawn(segment, colour_of) for segment in reversed(segments)]

    def _drawn(self, segment: Segment, colour_of: ColourOf) -> DrawnSegment:
        name, colour = self.meta['classes'][segment.label], self.meta['palette'][segment.label]
        if self.task == 'semantic' or segment.label >= self.num_things:
            return DrawnSegment(segment.read, name, colour, segment.score)
        colour = colour_of(segment.id, segment.label)
        return DrawnSegment(segment.read, f'{name} #{segment.id}', colour, segment.score)

    def new_colours(self) -> 'TrackColours':
        """Choose colours for the tracks of a video: distinct, or with stuff, shades of the class colours."""
        return TrackColours(None if self.task == 'instance' else self.meta['palette'])

    def segments(self, sample: DetDataSample, score_thr: float) -> list[Segment]:
        """Segments of a frame; instances with scores of at least ``score_thr``, best first."""
        if self.task == 'semantic':
            return label_map_segments(sample.pred_sem_seg.sem_seg[0].numpy(), len(self.meta['classes']))
        if self.task == 'panoptic':
            codes = sample.pred_panoptic_seg.sem_seg[0].numpy()
            return [
                Segment(
                    s['id'] or self.head.num_queries + 1 + s['label'], s['label'], s['score'],
                    partial(eq, codes, s['label'] + INSTANCE_OFFSET * s['id']),
                )
                for s in sample.panoptic_segments
            ]  # fmt: skip
        tracks = sample.pred_track_instances
        best: dict[int, Segment] = {}
        columns = tracks.queries.tolist(), tracks.labels.tolist(), tracks.scores.tolist(), tracks.masks.numpy()
        for query, label, score, mask in zip(*columns, strict=True):
            if score >= score_thr and query not in best and mask.any():
                best[query] = Segment(query + 1, label, score, mask)
        return list(best.values())


class TrackColours:
    """Colours of a video's tracks, assigned when tracks first appear.

    Args:
        palette: class colours, of which tracks get shades; None: tracks get distinct colours.
    """

    NUM_DISTINCT = 24  # then colours repeat

    def __init__(self, palette: Sequence[Colour] | None) -> None:
        self._palette = palette
        self._given: dict[int, Colour] = {}
        self._counts: Counter[int] = Counter()

    def of(self, id_: int, label: int) -> Colour:
        """Colour of a track; ``label`` is its class, which only matters when the track first appears."""
        if id_ not in self._given:
            if self._palette is None:
                self._given[id_] = distinct_palette(self.NUM_DISTINCT)[len(self._given) % self.NUM_DISTINCT]
            else:
                self._given[id_] = shade(self._palette[label], self._counts[label])
            self._counts[label] += 1
        return self._given[id_]
