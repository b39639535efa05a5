"""Mask AP as an mmengine metric; matching and averaging are in `ap_counting`."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from eomt_mm.annotations.masks import EXIF_HINT, RLE
from eomt_mm.datasets.coco_json import InstanceAnnotations, read_instances_json
from eomt_mm.evaluation.ap_counting import ImageMatches, PackedMasks, average_ap, match_image, match_masks
from eomt_mm.evaluation.ground_truth import ImageInstances, InstancesInFile, InstancesInSamples
from eomt_mm.evaluation.image_metric import Call, ImageMetric, Record, table
from eomt_mm.evaluation.result_files import ResultList
from eomt_mm.evaluation.samples import Sample, name_of, predicted_instances
from eomt_mm.registry import METRICS

RESULTS = 'instance_results.json'
# mmdet's keys, in the order of COCOeval.stats.
KEYS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@METRICS.register_module()
class InstanceAP(ImageMetric):
    """Mask AP of pycocotools (COCOeval, iouType 'segm'), in [0, 1], evaluated image by image.

    Reports segm_mAP, segm_mAP_50, segm_mAP_75, segm_mAP_s, segm_mAP_m and segm_mAP_l, named as in mmdet's CocoMetric
    but not rounded; -1 if there is nothing to average over. Each image is matched immediately and reduced to a few
    bytes per prediction.

    Ground truth comes from a COCO JSON, either the data set's (`CocoInstance`) or ``ann_file``; without a JSON, from
    the samples (see `InstancesInSamples`). With a JSON, categories are found by class name, and the instances of images
    without a prediction count as missed.

    Samples have ``img_id`` and ``pred_instances`` with masks (N, H, W), bool, at the size of the original image (or a
    list of run lengths, as in mmdet's dumps), scores (N,) and labels (N,).

    Args:
        ann_file: JSON in the COCO format, in place of the data set's.
        classwise: also log a table per class.
        out_dir: folder for ``instance_results.json``, the benchmark server's file, which is complete when all images
            are done. Category ids are the JSON's; without a JSON, ``category_ids`` of dataset_meta, or label + 1.
        format_only: write result files, do not evaluate (test sets).
        max_dets: three ascending numbers of predictions per class and image. pycocotools computes mAP at 100, which
            must be one of them, and the other averages at the last.
        prefix: prefix of the metric's keys.
        backend_args: arguments of mmengine's file backend, for ``ann_file``.
        kwargs: num_workers, collect_device and collect_dir of `ImageMetric`.

    Raises:
        FileNotFoundError: the JSON does not exist.
        ValueError: the JSON does not hold instances, or arguments contradict each other.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str | None = None,
        classwise: bool = False,
        out_dir: str | None = None,
        format_only: bool = False,
        max_dets: Sequence[int] = (1, 10, 100),
        prefix: str | None = 'coco',
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(out_dir, format_only, prefix=prefix, **kwargs)
        if len(max_dets) != 3 or sorted(set(max_dets)) != list(max_dets) or max_dets[0] < 1 or 100 not in max_dets:
            raise ValueError(f'max_dets={max_dets}: give three ascending numbers, 100 (where mAP is taken) among them')
        self.ann_file = ann_file
        self.classwise = classwise
        self.max_dets = tuple(max_dets)
        self._file = None if self.out_dir is None else ResultList(self.out_dir / RESULTS)
        self._category_ids: list[int] = []
        self._source: InstancesInFile | InstancesInSamples = InstancesInSamples()
        if ann_file is not None:
            data = read_instances_json(ann_file, not format_only, backend_args)
            self._source = InstanceAnnotations(ann_file, data).compact(InstancesInFile)

    def take_meta(self, meta: Mapping[str, Any]) -> None:
        """Read the classes and the data set's JSON; raises ValueError if they do not match, or nothing is annotated."""
        file = meta.get('annotation_file')
        if self.ann_file is None and isinstance(file, InstanceAnnotations):
            self._source = file.compact(InstancesInFile)
        self._category_ids = [category['id'] for category in self._source.categories(meta)]
        if isinstance(self._source, InstancesInFile) and not self.format_only:
            self._source.check_masks(self._category_ids)
            if self.ann_file is None and not any(self._source.instances.values()):
                raise ValueError(
                    f'{self._source.path} has no annotations to evaluate against: give the annotated json, or only '
                    'write results (format_only=True with out_dir)'
                )

    def work_on(self, sample: Sample, record: Record) -> Call:
        labels, scores, masks = predicted_instances(sample, len(self._category_ids))
        record.update(labels=labels, scores=scores)
        found = None
        if not self.format_only:
            found = self._source.find(sample, self._category_ids)
        elif isinstance(self._source, InstancesInFile):
            found = ImageInstances(self._source.size(sample), [], f'of {self._source.path}')
        if found is not None:
            _check_size(sample, masks, found)
        instances = None if found is None or self.format_only else found.instances
        sent = PackedMasks.of(masks) if self._work.num_workers and isinstance(masks, np.ndarray) else masks
        return match_masks, labels, scores, sent, instances, self.max_dets, self._file is not None

    def keep(self, record: Record) -> Record:
        labels, scores, rles = (record.pop(key) for key in ('labels', 'scores', 'rles'))
        record['num_predicted'] = len(labels)
        if self._file is not None:
            category_ids = [self._category_ids[label] for label in labels]
            record['place'] = self._file.append(record['img_id'], category_ids, scores, rles)
        return record

    def write(self, records: dict[Any, Record]) -> None:
        assert self._file is not None
        self._file.assemble(record['place'] for _, record in sorted(records.items(), key=_image_order))
        print_log(f'Results of {len(records)} images are in {self._file.path}', logger='current')

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        matches = {image_id: record['matches'] for image_id, record in records.items()}
        matches.update(self._missed(records))
        in_order = [found for _, found in sorted(matches.items(), key=_image_order)]
        self._warn(in_order, records)
        summary = average_ap(in_order, len(self._category_ids), self.max_dets)
        print_log('Mask AP:\n' + summary.text, logger='current')
        if self.classwise:
            rows = [
                [name, *stats[: len(KEYS)].tolist()]
                for name, stats in zip(self.dataset_meta['classes'], summary.per_class, strict=True)
            ]
            print_log('Mask AP per class:\n' + table(['class', *KEYS], rows), logger='current')
        # pycocotools adds an epsilon to its denominators, so that perfect predictions score 2e-16 below 1.
        return {f'segm_{key}': round(float(value), 12) for key, value in zip(KEYS, summary.stats, strict=False)}

    def _missed(self, image_ids: Collection[Any]) -> dict[Any, ImageMatches]:
        """Matches of the JSON's images that have no prediction."""
        if not isinstance(self._source, InstancesInFile):
            return {}
        nothing = np.zeros(0, dtype=np.int64)
        missed = {
            image_id: match_image(instances, nothing, nothing.astype(np.float64), [], self.max_dets)
            for image_id, instances in self._source.unseen(image_ids, self._category_ids).items()
        }
        if missed:
            print_log(
                f'{len(missed)} images of {self._source.path} have no prediction: their instances count as missed',
                logger='current',
                level=logging.WARNING,
            )
        return missed

    def _warn(self, matches: Sequence[ImageMatches], records: dict[Any, Record]) -> None:
        """Warn about classes without ground truth, and about images with more ground truth than predictions."""
        num_true, in_class = np.zeros(len(self._category_ids), np.int64), 0
        for found in matches:
            num_true[found.labels] += found.num_true[0]
            in_class = max(in_class, int(found.num_true[0].max(initial=0)))
        self._warn_once.absent_classes(self.dataset_meta['classes'], num_true.tolist(), len(matches))
        most = max((record['num_predicted'] for record in records.values()), default=0)
        counts = [(int(record['matches'].num_true[0].sum()), record) for record in records.values()]
        more = [one for one in counts if one[0] > most > 0]
        if more:
            count, record = max(more, key=lambda one: one[0])
            self._warn_once(
                'limits',
                f'{name_of(record)} has {count} instances of ground truth, but no image more than {most} predictions; '
                f'{len(more)} of {len(records)} images have more instances than that. If this is the '
                "model's max_per_image (or its num_queries), raise it: model.panoptic_head.max_per_image=N",
            )
        if in_class > self.max_dets[-1]:
            self._warn_once(
                'max_dets',
                f'an image has {in_class} instances of one class, but AP counts at most {self.max_dets[-1]} '
                f'predictions per class and image: raise the last of max_dets={self.max_dets} of the metric',
            )


def _check_size(sample: Sample, masks: np.ndarray | list[RLE], found: ImageInstances) -> None:
    sizes = {tuple(mask['size']) if isinstance(mask, dict) else mask.shape for mask in masks}
    if not sizes <= {found.size}:
        raise ValueError(
            f'prediction of image {sample["img_id"]} is {sorted(sizes)}, ground truth {found.origin} {found.size} '
            f'(height, width): give both at the size of the original image; {EXIF_HINT}'
        )


def _image_order(item: tuple[Any, Any]) -> tuple[bool, Any]:
    """Sort key of (image id, ...): by id, as pycocotools does; numbers before names."""
    return isinstance(item[0], str), item[0]
