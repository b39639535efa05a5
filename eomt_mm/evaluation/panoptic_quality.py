"""Panoptic quality as a metric of mmengine; what is counted and averaged is in `pq_counting`."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET, RunMap, judge_image
from eomt_mm.evaluation.panoptic_truth import PanopticTruth, TruthInFiles, TruthInSamples
from eomt_mm.evaluation.pq_counting import Averages, summarise
from eomt_mm.evaluation.workers import WorkQueue
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The benchmark server takes a json and a folder of the same name beside it.
RESULTS = 'panoptic_results'


@METRICS.register_module()
class PanopticQuality(BaseMetric):
    """PQ, SQ and RQ by the rules of the COCO panoptic evaluation, in percent.

    Gives PQ, SQ, RQ over all classes, with _th over things and with _st over stuff; NaN where there is no class to
    average over. Each image is counted at once and kept as a few numbers.

    Ground truth comes from files in the COCO panoptic format or, without ``ann_file``, from the samples (see
    `TruthInSamples`). With files the json says which class is a thing and what its category id in result files is;
    without them dataset_meta does: ``thing_classes``, and ``category_ids`` (label + 1 where not given). Categories of
    the json that the model does not know are truth like any other (a prediction there is wrong) but have no place in
    averages; in samples our loading transforms have made them void.

    Args:
        ann_file: json in the COCO panoptic format; None: the samples carry their ground truth.
        seg_prefix: folder of its PNGs; not needed with ``format_only``.
        classwise: also log a table per class.
        out_dir: where to write ``panoptic_results.json`` and the folder ``panoptic_results`` of PNGs as the benchmark
            server takes them; they replace earlier ones when all images are done. PNGs are named as in the json or,
            without one, after the image. With several nodes this must be shared storage.
        format_only: write, do not evaluate (test sets); needs ``out_dir``.
        num_workers: number of processes that read ground truth, count and write PNGs while this one goes on; 0 does it
            here. It pays where a GPU predicts faster than one core counts.
        collect_device: 'cpu' or 'gpu'; where results of several processes meet.
        prefix: of the keys.
        collect_dir: see mmengine's `BaseMetric`.
        backend_args: of mmengine's file backend, for json and PNGs of the ground truth.

    Raises:
        FileNotFoundError: json or folder does not exist.
        ValueError: the json is not panoptic, or arguments do not go together.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str | None = None,
        seg_prefix: str | None = None,
        classwise: bool = False,
        out_dir: str | None = None,
        format_only: bool = False,
        num_workers: int = 0,
        collect_device: str = 'cpu',
        prefix: str | None = 'coco_panoptic',
        collect_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and out_dir is None:
            raise ValueError('format_only=True writes results and nothing else: name a folder with out_dir')
        if ann_file is None and seg_prefix is not None:
            raise ValueError(f'seg_prefix={seg_prefix} without ann_file: give the panoptic json of these PNGs too')
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.format_only = format_only
        self._work = WorkQueue(num_workers)
        self._truth: PanopticTruth = (
            TruthInSamples()
            if ann_file is None
            else TruthInFiles(ann_file, seg_prefix, annotated=not format_only, backend_args=backend_args)
        )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Counts a batch.

        Args:
            data_batch: not read.
            data_samples: per image ``img_id`` and ``pred_panoptic_seg`` with ``sem_seg`` (1, H, W) or (H, W),
                integers at the size of the original image: label + 1000 * number of the instance; void where the
                label is not below the number of classes. Without ``ann_file`` also what `TruthInSamples` takes.

        Raises:
            ValueError: an image has no ground truth, or a prediction has another size or type.
            RuntimeError: the same in a worker process, as soon as it is known.
        """
        category_ids = np.array([category['id'] for category in self._categories()], dtype=np.int64)
        for sample in data_samples:
            image_id, png = sample['img_id'], None
            record = {'img_id': image_id, 'img_path': sample.get('img_path')}
            truth = None if self.format_only else self._truth.find(sample, category_ids)
            if self.out_dir is not None:
                record['file_name'] = self._truth.png_name(sample)
                png = self.out_dir / f'{RESULTS}.part' / record['file_name']
            image = f'image {image_id} ({record["img_path"]})'
            panoptic = _panoptic_map(sample)
            sent = RunMap.of(panoptic) if self._work.num_workers else panoptic
            self._work.put(record, image, judge_image, image_id, sent, category_ids, truth, png)
            self._take_results()

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all images of all processes; ``size`` is their number."""
        self._take_results(all_of_them=True)
        return super().evaluate(size)

    def _take_results(self, all_of_them: bool = False) -> None:
        for record, judged in self._work.results(all_of_them):
            self.results.append({**record, **judged})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Adds up the counts of all images; an image that comes twice (padded samplers) counts once."""
        records = _by_image(results)
        if self.out_dir is not None:
            self._write_results(records)
        if self.format_only:
            return {}
        num_missing = self._truth.num_missing(records)
        if num_missing:
            print_log(
                f'{num_missing} annotated images of {self.ann_file} have no prediction and are left out of PQ',
                logger='current',
                level=logging.WARNING,
            )
        categories = self._categories()
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

    def _categories(self) -> list[dict[str, Any]]:
        """Categories in the order of labels."""
        meta = self.dataset_meta or {}
        classes = meta.get('classes')
        if not classes:
            raise ValueError('dataset_meta has no "classes": the metric maps labels to categories by their names')
        if len(classes) >= INSTANCE_OFFSET:
            raise ValueError(f"{len(classes)} classes: mmdet's encoding of panoptic maps has room for 999")
        return self._truth.categories(meta)

    def _write_results(self, records: dict[Any, dict[str, Any]]) -> None:
        """Writes the json and gives both their final names."""
        assert self.out_dir is not None
        aside, folder, file = (self.out_dir / f'{RESULTS}{suffix}' for suffix in ('.part', '', '.json'))
        annotations = [
            {
                'image_id': image_id,
                'file_name': record['file_name'],
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
        write_whole(file, json.dumps({'annotations': annotations}).encode())
        print_log(f'{len(annotations)} panoptic results are in {file} and {folder}', logger='current')


def _by_image(results: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The last record of each image; raises ValueError where two images share an id or the name of a PNG."""
    records: dict[Any, dict[str, Any]] = {}
    owners: dict[str, Any] = {}
    for record in results:
        image_id, path, name = record['img_id'], record['img_path'], record.get('file_name')
        other = records.get(image_id, record)['img_path']
        if other != path:
            raise ValueError(f'{other} and {path} are both img_id {image_id}: give each image its own')
        if name and owners.setdefault(name, image_id) != image_id:
            raise ValueError(
                f'results of images {owners[name]} and {image_id} are both named {name}: give the images different '
                'file names, or the metric an ann_file with "file_name" in its annotations'
            )
        records[image_id] = record
    return records


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


def _table(averages: dict[str, Averages]) -> str:
    lines = [['', 'PQ', 'SQ', 'RQ', 'categories']]
    for name, one in averages.items():
        numbers = [one['pq'], one['sq'], one['rq']]
        shown = ['-' if math.isnan(number) else f'{100 * number:.3f}' for number in numbers]
        lines.append([name, *shown, str(one['n'])])
    return str(AsciiTable(lines).table)
