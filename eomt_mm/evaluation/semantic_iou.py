"""mmseg's IoU metric with checked ground truth, and with result files in the values that benchmark servers expect."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from mmseg.evaluation.metrics import IoUMetric

from eomt_mm.annotations.categories import LABELS_HINT
from eomt_mm.core.targets import check_labels
from eomt_mm.evaluation.image_metric import WarnOnce
from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.fileio.images import encode_png
from eomt_mm.fileio.result_names import ResultNames, name_below
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS


@METRICS.register_module()
class SemanticIoU(IoUMetric):
    """mmseg's IoUMetric, except that labels beyond the classes raise an error instead of distorting the results.

    Result files hold the data set's own values instead of class indices.

    Args:
        label_ids: value of each class in result files, in the order of the classes, each in [0, 255]: Cityscapes'
            labelIds, COCO-Stuff's ids. None: the class index, plus one if the data set reduces its zero label.
        output_dir: folder for ``<image>.png``, (H, W), 8 bits, or 16 bits for indices of more than 256 classes. Each
            file gets its final name when it is complete.
        img_prefix: folder of the images; files keep their path relative to it (``cam0/frame_0001.png``). None: the
            image's file name alone.
        **kwargs: mmseg's arguments: iou_metrics, ignore_index, format_only (needs ``output_dir``), ...

    Raises:
        ValueError: ``label_ids`` are not in [0, 255], or ``format_only`` without ``output_dir``.
    """

    default_prefix = ''  # mmseg's None gives the same keys, with a warning

    def __init__(
        self,
        label_ids: Sequence[int] | None = None,
        output_dir: str | None = None,
        img_prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if label_ids is not None and not all(0 <= id_ <= 255 for id_ in label_ids):
            raise ValueError(f'label_ids={list(label_ids)}: values of an 8-bit file, in [0, 255]')
        # Not passed to the parent, which would write class indices.
        self._folder = folder_of_results(output_dir, self.format_only, 'output_dir')
        self._img_prefix = img_prefix
        self._names = ResultNames()
        self._warn_once = WarnOnce()
        self._values = None if label_ids is None else np.array(label_ids, np.uint8)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count a batch and write its files; samples are as for mmseg's metric.

        Raises:
            ValueError: the ground truth has a label beyond the classes, the model has more classes than ``label_ids``,
                or two images would have the same file.
        """
        if not self.format_only:
            for sample in data_samples:
                self._check_labels(sample)
            super().process(data_batch, data_samples)
        if self._folder is None:
            return
        for sample in data_samples:
            labels = sample['pred_sem_seg']['data'].cpu().numpy()
            labels = labels.reshape(labels.shape[-2:])
            name = self._names.claim(name_below(sample['img_path'], self._img_prefix), sample['img_path'])
            path = self._folder / f'{name}.png'
            write_whole(path, encode_png(self._in_files(labels, sample), f'label map {path}'))

    def _check_labels(self, sample: dict[str, Any]) -> None:
        labels = sample['gt_sem_seg']['data'].unique()
        source = ', label map '.join(filter(None, (sample.get('img_path'), sample.get('seg_map_path'))))
        check_labels(labels[labels != self.ignore_index].long(), len(self.dataset_meta['classes']), source)

    def _in_files(self, labels: np.ndarray, sample: dict[str, Any]) -> np.ndarray:
        """Convert class indices (H, W) to the values of result files."""
        if self._values is None:
            first = int(sample.get('reduce_zero_label', False))
            has_8_bits = len(self.dataset_meta['classes']) + first <= 256
            values: np.ndarray = (labels + first).astype(np.uint8 if has_8_bits else np.uint16)
            return values
        if labels.max(initial=0) >= len(self._values):
            raise ValueError(
                f'a prediction of {sample["img_path"]} has class {labels.max()}, label_ids {len(self._values)} '
                'entries: give one per class'
            )
        return self._values[labels]

    def compute_metrics(self, results: list[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Compute the parent's metrics, and warn about classes without ground truth."""
        if results:
            pixels = torch.stack([image[3] for image in results]).sum(0)
            self._warn_once.absent_classes(
                self.dataset_meta['classes'], pixels.tolist(), len(results), hint=LABELS_HINT
            )
        found: dict[str, float] = super().compute_metrics(results)
        return found

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the parent's metrics unless ``format_only``; raises ValueError if two images have the same file."""
        if self._folder is not None:
            ResultNames().merge(all_gather_object(self._names))
            print_log(f'label maps of the tested images are in {self._folder}', logger='current')
        return {} if self.format_only else super().evaluate(size)
