"""Mask AP on arrays: matching per image, and averages, both by pycocotools' own functions.

`COCOeval` keeps all masks to the end, but its averages need only the scores of predictions and which of them matched
or are ignored. So `COCOeval.evaluateImg` runs on each image when it comes, and `accumulate` and `summarize` on what is
kept. The numbers are those of `COCOeval` on everything at once.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_api
from pycocotools.cocoeval import COCOeval

from eomt_mm.annotations.masks import RLE, areas
from eomt_mm.annotations.panoptic_png import run_starts


class TrueInstance(NamedTuple):
    """An instance of the ground truth.

    Attributes:
        label: of its class.
        rle: its mask.
        area: in pixels; decides whether it is small, medium or large.
        is_crowd: crowds are never missed, and any number of predictions may lie on one.
    """

    label: int
    rle: RLE
    area: float
    is_crowd: bool


@dataclass(frozen=True)
class ImageMatches:
    """What averages need of an image with C classes, A area ranges, T IoU thresholds.

    Attributes:
        labels: (C,), int32, ascending: classes with ground truth or predictions.
        num_true: (A, C), int32, instances that count.
        num_predicted: (C,), int32; they add up to D.
        scores: (D,), float64, class by class, descending within one.
        matched: packed bits of (A, T, D): whether a prediction matches an instance.
        ignored: the same: whether a prediction is neither right nor wrong (on a crowd, of another area).
    """

    labels: np.ndarray
    num_true: np.ndarray
    num_predicted: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray


class Summary(NamedTuple):
    """Averages of `COCOeval.summarize`, -1 where there is nothing to average over.

    Attributes:
        stats: (12,), in [0, 1]: AP, AP50, AP75, AP of small, medium and large instances, and six of recall.
        per_class: (C, 12), the same for each class alone.
        text: what `summarize` prints.
    """

    stats: np.ndarray
    per_class: np.ndarray
    text: str


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """Run lengths of masks (N, H, W), bool or bytes 0 and 1, that may overlap."""
    # pycocotools reads down the columns. OpenCV transposes bytes several times faster than numpy and torch: this takes
    # half the time.
    return [mask_api.encode(cv2.transpose(mask).T) for mask in masks.view(np.uint8)]


def encode_segments(id_map: np.ndarray, num_segments: int) -> list[RLE]:
    """Run lengths of the segments 1 .. ``num_segments`` of an id map (H, W), without making masks."""
    height, width = id_map.shape
    columns = np.ascontiguousarray(id_map.T)
    starts = run_starts(columns)
    ends = np.append(starts[1:], columns.size)
    ids = columns.ravel()[starts]
    found = []
    for id_ in range(1, num_segments + 1):
        own = ids == id_
        edges = np.stack([starts[own], ends[own]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=columns.size)
        if counts[-1] == 0 and len(edges):  # the segment ends with the image: no background follows
            counts = counts[:-1]
        runs = {'size': [height, width], 'counts': counts.tolist()}
        found.append(mask_api.frPyObjects(runs, height, width))
    return found


def match_image(
    true: Sequence[TrueInstance],
    labels: np.ndarray,
    scores: np.ndarray,
    rles: Sequence[RLE],
    max_dets: Sequence[int],
) -> ImageMatches:
    """Match the predictions of an image to its ground truth.

    Args:
        true: instances of the image.
        labels: (N,), integers.
        scores: (N,), float64.
        rles: masks of the N predictions, as large as the image.
        max_dets: ascending; beyond the last, predictions of a class are dropped.
    """

    def iou(rows: list[int], columns: list[int]) -> np.ndarray:
        found: np.ndarray = mask_api.iou(
            [rles[row] for row in rows],
            [true[column].rle for column in columns],
            [int(true[column].is_crowd) for column in columns],
        )
        return found

    predicted = list(zip(labels.tolist(), areas(rles).tolist(), scores.tolist(), strict=True))
    return match_by_class([(one.label, one.area, one.is_crowd) for one in true], predicted, iou, max_dets)


class PackedMasks(NamedTuple):
    """Masks (N, H, W), bool, with eight pixels a byte, as they go to another process."""

    bits: np.ndarray
    width: int

    @classmethod
    def of(cls, masks: np.ndarray) -> 'PackedMasks':
        """Pack masks (N, H, W), bool."""
        return cls(np.packbits(masks, axis=-1), masks.shape[-1])

    def encode(self) -> list[RLE]:
        """Run lengths of the masks."""
        return encode_masks(np.unpackbits(self.bits, axis=-1, count=self.width))


def match_masks(
    labels: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray | PackedMasks | list[RLE],
    true: Sequence[TrueInstance] | None,
    max_dets: Sequence[int],
    keep_rles: bool,
) -> dict[str, Any]:
    """Encode the masks of an image, and match them where there is ground truth; this may run in a worker process.

    Args:
        labels, scores, max_dets: see `match_image`.
        masks: of the N predictions; arrays are (N, H, W), bool.
        true: instances of the image; None: match nothing.
        keep_rles: whether the run lengths of the masks are needed, for result files.

    Returns:
        ``rles``, empty unless needed; ``matches``, an `ImageMatches`, where there is ground truth.
    """
    if isinstance(masks, PackedMasks):
        rles = masks.encode()
    else:
        rles = encode_masks(masks) if isinstance(masks, np.ndarray) else masks
    found: dict[str, Any] = {'rles': rles if keep_rles else []}
    if true is not None:
        found['matches'] = match_image(true, labels, scores, rles, max_dets)
    return found


def match_by_class(
    true: Sequence[tuple[int, float, bool]],
    predicted: Sequence[tuple[int, float, float]],
    iou: Callable[[list[int], list[int]], np.ndarray],
    max_dets: Sequence[int],
    area_ranges: Sequence[Sequence[float]] | None = None,
) -> ImageMatches:
    """Match anything that has a label, an area and an IoU: each prediction, best first, takes the best free instance.

    Args:
        true: (label, area, is crowd) of each instance.
        predicted: (label, area, score) of each prediction.
        iou: gives the IoU (n, m) of predictions and instances of a class, by their places in ``predicted``, ``true``.
        max_dets: ascending; beyond the last, predictions of a class are dropped.
        area_ranges: smallest and largest area of all, small, medium and large instances. None: COCO's.
    """
    evaluator = COCOeval(iouType='segm')
    # Numbers from 1: a match is stored as the number of its partner, and 0 means none.
    for number, (label, area, is_crowd) in enumerate(true, start=1):
        entry = {'id': number, 'area': area, 'iscrowd': int(is_crowd), 'ignore': int(is_crowd)}
        evaluator._gts[0, label].append(entry)
    for number, (label, area, score) in enumerate(predicted, start=1):
        evaluator._dts[0, label].append({'id': number, 'area': area, 'score': score})

    present = sorted({label for _, label in (*evaluator._gts, *evaluator._dts)})
    for label in present:
        rows = [one['id'] - 1 for one in evaluator._dts[0, label]]
        best = np.argsort([-predicted[row][2] for row in rows], kind='mergesort')[: max_dets[-1]]  # as evaluateImg
        columns = [one['id'] - 1 for one in evaluator._gts[0, label]]
        evaluator.ious[0, label] = iou([rows[place] for place in best], columns)
    found = [
        [evaluator.evaluateImg(0, label, area_range, max_dets[-1]) for label in present]
        for area_range in area_ranges or evaluator.params.areaRng
    ]
    return _image_matches(present, found)


def _image_matches(labels: list[int], found: list[list[dict[str, Any]]]) -> ImageMatches:
    """Keep what averages need of the results (A, C) of `evaluateImg`."""
    any_area = found[0]
    return ImageMatches(
        labels=np.array(labels, dtype=np.int32),
        num_true=np.array([[np.sum(one['gtIgnore'] == 0) for one in row] for row in found], dtype=np.int32),
        num_predicted=np.array([len(one['dtScores']) for one in any_area], dtype=np.int32),
        scores=np.array([score for one in any_area for score in one['dtScores']], dtype=np.float64),
        matched=_packed([[one['dtMatches'] > 0 for one in row] for row in found]),
        ignored=_packed([[one['dtIgnore'] for one in row] for row in found]),
    )


def _packed(flags: list[list[np.ndarray]]) -> np.ndarray:
    """Bits of (A, T, D) from A times C arrays (T, D of the class)."""
    rows = [np.concatenate(row, axis=1) for row in flags if row]
    return np.packbits(np.array(rows, dtype=bool))


def average_ap(images: Sequence[ImageMatches], num_classes: int, max_dets: Sequence[int]) -> Summary:
    """Average over images and classes.

    Args:
        images: in the order of their ids, in which equal scores are ranked.
        num_classes: number C of classes to average over.
        max_dets: three ascending numbers of predictions per class and image, 100 among them.
    """
    evaluator = COCOeval(iouType='segm')
    evaluator.params.maxDets = list(max_dets)
    places: dict[int, list[tuple[ImageMatches, int]]] = defaultdict(list)
    for image in images:
        for place, label in enumerate(image.labels.tolist()):
            places[label].append((image, place))
    # Class by class, so that packed bits are never unpacked all at once.
    curves = [_accumulate(evaluator, label, places[label]) for label in range(num_classes)]
    per_class = np.stack([_summarise(evaluator, [curve])[0] for curve in curves])
    stats, text = _summarise(evaluator, curves)
    return Summary(stats, per_class, text)


def _accumulate(
    evaluator: COCOeval, label: int, places: list[tuple[ImageMatches, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, 1, A, M) and recall (T, 1, A, M) of a class over the images that have it."""
    params = evaluator.params
    params.catIds, params.imgIds = [label], list(range(len(places)))
    shape = (len(params.areaRng), len(params.iouThrs))
    found = [_unpacked(image, place, shape) for image, place in places]
    evaluator.evalImgs = [one[area] for area in range(shape[0]) for one in found]
    evaluator._paramsEval = params
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return evaluator.eval['precision'], evaluator.eval['recall']


def _unpacked(image: ImageMatches, place: int, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Restore what `accumulate` reads of one class of an image; one entry per area range."""
    end = int(image.num_predicted[: place + 1].sum())
    own = slice(end - int(image.num_predicted[place]), end)
    full = (*shape, len(image.scores))
    matched, ignored = (
        np.unpackbits(bits, count=int(np.prod(full))).reshape(full)[..., own] for bits in (image.matched, image.ignored)
    )
    return [
        {
            'dtScores': image.scores[own],
            'dtMatches': matched[area],
            'dtIgnore': ignored[area],
            'gtIgnore': np.zeros(image.num_true[area, place], dtype=bool),
        }
        for area in range(shape[0])
    ]


def _summarise(evaluator: COCOeval, curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, str]:
    """Averages (12,) over the classes of ``curves``, and what pycocotools prints."""
    precision, recall = (np.concatenate(parts, axis=-3) for parts in zip(*curves, strict=True))
    evaluator.eval = {'precision': precision, 'recall': recall}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluator.summarize()
    return evaluator.stats, printed.getvalue()
