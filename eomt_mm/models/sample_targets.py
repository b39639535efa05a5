"""Convert the ground truth of mmseg and mmdet samples to training targets."""

import torch
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.core.geometry import Size
from eomt_mm.core.targets import Target, check_labels, num_values, pad_masks, segments_target, semantic_target


def seg_sample_target(sample: SegDataSample, num_classes: int, size: Size, ignore_index: int = 255) -> Target:
    """Return the target of an mmseg sample with ``gt_sem_seg`` (1, H, W)."""
    if 'gt_sem_seg' not in sample:
        raise ValueError(missing_annotation(sample, 'a label map (gt_sem_seg)'))
    label_map = sample.gt_sem_seg.data[0]
    return pad_masks(semantic_target(label_map, num_classes, ignore_index, source_of(sample)), size)


def det_sample_target(sample: DetDataSample, num_things: int, num_classes: int, size: Size) -> Target:
    """Return the target of an mmdet sample.

    The sample has one of two forms. Non-overlapping segments are given as one id map
    (``gt_panoptic_seg.segment_ids`` (1, H, W), labels in ``gt_instances.labels``). In mmdet's own pipelines, instances
    are given as masks and stuff as ``gt_sem_seg`` (1, H, W) with labels from ``num_things`` on. Their crowds are in
    ``ignored_instances``, which is not used.
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
        # mmdet's maps also contain things
        stuff = torch.where(label_map >= num_things, label_map, 255)
        stuff_target = pad_masks(semantic_target(stuff, num_classes, source=source), size)
        target = {key: torch.cat([target[key], stuff_target[key]]) for key in target}
    return target


def num_seg_targets(sample: SegDataSample, ignore_index: int = 255) -> int:
    """Return the number of targets of :func:`seg_sample_target`; 0 for samples that it refuses."""
    return num_values(sample.gt_sem_seg.data, skip=ignore_index) if 'gt_sem_seg' in sample else 0


def num_det_targets(sample: DetDataSample, num_things: int, num_classes: int) -> int:
    """Return the number of targets of :func:`det_sample_target`; 0 for samples that it refuses."""
    if 'gt_panoptic_seg' in sample:
        return num_values(sample.gt_panoptic_seg.segment_ids.clamp(min=0), skip=0)
    num = len(sample.gt_instances.labels) if 'labels' in sample.gt_instances else 0
    if num_classes > num_things and 'gt_sem_seg' in sample:
        label_map = sample.gt_sem_seg.sem_seg
        num += num_values(torch.where(label_map >= num_things, label_map, 255), skip=255)
    return num


def missing_annotation(sample: SegDataSample | DetDataSample, what: str) -> str:
    """Return the error message for a training sample without ground truth."""
    return (
        f'training sample {source_of(sample)} has no {what}: set the annotations of the data set (ann_file, '
        f'data_prefix), and add a transform that loads them to the training pipeline'
    )


def source_of(sample: SegDataSample | DetDataSample) -> str:
    """Return the image file of a sample and its label map, for messages."""
    return ', label map '.join(filter(None, (sample.get('img_path'), sample.get('seg_map_path'))))
