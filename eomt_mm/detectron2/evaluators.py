"""Evaluators equal to our metrics on the mm side: PQ without panopticapi, AP over all images, mean IoU."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from eomt_mm.annotations.categories import CLASSES_HINT, LABELS_HINT, absent_classes_text, categories_by_name
from eomt_mm.annotations.cityscapes import read_instance_ids
from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.annotations.segments import NumberedSegments
from eomt_mm.detectron2.data_items import read_instances_json, read_panoptic_json
from eomt_mm.detectron2.ground_truth import Item, read_label_map, read_segments
from eomt_mm.evaluation.ap_counting import (
    ImageMatches,
    TrueInstance,
    average_ap,
    listed_instance,
    mapped_instances,
    match_image,
    match_masks,
)
from eomt_mm.evaluation.cityscapes_counting import average_precisions, match_instances
from eomt_mm.evaluation.iou_counting import average_iou, count_pixels
from eomt_mm.evaluation.pq_counting import average_pq, count_panoptic, listed_segments

logger = logging.getLogger(__name__)

MAX_DETS = (1, 10, 100)
# Names that detectron2's COCOEvaluator gives to the first six of COCOeval's averages.
AP_KEYS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
GROUPS = {'All': '', 'Things': '_th', 'Stuff': '_st'}
Output = Mapping[str, Any]  # of the model, for an image
Results = dict[str, dict[str, float]]


class ImageEvaluator(DatasetEvaluator):
    """Base: a small record per image, gathered on the main process, which returns the results.

    Args:
        name: of the data set.
    """

    def __init__(self, name: str) -> None:
        self.meta = MetadataCatalog.get(name)
        self.classes = list(self.meta.get('classes') or self._class_names())
        self._records: dict[Any, Any] = {}
        self._warned = False

    def reset(self) -> None:
        """Forget all images."""
        self._records = {}

    def process(self, inputs: Sequence[Item], outputs: Sequence[Output]) -> None:
        """Evaluate images immediately; inputs and outputs are those of the model."""
        for item, output in zip(inputs, outputs, strict=True):
            self._records[item['image_id']] = self.count(item, output)

    def evaluate(self) -> Results | None:
        """Average over the images of all processes; None outside the main process."""
        gathered = comm.gather(self._records)
        if not comm.is_main_process():
            return None
        return self.average({image_id: one for records in gathered for image_id, one in records.items()})

    def count(self, item: Item, output: Output) -> Any:
        """Reduce an image to its record."""
        raise NotImplementedError

    def average(self, records: Mapping[Any, Any]) -> Results:
        """Average over records by image id, on the main process."""
        raise NotImplementedError

    def warn_of_absent(self, num_true: Sequence[int], number: int, hint: str = CLASSES_HINT) -> None:
        """Warn once about classes without ground truth, given its amount of each class in ``number`` images."""
        text = absent_classes_text(self.classes, num_true, number, hint=hint)
        if text and not self._warned:
            logger.warning(text)
        self._warned = self._warned or bool(text)

    def _class_names(self) -> Sequence[str]:
        names: Sequence[str] = self.meta.get('stuff_classes') or self.meta.thing_classes
        return names


class PanopticQualityEvaluator(ImageEvaluator):
    """PQ, SQ and RQ by the rules of the COCO panoptic evaluation, in percent; see `pq_counting`.

    Outputs have ``panoptic_seg``: a map (H, W) of segment ids, 0 = void, and for each segment ``id`` and
    ``category_id`` (label). Ground truth comes from the data set's panoptic JSON, whose segments of other categories
    count as in `PanopticQuality`, or from the official files that the data set dicts name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._segments: dict[Any, np.ndarray] | None = None  # by image id; of the JSON
        self._is_thing = self._things()
        self._ids = np.arange(len(self.classes))  # category id of each label
        path = self.meta.get('panoptic_json')
        if path:
            data = read_panoptic_json(path)
            used = {segment['category_id'] for one in data['annotations'] for segment in one['segments_info']}
            categories = categories_by_name(data, self.classes, path, used)
            self._ids = np.array([category['id'] for category in categories])
            self._is_thing = [bool(category['isthing']) for category in categories]
            self._segments = {one['image_id']: listed_segments(one['segments_info']) for one in data['annotations']}

    def _things(self) -> list[bool]:
        stated = self.meta.get('dataset_meta') or {}
        things = stated.get('thing_classes') or ()
        return [name in things for name in self.classes]

    def count(self, item: Item, output: Output) -> np.ndarray:
        """Return the rows of `count_panoptic`; no row for an image without annotation, which is entirely void."""
        segment_map, infos = _part(output, 'panoptic_seg', item)
        predicted = segment_map.cpu().numpy()
        labels = [(one['id'], self._id_of(one['category_id'], item)) for one in infos]
        if self._segments is None:
            found = read_segments(item, None, with_crowds=True)
            ids, true = found.ids, self._numbered(found)
        elif item['image_id'] in self._segments:
            ids, true = read_panoptic_png(item['pan_seg_file_name']), self._segments[item['image_id']]
        else:
            return np.zeros((0, 5))
        _check_size(item, predicted.shape, ids.shape)
        try:
            return count_panoptic(ids, true, predicted, np.array(labels, np.int64).reshape(-1, 2))
        except ValueError as error:
            raise ValueError(f'prediction of image {item["file_name"]}: {error}') from error

    def _id_of(self, label: int, item: Item) -> int:
        if not 0 <= label < len(self._ids):
            raise ValueError(
                f'image {item["file_name"]}: a predicted segment has category_id {label}, the data set '
                f'{len(self._ids)} classes: give model and data set the same classes'
            )
        return int(self._ids[label])

    def _numbered(self, found: NumberedSegments) -> np.ndarray:
        labels = np.concatenate([found.labels, found.crowd_labels])
        is_crowd = np.arange(len(labels)) >= len(found.labels)
        return np.stack([np.arange(1, len(labels) + 1), self._ids[labels], is_crowd], axis=1)

    def average(self, records: Mapping[Any, np.ndarray]) -> Results:
        """Return PQ, SQ and RQ over all classes, with suffix _th over things and _st over stuff."""
        if self._segments is not None and self._segments.keys() - records.keys():
            number = len(self._segments.keys() - records.keys())
            logger.warning(f'{number} annotated images of the json have no prediction and are left out of PQ')
        rows = np.concatenate([np.zeros((0, 5)), *records.values()])
        self.warn_of_absent([rows[rows[:, 0] == id_][:, [2, 4]].sum() for id_ in self._ids], len(records))
        averages, _ = average_pq(rows, dict(zip(self._ids.tolist(), self._is_thing, strict=True)))
        found = {
            f'{quality.upper()}{suffix}': 100 * averages[group][quality]
            for group, suffix in GROUPS.items()
            for quality in ('pq', 'sq', 'rq')
        }
        logger.info('Panoptic quality:\n' + create_small_table(found))
        return {'panoptic_seg': found}


class InstanceAPEvaluator(ImageEvaluator):
    """Mask AP of pycocotools in percent, evaluated image by image; NaN if there is nothing to average over.

    Outputs have ``instances``: detectron2's ``Instances`` with pred_masks (N, H, W), bool, scores (N,) and pred_classes
    (N,). Ground truth comes from the data set's JSON, or from the official files that the data set dicts name. The
    instances of the JSON's images without a prediction count as missed.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._instances: dict[Any, list[TrueInstance]] | None = None  # by image id; of the JSON
        path = self.meta.get('json_file')
        if path:
            self._instances = self._read(path)

    def _read(self, path: str) -> dict[Any, list[TrueInstance]]:
        data = read_instances_json(path)
        annotations = data['annotations']
        categories = categories_by_name(data, self.classes, path, {one['category_id'] for one in annotations})
        label_of = {category['id']: label for label, category in enumerate(categories)}
        sizes = {image['id']: (int(image['height']), int(image['width'])) for image in data['images']}
        found: dict[Any, list[TrueInstance]] = {id_: [] for id_ in sizes}
        for annotation in annotations:
            one = listed_instance(annotation, sizes[annotation['image_id']], path)
            if one.label in label_of:
                found[annotation['image_id']].append(one._replace(label=label_of[one.label]))
        if not any(found.values()):
            raise ValueError(f'{path} has no annotations to evaluate against: give the annotated json')
        return found

    def count(self, item: Item, output: Output) -> ImageMatches:
        """Match the predictions of an image to its ground truth."""
        labels, scores, masks = _predicted(item, output, len(self.classes))
        if self._instances is None:
            found = read_segments(item, None, with_crowds=True)
            every = np.concatenate([found.labels, found.crowd_labels])
            true = mapped_instances(found.ids, every, np.arange(len(every)) >= len(found.labels))
            size: tuple[int, ...] = found.ids.shape
        else:
            if item['image_id'] not in self._instances:
                raise ValueError(
                    f'image {item["file_name"]} ({item["image_id"]}) is not among the {len(self._instances)} images of '
                    f'{self.meta.json_file}: give the data set and its evaluator the same json'
                )
            true, size = self._instances[item['image_id']], (item['height'], item['width'])
        _check_size(item, masks.shape[1:], size)
        matches: ImageMatches = match_masks(labels, scores, masks, true, MAX_DETS, keep_rles=False)['matches']
        return matches

    def average(self, records: Mapping[Any, ImageMatches]) -> Results:
        """Return AP, AP50, AP75, APs, APm, APl, and AP of each class as ``AP-name``."""
        matches = {**records, **self._missed(records)}
        in_order = [one for _, one in sorted(matches.items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))]
        num_true = np.zeros(len(self.classes), np.int64)
        for one in in_order:
            num_true[one.labels] += one.num_true[0]
        self.warn_of_absent(num_true.tolist(), len(in_order))
        summary = average_ap(in_order, len(self.classes), MAX_DETS)
        logger.info('Mask AP:\n' + summary.text)
        found = {key: _percent(value) for key, value in zip(AP_KEYS, summary.stats, strict=False)}
        per_class = {f'AP-{name}': _percent(row[0]) for name, row in zip(self.classes, summary.per_class, strict=True)}
        return {'segm': {**found, **per_class}}

    def _missed(self, image_ids: Mapping[Any, Any]) -> dict[Any, ImageMatches]:
        unseen = (self._instances or {}).keys() - image_ids.keys()
        if unseen:
            logger.warning(f'{len(unseen)} images of the json have no prediction: their instances count as missed')
        nothing = np.zeros(0, np.int64)
        return {
            image_id: match_image(self._instances[image_id], nothing, nothing.astype(np.float64), [], MAX_DETS)
            for image_id in unseen
            if self._instances is not None
        }


class CityscapesAPEvaluator(ImageEvaluator):
    """Cityscapes' instance AP in percent, see `cityscapes_counting`; outputs are those of `InstanceAPEvaluator`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._label_ids = np.array([CITYSCAPES_LABEL_IDS[one] for one in self.classes])

    def count(self, item: Item, output: Output) -> tuple[np.ndarray, np.ndarray]:
        """Match the predictions of an image to its ground truth; see `match_instances`."""
        labels, scores, masks = _predicted(item, output, len(self.classes))
        ids = read_instance_ids(item['instance_ids_file_name'])
        _check_size(item, masks.shape[1:], ids.shape)
        return match_instances(ids, masks, scores, labels, self._label_ids)

    def average(self, records: Mapping[Any, tuple[np.ndarray, np.ndarray]]) -> Results:
        """Return AP and AP50, averaged over the classes that have ground truth."""
        num_true = np.array([one for _, one in records.values()], np.int64).reshape(-1, len(self.classes))
        ap = average_precisions([rows for rows, _ in records.values()], num_true)
        means = {'AP': ap, 'AP50': ap[:, :1]}
        found = {key: 100 * float(np.nanmean(one)) if num_true.any() else math.nan for key, one in means.items()}
        logger.info('Cityscapes AP:\n' + create_small_table(found))
        return {'cityscapes': found}


class SemanticIoUEvaluator(ImageEvaluator):
    """Mean IoU as mmseg's IoUMetric counts it, in percent; see `iou_counting`.

    Outputs have ``sem_seg``: scores (K, H, W), or labels (H, W), integers.
    """

    def count(self, item: Item, output: Output) -> np.ndarray:
        """Count the pixels of an image, (3, K)."""
        predicted = _part(output, 'sem_seg', item)
        if predicted.ndim == 3:
            predicted = predicted.argmax(0)
        labels, true = predicted.cpu().numpy(), read_label_map(item)
        _check_size(item, labels.shape, true.shape)
        try:
            return count_pixels(labels, true, len(self.classes), self.meta.get('ignore_label', 255))
        except ValueError as error:
            raise ValueError(f'image {item["file_name"]}, label map {item["sem_seg_file_name"]}: {error}') from error

    def average(self, records: Mapping[Any, np.ndarray]) -> Results:
        """Return mIoU, mACC, pACC, and IoU and accuracy of each class as ``IoU-name`` and ``ACC-name``."""
        counts = np.sum([np.zeros((3, len(self.classes)), np.int64), *records.values()], axis=0)
        self.warn_of_absent(counts[2].tolist(), len(records), LABELS_HINT)
        found = average_iou(counts)
        means = {'mIoU': 100 * found.miou, 'mACC': 100 * found.macc, 'pACC': 100 * found.aacc}
        logger.info('Mean IoU:\n' + create_small_table(means))
        per_class = {
            f'{key}-{name}': 100 * float(value)
            for key, values in (('IoU', found.iou), ('ACC', found.acc))
            for name, value in zip(self.classes, values, strict=True)
        }
        return {'sem_seg': {**means, **per_class}}


def _predicted(item: Item, output: Output, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,), scores (N,), float64, and masks (N, H, W), bool, of predicted instances; raises ValueError."""
    found = _part(output, 'instances', item)
    labels, masks = found.pred_classes.cpu().numpy(), found.pred_masks.cpu().numpy()
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(
            f'pred_masks of image {item["file_name"]} has shape {masks.shape}, type {masks.dtype}: give booleans '
            '(N, H, W) at the size of the image'
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f'image {item["file_name"]}: predicted classes are in [{labels.min()}, {labels.max()}], the data set has '
            f'{num_classes}: give model and data set the same classes'
        )
    return labels, found.scores.double().cpu().numpy(), masks  # numpy has no bfloat16


def _part(output: Output, key: str, item: Item) -> Any:
    if key not in output:
        raise ValueError(
            f'the output for image {item["file_name"]} has no {key!r}, but {sorted(output)}: the model is of another '
            'task than the data set'
        )
    return output[key]


def _check_size(item: Item, predicted: tuple[int, ...], true: tuple[int, ...] | torch.Size) -> None:
    if tuple(predicted) != tuple(true):
        raise ValueError(
            f'prediction of image {item["file_name"]} is {tuple(predicted)}, its ground truth {tuple(true)} (height, '
            f'width): give both at the size of the original image'
        )


def _percent(value: float) -> float:
    """Percent of an average of COCOeval, where -1 means that there is nothing to average over."""
    # pycocotools adds an epsilon to its denominators, so that perfect predictions score 2e-16 below 1.
    return round(100 * float(value), 10) if value >= 0 else float('nan')
