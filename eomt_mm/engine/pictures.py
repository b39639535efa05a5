"""Pictures during testing: image, ground truth and prediction side by side."""

from pathlib import Path
from typing import Any, TypeAlias

import mmcv
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.registry import HOOKS
from eomt_mm.visualization import DrawnSegment, draw_segments, side_by_side

Sample: TypeAlias = DetDataSample | SegDataSample


@HOOKS.register_module()
class PictureHook(Hook):
    """Writes ``NAME_OF_IMAGE.png`` for each tested image: image, ground truth (where loaded) and prediction.

    Args:
        out_dir: folder; made where missing.
        max_images: stop after so many per process.
        score_thr: instances below it are not drawn, in [0, 1].
    """

    def __init__(self, out_dir: str, max_images: int = 100, score_thr: float = 0.3) -> None:
        self.out_dir = Path(out_dir)
        self.max_images = max_images
        self.score_thr = score_thr
        self._written = 0

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the batch's samples."""
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs or []:
            if self._written >= self.max_images:
                return
            self._draw(sample, meta)
            self._written += 1

    def _draw(self, sample: Sample, meta: dict[str, Any]) -> None:
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        panels = [('input', draw_segments(image, []))]
        truth = ground_truth_segments(sample, meta)
        if truth is not None:
            panels.append(('ground truth', draw_segments(image, truth)))
        panels.append(('prediction', draw_segments(image, predicted_segments(sample, meta, self.score_thr))))
        self.out_dir.mkdir(parents=True, exist_ok=True)
        side_by_side(panels).save(self.out_dir / f'{Path(sample.img_path).stem}.png')


def ground_truth_segments(sample: Sample, meta: dict[str, Any]) -> list[DrawnSegment] | None:
    """Segments of the ground truth at the image's size; None where the sample has none."""
    if 'gt_sem_seg' in sample and isinstance(sample, SegDataSample):
        return _label_map_segments(_array(sample.gt_sem_seg.data[0]), meta)
    if 'gt_panoptic_seg' in sample:
        ids, labels = _array(sample.gt_panoptic_seg.segment_ids[0]), sample.gt_instances.labels.tolist()
        return [_segment(ids == k, label, meta) for k, label in enumerate(labels, start=1)]
    if 'gt_instances' in sample and 'masks' in sample.gt_instances:
        masks, labels = sample.gt_instances.masks.to_ndarray(), sample.gt_instances.labels.tolist()
        return [_segment(mask.astype(bool), label, meta) for mask, label in zip(masks, labels, strict=True)]
    return None


def predicted_segments(sample: Sample, meta: dict[str, Any], score_thr: float = 0.0) -> list[DrawnSegment]:
    """Segments of the prediction at the image's size, instances from ``score_thr`` on, best last (on top)."""
    if isinstance(sample, SegDataSample):
        return _label_map_segments(_array(sample.pred_sem_seg.data[0]), meta)
    if 'pred_panoptic_seg' in sample:
        codes = _array(sample.pred_panoptic_seg.sem_seg[0])
        found = [int(code) for code in np.unique(codes) if code % INSTANCE_OFFSET < len(meta['classes'])]
        return [_segment(codes == code, code % INSTANCE_OFFSET, meta) for code in found]
    instances = sample.pred_instances
    instances = instances[instances.scores >= score_thr]
    instances = instances[instances.scores.argsort()]
    return [
        _segment(_array(mask), int(label), meta, float(score))
        for mask, label, score in zip(instances.masks, instances.labels, instances.scores, strict=True)
    ]


def _label_map_segments(label_map: np.ndarray, meta: dict[str, Any]) -> list[DrawnSegment]:
    labels = [int(label) for label in np.unique(label_map) if label < len(meta['classes'])]
    return [_segment(label_map == label, label, meta) for label in labels]


def _segment(mask: np.ndarray, label: int, meta: dict[str, Any], score: float | None = None) -> DrawnSegment:
    r, g, b = meta['palette'][label]
    return DrawnSegment(mask, meta['classes'][label], (int(r), int(g), int(b)), score)


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
