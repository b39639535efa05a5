"""Panoptic quality as a metric of mmengine; what is counted and averaged is in `pq_counting`."""

import json
import logging
import math
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.datasets.coco_json import PanopticAnnotations
from eomt_mm.datasets.coco_panoptic import read_panoptic_json
from eomt_mm.evaluation.image_metric import Call, ImageMetric, Record, Sample
from eomt_mm.evaluation.panoptic_ground_truth import SegmentsInFiles, SegmentsInSamples
from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET, RunMap, count_image
from eomt_mm.evaluation.pq_counting import Averages, average_pq
from eomt_mm.evaluation.result_files import ResultFolder
from eomt_mm.evaluation.sample_ground_truth import as_array
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The benchmark server takes a json and a folder of the same name beside it.
RESULTS = 'panoptic_results'


@METRICS.register_module()
class PanopticQuality(ImageMetric):
    """PQ, SQ and RQ by the rules of the COCO panoptic evaluation, in percent.

    Gives PQ, SQ, RQ over all classes, with _th over things and with _st over stuff; NaN where there is no class to
    average over. Each image is counted at once and kept as a few numbers.

    Ground truth comes from files in the COCO panoptic format, those of the data set (`CocoPanoptic`) or ``ann_file``
    and ``seg_prefix``; without them, from the samples (see `SegmentsInSamples`). With files the json says which class
    is a thing and what its category id in result files is; without them dataset_meta does: ``thing_classes``, and
    ``category_ids`` (label + 1 where not given). Categories of the json that the model does not know are ground truth
    like any other (a prediction there is wrong) but have no place in averages; in samples our loading transforms have
    made them void.

    Samples have ``img_id`` and ``pred_panoptic_seg`` with ``sem_seg`` (1, H, W) or (H, W), integers at the size of the
    original image: label + 1000 * number of the instance; void where the label is not below the number of classes.

    Args:
        ann_file: json in the COCO panoptic format, in place of the data set's.
        seg_prefix: folder of its PNGs; not needed with ``format_only``.
        classwise: also log a table per class.
        out_dir: where to write ``panoptic_results.json`` and the folder ``panoptic_results`` of PNGs as the benchmark
            server takes them; they replace earlier ones when all images are done. PNGs are named as in the json or,
            without one, after the image.
        img_prefix: folder of the images; PNGs that are named after images keep the path below it. None: the image's
            file name alone.
        format_only: write, do not evaluate (test sets).
        prefix: of the keys.
        backend_args: of mmengine's file backend, for json and PNGs of the ground truth.
        kwargs: num_workers, collect_device and collect_dir of `ImageMetric`.

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
        img_prefix: str | None = None,
        format_only: bool = False,
        prefix: str | None = 'coco_panoptic',
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(out_dir, format_only, prefix=prefix, **kwargs)
        if ann_file is None and seg_prefix is not None:
            raise ValueError(f'seg_prefix={seg_prefix} without ann_file: give the panoptic json of these PNGs too')
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self._folder = None if self.out_dir is None else ResultFolder(self.out_dir / RESULTS)
        self._source: SegmentsInFiles | SegmentsInSamples = SegmentsInSamples(img_prefix)
        if ann_file is not None:
            data = read_panoptic_json(ann_file, backend_args, annotated=not format_only)
            self._take_file(PanopticAnnotations(ann_file, data, seg_prefix, backend_args))

    def _take_file(self, file: PanopticAnnotations) -> None:
        self._source = file.compact(SegmentsInFiles)
        if not self.format_only:
            self._source.check_folder()

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Meta information of the data set; raises errors where its files lack what the evaluation needs."""
        self._dataset_meta = meta
        file = (meta or {}).get('annotation_file')
        if self.ann_file is None and isinstance(file, PanopticAnnotations):
            self._take_file(file)

    def work_on(self, sample: Sample, record: Record) -> Call:
        category_ids = np.array([category['id'] for category in self._categories()], dtype=np.int64)
        found = None if self.format_only else self._source.find(sample, category_ids)
        png = None
        if self._folder is not None:
            record['file_name'] = self._source.png_name(sample)
            png = self._folder.aside / record['file_name']
        panoptic = _panoptic_map(sample)
        sent = RunMap.of(panoptic) if self._work.num_workers else panoptic
        return count_image, sample['img_id'], sent, category_ids, found, png

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        num_missing = self._source.num_missing(records)
        if num_missing:
            print_log(
                f'{num_missing} annotated images of the json have no prediction and are left out of PQ',
                logger='current',
                level=logging.WARNING,
            )
        categories = self._categories()
        rows = np.concatenate([np.zeros((0, 5)), *(record['rows'] for record in records.values())])
        num_true = [rows[rows[:, 0] == category['id']][:, [2, 4]].sum() for category in categories]
        self._warn_once.absent_classes([category['name'] for category in categories], num_true, len(records))
        averages, per_class = average_pq(rows, {category['id']: bool(category['isthing']) for category in categories})
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
        return self._source.categories(meta)

    def write(self, records: dict[Any, Record]) -> None:
        """Writes the json and gives the folder its name."""
        assert self._folder is not None
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
        # The json goes first and comes last: where it is, the PNGs are complete.
        file = self._folder.path.with_suffix('.json')
        file.unlink(missing_ok=True)
        self._folder.finish(annotation['file_name'] for annotation in annotations)
        write_whole(file, json.dumps({'annotations': annotations}).encode())
        print_log(f'{len(annotations)} panoptic results are in {file} and {self._folder.path}', logger='current')


def _panoptic_map(sample: Sample) -> np.ndarray:
    """(H, W), integers, of a data sample."""
    prediction = sample['pred_panoptic_seg']
    panoptic = as_array(prediction['sem_seg'] if isinstance(prediction, dict) else prediction.sem_seg)
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
