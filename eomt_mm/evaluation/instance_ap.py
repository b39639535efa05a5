"""Mask AP as a metric of mmengine; what is counted and averaged is in `ap_counting`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.annotations.masks import RLE, check_runs
from eomt_mm.evaluation.ap_counting import ImageMatches, match_image, summarise
from eomt_mm.evaluation.instance_image import PackedMasks, judge_image
from eomt_mm.evaluation.instance_results import ResultFile
from eomt_mm.evaluation.instance_truth import ImageTruth, InstanceTruth, TruthInFile, TruthInSamples
from eomt_mm.evaluation.workers import WorkQueue
from eomt_mm.registry import METRICS

RESULTS = 'instance_results.json'
# mmdet's keys, in the order of COCOeval.stats.
KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@METRICS.register_module()
class InstanceAP(BaseMetric):
    """Mask AP of pycocotools (COCOeval, iouType 'segm'), in [0, 1], image by image.

    Gives segm_mAP, segm_mAP_50, segm_mAP_75, segm_mAP_s, segm_mAP_m and segm_mAP_l under the names of mmdet's
    CocoMetric; like there, -1 where there is nothing to average over. Unlike there, numbers are not rounded to
    thousandths, and every image is matched at once and kept as some bytes per prediction: its masks are gone when the
    next image comes.

    Ground truth comes from a COCO json or, without ``ann_file``, from the samples (see `TruthInSamples`). With a json,
    classes are found in it by their names, and its images without any prediction count: what is there was missed.

    Args:
        ann_file: json in the COCO format; None: the samples carry their ground truth.
        classwise: also log a table per class.
        out_dir: where to write ``instance_results.json`` as the benchmark server takes it, when all images are done.
            Category ids are those of the json, without one ``category_ids`` of dataset_meta, or else label + 1. With
            several nodes this must be shared storage.
        format_only: write, do not evaluate (test sets); needs ``out_dir``.
        max_dets: three ascending numbers of predictions per class and image. pycocotools takes mAP at 100, which must
            be one of them, and the other averages at the last.
        num_workers: number of processes that encode masks and match them while this one goes on; 0 does it here. It
            pays where a GPU predicts faster than one core matches.
        collect_device: 'cpu' or 'gpu'; where results of several processes meet.
        prefix: of the keys.
        collect_dir: see mmengine's `BaseMetric`.
        backend_args: of mmengine's file backend, for the json.

    Raises:
        FileNotFoundError: the json does not exist.
        ValueError: the json is not one of instances, or arguments do not go together.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str | None = None,
        classwise: bool = False,
        out_dir: str | None = None,
        format_only: bool = False,
        max_dets: Sequence[int] = (1, 10, 100),
        num_workers: int = 0,
        collect_device: str = 'cpu',
        prefix: str | None = 'coco',
        collect_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and out_dir is None:
            raise ValueError('format_only=True writes results and nothing else: name a folder with out_dir')
        if len(max_dets) != 3 or sorted(set(max_dets)) != list(max_dets) or max_dets[0] < 1 or 100 not in max_dets:
            raise ValueError(f'max_dets={max_dets}: give three ascending numbers, 100 (where mAP is taken) among them')
        self.ann_file = ann_file
        self.classwise = classwise
        self.format_only = format_only
        self.max_dets = tuple(max_dets)
        self._work = WorkQueue(num_workers)
        self._file = None if out_dir is None else ResultFile(Path(out_dir) / RESULTS)
        self._truth: InstanceTruth = (
            TruthInSamples() if ann_file is None else TruthInFile(ann_file, not format_only, backend_args)
        )
        self._category_ids: list[int] = []

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Meta information of the data set; raises ValueError where its classes are not in the json."""
        if not meta or not meta.get('classes'):
            raise ValueError('dataset_meta has no "classes": the metric maps labels to categories by their names')
        self._dataset_meta = meta
        self._category_ids = self._truth.category_ids(meta)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Matches a batch.

        Args:
            data_batch: not read.
            data_samples: per image ``img_id`` and ``pred_instances`` with masks (N, H, W), bool, at the size of the
                original image (or their run lengths, a list as in mmdet's dumps), scores (N,) and labels (N,);
                without ``ann_file`` also what `TruthInSamples` takes.

        Raises:
            ValueError: an image has no ground truth, or a prediction is not as above.
            RuntimeError: an error in a worker process, as soon as it is known.
        """
        for sample in data_samples:
            labels, scores, masks = _prediction(sample, len(self._category_ids))
            record = {'img_id': sample['img_id'], 'img_path': sample.get('img_path')}
            truth = None
            if self.ann_file is not None or not self.format_only:
                truth = self._truth.load(sample, self._category_ids)
                _check_size(sample, masks, truth)
            instances = None if truth is None or self.format_only else truth.instances
            sent: Any = masks
            if self._work.num_workers and isinstance(masks, np.ndarray):
                sent = PackedMasks.of(masks)
            image = f'image {record["img_id"]} ({record["img_path"]})'
            arguments = (labels, scores, sent, instances, self.max_dets, self._file is not None)
            self._work.put((record, labels, scores), image, judge_image, *arguments)
            self._take_results()

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all images of all processes; ``size`` is their number."""
        self._take_results(all_of_them=True)
        return super().evaluate(size)

    def _take_results(self, all_of_them: bool = False) -> None:
        for (record, labels, scores), (matches, rles) in self._work.results(all_of_them):
            if matches is not None:
                record['matches'] = matches
            if self._file is not None:
                category_ids = [self._category_ids[label] for label in labels]
                record['place'] = self._file.append(record['img_id'], category_ids, scores, rles)
            self.results.append(record)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Averages over all images; one that comes twice (padded samplers) counts once."""
        records = _by_image(results)
        if self._file is not None:
            self._file.assemble(record['place'] for _, record in sorted(records.items(), key=_image_order))
            print_log(f'Results of {len(records)} images are in {self._file.path}', logger='current')
        if self.format_only:
            return {}
        matches = {image_id: record['matches'] for image_id, record in records.items()}
        matches.update(self._missed(records))
        in_order = [found for _, found in sorted(matches.items(), key=_image_order)]
        summary = summarise(in_order, len(self._category_ids), self.max_dets)
        print_log('Mask AP:\n' + summary.text, logger='current')
        if self.classwise:
            print_log('Mask AP per class:\n' + self._table(summary.per_class), logger='current')
        # pycocotools keeps its denominators off 0, and so perfect predictions 2e-16 below 1.
        return {f'segm_{key}': round(float(value), 12) for key, value in zip(KEYS, summary.stats, strict=False)}

    def _missed(self, image_ids: Any) -> dict[Any, ImageMatches]:
        """Images of the json that nobody predicted."""
        nothing = np.zeros(0, dtype=np.int64)
        missed = {
            image_id: match_image(truth.instances, nothing, nothing.astype(np.float64), [], self.max_dets)
            for image_id, truth in self._truth.unseen(image_ids, self._category_ids)
        }
        if missed:
            print_log(
                f'{len(missed)} images of {self.ann_file} have no prediction: their instances count as missed',
                logger='current',
                level=logging.WARNING,
            )
        return missed

    def _table(self, per_class: np.ndarray) -> str:
        lines = [
            [name, *('-' if value < 0 else f'{value:.3f}' for value in stats[: len(KEYS)])]
            for name, stats in zip(self.dataset_meta['classes'], per_class, strict=True)
        ]
        return str(AsciiTable([['class', *KEYS], *lines]).table)


def _prediction(sample: dict[str, Any], num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | list[RLE]]:
    """Labels (N,), scores (N,) float64 and masks of a data sample, (N, H, W) bool or run lengths."""
    found, image = sample['pred_instances'], f'image {sample["img_id"]}'
    if 'masks' not in found:
        raise ValueError(f'pred_instances of {image} has no masks: mask AP needs a model that predicts them')
    labels = torch.as_tensor(found['labels']).cpu().numpy()
    scores = torch.as_tensor(found['scores']).double().cpu().numpy()  # numpy knows no bfloat16
    masks = found['masks']
    if not len(labels) == len(scores) == len(masks):
        raise ValueError(
            f'pred_instances of {image} has {len(masks)} masks, {len(scores)} scores, {len(labels)} labels: '
            'give one of each per instance'
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f'labels of pred_instances of {image} are in [{labels.min()}, {labels.max()}], but dataset_meta has '
            f'{num_classes} classes: give the model the number of classes of the data set'
        )
    if isinstance(masks, list):
        return labels, scores, [check_runs(mask, f'prediction {k} of {image}') for k, mask in enumerate(masks)]
    masks = torch.as_tensor(masks)
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f'pred_instances.masks of {image} has shape {tuple(masks.shape)}, type {masks.dtype}: '
            'give booleans (N, H, W)'
        )
    return labels, scores, masks.cpu().numpy()


def _check_size(sample: dict[str, Any], masks: np.ndarray | list[RLE], truth: ImageTruth) -> None:
    sizes = {tuple(mask['size']) if isinstance(mask, dict) else mask.shape for mask in masks}
    if not sizes <= {truth.size}:
        raise ValueError(
            f'prediction of image {sample["img_id"]} is {sorted(sizes)}, ground truth {truth.origin} {truth.size} '
            '(height, width): give both at the size of the original image'
        )


def _by_image(results: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    """The last record of each image; raises ValueError where two images share an id."""
    records: dict[Any, dict[str, Any]] = {}
    for record in results:
        image_id, path = record['img_id'], record['img_path']
        other = records.get(image_id, record)['img_path']
        if other != path:
            raise ValueError(f'{other} and {path} are both img_id {image_id}: give each image its own')
        records[image_id] = record
    return records


def _image_order(item: tuple[Any, Any]) -> tuple[bool, Any]:
    """Key that sorts (image id, ...) by ids as pycocotools does; numbers before names."""
    return isinstance(item[0], str), item[0]
