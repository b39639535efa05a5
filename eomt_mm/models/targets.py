"""Ground truth of mmseg and mmdet samples as targets: labels (N,) int64 and masks (N, H, W) bool, void left out."""

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample
from torch import Tensor

Target = dict[str, Tensor]
Size = tuple[int, int]


def semantic_target(label_map: Tensor, num_classes: int, ignore_index: int = 255, source: str = '') -> Target:
    """One target per class in a label map.

    Args:
        label_map: (H, W), class indices.
        num_classes: number of classes.
        ignore_index: value of void pixels, which belong to no mask.
        source: file to name in errors.

    Raises:
        ValueError: for a label outside the classes.
    """
    labels = label_map.unique()
    labels = labels[labels != ignore_index].long()
    check_labels(labels, num_classes, source)
    return dict(labels=labels, masks=label_map == labels[:, None, None])


def segments_target(id_map: Tensor, labels: Tensor, num_classes: int, source: str = '') -> Target:
    """One target per segment of an id map: id k is the segment with label ``labels[k - 1]``; 0 is void.

    Args:
        id_map: (H, W).
        labels: (N,); segments without a pixel in the map give no target.
        num_classes: number of classes.
        source: file to name in errors.

    Raises:
        ValueError: for a label outside the classes, or an id without a label.
    """
    ids = id_map.unique()
    ids = ids[ids > 0].long()
    check_labels(labels, num_classes, source)
    unlabelled = ids[ids > len(labels)].tolist()
    if unlabelled:
        raise ValueError(
            f'ground truth{f" of {source}" if source else ""} holds segment(s) {unlabelled} with {len(labels)} '
            f'label(s): id k takes label k - 1, so a transform that drops instances must keep their labels or '
            f'renumber the map'
        )
    return dict(labels=labels[ids - 1].long(), masks=id_map == ids[:, None, None])


def check_labels(labels: Tensor, num_classes: int, source: str) -> None:
    """Raises ValueError where a label is outside [0, num_classes)."""
    outside = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
    if outside:
        raise ValueError(
            f'ground truth{f" of {source}" if source else ""} holds label(s) {outside}, outside the {num_classes} '
            f'classes 0..{num_classes - 1} of the head: check num_classes, the classes of the data set, '
            f'reduce_zero_label and the ignore index'
        )


def with_valid(target: Target) -> Target:
    """Adds ``valid`` (H, W) bool: the pixels of some target, for ground truth that gives every known pixel to one."""
    return dict(target, valid=target['masks'].any(0))


def pad_masks(target: Target, size: Size) -> Target:
    """Pads masks at the bottom and the right to the input's ``size``; padded pixels belong to no mask.

    Raises:
        ValueError: where the masks are larger.
    """
    h, w = target['masks'].shape[-2:]
    if (h, w) == tuple(size):
        return target
    if h > size[0] or w > size[1]:
        raise ValueError(
            f'ground truth of {h} x {w} pixels does not fit the input of {size[0]} x {size[1]}: image and ground truth '
            f'must go through the same resizing and cropping'
        )
    return dict(target, masks=F.pad(target['masks'], (0, size[1] - w, 0, size[0] - h)))


def seg_sample_target(sample: SegDataSample, num_classes: int, size: Size, ignore_index: int = 255) -> Target:
    """Target of an mmseg sample with ``gt_sem_seg`` (1, H, W)."""
    if 'gt_sem_seg' not in sample:
        raise ValueError(missing_annotation(sample, 'a label map (gt_sem_seg)'))
    label_map = sample.gt_sem_seg.data[0]
    return pad_masks(semantic_target(label_map, num_classes, ignore_index, source_of(sample)), size)


def det_sample_target(sample: DetDataSample, num_things: int, num_classes: int, size: Size) -> Target:
    """Target of an mmdet sample.

    Segments that cannot overlap come as one id map (``gt_panoptic_seg.segment_ids`` (1, H, W), labels in
    ``gt_instances.labels``) and are expanded here. Otherwise instances come as masks (mmdet's own pipelines: crowds
    are in ``ignored_instances`` and never seen here), and stuff as ``gt_sem_seg`` (1, H, W) with labels from
    ``num_things`` on.
    """
    source = source_of(sample)
    instances = sample.gt_instances
    if 'gt_panoptic_seg' in sample:
        id_map = sample.gt_panoptic_seg.segment_ids[0]
        return pad_masks(segments_target(id_map, instances.labels, num_classes, source), size)
    if 'masks' not in instances:
        raise ValueError(missing_annotation(sample, 'segments (gt_panoptic_seg) or masks (gt_instances.masks)'))
    labels, masks = instances.labels, instances.masks
    check_labels(labels, num_classes, source)
    if not isinstance(masks, Tensor):
        masks = masks.to_tensor(torch.bool, labels.device)
    target = pad_masks(dict(labels=labels.long(), masks=masks.bool()), size)
    if num_classes > num_things and 'gt_sem_seg' in sample:
        label_map = sample.gt_sem_seg.sem_seg[0]
        # mmdet's maps hold things as well
        stuff = torch.where(label_map >= num_things, label_map, 255)
        stuff_target = pad_masks(semantic_target(stuff, num_classes, source=source), size)
        target = {key: torch.cat([target[key], stuff_target[key]]) for key in target}
    return target


def num_seg_targets(sample: SegDataSample, ignore_index: int = 255) -> int:
    """Number of targets that :func:`seg_sample_target` will make; 0 where the sample is refused there."""
    return num_values(sample.gt_sem_seg.data, skip=ignore_index) if 'gt_sem_seg' in sample else 0


def num_det_targets(sample: DetDataSample, num_things: int, num_classes: int) -> int:
    """Number of targets that :func:`det_sample_target` will make; 0 where the sample is refused there."""
    if 'gt_panoptic_seg' in sample:
        return num_values(sample.gt_panoptic_seg.segment_ids.clamp(min=0), skip=0)
    num = len(sample.gt_instances.labels) if 'labels' in sample.gt_instances else 0
    if num_classes > num_things and 'gt_sem_seg' in sample:
        label_map = sample.gt_sem_seg.sem_seg
        num += num_values(torch.where(label_map >= num_things, label_map, 255), skip=255)
    return num


def num_values(values: Tensor, skip: int) -> int:
    """Number of different values from -1 on but ``skip``; a map of a megapixel takes a millisecond or two."""
    counts = torch.bincount(values.flatten().int().clamp(min=-1) + 1)
    counts[skip + 1 : skip + 2] = 0
    return int(counts.count_nonzero())


def missing_annotation(sample: SegDataSample | DetDataSample, what: str) -> str:
    """Message for a training sample without ground truth."""
    return (
        f'training sample {source_of(sample)} has no {what}: give the data set its annotations (ann_file, '
        f'data_prefix) and the training pipeline a transform that loads them'
    )


def source_of(sample: SegDataSample | DetDataSample) -> str:
    """The file that a sample came from, for messages."""
    return sample.get('img_path', '') or ''
