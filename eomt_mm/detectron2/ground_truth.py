"""Read images and ground truth of detectron2's data set dicts; crop and flip the ground truth with the image.

Beside detectron2's standard keys, dicts of our own data sets (`data_sets`) may have:

- ``label_ids``: value of each class in the label map; other values are void. ``reduce_zero_label``: value 0 is void.
- ``instance_map_file_name``: path in ADE20K's annotations_instance, with ``sem_seg_file_name`` its label map.
- ``instance_ids_file_name``: path of Cityscapes' instanceIds.
- ``category_ids``: of each label, for the two formats above.
- ``ann_file``: annotation file that states height and width.
"""

import io
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from eomt_mm.annotations.ade20k import explain_ade20k, read_ade20k_codes
from eomt_mm.annotations.cityscapes import explain_cityscapes, read_cityscapes_codes
from eomt_mm.annotations.label_values import VOID, label_table, labels_of, one_channel
from eomt_mm.annotations.masks import decode, normalise
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.annotations.segments import (
    MapSegment,
    NumberedSegments,
    Size,
    check_same_size,
    coded_segments,
    number_segments,
    read_local,
)
from eomt_mm.core.augment import NearestCrop
from eomt_mm.core.targets import Target, check_labels, segments_target, semantic_target
from eomt_mm.fileio.images import decode_image
from eomt_mm.fileio.pixels import file_pixels, to_8_bits

Item = dict[str, Any]  # a data set dict
TASKS = ('panoptic', 'instance', 'semantic')


class GroundTruth(Protocol):
    """Ground truth of an image, in one of the forms below."""

    def crop(self, window: NearestCrop) -> 'GroundTruth':
        """Resize and crop with the image."""

    def flip(self) -> 'GroundTruth':
        """Flip horizontally."""

    def has_target(self) -> bool:
        """Whether there is anything to train on."""

    def target(self, num_classes: int, source: str) -> Target:
        """Return labels (N,), int64, and masks (N, H, W), bool; raises ValueError for labels outside the classes."""


class LabelMap(NamedTuple):
    """Ground truth of semantic segmentation: ``labels`` (H, W), uint8, 255 = void."""

    labels: np.ndarray

    def crop(self, window: NearestCrop) -> 'LabelMap':
        """Resize and crop; outside the image is void."""
        return LabelMap(window.crop(self.labels, VOID))

    def flip(self) -> 'LabelMap':
        """Flip horizontally."""
        return LabelMap(self.labels[:, ::-1])

    def has_target(self) -> bool:
        """Whether a pixel is not void."""
        return bool((self.labels != VOID).any())

    def target(self, num_classes: int, source: str) -> Target:
        """Return labels (N,) and masks (N, H, W); see `semantic_target`."""
        return semantic_target(torch.from_numpy(np.ascontiguousarray(self.labels)), num_classes, VOID, source)


class SegmentMap(NamedTuple):
    """Ground truth without overlaps: ``ids`` (H, W), int32, 0 = void, segment k has label ``labels[k - 1]``."""

    ids: np.ndarray
    labels: np.ndarray

    def crop(self, window: NearestCrop) -> 'SegmentMap':
        """Resize and crop; outside the image is void."""
        return SegmentMap(window.crop(self.ids, 0), self.labels)

    def flip(self) -> 'SegmentMap':
        """Flip horizontally."""
        return SegmentMap(self.ids[:, ::-1], self.labels)

    def has_target(self) -> bool:
        """Whether a pixel belongs to a segment."""
        return bool(self.ids.any())

    def target(self, num_classes: int, source: str) -> Target:
        """Return labels (N,) and masks (N, H, W); see `segments_target`."""
        ids, labels = torch.from_numpy(np.ascontiguousarray(self.ids)), torch.from_numpy(self.labels)
        return segments_target(ids, labels, num_classes, source)


class Masks(NamedTuple):
    """Ground truth of instances that may overlap: ``masks`` (N, H, W), uint8, and ``labels`` (N,), int64."""

    masks: np.ndarray
    labels: np.ndarray

    def crop(self, window: NearestCrop) -> 'Masks':
        """Resize and crop; drop instances without a pixel in the crop."""
        masks = window.crop(self.masks, 0)
        kept = masks.any((1, 2))
        return Masks(masks[kept], self.labels[kept])

    def flip(self) -> 'Masks':
        """Flip horizontally."""
        return Masks(self.masks[..., ::-1], self.labels)

    def has_target(self) -> bool:
        """Whether there is an instance."""
        return len(self.labels) > 0

    def target(self, num_classes: int, source: str) -> Target:
        """Return labels (N,) and masks (N, H, W)."""
        labels = torch.from_numpy(self.labels)
        check_labels(labels, num_classes, source)
        return dict(labels=labels, masks=torch.from_numpy(np.ascontiguousarray(self.masks)).bool())


def read_image(item: Item) -> np.ndarray:
    """Read the image of a dict, (H, W, 3), uint8, BGR, rotated by its EXIF tag.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be decoded completely, has too many pixels, has more than 8 bits per channel (unless
            the environment variable EOMT_MM_IMAGE_BITS is set), or differs in size from what the dict states.
    """
    path = item['file_name']
    try:
        content = read_local(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'image {path} does not exist: check the data set') from error
    name = f'image {path}'
    image = to_8_bits(decode_image(content, name, file_pixels), name)
    if 'height' in item and 'width' in item:
        stated = item['height'], item['width']
        where = item.get('ann_file', 'the data set')
        check_same_size(f'of {path} in {where}', stated, (image.shape[0], image.shape[1]), path)
    return image


def read_ground_truth(item: Item, task: str, size: Size) -> GroundTruth:
    """Read the ground truth of a dict for training: crowds are void.

    Args:
        item: data set dict.
        task: one of `TASKS`.
        size: (height, width) of the image.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the dict has no ground truth for the task, or a file is damaged or of another size than the image.
    """
    if task == 'semantic' and 'sem_seg_file_name' in item:
        return LabelMap(read_label_map(item, size))
    if has_segments(item) and ('annotations' not in item or task == 'panoptic'):
        found = read_segments(item, size, with_crowds=False)
        return SegmentMap(found.ids, found.labels)
    if task == 'instance' and 'annotations' in item:
        return read_masks(item, size)
    raise ValueError(
        f'image {item["file_name"]} has no ground truth for task={task!r}: its data set dict has {sorted(item)}; '
        f'register the data with eomt_mm.detectron2.data_sets, or in the standard format of detectron2'
    )


def has_segments(item: Item) -> bool:
    """Whether a dict has segments without overlaps, for `read_segments`."""
    return not {'pan_seg_file_name', 'instance_map_file_name', 'instance_ids_file_name'}.isdisjoint(item)


def read_segments(item: Item, size: Size | None, with_crowds: bool) -> NumberedSegments:
    """Read the segments of an image from a panoptic PNG or the official files of ADE20K or Cityscapes.

    Args:
        item: data set dict.
        size: (height, width) of the image; None: unknown.
        with_crowds: keep crowds; otherwise they are void.

    Raises:
        FileNotFoundError, ValueError: see `read_ground_truth`.
    """
    image = item['file_name']
    if 'pan_seg_file_name' in item:
        return _listed_segments(item, size, with_crowds)
    if 'instance_map_file_name' in item:
        paths = item['sem_seg_file_name'], item['instance_map_file_name']
        codes = read_ade20k_codes(*paths, item['category_ids'], size, image)
        return number_segments(codes, coded_segments(codes, item['category_ids'], explain_ade20k), with_crowds)
    codes = read_cityscapes_codes(item['instance_ids_file_name'], size, image)
    return number_segments(codes, coded_segments(codes, item['category_ids'], explain_cityscapes), with_crowds)


def _listed_segments(item: Item, size: Size | None, with_crowds: bool) -> NumberedSegments:
    path, listed = item['pan_seg_file_name'], item['segments_info']
    segments = [MapSegment(one['id'], one['category_id'], bool(one.get('iscrowd', False))) for one in listed]
    if not listed and size is not None:  # an image without an annotation has no PNG either, and is entirely void
        ids = np.zeros(size, np.int32)
    else:
        ids = read_panoptic_png(path)
        check_same_size(path, ids.shape, size, item['file_name'])
    return number_segments(ids, segments, with_crowds, path)


def read_label_map(item: Item, size: Size | None = None) -> np.ndarray:
    """Read the label map of a dict, (H, W), uint8, 255 = void.

    Args:
        item: data set dict.
        size: (height, width) of the image; None: unknown.

    Raises:
        FileNotFoundError, ValueError: see `read_ground_truth`.
    """
    path = item['sem_seg_file_name']
    try:
        content = read_local(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'label map {path} does not exist: check data_prefix["seg_map_path"]') from error
    values = one_channel(decode_image(content, f'label map {path}', _decode_values), path, content)
    check_same_size(path, values.shape, size, item['file_name'])
    label_ids = item.get('label_ids')
    return labels_of(values, label_ids and label_table(label_ids), path, item.get('reduce_zero_label', False))


def _decode_values(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


def read_masks(item: Item, size: Size) -> Masks:
    """Decode the masks of a dict's annotations, except crowds; masks without an outline are dropped."""
    image = item['file_name']
    masks, labels = [], []
    for annotation in item['annotations']:
        if annotation.get('iscrowd', 0):
            continue
        given = annotation.get('segmentation')
        if not given:
            raise ValueError(f'an instance of {image} has no mask: give a json with "segmentation"')
        mask = normalise(given, size, f'an instance of {image}')
        if mask is not None:
            masks.append(decode(mask, size))
            labels.append(annotation['category_id'])
    return Masks(np.array(masks, np.uint8).reshape(-1, *size), np.array(labels, np.int64))
