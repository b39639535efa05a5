"""Augment clips: crop all frames alike, turn still images into clips, and pack clips."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackTrackInputs, RandomCrop
from mmdet.structures.mask import BitmapMasks
from torch import Tensor

from eomt_mm.registry import TRANSFORMS

Results = dict[str, Any]
META_KEYS = (
    'img_id', 'img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction',
    'frame_id', 'video_id', 'video_length', 'ori_video_length',
)  # fmt: skip


@TRANSFORMS.register_module()
class CropFrame(RandomCrop):
    """mmdet's random crop for frames without boxes; instances that are cropped away keep their ids, with empty masks.

    Inside ``TransformBroadcaster(share_random_params=True)`` all frames get the same crop.

    Args:
        crop_size: with 'absolute_range' the smallest and the largest height and width (pixels).
        crop_type: see the parent.
    """

    def __init__(self, crop_size: tuple[int, int], crop_type: str = 'absolute_range') -> None:
        super().__init__(tuple(crop_size), crop_type=crop_type, allow_negative_crop=True)

    def _crop_data(self, results: Results, crop_size: tuple[int, int], allow_negative_crop: bool) -> Results:
        height, width = results['img'].shape[:2]
        top, left = self._rand_offset((max(height - crop_size[0], 0), max(width - crop_size[1], 0)))
        bottom, right = min(top + crop_size[0], height), min(left + crop_size[1], width)
        results['img'] = results['img'][top:bottom, left:right]
        results['img_shape'] = results['img'].shape[:2]
        if 'gt_masks' in results:
            results['gt_masks'] = results['gt_masks'].crop(np.array([left, top, right, bottom]))
        return results


@TRANSFORMS.register_module()
class RotateIntoClip(BaseTransform):
    """Turn a clip of one frame into a clip of T frames by rotating it a little further in every frame.

    T angles are drawn from U(-max_angle, max_angle) and sorted, in ascending or descending order with equal
    probability; all frames are rotated about the same centre. Pixels that enter the picture are black and belong to no
    mask. Images are interpolated bilinearly, masks by nearest neighbour.

    Args:
        num_frames: number T of frames.
        max_angle: in degrees.
        centre_range: range from which the centre is drawn, as a share of width and height.

    Raises:
        ValueError: the arguments are out of range, or the clip has more than one frame.
    """

    def __init__(
        self, num_frames: int = 5, max_angle: float = 15.0, centre_range: tuple[float, float] = (0.4, 0.6)
    ) -> None:
        if num_frames < 1 or max_angle < 0:
            raise ValueError(f'num_frames={num_frames}, max_angle={max_angle}: at least 1 frame, at least 0 degrees')
        if not 0 <= centre_range[0] <= centre_range[1] <= 1:
            raise ValueError(f'centre_range={tuple(centre_range)}: 0 <= low <= high <= 1')
        self.num_frames = num_frames
        self.max_angle = max_angle
        self.centre_range = tuple(centre_range)

    def transform(self, results: Results) -> Results:
        """Replace lists of length 1 by lists of length T; img and gt_masks differ from frame to frame."""
        if len(results['img']) != 1:
            raise ValueError(
                f'RotateIntoClip makes clips of single images, this one has {len(results["img"])} frames: draw it '
                'with ConsecutiveFrames(num_frames=1)'
            )
        image, masks = results['img'][0], results['gt_masks'][0]
        for key, values in results.items():
            results[key] = list(values) * self.num_frames
        matrices = self._draw(*image.shape[:2])
        results['img'] = [_warp(image, matrix, cv2.INTER_LINEAR) for matrix in matrices]
        results['gt_masks'] = [
            BitmapMasks([_warp(mask, matrix, cv2.INTER_NEAREST) for mask in masks.masks], *image.shape[:2])
            for matrix in matrices
        ]
        results['frame_id'] = list(range(self.num_frames))
        results['video_length'] = [self.num_frames] * self.num_frames
        return results

    def _draw(self, height: int, width: int) -> list[np.ndarray]:
        """Draw T affine matrices (2, 3)."""
        angles = np.sort(np.random.uniform(-self.max_angle, self.max_angle, self.num_frames))
        if np.random.rand() < 0.5:
            angles = angles[::-1]
        low, high = self.centre_range
        x, y = np.random.uniform(low, high, 2) * (width, height)
        return [np.asarray(cv2.getRotationMatrix2D((x, y), angle, 1.0)) for angle in angles]

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_frames={self.num_frames}, max_angle={self.max_angle}, '
            f'centre_range={self.centre_range})'
        )


def _warp(picture: np.ndarray, matrix: np.ndarray, interpolation: int) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=interpolation))


@TRANSFORMS.register_module()
class PackClip(PackTrackInputs):
    """mmdet's PackTrackInputs for clips and videos without boxes.

    Returns inputs (T, 3, H, W), uint8, BGR, and a TrackDataSample whose frames have gt_instances (labels, masks,
    instances_ids) and ignored_instances (crowds). Instances of a frame may have empty masks.

    Args:
        needs_target: drop a clip in which no instance has a pixel (return None, so that the data set draws another
            clip). For training only.
        meta_keys: keys of the items that frames keep.

    Raises:
        ValueError: frames of a clip differ in size.
    """

    def __init__(self, needs_target: bool = False, meta_keys: Sequence[str] = META_KEYS) -> None:
        super().__init__(default_meta_keys=tuple(meta_keys))
        self.needs_target = needs_target

    def transform(self, results: Results) -> Results | None:
        sizes = sorted({image.shape[:2] for image in results['img']})
        if len(sizes) > 1:
            raise ValueError(
                f'frames of video {results["video_id"][0]} have sizes {sizes} (height, width): a video has one size; '
                f'look at {results["img_path"][0]} and its neighbours'
            )
        if self.needs_target and not _has_target(results):
            return None
        clip = _stacked(results.pop('img'))
        packed: Results = super().transform(results)
        return {**packed, 'inputs': clip}


def _stacked(images: list[Any]) -> Tensor:
    """Stack frames (H, W, 3) to a clip (T, 3, H, W); each is freed once copied, so that memory is not doubled."""
    height, width = images[0].shape[:2]
    clip = torch.empty(len(images), 3, height, width, dtype=torch.uint8)
    for place in range(len(images)):
        clip[place] = torch.from_numpy(np.ascontiguousarray(images[place])).permute(2, 0, 1)  # flipped ones are not
        images[place] = None
    return clip


def _has_target(results: Results) -> bool:
    flags = results.get('gt_ignore_flags') or [np.zeros(len(masks), bool) for masks in results['gt_masks']]
    return any(masks.masks[~ignored].any() for masks, ignored in zip(results['gt_masks'], flags, strict=True))
