"""Turn a video's logits into tracks, panoptic or semantic maps by the published rules (see `README.md`, "Sources").

A query is a track. Its class follows from its logits averaged over all frames of a video, or over the frames so far;
its masks are predicted per frame. Masks are resized to the frames' own size frame by frame, and only for queries that
were chosen by class, so that only the results grow with the video.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from eomt_mm.core.geometry import Padding, resize
from eomt_mm.core.postprocess import (
    assign_pixels,
    assign_segment_ids,
    best_pairs,
    choose_queries,
    class_probs,
    image_maps,
    maps_at_once,
)
from eomt_mm.evaluation.ap_counting import encode_masks
from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET, RunMap
from eomt_mm.models.heads import boxes_of_masks

TASKS = ('instance', 'panoptic', 'semantic')
WHOLE_VIDEO, RUNNING_MEAN = 'mean of all frames', 'mean of the frames so far'


class Masks(Protocol):
    """Mask logits (T, Q, h, w): a tensor, or an object that is indexed like one, such as a `MaskStore`."""

    def __len__(self) -> int:
        """Number T of frames."""

    def __getitem__(self, place: tuple[int, Tensor], /) -> Tensor:
        """Logits (N, h, w) of queries (N,) in a frame."""


@dataclass(frozen=True)
class Rules:
    """Task and thresholds for turning logits into results.

    Attributes:
        task: 'instance' (VIS), 'panoptic' (VPS) or 'semantic' (VSS).
        num_things: panoptic; classes below this index are things.
        max_per_video: instance; number of tracks, 10 as published and 20 on OVIS.
        min_score: instance; minimum score of tracks, in [0, 1].
        score_thr: panoptic; in [0, 1], a query's class probability must exceed it.
        overlap_thr: panoptic; in [0, 1]; see :func:`panoptic_frames`.
        rle: instance; masks as run lengths instead of booleans, for long videos.
    """

    task: str
    num_things: int = 0
    max_per_video: int = 10
    score_thr: float = 0.8
    overlap_thr: float = 0.8
    rle: bool = False
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f'task={self.task!r}: give one of {", ".join(map(repr, TASKS))}')


class Tracks(NamedTuple):
    """Tracks, best first: ids, queries, labels (N,) int64 and scores (N,) in [0, 1].

    A query may appear under several labels: an id stands for a pair of query and label, query * K + label.
    """

    ids: Tensor
    queries: Tensor
    labels: Tensor
    scores: Tensor


def choose_tracks(class_logits: Tensor, max_per_video: int = 10, min_score: float = 0.0) -> Tracks:
    """Choose the pairs of query and class with the highest class probability.

    Args:
        class_logits: (Q, K + 1), averaged over frames.
        max_per_video: number of tracks.
        min_score: least probability.
    """
    found = best_pairs(class_logits, max_per_video, best_first=True)
    scores, queries, labels = (values[found[0] >= min_score] for values in found)
    return Tracks(queries * (class_logits.shape[-1] - 1) + labels, queries, labels, scores)


def instance_frames(tracks: Tracks, masks: Masks, geometry: Padding) -> Iterator[Tensor]:
    """Yield the masks (N, H, W), bool, of the tracks in each frame: pixels whose logit is above 0."""
    queries, place = tracks.queries.unique(return_inverse=True)  # each query once
    for frame in range(len(masks)):
        yield torch.cat([maps > 0 for maps in image_maps(masks[frame, queries], geometry.invert)])[place]


def panoptic_frames(class_logits: Tensor, masks: Masks, geometry: Padding, rules: Rules) -> Iterator[Tensor]:
    """Yield panoptic maps (H, W), int32: label + 1000 * id, void = K. Ids: query + 1 for things, 0 for stuff.

    A query is kept if its best class is not "no object" and has a probability above ``score_thr``. Each pixel of each
    frame is assigned to the kept query with the highest p(class) * p(mask), if p(mask) >= 0.5. A query is dropped from
    the whole video if its assigned pixels in all frames are fewer than ``overlap_thr`` of those with p(mask) >= 0.5.
    Stuff of one class is merged. Probabilities, not logits, are resized from the model's input to the frame's own size.

    Args:
        class_logits: (Q, K + 1), averaged over frames.
        masks: logits of all frames.
        geometry: of the frames.
        rules: see :class:`Rules`.
    """
    num_classes = class_logits.shape[-1] - 1
    scores, labels, chosen = choose_queries(class_logits, rules.score_thr)
    queries = chosen.nonzero()[:, 0]
    scores, labels = scores[queries], labels[queries]
    if len(queries) == 0:
        for _ in range(len(masks)):
            yield torch.full(geometry.ori_size, num_classes, dtype=torch.int32, device=scores.device)
        return

    pixels = torch.zeros(1, 3, len(queries), dtype=torch.long, device=scores.device)
    kept = []
    for frame in range(len(masks)):
        codes, of_frame = assign_pixels(scores[None], _mask_probs(masks, frame, queries, geometry))
        pixels += of_frame
        kept.append(RunMap.of(codes[0].to(torch.int16).cpu().numpy()))  # until the areas of the whole video are known
    _, ids = assign_segment_ids(labels[None], pixels, rules.num_things, rules.overlap_thr)
    values = [
        num_classes if not id_ else label + INSTANCE_OFFSET * (query + 1) * (label < rules.num_things)
        for id_, label, query in zip(*torch.stack([ids[0], labels, queries]).tolist(), strict=True)
    ]
    lookup = np.array([num_classes, *values], np.int32)
    for codes_of_frame in kept:
        yield torch.from_numpy(lookup[codes_of_frame.expand()]).to(scores.device)


def _mask_probs(masks: Masks, frame: int, queries: Tensor, geometry: Padding) -> Iterator[Tensor]:
    """Yield p(mask) (1, n, H, W) of the queries in a frame, in parts, resized to the frame's own size."""
    to_input = replace(geometry, ori_size=geometry.resized_size)
    for chosen in queries.split(maps_at_once(geometry.ori_size)):
        yield resize(to_input.invert(masks[frame, chosen].float()).sigmoid(), geometry.ori_size)[None]


def semantic_frames(class_logits: Tensor, masks: Masks, geometry: Padding) -> Iterator[Tensor]:
    """Yield class maps (H, W), int64: the class with the largest sum over queries of p(class) * p(mask).

    Args:
        class_logits: (Q, K + 1), averaged over frames.
        masks: logits of all frames.
        geometry: of the frames.
    """
    probs = class_probs(class_logits)  # (Q, K)
    queries = torch.arange(len(probs))
    at_once = maps_at_once(geometry.ori_size)
    scores = probs.new_empty(probs.shape[1], geometry.ori_size[0] * geometry.ori_size[1])
    for frame in range(len(masks)):
        scores.zero_()
        for weights, chosen in zip(probs.split(at_once), queries.split(at_once), strict=True):
            inside = geometry.invert(masks[frame, chosen].float()).sigmoid()
            # added in place: a second map of all classes takes hundreds of megabytes
            scores.addmm_(weights.mT, inside.flatten(1))
        yield scores.argmax(0).view(geometry.ori_size)


def frame_geometry(sample: DetDataSample) -> Padding:
    """Geometry of a frame, to map results to its own size; from ``ori_shape``, ``img_shape``, ``batch_input_shape``."""
    sizes = (tuple(sample.metainfo[key][:2]) for key in ('ori_shape', 'img_shape', 'batch_input_shape'))
    return Padding(*sizes)


def predict_video(class_logits: Tensor, masks: Masks, samples: Sequence[DetDataSample], rules: Rules) -> None:
    """Add predictions to the frames of one video, with class scores averaged over all its frames.

    Args:
        class_logits: (T, Q, K + 1), of the final layer.
        masks: (T, Q, h, w), of the final layer.
        samples: of the T frames; see :func:`add_predictions`.
        rules: see :class:`Rules`.
    """
    add_predictions(class_logits.float().mean(0), masks, samples, rules, WHOLE_VIDEO)


def add_predictions(
    class_logits: Tensor, masks: Masks, samples: Sequence[DetDataSample], rules: Rules, class_scores: str
) -> None:
    """Add predictions at the frames' own size to data samples, with a note on how class scores were averaged.

    'instance': ``pred_track_instances`` with ``instances_id``, ``queries``, ``labels``, ``scores``, ``bboxes`` (N, 4)
    in pixels x1, y1, x2, y2, and ``masks`` (N, H, W) bool or N run lengths. 'panoptic': ``pred_panoptic_seg.sem_seg``
    (1, H, W) int32, see :func:`panoptic_frames`, and the metadata of :func:`add_segments`. 'semantic':
    ``pred_sem_seg.sem_seg`` (1, H, W) uint8, or int32 for more than 256 classes.

    Args:
        class_logits: (Q, K + 1), averaged over frames.
        masks: (T, Q, h, w).
        samples: of the T frames, all of one size, with the keys of :func:`frame_geometry`.
        rules: see :class:`Rules`.
        class_scores: stored as metainfo ``class_scores``.

    Raises:
        ValueError: there is not one sample per frame, or frames differ in size.
    """
    geometry = _common_geometry(samples, len(masks))
    for sample in samples:
        sample.set_metainfo(dict(class_scores=class_scores))
    if rules.task == 'instance':
        tracks = choose_tracks(class_logits, rules.max_per_video, rules.min_score)
        for sample, inside in zip(samples, instance_frames(tracks, masks, geometry), strict=True):
            sample.pred_track_instances = _as_instances(tracks, inside, rules.rle)
    elif rules.task == 'panoptic':
        for sample, ids in zip(samples, panoptic_frames(class_logits, masks, geometry, rules), strict=True):
            sample.pred_panoptic_seg = PixelData(sem_seg=ids[None])
            add_segments(class_logits, sample)
    else:
        dtype = torch.uint8 if class_logits.shape[-1] <= 257 else torch.int32
        for sample, labels in zip(samples, semantic_frames(class_logits, masks, geometry), strict=True):
            sample.pred_sem_seg = PixelData(sem_seg=labels[None].to(dtype))


def add_segments(class_logits: Tensor, sample: DetDataSample) -> None:
    """Add the metadata ``panoptic_segments``, as for images: id, label and score of the segments in the map.

    Stuff, whose id is 0, has the score of its best query.

    Args:
        class_logits: (Q, K + 1), averaged over frames.
        sample: with ``pred_panoptic_seg``.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    segments = []
    for code in sample.pred_panoptic_seg.sem_seg.unique().tolist():
        id_, label = divmod(code, INSTANCE_OFFSET)
        if label < class_logits.shape[-1] - 1:
            score = scores[id_ - 1] if id_ else scores[labels == label].max()
            segments.append(dict(id=id_, label=label, score=float(score)))
    sample.set_metainfo(dict(panoptic_segments=segments))


def _common_geometry(samples: Sequence[DetDataSample], num_frames: int) -> Padding:
    geometries = {frame_geometry(sample) for sample in samples}
    if len(samples) != num_frames or len(geometries) != 1:
        raise ValueError(
            f'{len(samples)} samples of {len(geometries)} sizes for {num_frames} frames: give one sample per frame of '
            f'one video, all resized alike; sizes are {sorted(geometry.ori_size for geometry in geometries)}'
        )
    return geometries.pop()


def _as_instances(tracks: Tracks, masks: Tensor, rle: bool) -> InstanceData:
    return InstanceData(
        instances_id=tracks.ids,
        queries=tracks.queries,
        labels=tracks.labels,
        scores=tracks.scores,
        bboxes=boxes_of_masks(masks),
        masks=encode_masks(masks.cpu().numpy()) if rle else masks,
    )
