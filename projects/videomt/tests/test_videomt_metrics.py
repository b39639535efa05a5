"""Metrics on generated videos in the official formats, read as in testing: the truth as prediction is perfect."""

import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videomt.datasets  # noqa: F401  registers
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from videomt.datasets import generate
from videomt.metrics.mvc import VideoConsistency
from videomt.metrics.stq import SegmentationTrackingQuality
from videomt.metrics.video_metric import VideoMetric
from videomt.metrics.vis_ap import VideoInstanceAP
from videomt.metrics.vpq import VideoPanopticQuality

from eomt_mm.registry import DATASETS

FILES = {
    'youtube_vis': dict(type='YouTubeVIS2019', ann_file='train.json', data_prefix=dict(img='train/JPEGImages')),
    'ovis': dict(type='OVIS', ann_file='annotations/annotations_train.json', data_prefix=dict(img='train')),
    'vipseg': dict(
        type='VIPSeg',
        ann_file='panoptic_gt_VIPSeg_train.json',
        data_prefix=dict(img='images', seg='panomasksRGB'),
    ),
    'vspw': dict(type='VSPW', ann_file='train.txt', data_prefix=dict(img='data')),
}
NUMBERS: dict[int, int] = defaultdict(itertools.count(1).__next__)  # of ids, which VIPSeg has up to 2^24
LOADERS = {'vipseg': 'LoadVIPSegTracks', 'vspw': 'LoadVSPWTracks'}


def data_set(name: str, folder: Path) -> Any:
    root = generate.WRITERS[name](folder, num_videos=2, num_frames=4, size=(48, 64))
    inner = [dict(type='eomt_mm.LoadImage'), dict(type=f'eomt_mm.{LOADERS.get(name, "LoadTracks")}')]
    pipeline = [dict(type='TransformBroadcaster', transforms=inner), dict(type='eomt_mm.PackClip')]
    return DATASETS.build(dict(FILES[name], data_root=str(root), test_mode=True, pipeline=pipeline))


def as_tracks(frame: DetDataSample, num_classes: int) -> None:
    truth = frame.gt_instances
    frame.pred_track_instances = InstanceData(
        instances_id=truth.instances_ids,
        labels=truth.labels,
        scores=torch.ones(len(truth.labels)),
        masks=torch.from_numpy(truth.masks.to_ndarray().astype(bool)),
    )


def as_map(frame: DetDataSample, num_classes: int, with_ids: bool = True) -> torch.Tensor:
    truth = frame.gt_instances
    found = np.full(frame.ori_shape[:2], num_classes, np.int32)
    for id_, label, mask in zip(truth.instances_ids.tolist(), truth.labels.tolist(), truth.masks.masks, strict=True):
        found[mask.astype(bool)] = label + 1000 * NUMBERS[id_] * with_ids
    return torch.from_numpy(found)[None]


def as_panoptic(frame: DetDataSample, num_classes: int) -> None:
    frame.pred_panoptic_seg = PixelData(sem_seg=as_map(frame, num_classes))


def as_semantic(frame: DetDataSample, num_classes: int) -> None:
    labels = as_map(frame, num_classes, with_ids=False)
    frame.pred_sem_seg = PixelData(sem_seg=torch.where(labels == num_classes, 0, labels))


@pytest.mark.parametrize(
    ('name', 'metric', 'predict', 'key'),
    [
        ('youtube_vis', VideoInstanceAP(), as_tracks, 'vis/AP'),
        ('ovis', VideoInstanceAP(), as_tracks, 'vis/AP'),
        ('vipseg', VideoPanopticQuality(tube_lengths=(1, 4)), as_panoptic, 'vps/VPQ'),
        ('vipseg', SegmentationTrackingQuality(), as_panoptic, 'vps/STQ'),
        ('vspw', VideoConsistency(clip_lengths=(2, 4)), as_semantic, 'vss/mIoU'),
    ],
)
def test_truth_is_perfect(
    name: str, metric: VideoMetric, predict: Callable[[DetDataSample, int], None], key: str, tmp_path: Path
) -> None:
    data = data_set(name, tmp_path / name)
    metric.dataset_meta = data.metainfo
    for video in data:
        frames = video['data_samples'].video_data_samples
        for frame in frames:
            predict(frame, len(data.metainfo['classes']))
        metric.process(None, [video['data_samples'].to_dict()])
    assert metric.evaluate(len(data))[key] == pytest.approx(100)
