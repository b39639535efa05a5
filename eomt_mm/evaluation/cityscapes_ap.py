"""Instance AP by Cityscapes' rules, as a metric of mmengine; the rules are in `cityscapes_counting`."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS
from eomt_mm.evaluation.cityscapes_counting import as_array, as_bool, average_precisions, match_image
from eomt_mm.fileio.image_headers import PNG_SIGNATURE
from eomt_mm.fileio.images import as_stored, decode_image
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The folder of files for the benchmark server.
RESULTS = 'cityscapes_instance_results'


@METRICS.register_module()
class CityscapesAP(BaseMetric):
    """Cityscapes' instance AP, in [0, 1], with the rules at the top of `cityscapes_counting`.

    Gives mAP, over IoU thresholds 0.5, 0.55, .. 0.95, and AP50, both over the classes of dataset_meta that have truth;
    NaN where none has. These classes are some or all of Cityscapes' eight things; the benchmark averages over all
    eight. Ground truth is read from ``seg_map_path`` of the samples. Each image is compared at once and kept as a few
    numbers per prediction. Predictions may overlap.

    Args:
        out_dir: where to write the folder ``cityscapes_instance_results`` as the benchmark server takes it: per image
            ``<name of the image>_pred.txt`` with a line "file labelId score" per instance, and these files, binary
            PNGs. It replaces an earlier one when all images are done. With several nodes this must be shared storage.
        format_only: write, do not evaluate (test sets); needs ``out_dir``.
        classwise: also log a table per class.
        collect_device: 'cpu' or 'gpu'; where results of several processes meet.
        prefix: of the keys.
        collect_dir: see mmengine's `BaseMetric`.
        backend_args: of mmengine's file backend, for the ground truth.

    Raises:
        ValueError: ``format_only`` without ``out_dir``.
    """

    default_prefix = 'cityscapes'

    def __init__(
        self,
        out_dir: str | None = None,
        format_only: bool = False,
        classwise: bool = True,
        collect_device: str = 'cpu',
        prefix: str | None = 'cityscapes',
        collect_dir: str | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and out_dir is None:
            raise ValueError('format_only=True writes results and nothing else: name a folder with out_dir')
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.format_only = format_only
        self.classwise = classwise
        self.backend_args = backend_args

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Compares a batch.

        Args:
            data_batch: not read.
            data_samples: per image ``img_id``, ``pred_instances`` with masks (N, H, W) bool at the size of the original
                image, scores (N,) and labels (N,); unless ``format_only``, ``seg_map_path`` (the image's
                ``*_gtFine_instanceIds.png``); with ``out_dir``, ``img_path``.

        Raises:
            FileNotFoundError: there is no such ground truth.
            ValueError: a sample lacks something, does not fit the ground truth, or this is no map of instance ids.
        """
        label_ids = self._label_ids()
        for sample in data_samples:
            masks, scores, labels = _predictions(sample, len(label_ids))
            record = {'img_id': sample['img_id'], 'img_path': sample.get('img_path')}
            if not self.format_only:
                ids = self._read_truth(sample, masks)
                record['rows'], record['num_truths'] = match_image(ids, masks, scores, labels, label_ids)
            if self.out_dir is not None:
                record['stem'] = _stem(sample)
                record['files'] = self._write_image(record['stem'], masks, scores, label_ids[labels])
            self.results.append(record)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Averages over all images; an image that comes twice (padded samplers) counts once."""
        records = _by_image(results)
        if self.out_dir is not None:
            self._finish_folder(records)
        if self.format_only:
            return {}
        classes = (self.dataset_meta or {})['classes']
        num_truths = np.array([record['num_truths'] for record in records], np.int64).reshape(-1, len(classes))
        ap = average_precisions([record['rows'] for record in records], num_truths)
        if self.classwise:
            print_log('Cityscapes AP per class:\n' + _table(classes, ap, num_truths.sum(axis=0)), logger='current')
        return {'mAP': _mean(ap), 'AP50': _mean(ap[:, :1])}

    def _label_ids(self) -> np.ndarray:
        """(C,), int64: labelId of each class."""
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError('dataset_meta has no "classes": the metric maps labels to labelIds by their names')
        unknown = [name for name in classes if name not in CITYSCAPES_THINGS]
        if unknown or len(set(classes)) < len(classes):
            raise ValueError(
                f'dataset_meta: classes={tuple(classes)}: {unknown} are not among the classes with instances of '
                f'Cityscapes, {CITYSCAPES_THINGS}; name each of them once at most'
            )
        return np.array([CITYSCAPES_LABEL_IDS[name] for name in classes], dtype=np.int64)

    def _read_truth(self, sample: Mapping[str, Any], masks: Any) -> np.ndarray:
        path = sample.get('seg_map_path')
        if not path:
            raise ValueError(
                f'image {sample["img_id"]} has no seg_map_path, its *_gtFine_instanceIds.png: let the test pipeline '
                'pack it (meta_keys), or only write results (format_only=True with out_dir)'
            )
        ids = _decode_ids(self._get(path), path)
        if tuple(masks.shape[1:]) != ids.shape:
            raise ValueError(
                f'predictions of image {sample["img_id"]} are {tuple(masks.shape[1:])}, ground truth {path} '
                f'{ids.shape} (height, width): resize predictions to the size of the original image'
            )
        return ids

    def _get(self, path: str) -> bytes:
        try:
            return fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'ground truth {path} does not exist: check data_prefix["seg"]') from error

    def _write_image(self, stem: str, masks: Any, scores: np.ndarray, label_ids: np.ndarray) -> list[str]:
        """Writes an image's files into the folder aside; returns their names."""
        assert self.out_dir is not None
        aside = self.out_dir / f'{RESULTS}.part'
        lines, names = [], [f'{stem}_pred.txt']
        for number, (mask, score, label_id) in enumerate(zip(masks, scores, label_ids, strict=True)):
            pixels = as_bool(mask)
            if pixels.any():  # others do not count
                names.append(f'{stem}_{number}.png')
                content = cv2.imencode('.png', pixels.astype(np.uint8) * 255)[1]
                write_whole(aside / names[-1], content.tobytes())
                lines.append(f'{names[-1]} {label_id} {float(score)!r}\n')
        write_whole(aside / names[0], ''.join(lines).encode())
        return names

    def _finish_folder(self, records: list[dict[str, Any]]) -> None:
        """Gives the folder its final name."""
        assert self.out_dir is not None
        aside, folder = self.out_dir / f'{RESULTS}.part', self.out_dir / RESULTS
        aside.mkdir(parents=True, exist_ok=True)
        # An evaluation that was broken off leaves files here, possibly of other images.
        current = {name for record in records for name in record['files']}
        for path in aside.iterdir():
            if path.name not in current:
                path.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
        print_log(f'instance results of {len(records)} images are in {folder}', logger='current')


def _mean(ap: np.ndarray) -> float:
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if known.size else float('nan')


def _table(classes: Sequence[str], ap: np.ndarray, num_truths: np.ndarray) -> str:
    lines = [['', 'AP', 'AP50', 'instances']]
    for name, of_class, count in zip(classes, ap, num_truths, strict=True):
        numbers = [f'{number:.3f}' for number in (of_class.mean(), of_class[0])] if count else ['-', '-']
        lines.append([name, *numbers, str(count)])
    return str(AsciiTable(lines).table)


def _predictions(sample: Mapping[str, Any], num_classes: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Masks (N, H, W) as they are, scores (N,) float64 and labels (N,) int64 of a sample."""
    instances = sample.get('pred_instances')
    if instances is None or 'masks' not in instances:
        raise ValueError(f'image {sample["img_id"]} has no pred_instances.masks: AP needs a model of instance masks')
    masks, scores, labels = (instances[key] for key in ('masks', 'scores', 'labels'))
    scores, labels = as_array(scores).astype(np.float64), as_array(labels).astype(np.int64)
    if masks.ndim != 3 or not len(masks) == len(scores) == len(labels):
        raise ValueError(
            f'pred_instances of image {sample["img_id"]}: masks {tuple(masks.shape)}, scores {scores.shape}, labels '
            f'{labels.shape}: give (N, H, W), (N,) and (N,)'
        )
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(
            f'pred_instances of image {sample["img_id"]} have labels in [{labels.min()}, {labels.max()}], dataset_meta '
            f'{num_classes} classes: give model and data set the same classes'
        )
    return masks, scores, labels


def _decode_ids(content: bytes, path: str) -> np.ndarray:
    """(H, W), uint16, from the content of a map of instance ids."""
    # Bytes 24 and 25 are depth and colour type, 0 for grey (PNG specification, section 11.2.1).
    if not content.startswith(PNG_SIGNATURE) or content[24:26] != b'\x10\x00':
        raise ValueError(f'{path} is not a 16-bit grey PNG: give *_gtFine_instanceIds.png, not labelIds or colours')
    return decode_image(content, f'ground truth {path}', as_stored, fix='download it again')


def _stem(sample: Mapping[str, Any]) -> str:
    """Name of an image's results, without ending."""
    if not sample.get('img_path'):
        raise ValueError(f'image {sample["img_id"]} has no img_path, after which result files are named: pack it')
    stem = PurePath(sample['img_path']).stem
    if any(character.isspace() for character in stem):
        raise ValueError(f'{sample["img_path"]}: names in result files cannot hold spaces: rename the image')
    return stem


def _by_image(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of each image; raises ValueError where two images share an id or the name of their results."""
    records: dict[Any, dict[str, Any]] = {}
    owners: dict[str, Any] = {}
    for record in results:
        image_id, path, stem = record['img_id'], record['img_path'], record.get('stem')
        other = records.get(image_id, record)['img_path']
        if other != path:
            raise ValueError(f'{other} and {path} are both img_id {image_id}: give each image its own')
        if stem and owners.setdefault(stem, image_id) != image_id:
            raise ValueError(f'images {owners[stem]} and {image_id} are both named {stem}: give them different names')
        records[image_id] = record
    return list(records.values())
