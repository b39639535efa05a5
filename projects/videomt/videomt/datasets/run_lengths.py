"""Ground-truth masks of a frame as run lengths, in place of mmdet's dense masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from pycocotools import mask as mask_api

from eomt_mm.evaluation.ap_counting import RLE, encode_masks
from eomt_mm.registry import TRANSFORMS


class RunLengthMasks:
    """N masks (H, W) as run lengths, with the interface of mmdet's BitmapMasks: indexing and :meth:`to_ndarray`.

    Args:
        rles: N run lengths in COCO's format.
        height, width: in pixels.
    """

    def __init__(self, rles: Sequence[RLE], height: int, width: int) -> None:
        self.rles = list(rles)
        self.height = height
        self.width = width

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: np.ndarray) -> 'RunLengthMasks':
        """Select the masks with indices (n,)."""
        return RunLengthMasks([self.rles[i] for i in index], self.height, self.width)

    def to_ndarray(self) -> np.ndarray:
        """Decode the masks to an array (N, H, W), uint8."""
        if not self.rles:
            return np.zeros((0, self.height, self.width), np.uint8)
        return np.ascontiguousarray(mask_api.decode(self.rles).transpose(2, 0, 1))


@TRANSFORMS.register_module()
class CompressMasks(BaseTransform):
    """Convert the ground-truth masks of a frame to run lengths; for evaluation, after all transforms of masks.

    Ten instances in 500 frames of 720 x 1280 pixels take 4.6 GB as mmdet's masks.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``gt_masks``, if there are any."""
        masks = results.get('gt_masks')
        if masks is not None:
            results['gt_masks'] = RunLengthMasks(encode_masks(masks.masks.astype(bool)), masks.height, masks.width)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
