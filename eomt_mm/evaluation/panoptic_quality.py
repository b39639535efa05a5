"""Panoptic quality as an mmengine metric; counting and averaging are in `pq_counting`."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.logging import print_log

from eomt_mm.annotations.panoptic_codes import check_num_classes
from eomt_mm.datasets.coco_json import PanopticAnnotations
from eomt_mm.datasets.coco_panoptic import read_panoptic_json
from eomt_mm.evaluation.ground_truth import SegmentsInFiles, SegmentsInSamples
from eomt_mm.evaluation.image_metric import Call, ImageMetric, Record, table
from eomt_mm.evaluation.panoptic_image import RunMap, count_image
from eomt_mm.evaluation.pq_counting import Averages, average_pq
from eomt_mm.evaluation.result_files import ResultFolder
from eomt_mm.evaluation.samples import Sample, as_array
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The benchmark server takes a JSON and a folder of the same name beside it.
RESULTS = 'panoptic_results'


@METRICS.register_module()
class PanopticQuality(ImageMetric):
    """PQ, SQ and RQ by the rules of the COCO panoptic evaluation, in percent.

    Reports PQ, SQ and RQ over all classes, with suffix _th over things and _st over stuff; NaN if there is no class to
    average over. Each image is counted immediately and reduced to a few numbers.

    Ground truth comes from files in the COCO panoptic format, either the data set's (`CocoPanoptic`) or ``ann_file``
    and ``seg_prefix``; without files, from the samples (see `SegmentsInSamples`). Things, and the category ids in
    result files, are those of the JSON; without a JSON, those of dataset_meta: ``thing_classes`` and ``category_ids``
    (label + 1 if not given). Segments of the JSON's other categories are ground truth (a prediction on them is a false
    positive) but are not averaged over; in samples, our loading transforms have made them void.

    Samples have ``img_id`` and ``pred_panoptic_seg`` with ``sem_seg`` (1, H, W) or (H, W), integers at the size of the
    original image: label + 1000 * instance number. Pixels whose label is not below the number of classes are void.

    Args:
        ann_file: JSON in the COCO panoptic format, in place of the data set's.
        seg_prefix: folder of its PNGs; not needed with ``format_only``.
        classwise: also log a table per class.
        out_dir: folder for ``panoptic_results.json`` and the folder ``panoptic_results`` of PNGs, the benchmark
            server's files; they replace earlier ones when all images are done. PNGs are named as in the JSON or,
            without a JSON, after the image.
        format_only: write result files, do not evaluate (test sets).
        prefix: prefix of the metric's keys.
        backend_args: arguments of mmengine's file backend, for JSON and PNGs of the ground truth.
        img_prefix: folder of the images; PNGs that are named after images keep their path relative to it. None: the
            image's file name alone.
        kwargs: num_workers, collect_device and collect_dir of `ImageMetric`.

    Raises:
        FileNotFoundError: the JSON or a folder does not exist.
        ValueError: the JSON is not panoptic, or arguments contradict each other.
    """

    default_prefix = 'coco_panoptic'

    def __init__(
        self,
        ann_file: str | None = None,
        seg_prefix: str | None = None,
        classwise: bool = False,
        out_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = 'coco_panoptic',
        backend_args: dict | None = None,
        img_prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(out_dir, format_only, prefix=prefix, **kwargs)
        if ann_file is None and seg_prefix is not None:
            raise ValueError(f'seg_prefix={seg_prefix} without ann_file: give the panoptic json of these PNGs too')
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self.classwise = classwise
        self._folder = None if self.out_dir is None else ResultFolder(self.out_dir / RESULTS)
        self._categories: list[dict[str, Any]] = []  # in the order of labels
        self._source: SegmentsInFiles | SegmentsInSamples = SegmentsInSamples(img_prefix)
        if ann_file is not None:
            data = read_panoptic_json(ann_file, backend_args, annotated=not format_only)
            self._take_file(PanopticAnnotations(ann_file, data, seg_prefix, backend_args))

    def _take_file(self, file: PanopticAnnotations) -> None:
        self._source = file.compact(SegmentsInFiles)
        if not self.format_only:
            self._source.check_folder()

    def take_meta(self, meta: Mapping[str, Any]) -> None:
        """Read the classes and the data set's files; raises errors if they do not match, or files are missing."""
        check_num_classes(len(meta['classes']))
        file = meta.get('annotation_file')
        if self.ann_file is None and isinstance(file, PanopticAnnotations):
            self._take_file(file)
        self._categories = self._source.categories(meta)

    def work_on(self, sample: Sample, record: Record) -> Call:
        category_ids = np.array([category['id'] for category in self._categories], dtype=np.int64)
        found = None if self.format_only else self._source.find(sample, category_ids)
        png = None
        if self._folder is not None:
            record['file_name'] = self._source.png_name(sample)
            png = self._folder.aside / record['file_name']
        panoptic = _panoptic_map(sample)
        sent = RunMap.of(panoptic) if self._work.num_workers else panoptic
        return count_image, sample['img_id'], sent, category_ids, found, png

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        unseen = self._source.unseen(records) if isinstance(self._source, SegmentsInFiles) else ()
        if unseen:
            print_log(
                f'{len(unseen)} annotated images of the json have no prediction and are left out of PQ',
                logger='current',
                level=logging.WARNING,
            )
        names = {category['id']: category['name'] for category in self._categories}
        rows = np.concatenate([np.zeros((0, 5)), *(record['rows'] for record in records.values())])
        num_true = [rows[rows[:, 0] == id_][:, [2, 4]].sum() for id_ in names]
        self._warn_once.absent_classes(list(names.values()), num_true, len(records))
        is_thing = {category['id']: bool(category['isthing']) for category in self._categories}
        averages, per_class = average_pq(rows, is_thing)
        print_log('Panoptic quality:\n' + _table(averages), logger='current')
        if self.classwise:
            by_name = {name: per_class[id_] for id_, name in names.items()}
            print_log('Panoptic quality per class:\n' + _table(by_name), logger='current')
        return {
            f'{quality.upper()}{suffix}': 100 * averages[group][quality]
            for group, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st'))
            for quality in ('pq', 'sq', 'rq')
        }

    def write(self, records: dict[Any, Record]) -> None:
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
        # The JSON is removed first and written last: if it exists, the PNGs are complete.
        file = self._folder.path.with_suffix('.json')
        file.unlink(missing_ok=True)
        self._folder.finish(annotation['file_name'] for annotation in annotations)
        write_whole(file, json.dumps({'annotations': annotations}).encode())
        print_log(f'{len(annotations)} panoptic results are in {file} and {self._folder.path}', logger='current')


def _panoptic_map(sample: Sample) -> np.ndarray:
    """Read the predicted map (H, W), integers, of a sample."""
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
    rows: list[list[str | float]] = [
        [name, 100 * one['pq'], 100 * one['sq'], 100 * one['rq'], one['n']] for name, one in averages.items()
    ]
    return table(['', 'PQ', 'SQ', 'RQ', 'categories'], rows)
