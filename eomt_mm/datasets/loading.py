"""Loading transforms whose errors name the file; the one for panoptic segments is new, the others are the hosts'."""

import io
import warnings
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations as LoadDetectionAnnotations
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations as LoadSegmentationAnnotations
from PIL import Image

from eomt_mm.datasets.panoptic_png import read_panoptic_png, relabel_segments
from eomt_mm.registry import TRANSFORMS

EXIF_REMEDY = (
    'pair the right files; where the image is rotated by its EXIF tag and its annotation is not, load it with '
    "color_type='color_ignore_orientation'"
)


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's loading of an image, with one clear error for a file that is missing, damaged or truncated.

    Adds img (H, W, 3), uint8 in BGR order unless the arguments (the parent's) say otherwise, img_shape and ori_shape
    (height, width).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded completely.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError(f'file_client_args={self.file_client_args} is deprecated in mmcv: use backend_args')

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Loads ``results['img_path']``; None for a bad file if ``ignore_empty``."""
        try:
            image = self._load(results['img_path'])
        except (FileNotFoundError, ValueError):
            if self.ignore_empty:
                return None
            raise
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _load(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'image {path} does not exist: check data_root and data_prefix["img"]') from error
        try:
            _check_complete(content)
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        # Backends raise whatever their libraries do.
        except Exception as error:
            raise ValueError(f'image {path} cannot be decoded ({error}): replace or remove the file') from error
        # OpenCV answers with None, not with an error, where it cannot decode.
        if image is None:
            raise ValueError(f'image {path} ({len(content)} bytes) cannot be decoded: replace or remove the file')
        return image


def _check_complete(content: bytes) -> None:
    """Raises OSError for a truncated JPEG, whose missing rows some OpenCV versions fill with grey in silence."""
    # Costs nothing for a regular file; one whose end marker is not where it belongs may still be whole (bytes
    # appended by cameras), so it is decoded once more by a library that tells.
    if content[:2] == b'\xff\xd8' and b'\xff\xd9' not in content[-64:]:
        with Image.open(io.BytesIO(content)) as image:
            image.load()


@TRANSFORMS.register_module()
class LoadSemanticMap(LoadSegmentationAnnotations):
    """mmseg's loading of a label map, with one clear error for a file that is missing, damaged or does not fit.

    Arguments and what is added are the parent's: gt_seg_map (H, W), uint8, 255 = void. Without seg_map_path nothing is
    added.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded, has several channels, or another size than the image.
    """

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results.get('seg_map_path')
        if path is None:  # an image without ground truth, as the hosts' inferencers pass it
            return
        try:
            super()._load_seg_map(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label map {path} does not exist: check data_prefix["seg_map_path"]') from error
        # What the data set did not give, not what is wrong with the file.
        except (KeyError, AssertionError):
            raise
        except Exception as error:
            raise ValueError(f'label map {path} cannot be decoded ({error}): replace the file') from error
        shape = results['gt_seg_map'].shape
        if len(shape) != 2:
            raise ValueError(
                f'label map {path} has shape {shape}: one channel of labels is needed; where its colours stand for '
                'classes, convert it first'
            )
        _check_size(path, shape, results)


@TRANSFORMS.register_module()
class LoadPanopticSegments(BaseTransform):
    """Loads panoptic segments as one map of numbers; masks are expanded only on the way into the loss.

    Needs seg_map_path and segments_info (see `CocoPanoptic`). Adds gt_seg_map (H, W), int32, 0 = void or crowd,
    k = the k-th kept segment; gt_segment_labels (N,), int64, labels of segments 1 .. N; and gt_seg_map to seg_fields,
    so that the hosts' transforms move it along with the image (nearest neighbour). Crowds and segments without a
    pixel in the PNG are not kept; pixels whose id is not in segments_info are void.

    Args:
        backend_args: of mmengine's file backend.

    Raises:
        FileNotFoundError: the PNG does not exist.
        ValueError: the PNG cannot be decoded, is no 8-bit RGB, or has another size than the image.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Loads ``results['seg_map_path']``, if there is ground truth: the hosts' inferencers pass bare images."""
        if 'segments_info' not in results:
            return results
        kept = [segment for segment in results['segments_info'] if not segment.get('iscrowd', False)]
        ids = np.array([segment['id'] for segment in kept], dtype=np.int64)
        labels = np.array([segment['category'] for segment in kept], dtype=np.int64)
        seg_map, present = relabel_segments(self._load_ids(results), ids)
        results['gt_seg_map'] = seg_map
        results['gt_segment_labels'] = labels[present]
        fields = results.setdefault('seg_fields', [])
        if 'gt_seg_map' not in fields:
            fields.append('gt_seg_map')
        return results

    def _load_ids(self, results: dict[str, Any]) -> np.ndarray:
        size = _image_size(results)
        # An image that the json does not annotate has no PNG either, and is void throughout.
        if not results['segments_info'] and size is not None:
            return np.zeros(size, dtype=np.int32)
        path = results['seg_map_path']
        if path is None:
            raise ValueError(f'image {results.get("img_path")} has no seg_map_path: set data_prefix["seg"]')
        ids = read_panoptic_png(path, lambda name: fileio.get(name, backend_args=self.backend_args))
        _check_size(path, ids.shape, results)
        return ids

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadInstances(LoadDetectionAnnotations):
    """mmdet's loading of instances, with masks by default, without crowds, and with clear errors for bad masks.

    Arguments and what is added are the parent's (gt_bboxes, gt_bboxes_labels, gt_masks, gt_ignore_flags), without
    the instances with ignore_flag (crowds), which so never become targets, and those whose polygons all have fewer
    than 3 points, for which it warns. ``results['instances']`` stays whole for metrics.

    Raises:
        ValueError: an instance has no mask, or one that does not fit the image.
    """

    def __init__(self, with_mask: bool = True, **kwargs: Any) -> None:
        super().__init__(with_mask=with_mask, **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Loads ``results['instances']``."""
        instances = results.get('instances', [])
        kept = [instance for instance in instances if not instance.get('ignore_flag', 0)]
        if self.with_mask:
            path, size = results.get('img_path'), tuple(results['ori_shape'])
            kept = [instance for instance in kept if _has_mask(instance.get('mask'), size, path)]
        loaded = super().transform({**results, 'instances': kept})
        loaded['instances'] = instances
        return loaded

    def _load_masks(self, results: dict[str, Any]) -> None:
        try:
            super()._load_masks(results)
        # pycocotools raises several types, without a word about whose mask it is.
        except Exception as error:
            path = results.get('img_path')
            raise ValueError(f'a mask of {path} cannot be decoded ({error}): mend the annotation file') from error


def _has_mask(mask: Any, size: tuple[int, ...], path: str | None) -> bool:
    """Whether an instance can have a pixel; raises ValueError where its mask is missing or of another image."""
    if not mask:
        raise ValueError(f'an instance of {path} has no mask: give a json with "segmentation", or with_mask=False')
    if isinstance(mask, dict):
        counts = mask.get('counts')
        pixels = sum(counts) if isinstance(counts, list) else size[0] * size[1]
        if counts is None or tuple(mask.get('size', ())) != size or pixels != size[0] * size[1]:
            raise ValueError(
                f'a run-length mask of {path} has size {mask.get("size")}, the image {size} (height, width): '
                f'{EXIF_REMEDY}'
            )
        return True
    if any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
        return True
    warnings.warn(f'{path}: an instance is left out, its polygons have fewer than 3 points: {mask}', stacklevel=2)
    return False


def _image_size(results: dict[str, Any]) -> tuple[int, int] | None:
    """Size (height, width) of the image before any resizing, None where unknown."""
    if 'ori_shape' in results:
        return tuple(results['ori_shape'][:2])
    if 'height' in results and 'width' in results:
        return results['height'], results['width']
    return None


def _check_size(path: str, shape: tuple[int, ...], results: dict[str, Any]) -> None:
    size = _image_size(results)
    if size is not None and tuple(shape) != size:
        raise ValueError(
            f'annotation {path} is {tuple(shape)}, its image {results.get("img_path")} {size} (height, width): '
            f'{EXIF_REMEDY}'
        )
