"""Mask AP on arrays: match per image and average over images, both with pycocotools' own functions.

`COCOeval` keeps all masks until the end, but its averages only need the scores of predictions and whether each matched
or is ignored. Therefore `COCOeval.evaluateImg` runs on each image as it arrives, and `accumulate` and `summarize` run
on these small records. The results equal those of `COCOeval` on all images at once.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.cocoeval import COCOeval

from eomt_mm.annotations.documents import Instance
from eomt_mm.annotations.masks import RLE, Rings, areas, encode_masks, to_rle
from eomt_mm.annotations.panoptic_png import run_starts


class TrueInstance(NamedTuple):
    """An instance of the ground truth.

    Attributes:
        label: class index.
        rle: its mask.
        area: in pixels; determines whether it is small, medium or large.
        is_crowd: a crowd never counts as missed, and any number of predictions may match it.
    """

    label: int
    rle: RLE
    area: float
    is_crowd: bool


@dataclass(frozen=True)
class ImageMatches:
    """Matches of an image, as needed for averages, with C classes, A area ranges, T IoU thresholds.

    Attributes:
        labels: (C,), int32, ascending: classes with ground truth or predictions.
        num_true: (A, C), int32, number of instances that count.
        num_predicted: (C,), int32; the sum is D.
        scores: (D,), float64, class by class, descending within a class.
        matched: packed bits of (A, T, D): whether a prediction matches an instance.
        ignored: packed bits of (A, T, D): whether a prediction is ignored (on a crowd, or outside the area range).
    """

    labels: np.ndarray
    num_true: np.ndarray
    num_predicted: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray


class Summary(NamedTuple):
    """Averages of `COCOeval.summarize`; -1 if there is nothing to average over.

    Attributes:
        stats: (12,), in [0, 1]: AP, AP50, AP75, AP of small, medium and large instances, and six of recall.
        per_class: (C, 12), the same for each class alone.
        text: what `summarize` prints.
    """

    stats: np.ndarray
    per_class: np.ndarray
    text: str


def encode_segments(id_map: np.ndarray, num_segments: int) -> list[RLE]:
    """Encode the segments 1 .. ``num_segments`` of an id map (H, W) as run lengths, without expanding masks."""
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
        if counts[-1] == 0 and len(edges):  # the segment reaches the last pixel: no background follows
            counts = counts[:-1]
        runs = {'size': [height, width], 'counts': counts.tolist()}
        found.append(mask_api.frPyObjects(runs, height, width))
    return found


def listed_instance(annotation: Instance, size: tuple[int, int], path: str) -> TrueInstance:
    """Convert an annotation of a JSON to an instance labelled with its category id."""
    mask, area = annotation.get('segmentation'), annotation.get('area')
    if mask is None:
        raise ValueError(
            f'{path}: annotation {annotation.get("id")} of image {annotation["image_id"]} has no "segmentation": mask '
            'AP needs masks, not boxes only'
        )
    rle = to_rle(cast(Rings | RLE, mask), size)  # the reader has normalised it
    return TrueInstance(
        annotation['category_id'],  # type: ignore[arg-type]  # an id in place of a label
        rle,
        float(cast(float | None, area) or areas([rle])[0]),  # tools that do not compute areas write 0
        bool(annotation.get('iscrowd')),
    )


def mapped_instances(id_map: np.ndarray, labels: np.ndarray, is_crowd: np.ndarray) -> list[TrueInstance]:
    """Convert the segments of an id map to instances; areas are pixel counts.

    Args:
        id_map: (H, W), integers: 0 is void, 1 .. N are segments.
        labels: (N,), of the segments.
        is_crowd: (N,), bool.
    """
    rles = encode_segments(id_map, len(labels))
    pixels = np.bincount(id_map.ravel(), minlength=len(labels) + 1)[1:].tolist()
    return list(map(TrueInstance, labels.tolist(), rles, pixels, is_crowd.tolist()))


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
        rles: masks of the N predictions, at the size of the image.
        max_dets: ascending numbers of predictions; only the best ``max_dets[-1]`` of a class are kept.
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
    """Masks (N, H, W), bool, packed to eight pixels per byte, to be sent to another process."""

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
    """Encode the masks of an image, and match them if there is ground truth; may run in a worker process.

    Args:
        labels, scores, max_dets: see `match_image`.
        masks: of the N predictions; arrays are (N, H, W), bool.
        true: instances of the image; None: match nothing.
        keep_rles: return the run lengths of the masks, for result files.

    Returns:
        ``rles``, empty unless ``keep_rles``; ``matches``, an `ImageMatches`, if there is ground truth.
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
    """Match predictions to instances by label and IoU: each prediction, best first, takes the best unmatched instance.

    Args:
        true: (label, area, is crowd) of each instance.
        predicted: (label, area, score) of each prediction.
        iou: returns the IoU (n, m) of predictions and instances of a class, given their indices in ``predicted`` and
            ``true``.
        max_dets: ascending numbers of predictions; only the best ``max_dets[-1]`` of a class are kept.
        area_ranges: smallest and largest area of all, small, medium and large instances. None: COCO's.
    """
    evaluator = COCOeval(iouType='segm')
    # Ids start at 1: COCOeval stores a match as the partner's id, and 0 means no match.
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
    """Extract what averages need from the results (A, C) of `evaluateImg`."""
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
    """Pack A x C arrays (T, D of the class) into the bits of (A, T, D)."""
    rows = [np.concatenate(row, axis=1) for row in flags if row]
    return np.packbits(np.array(rows, dtype=bool))


def average_ap(images: Sequence[ImageMatches], num_classes: int, max_dets: Sequence[int]) -> Summary:
    """Average AP and recall over images and classes.

    Args:
        images: sorted by id; this order ranks equal scores.
        num_classes: number C of classes to average over.
        max_dets: three ascending numbers of predictions per class and image, including 100.
    """
    evaluator = COCOeval(iouType='segm')
    evaluator.params.maxDets = list(max_dets)
    places: dict[int, list[tuple[ImageMatches, int]]] = defaultdict(list)
    for image in images:
        for place, label in enumerate(image.labels.tolist()):
            places[label].append((image, place))
    # Class by class, so that the packed bits are never all unpacked at once.
    curves = [_accumulate(evaluator, label, places[label]) for label in range(num_classes)]
    per_class = np.stack([_summarise(evaluator, [curve])[0] for curve in curves])
    stats, text = _summarise(evaluator, curves)
    return Summary(stats, per_class, text)


def _accumulate(
    evaluator: COCOeval, label: int, places: list[tuple[ImageMatches, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, 1, A, M) and recall (T, 1, A, M) of a class, over the images in which it occurs."""
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
    """Restore what `accumulate` reads for one class of an image; one entry per area range."""
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
    """Averages (12,) over the classes of ``curves``, and the text that pycocotools prints."""
    precision, recall = (np.concatenate(parts, axis=-3) for parts in zip(*curves, strict=True))
    evaluator.eval = {'precision': precision, 'recall': recall}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluator.summarize()
    return evaluator.stats, printed.getvalue()
