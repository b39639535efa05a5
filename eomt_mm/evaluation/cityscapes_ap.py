"""Cityscapes instance AP as an mmengine metric; its rules are in `cityscapes_counting`."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS
from eomt_mm.annotations.masks import EXIF_HINT
from eomt_mm.evaluation.cityscapes_counting import average_precisions, match_instances
from eomt_mm.evaluation.image_metric import Call, ImageMetric, Record, table
from eomt_mm.evaluation.result_files import ResultFolder
from eomt_mm.evaluation.samples import Sample, path_of, predicted_instances
from eomt_mm.fileio.image_headers import PNG_SIGNATURE
from eomt_mm.fileio.images import as_stored, decode_image
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS

# The folder of files for the benchmark server.
RESULTS = 'cityscapes_instance_results'


@METRICS.register_module()
class CityscapesAP(ImageMetric):
    """Cityscapes' instance AP, in [0, 1], with the rules at the top of `cityscapes_counting`.

    Reports mAP, over IoU thresholds 0.5, 0.55, .. 0.95, and AP50, both averaged over the classes of dataset_meta that
    have ground truth; NaN if none has. The classes are some or all of Cityscapes' eight things; the benchmark averages
    over all eight. Ground truth is read from ``seg_map_path`` of the samples. Each image is evaluated immediately and
    reduced to a few numbers per prediction. Predictions may overlap.

    Args:
        out_dir: folder for ``cityscapes_instance_results``, the benchmark server's files: per image
            ``<name of the image>_pred.txt`` with a line "file labelId score" per instance, and the named files, binary
            PNGs. It replaces an earlier folder when all images are done.
        format_only: write result files, do not evaluate (test sets).
        classwise: also log a table per class.
        prefix: prefix of the metric's keys.
        backend_args: arguments of mmengine's file backend, for the ground truth.
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
        self._label_ids = np.zeros(0, dtype=np.int64)
        self._folder = None if self.out_dir is None else ResultFolder(self.out_dir / RESULTS)

    def take_meta(self, meta: Mapping[str, Any]) -> None:
        """Look up the labelIds of the classes; raises ValueError if a class is unknown to Cityscapes, or repeats."""
        classes = meta['classes']
        unknown = [name for name in classes if name not in CITYSCAPES_THINGS]
        if unknown or len(set(classes)) < len(classes):
            raise ValueError(
                f'dataset_meta: classes={tuple(classes)}: {unknown} are not among the classes with instances of '
                f'Cityscapes, {CITYSCAPES_THINGS}; name each of them once at most'
            )
        self._label_ids = np.array([CITYSCAPES_LABEL_IDS[name] for name in classes], dtype=np.int64)

    def work_on(self, sample: Sample, record: Record) -> Call:
        labels, scores, masks = predicted_instances(sample, len(self._label_ids))
        if isinstance(masks, list):
            raise ValueError(
                f'image {sample["img_id"]} has run lengths for masks: CityscapesAP takes booleans (N, H, W)'
            )
        ids = None if self.format_only else self._read_ids(sample, masks)
        if self._folder is not None:
            record['file_name'] = _stem(sample)
        return self._compare, ids, masks, scores, labels, record.get('file_name')

    def _compare(
        self, ids: np.ndarray | None, masks: np.ndarray, scores: np.ndarray, labels: np.ndarray, stem: str | None
    ) -> Record:
        found: Record = {}
        if ids is not None:
            found['rows'], found['num_true'] = match_instances(ids, masks, scores, labels, self._label_ids)
        if stem is not None:
            found['files'] = self._write_image(stem, masks, scores, self._label_ids[labels])
        return found

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        classes = self.dataset_meta['classes']
        num_true = np.array([record['num_true'] for record in records.values()], np.int64).reshape(-1, len(classes))
        totals = num_true.sum(axis=0)
        self._warn_once.absent_classes(classes, totals.tolist(), len(records))
        ap = average_precisions([record['rows'] for record in records.values()], num_true)
        if self.classwise:
            columns = (classes, ap.mean(axis=1).tolist(), ap[:, 0].tolist(), totals.tolist())
            rows = list(zip(*columns, strict=True))
            print_log('Cityscapes AP per class:\n' + table(['', 'AP', 'AP50', 'instances'], rows), logger='current')
        return {'mAP': _mean(ap), 'AP50': _mean(ap[:, :1])}

    def _read_ids(self, sample: Sample, masks: np.ndarray) -> np.ndarray:
        """Read the ground truth (H, W), uint16, of an image, and check that the predicted masks have its size."""
        path = sample.get('seg_map_path')
        if not path:
            raise ValueError(
                f'image {sample["img_id"]} has no seg_map_path, its *_gtFine_instanceIds.png: let the test pipeline '
                'pack it (meta_keys), or only write results (format_only=True with out_dir)'
            )
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'ground truth {path} does not exist: check data_prefix["seg"]') from error
        # Bytes 24 and 25 are depth and colour type, 0 for grey (PNG specification, section 11.2.1).
        if not content.startswith(PNG_SIGNATURE) or content[24:26] != b'\x10\x00':
            raise ValueError(f'{path} is not a 16-bit grey PNG: give *_gtFine_instanceIds.png, not labelIds or colours')
        ids = decode_image(content, f'ground truth {path}', as_stored, fix='download it again')
        if masks.shape[1:] != ids.shape:
            raise ValueError(
                f'predictions of image {sample["img_id"]} are {masks.shape[1:]}, ground truth {path} {ids.shape} '
                f'(height, width): give both at the size of the original image; {EXIF_HINT}'
            )
        return ids

    def _write_image(self, stem: str, masks: np.ndarray, scores: np.ndarray, label_ids: np.ndarray) -> list[str]:
        """Write an image's files into the temporary folder; return their names."""
        assert self._folder is not None
        aside = self._folder.aside
        lines, names = [], [f'{stem}_pred.txt']
        for number, (mask, score, label_id) in enumerate(zip(masks, scores, label_ids, strict=True)):
            if mask.any():  # empty masks do not count
                names.append(f'{stem}_{number}.png')
                content = cv2.imencode('.png', mask.astype(np.uint8) * 255)[1]
                write_whole(aside / names[-1], content.tobytes())
                lines.append(f'{names[-1]} {label_id} {float(score)!r}\n')
        write_whole(aside / names[0], ''.join(lines).encode())
        return names

    def write(self, records: dict[Any, Record]) -> None:
        assert self._folder is not None
        self._folder.finish(name for record in records.values() for name in record['files'])
        print_log(f'instance results of {len(records)} images are in {self._folder.path}', logger='current')


def _mean(ap: np.ndarray) -> float:
    known = ap[~np.isnan(ap)]
    return float(known.mean()) if known.size else float('nan')


def _stem(sample: Sample) -> str:
    """Name of an image's results without suffix; the server identifies images by their file names alone."""
    path = path_of(sample)
    stem = PurePath(path).stem
    if any(character.isspace() for character in stem):
        raise ValueError(f'{path}: names in result files cannot hold spaces: rename the image')
    return stem
