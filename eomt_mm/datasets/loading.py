"""Load images, label maps, instances and panoptic segments as the hosts do, with errors that name the file."""

import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.image.io import imread_flags
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations as LoadDetectionAnnotations
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations as LoadSegmentationAnnotations

from eomt_mm.annotations.label_values import VOID, label_table, labels_of, one_channel
from eomt_mm.annotations.masks import RLE, Rings, normalise, to_rle
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.annotations.segments import MapSegment
from eomt_mm.datasets.segment_maps import check_size, image_size, store_segments
from eomt_mm.fileio.image_headers import bits_per_channel
from eomt_mm.fileio.images import decode_image
from eomt_mm.fileio.pixels import check_bits, file_pixels, to_8_bits
from eomt_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Load an image as mmcv does, with a clear error for a file that is missing, damaged, truncated or too large.

    Adds img (H, W, 3), uint8 in BGR order unless the parent's arguments change that, and img_shape and ori_shape
    (height, width). Items of our data sets with an annotation file (ann_file, height, width) must have the size that
    it states.

    Args:
        max_pixels: largest allowed number of pixels of an image; None: the environment variable EOMT_MM_MAX_PIXELS, or
            120 million.
        bits: number N of bits in use in files with more than 8 bits per channel: values from 0 to 2 ** N - 1 are scaled
            to 0 .. 255. None: the environment variable EOMT_MM_IMAGE_BITS; if it is not set, such files are rejected.
        args, kwargs: arguments of the parent.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be decoded completely, has more than ``max_pixels``, has more than 8 bits per
            channel without ``bits``, or differs in size from what its annotation file states.
    """

    def __init__(self, *args: Any, max_pixels: int | None = None, bits: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bits = None if bits is None else check_bits(bits, 'bits')
        if self.file_client_args is not None:
            raise ValueError(f'file_client_args={self.file_client_args} is deprecated in mmcv: use backend_args')
        self.max_pixels = max_pixels

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load ``results['img_path']``; return None for an unreadable file if ``ignore_empty`` is set."""
        try:
            image = self._load(results['img_path'])
        except (FileNotFoundError, ValueError):
            if self.ignore_empty:
                return None
            raise
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        if 'ann_file' in results and 'height' in results:
            stated = results['height'], results['width']
            check_size(f'of {results["img_path"]} in {results["ann_file"]}', stated, results)
        return results

    def _load(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'image {path} does not exist: check data_root and data_prefix["img"]') from error
        pixels = decode_image(content, f'image {path}', self._decode, self.max_pixels, 'replace or remove the file')
        return to_8_bits(pixels, f'image {path}', self.bits)

    def _decode(self, content: bytes) -> np.ndarray | None:
        if self.color_type == 'color' and self.imdecode_backend == 'cv2':
            return file_pixels(content)
        if bits_per_channel(content) > 8:  # by default, OpenCV drops the lower bits and Pillow clips at 255
            flag = imread_flags[self.color_type]
            return cv2.imdecode(np.frombuffer(content, np.uint8), flag if flag < 0 else flag | cv2.IMREAD_ANYDEPTH)
        return mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, max_pixels={self.max_pixels}, bits={self.bits})'


@TRANSFORMS.register_module()
class LoadSemanticMap(LoadSegmentationAnnotations):
    """Load a label map as mmseg does, with a clear error for a file that is missing, damaged or of the wrong size.

    Adds gt_seg_map (H, W), uint8, 255 = void. Without seg_map_path nothing is added. Maps may have 8 or 16 bits.

    Args:
        label_ids: value that each class has in the files, in the order of the data set's full list of classes (before
            ``metainfo`` selects a subset); all other values are void. None: values are labels.
        max_pixels: see :class:`LoadImage`.
        kwargs: arguments of the parent. ``reduce_zero_label``, here or in the data set, cannot be combined with
            ``label_ids``: omit 0 from ``label_ids`` instead.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded, is too large, has several channels, differs from the image in size or,
            without ``label_ids``, has values above 255; or the arguments contradict each other or the data set.
    """

    def __init__(self, label_ids: Sequence[int] | None = None, max_pixels: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_pixels = max_pixels
        self.label_ids = None if label_ids is None else tuple(label_ids)
        self._table = None if self.label_ids is None else label_table(self.label_ids)

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results.get('seg_map_path')
        if path is None:  # no ground truth: the hosts' inferencers pass such images
            return
        values = self._read(path)
        check_size(path, values.shape, results)
        labels = labels_of(values, self._table, path, self._reduces(results))
        if results.get('label_map') is not None:
            chosen = np.arange(VOID + 1, dtype=np.uint8)
            for old, new in results['label_map'].items():
                chosen[old] = new
            labels = chosen[labels]
        results['gt_seg_map'] = labels
        results.setdefault('seg_fields', []).append('gt_seg_map')

    def _read(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label map {path} does not exist: check data_prefix["seg_map_path"]') from error
        values = decode_image(content, f'label map {path}', self._decode, self.max_pixels)
        return one_channel(values, path, content)

    def _decode(self, content: bytes) -> np.ndarray | None:
        return mmcv.imfrombytes(content, flag='unchanged', backend=self.imdecode_backend)

    def _reduces(self, results: dict[str, Any]) -> bool:
        reduces: bool = results['reduce_zero_label']
        if self.reduce_zero_label not in (None, reduces):
            raise ValueError(
                f'reduce_zero_label={reduces} in the data set, {self.reduce_zero_label} in LoadSemanticMap: state it '
                'in the data set only'
            )
        if reduces and self.label_ids is not None:
            raise ValueError(
                'reduce_zero_label=True in the data set, and label_ids in LoadSemanticMap: both say what a value '
                'means. Set reduce_zero_label=False in the data set and leave 0 out of label_ids, or drop label_ids'
            )
        return reduces

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, label_ids={self.label_ids}, max_pixels={self.max_pixels})'


@TRANSFORMS.register_module()
class LoadPanopticSegments(BaseTransform):
    """Load panoptic segments as one map of segment numbers; masks are expanded only for the loss.

    Needs seg_map_path and segments_info (see `CocoPanoptic`). Adds gt_seg_map (H, W), int32, 0 = void,
    k = the k-th kept segment; and gt_segment_labels (N,), int64, labels of segments 1 .. N. Adds gt_seg_map to
    seg_fields, so that the transforms of mmdet and mmseg resize and crop it with the image (nearest neighbour).
    Segments without a pixel in the PNG are dropped with a warning; pixels whose id is not in segments_info are void.
    Crowds are void; ``with_crowds`` keeps them as segments N + 1 .. N + M, with gt_crowd_labels (M,), int64.

    Args:
        with_crowds: keep crowds, for test pipelines whose metric reads the ground truth from the samples; not for
            training.
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: the PNG does not exist.
        ValueError: the PNG cannot be decoded, is not 8-bit RGB, differs in size from the image, or contains none of the
            segments.
    """

    def __init__(self, with_crowds: bool = False, backend_args: dict | None = None) -> None:
        self.with_crowds = with_crowds
        self.backend_args = backend_args

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load ``results['seg_map_path']`` if there is ground truth; the hosts' inferencers pass images without it."""
        if 'segments_info' not in results:
            return results
        segments = [
            MapSegment(segment['id'], segment['category'], bool(segment.get('iscrowd', False)))
            for segment in results['segments_info']
        ]
        store_segments(results, self._load_ids(results), segments, self.with_crowds, results.get('seg_map_path'))
        return results

    def _load_ids(self, results: dict[str, Any]) -> np.ndarray:
        size = image_size(results)
        # An image without an annotation in the JSON has no PNG either, and is entirely void.
        if not results['segments_info'] and size is not None:
            return np.zeros(size, dtype=np.int32)
        path = results['seg_map_path']
        if path is None:
            raise ValueError(f'image {results.get("img_path")} has no seg_map_path: set data_prefix["seg"]')
        ids = read_panoptic_png(path, lambda name: fileio.get(name, backend_args=self.backend_args))
        check_size(path, ids.shape, results)
        return ids

    def __repr__(self) -> str:
        return f'{type(self).__name__}(with_crowds={self.with_crowds}, backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadInstances(LoadDetectionAnnotations):
    """Load instances as mmdet does, with masks by default, without crowds, and with clear errors for bad masks.

    Arguments and added keys (gt_bboxes, gt_bboxes_labels, gt_masks, gt_ignore_flags) are the parent's. Instances with
    ignore_flag (crowds) are dropped, so they never become targets. Instances whose polygons all have fewer than 3
    points are dropped with a warning. ``results['instances']`` is unchanged, for metrics.

    Raises:
        ValueError: an instance has no mask, or a mask that does not fit the image.
    """

    def __init__(self, with_mask: bool = True, **kwargs: Any) -> None:
        super().__init__(with_mask=with_mask, **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load ``results['instances']``."""
        instances = results.get('instances', [])
        kept = [instance for instance in instances if not instance.get('ignore_flag', 0)]
        if self.with_mask:
            kept = [{**instance, 'mask': mask} for instance in kept if (mask := self._mask(instance, results))]
        loaded = super().transform({**results, 'instances': kept})
        loaded['instances'] = instances
        return loaded

    def _mask(self, instance: dict[str, Any], results: dict[str, Any]) -> Rings | RLE | None:
        """Check and return the mask of an instance; None if it has no outline."""
        path, (height, width) = results.get('img_path'), results['ori_shape']
        given = instance.get('mask')
        if not given:
            raise ValueError(f'an instance of {path} has no mask: give a json with "segmentation", or with_mask=False')
        mask = normalise(given, (height, width), f'an instance of {path}')
        if mask is None:
            text = f'{path}: an instance is left out, its polygons have fewer than 3 points: {given}'
            warnings.warn(text, stacklevel=2)
            return None
        return to_rle(mask, (height, width)) if self.poly2mask else mask
