"""Published augmentation and resizing: detectron2-style colours, truncating scale jitter, nearest-neighbour masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

from eomt_mm.core.augment import (
    NearestCrop,
    change_colours,
    check_aspect,
    check_crop,
    check_jitter,
    crop_image,
    draw_colour_changes,
    draw_crop_with_targets,
    fitting_size,
    resize_image,
)
from eomt_mm.core.geometry import as_size
from eomt_mm.fileio.pixels import bgr_pixels, checked_array
from eomt_mm.registry import TRANSFORMS

Results = dict[str, Any]
IGNORE_INDEX = 255
META_KEYS = (
    'img_id', 'img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction',
)  # fmt: skip


@TRANSFORMS.register_module()
class ResizeToInput(BaseTransform):
    """Resize the image, keeping its aspect ratio, so that it fits inside the input or covers it.

    Sizes are ``round(h * f), round(w * f)`` (half to even). In test pipelines, load annotations *after* this transform,
    so that they keep their original size.

    Args:
        img_size: side or (height, width) of the model's input.
        fit: 'inside' (f = min(H/h, W/w): instance, panoptic) or 'cover' (f = max(H/h, W/w): semantic, whose windows
            lie along the long side).
        max_aspect: with 'cover', largest allowed ratio of the image's sides. Without a limit, a strip of 2000 x 3
            pixels would be resized to 341,333 x 512, with gigabytes of scores.

    Raises:
        ValueError: an argument is invalid, an image exceeds ``max_aspect``, or an array without ``img_path`` is no
            image; see :mod:`eomt_mm.fileio.pixels`.
    """

    def __init__(self, img_size: int | Sequence[int], fit: str, max_aspect: float = 20) -> None:
        if fit not in ('inside', 'cover'):
            raise ValueError(f"fit='{fit}': 'inside' (instance, panoptic) or 'cover' (semantic)")
        if not max_aspect >= 1:
            raise ValueError(f'max_aspect={max_aspect}: at least 1, the ratio of a square')
        self.max_aspect = max_aspect
        self.img_size = as_size(img_size)
        self.fit = fit

    def transform(self, results: Results) -> Results:
        """Resize ``img``; set ``img_shape``, ``scale_factor`` (w, h) and ``keep_ratio``."""
        image = results['img']
        if results.get('img_path') is None:  # an array given to an inferencer of the hosts, which check none
            image = bgr_pixels(checked_array(image))
        h, w = image.shape[:2]
        if self.fit == 'cover':
            check_aspect((h, w), self.img_size, self.max_aspect, results.get('img_path'))
        size = fitting_size((h, w), self.img_size, self.fit == 'inside')
        results['img'] = resize_image(image, size)
        results['img_shape'] = size
        results['scale_factor'] = (size[1] / w, size[0] / h)
        results['keep_ratio'] = True
        return results


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue, each with probability 0.5 (used for ADE20K and Cityscapes).

    Brightness comes first; contrast comes before or after saturation and hue with equal probability.

    Args:
        brightness: the factor is drawn from 1 -+ this.
        contrast: the same; blends with the mean grey level.
        saturation: the same; blends with the grey image.
        hue: the shift is drawn from -+ this, in turns of the colour circle.
    """

    def __init__(
        self, brightness: float = 32 / 255, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.05
    ) -> None:
        self.ranges = check_jitter(brightness, contrast, saturation, hue)

    def transform(self, results: Results) -> Results:
        """Change ``img``, uint8 BGR (h, w, 3)."""
        changes = draw_colour_changes(**self.ranges)
        if changes:
            image = torch.from_numpy(results['img'][..., ::-1].transpose(2, 0, 1).copy())
            image = change_colours(image, changes)
            results['img'] = np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1])
        return results


@TRANSFORMS.register_module()
class ScaleJitterCrop(BaseTransform):
    """Scale the image randomly, pad it with black at the bottom and right, and crop it randomly to the input size.

    r = min(S/h, S/w) * U(scale_range), size ``int(h * r), int(w * r)``. Targets without a pixel in the crop are
    dropped. If none remains, scale and crop are drawn again, up to ``max_tries`` draws in total; then the last crop is
    used without targets. Masks are cropped by nearest neighbour directly from the original map.

    Args:
        img_size: side S or (height, width) of the crop.
        scale_range: (0.1, 2.0) for COCO and ADE20K panoptic, (0.5, 2.0) for semantic data; 1 fits the whole image.
        max_tries: at least 1.
    """

    def __init__(
        self, img_size: int | Sequence[int], scale_range: tuple[float, float] = (0.1, 2.0), max_tries: int = 20
    ) -> None:
        check_crop(scale_range, max_tries)
        self.img_size = as_size(img_size)
        self.scale_range = scale_range
        self.max_tries = max_tries

    def transform(self, results: Results) -> Results:
        """Crop ``img`` and its targets, and set ``img_shape``.

        Targets are ``gt_seg_map`` (with or without ``gt_segment_labels``) and ``gt_masks`` with ``gt_bboxes``,
        ``gt_bboxes_labels`` and ``gt_ignore_flags``, where present.
        """
        source_size = results['img'].shape[:2]
        has_none = _num_targets(results) == 0
        size, corner, cut = draw_crop_with_targets(
            source_size, self.img_size, self.scale_range, self.max_tries,
            lambda window: self._cut_targets(results, window), lambda cut: has_none or _num_targets(cut) > 0,
        )  # fmt: skip
        results.update(cut)
        results['img'] = crop_image(results['img'], size, corner, self.img_size)
        results['img_shape'] = self.img_size
        return results

    def _cut_targets(self, results: Results, window: NearestCrop) -> Results:
        cut: Results = {}
        if 'gt_seg_map' in results:
            is_id_map = 'gt_segment_labels' in results
            cut['gt_seg_map'] = window.crop(results['gt_seg_map'], fill=0 if is_id_map else IGNORE_INDEX)
            if is_id_map:
                cut['gt_segment_labels'] = results['gt_segment_labels']
        if 'gt_masks' in results:
            masks = window.crop(results['gt_masks'].to_ndarray(), fill=0)
            kept = masks.any((1, 2))
            cut['gt_masks'] = BitmapMasks(masks[kept], *self.img_size)
            cut['gt_bboxes'] = cut['gt_masks'].get_bboxes('hbox')
            for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
                if key in results:
                    cut[key] = results[key][kept]
        return cut


def _num_targets(results: Results) -> int:
    """Number of targets; for maps, 1 if there are any. Without ground truth: 1, so that any crop is accepted."""
    if 'gt_masks' in results:
        return len(results['gt_masks'])
    if 'gt_seg_map' in results:
        seg_map, labels = results['gt_seg_map'], results.get('gt_segment_labels')
        # Ids above the number of labels are crowds.
        is_target = seg_map != IGNORE_INDEX if labels is None else (seg_map > 0) & (seg_map <= len(labels))
        return int(is_target.any())
    return 1


@TRANSFORMS.register_module()
class PackSegments(PackDetInputs):
    """mmdet's PackDetInputs for id maps: pack segments as one map, which is expanded to masks only for the loss.

    The sample gets ``gt_panoptic_seg.segment_ids`` (1, H, W) int32, 0 = void, and ``gt_instances.labels`` (N,):
    segment k of the map has label ``labels[k - 1]``. If crowds were loaded (``gt_crowd_labels``), they are the ids
    N + 1 .. N + M, with ``ignored_instances.labels`` (M,).

    Args:
        meta_keys: keys of the item to keep; mmdet's, and seg_map_path (`CityscapesAP` reads that file itself).
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = META_KEYS,
    ) -> None:
        super().__init__(meta_keys=tuple(meta_keys))

    def transform(self, results: Results) -> Results:
        id_map = results.pop('gt_seg_map', None)
        labels = results.pop('gt_segment_labels', None)
        crowd_labels = results.pop('gt_crowd_labels', None)
        packed: Results = super().transform(results)
        if id_map is not None and labels is not None:
            sample = packed['data_samples']
            sample.gt_instances = InstanceData(labels=torch.from_numpy(np.asarray(labels, np.int64)))
            if crowd_labels is not None:
                sample.ignored_instances = InstanceData(labels=torch.from_numpy(np.asarray(crowd_labels, np.int64)))
            ids = torch.from_numpy(np.ascontiguousarray(id_map, np.int32))
            sample.gt_panoptic_seg = PixelData(segment_ids=ids[None])
        return packed
