"""Instance AP by Cityscapes' rules, as a metric of mmengine; the rules are in `cityscapes_counting`."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS
from eomt_mm.evaluation.cityscapes_counting import as_bool, average_precisions, match_instances
from eomt_mm.evaluation.image_metric import Call, ImageMetric, Record, Sample
from eomt_mm.evaluation.result_files import ResultFolder
from eomt_mm.evaluation.sample_ground_truth import as_array
from eomt_mm.fileio.image_headers import PNG_SIGNATURE
from eomt_mm.fileio.images import as_stored, decode_image
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The folder of files for the benchmark server.
RESULTS = 'cityscapes_instance_results'


@METRICS.register_module()
class CityscapesAP(ImageMetric):
    """Cityscapes' instance AP, in [0, 1], with the rules at the top of `cityscapes_counting`.

    Gives mAP, over IoU thresholds 0.5, 0.55, .. 0.95, and AP50, both over the classes of dataset_meta that have truth;
    NaN where none has. These classes are some or all of Cityscapes' eight things; the benchmark averages over all
    eight. Ground truth is read from ``seg_map_path`` of the samples. Each image is compared at once and kept as a few
    numbers per prediction. Predictions may overlap.

    Args:
        out_dir: where to write the folder ``cityscapes_instance_results`` as the benchmark server takes it: per image
            ``<name of the image>_pred.txt`` with a line "file labelId score" per instance, and these files, binary
            PNGs. It replaces an earlier one when all images are done.
        format_only: write, do not evaluate (test sets).
        classwise: also log a table per class.
        prefix: of the keys.
        backend_args: of mmengine's file backend, for the ground truth.
        kwargs: collect_device and collect_dir of `ImageMetric`.
    """

    default_prefix = 'cityscapes'

    def __init__(
        self,
        out_dir: str | None = None,
        format_only: bool = False,
        classwise: bool = True,
        prefix: str | None = 'cityscapes',
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(out_dir, format_only, prefix=prefix, **kwargs)
        self.classwise = classwise
        self.backend_args = backend_args
        self._folder = None if self.out_dir is None else ResultFolder(self.out_dir / RESULTS)

    def work_on(self, sample: Sample, record: Record) -> Call:
        label_ids = self._label_ids()
        masks, scores, labels = _predictions(sample, len(label_ids))
        ids = None if self.format_only else self._read_ids(sample, masks)
        stem = None
        if self._folder is not None:
            stem = record['file_name'] = _stem(sample)
        return self._compare, ids, masks, scores, labels, label_ids, stem

    def _compare(
        self, ids: np.ndarray | None, masks: Any, scores: np.ndarray, labels: np.ndarray, label_ids: np.ndarray,
        stem: str | None,
    ) -> Record:  # fmt: skip
        found: Record = {}
        if ids is not None:
            found['rows'], found['num_true'] = match_instances(ids, masks, scores, labels, label_ids)
        if stem is not None:
            found['files'] = self._write_image(stem, masks, scores, label_ids[labels])
        return found

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        classes = (self.dataset_meta or {})['classes']
        num_true = np.array([record['num_true'] for record in records.values()], np.int64).reshape(-1, len(classes))
        self._warn_once.absent_classes(classes, num_true.sum(axis=0).tolist(), len(records))
        ap = average_precisions([record['rows'] for record in records.values()], num_true)
        if self.classwise:
            print_log('Cityscapes AP per class:\n' + _table(classes, ap, num_true.sum(axis=0)), logger='current')
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

    def _read_ids(self, sample: Mapping[str, Any], masks: Any) -> np.ndarray:
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
        assert self._folder is not None
        aside = self._folder.aside
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

    def write(self, records: dict[Any, Record]) -> None:
        """Gives the folder its final name."""
        assert self._folder is not None
        self._folder.finish(name for record in records.values() for name in record['files'])
        print_log(f'instance results of {len(records)} images are in {self._folder.path}', logger='current')


def _mean(ap: np.ndarray) -> float:
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if known.size else float('nan')


def _table(classes: Sequence[str], ap: np.ndarray, num_true: np.ndarray) -> str:
    lines = [['', 'AP', 'AP50', 'instances']]
    for name, of_class, count in zip(classes, ap, num_true, strict=True):
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
