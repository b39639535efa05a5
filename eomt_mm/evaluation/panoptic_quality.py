"""Panoptic quality as a metric of mmengine; what is counted and averaged is in `pq_counting`."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine import fileio
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.datasets.coco_panoptic import categories_by_name, read_panoptic_json
from eomt_mm.datasets.panoptic_png import read_panoptic_png, run_starts, write_aside, write_panoptic_png
from eomt_mm.evaluation.pq_counting import Averages, count_panoptic, summarise
from eomt_mm.registry import METRICS

# mmdet's encoding of a predicted pixel, label + 1000 * number of the instance (mmdet.evaluation.functional).
INSTANCE_OFFSET = 1000
# The benchmark server takes a json and a folder of the same name beside it.
RESULTS = 'panoptic_results'


class ImageTruth(NamedTuple):
    """Ground truth of an image: name of its PNG, and segments (G, 3) of `count_panoptic`, None without annotation."""

    file_name: str
    segments: np.ndarray | None


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """PQ, SQ and RQ by the rules of the COCO panoptic evaluation, in percent.

    Gives PQ, SQ, RQ over all classes, with _th over things and with _st over stuff; NaN where there is no class to
    average over. Which class is a thing says the json. Each image is counted at once and kept as a few numbers.
    Categories of the json that the model does not know are truth like any other (a prediction there is wrong) but
    have no place in averages.

    Args:
        ann_file: json in the COCO panoptic format.
        seg_prefix: folder of its PNGs; not needed with ``format_only``.
        classwise: also log a table per class.
        out_dir: where to write ``panoptic_results.json`` and the folder ``panoptic_results`` of PNGs as the benchmark
            server takes them; they replace earlier ones when all images are done. With several nodes this must be
            shared storage.
        format_only: write, do not evaluate (test sets); needs ``out_dir``.
        collect_device: 'cpu' or 'gpu'; where results of several processes meet.
        prefix: of the keys.
        collect_dir: see mmengine's `BaseMetric`.
        backend_args: of mmengine's file backend, for json and PNGs.

    Raises:
        FileNotFoundError: json or folder does not exist.
        ValueError: the json is not panoptic, or arguments do not go together.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str,
        seg_prefix: str | None = None,
        classwise: bool = False,
        out_dir: str | None = None,
        format_only: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = 'coco_panoptic',
        collect_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and out_dir is None:
            raise ValueError('format_only=True writes results and nothing else: name a folder with out_dir')
        if not format_only and not seg_prefix:
            raise ValueError(f'seg_prefix={seg_prefix}: name the folder of the panoptic PNGs of {ann_file}')
        if seg_prefix and not format_only and '://' not in seg_prefix and not os.path.isdir(seg_prefix):
            raise FileNotFoundError(f'seg_prefix: folder {seg_prefix} does not exist; it holds the panoptic PNGs')
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.format_only = format_only
        self._read = partial(fileio.get, backend_args=backend_args)
        data = read_panoptic_json(ann_file, backend_args, annotated=not format_only)
        self._truth = _truth_by_image(data)
        self._json_categories = {'categories': data['categories']}
        self._classes: tuple[str, ...] | None = None
        self._categories: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch.

        Args:
            data_batch: not read.
            data_samples: per image ``img_id`` and ``pred_panoptic_seg`` with ``sem_seg`` (1, H, W) or (H, W),
                integers at the size of the original image: label + 1000 * number of the instance; void where the
                label is not below the number of classes.

        Raises:
            ValueError: an image is not in the json, or a prediction has another size or type.
        """
        category_ids = np.array([category['id'] for category in self._find_categories()], dtype=np.int64)
        for sample in data_samples:
            image_id = sample['img_id']
            if image_id not in self._truth:
                raise ValueError(
                    f'image {image_id} is not among the {len(self._truth)} images of {self.ann_file}: '
                    'give the data set and the metric the same ann_file'
                )
            panoptic = _panoptic_map(sample)
            segments = _predicted_segments(panoptic, category_ids)
            record: dict[str, Any] = {'img_id': image_id, 'rows': self._count(image_id, panoptic, segments)}
            if self.out_dir is not None:
                record['segments'] = self._write_png(image_id, panoptic, segments)
            self.results.append(record)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Adds up the counts of all images; an image that comes twice (padded samplers) counts once."""
        records = {record['img_id']: record for record in results}
        if self.out_dir is not None:
            self._write_results(records)
        if self.format_only:
            return {}
        absent = {id_ for id_, truth in self._truth.items() if truth.segments is not None} - records.keys()
        if absent:
            print_log(
                f'{len(absent)} annotated images of {self.ann_file} have no prediction and are left out of PQ',
                logger='current',
                level=logging.WARNING,
            )
        categories = self._find_categories()
        rows = np.concatenate([np.zeros((0, 5)), *(record['rows'] for record in records.values())])
        averages, per_class = summarise(rows, {category['id']: bool(category['isthing']) for category in categories})
        print_log('Panoptic quality:\n' + _table(averages), logger='current')
        if self.classwise:
            by_name = {category['name']: per_class[category['id']] for category in categories}
            print_log('Panoptic quality per class:\n' + _table(by_name), logger='current')
        return {
            f'{quality.upper()}{suffix}': 100 * averages[group][quality]
            for group, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st'))
            for quality in ('pq', 'sq', 'rq')
        }

    def _find_categories(self) -> list[dict[str, Any]]:
        """Categories of the json in the order of labels."""
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError('dataset_meta has no "classes": the metric maps labels to categories by their names')
        if self._classes != tuple(classes):
            if len(classes) >= INSTANCE_OFFSET:
                raise ValueError(f"{len(classes)} classes: mmdet's encoding of panoptic maps has room for 999")
            self._categories = categories_by_name(self._json_categories, classes, self.ann_file)
            self._classes = tuple(classes)
        return self._categories

    def _count(self, image_id: Any, panoptic: np.ndarray, segments: np.ndarray) -> np.ndarray:
        truth = self._truth[image_id]
        # Without annotation all is void, where nothing can be right or wrong.
        if self.format_only or truth.segments is None:
            return np.zeros((0, 5))
        path = os.path.join(str(self.seg_prefix), truth.file_name)
        gt_ids = read_panoptic_png(path, self._read)
        if gt_ids.shape != panoptic.shape:
            raise ValueError(
                f'prediction of image {image_id} is {panoptic.shape}, ground truth {path} {gt_ids.shape} '
                '(height, width): give predictions at the size of the original image'
            )
        return count_panoptic(gt_ids, truth.segments, panoptic, segments)

    def _write_png(self, image_id: Any, panoptic: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Writes a map into the folder aside; returns its segments (P, 2) with ids as in the file."""
        assert self.out_dir is not None
        # Id 0 is void in files, and instance 0 of label 0 before.
        ids = np.where(np.isin(panoptic, segments[:, 0]), panoptic.astype(np.int64) + 1, 0)
        write_panoptic_png(self.out_dir / f'{RESULTS}.part' / self._truth[image_id].file_name, ids)
        return segments + np.array([1, 0])

    def _write_results(self, records: dict[Any, dict[str, Any]]) -> None:
        """Writes the json and gives both their final names."""
        assert self.out_dir is not None
        aside, folder, file = (self.out_dir / f'{RESULTS}{suffix}' for suffix in ('.part', '', '.json'))
        annotations = [
            {
                'image_id': image_id,
                'file_name': self._truth[image_id].file_name,
                'segments_info': [
                    dict(zip(('id', 'category_id'), pair, strict=True)) for pair in record['segments'].tolist()
                ],
            }
            for image_id, record in records.items()
        ]
        aside.mkdir(parents=True, exist_ok=True)
        # An evaluation that was broken off leaves PNGs here, possibly of other images.
        current = {aside / annotation['file_name'] for annotation in annotations}
        for path in aside.rglob('*'):
            if path.is_file() and path not in current:
                path.unlink()
        # The json goes first and comes last: where it is, the PNGs are complete.
        file.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
        write_aside(file, json.dumps({'annotations': annotations}).encode())
        print_log(f'{len(annotations)} panoptic results are in {file} and {folder}', logger='current')


def _truth_by_image(data: dict[str, Any]) -> dict[Any, ImageTruth]:
    truth = {}
    for image in data['images']:
        truth[image['id']] = ImageTruth(os.path.splitext(image['file_name'])[0] + '.png', None)
    for annotation in data['annotations']:
        rows = [
            (segment['id'], segment['category_id'], int(segment.get('iscrowd', 0)))
            for segment in annotation['segments_info']
        ]
        segments = np.array(rows, dtype=np.int64).reshape(-1, 3)
        image_id = annotation['image_id']
        if image_id in truth:
            truth[image_id] = ImageTruth(annotation.get('file_name') or truth[image_id].file_name, segments)
    return truth


def _panoptic_map(sample: dict[str, Any]) -> np.ndarray:
    """(H, W), integers, of a data sample."""
    prediction = sample['pred_panoptic_seg']
    panoptic = prediction['sem_seg'] if isinstance(prediction, dict) else prediction.sem_seg
    panoptic = panoptic.cpu().numpy() if isinstance(panoptic, torch.Tensor) else np.asarray(panoptic)
    if panoptic.ndim == 3 and panoptic.shape[0] == 1:
        panoptic = panoptic[0]
    if panoptic.ndim != 2 or not np.issubdtype(panoptic.dtype, np.integer):
        raise ValueError(
            f'pred_panoptic_seg.sem_seg of image {sample["img_id"]} has shape {panoptic.shape}, type '
            f'{panoptic.dtype}: give integers (1, H, W) or (H, W)'
        )
    return panoptic


def _predicted_segments(panoptic: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """(P, 2): value in the map and category id of each segment that is not void."""
    values = np.unique(panoptic.ravel()[run_starts(panoptic)]).astype(np.int64)
    values = values[(values >= 0) & (values % INSTANCE_OFFSET < len(category_ids))]
    return np.stack([values, category_ids[values % INSTANCE_OFFSET]], axis=1)


def _table(averages: dict[str, Averages]) -> str:
    lines = [['', 'PQ', 'SQ', 'RQ', 'categories']]
    for name, one in averages.items():
        numbers = [one['pq'], one['sq'], one['rq']]
        shown = ['-' if math.isnan(number) else f'{100 * number:.3f}' for number in numbers]
        lines.append([name, *shown, str(one['n'])])
    return str(AsciiTable(lines).table)
