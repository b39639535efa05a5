"""VidEoMT keeps the contract of architectures, with clips in place of images, for the three tasks."""

from typing import Any

import torch
import videomt_models
from contract import NUM_QUERIES, SIDE, TINY_VIT, ArchitectureContract, Size
from mmdet.structures import TrackDataSample
from paths import ROOT
from torch import Tensor

LENGTH = 2  # frames of a clip
OPTIONS = TINY_VIT | {
    'model.backbone.img_size': SIDE,
    'model.panoptic_head.num_blocks': 1,
    'model.panoptic_head.num_queries': NUM_QUERIES,
    'model.panoptic_head.criterion.num_points': 64,
}


class TestVideoInstance(ArchitectureContract):
    config = ROOT / 'projects' / 'videomt' / 'configs' / 'videomt_tiny_500i_shapes-96.py'
    options = OPTIONS | {'model.panoptic_head.rle': False}
    task = 'instance'
    exports = False
    original = videomt_models.SIZE

    def example(self, seed: int = 0) -> tuple[Tensor, TrackDataSample]:
        return videomt_models.video(LENGTH, name=f'film{seed}', seed=seed)

    def images(self, batch: int, size: Size) -> Tensor:
        frames = super().images(batch * LENGTH, size)
        return frames.unflatten(0, (batch, LENGTH))

    def shapes(self, batch: int, size: Size, num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        classes, masks = super().shapes(batch, size, num_classes)
        return (batch, LENGTH, *classes[1:]), (batch, LENGTH, *masks[1:])

    def logits(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            predictions = model(images, mode='tensor')
        return predictions.class_logits[-1], predictions.mask_logits[-1]

    def result(self, sample: Any) -> Tensor:
        found = videomt_models.of_frames(sample, self.task)[-1]
        return found.masks if self.task == 'instance' else found.sem_seg[0]


class TestVideoPanoptic(TestVideoInstance):
    options = OPTIONS | {
        'model.panoptic_head.task': 'panoptic',
        'model.panoptic_head.num_things_classes': 2,
        'model.panoptic_head.num_stuff_classes': 2,
        'metainfo': dict(thing_classes=('turtle', 'train'), stuff_classes=('shark', 'frog')),
    }
    task = 'panoptic'


class TestVideoSemantic(TestVideoInstance):
    options = OPTIONS | {'model.panoptic_head.task': 'semantic'}
    task = 'semantic'
