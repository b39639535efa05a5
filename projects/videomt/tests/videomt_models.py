"""Tiny VidEoMT models as mmdet builds them, and videos as its loaders give them, for the tests of projects/videomt."""

from typing import Any

import numpy as np
import torch
import videomt  # noqa: F401  registers
from mmdet.structures import TrackDataSample
from mmengine.optim import OptimWrapper
from torch import Tensor
from videomt_samples import Instance, true_frame

from eomt_mm.registry import MODELS

Video = tuple[Tensor, TrackDataSample]
SIZE = (40, 50)  # not of the network's input: 64 x 64
BACKBONE = dict(
    type='eomt_mm.TimmViT', model_name='vit_small_patch14_reg4_dinov2', img_size=64, embed_dim=32, depth=4, num_heads=2
)
HEAD = dict(
    type='eomt_mm.VidEoMTHostHead', task='instance', num_things_classes=3, num_queries=6, num_blocks=2,
    criterion=dict(num_points=50),
)  # fmt: skip


def build(
    window_size: int = 1,
    data_preprocessor: dict[str, Any] | None = None,
    backbone: dict[str, Any] | None = None,
    perturbation: float = 0.2,
    **head: Any,
) -> Any:
    """A tiny model with random weights, the same each time; with a perturbation every one is off its initial value."""
    torch.manual_seed(0)
    cfg = dict(
        type='eomt_mm.VidEoMTDetector',
        backbone=BACKBONE | (backbone or {}),
        panoptic_head=HEAD | head,
        window_size=window_size,
    )
    if data_preprocessor is not None:
        cfg['data_preprocessor'] = dict(type='eomt_mm.VidEoMTDataPreprocessor', **data_preprocessor)
    model = MODELS.build(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(perturbation * torch.randn_like(parameter))
    return model


def video(
    length: int = 3,
    size: tuple[int, int] = SIZE,
    name: str = 'film',
    seed: int = 0,
    empty: bool = False,
) -> Video:
    """Frames and sample as ``PackClip`` gives them: two instances, the second from frame 1 on."""
    frames = torch.randint(256, (length, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    samples = []
    for t in range(length):
        left, right = (np.zeros(size, bool) for _ in range(2))
        left[5 + t : 20, :10], right[:, -12:] = True, True
        truth: list[Instance] = [] if empty else [(4, 1, left), (9, 2, right)][: 1 + (t > 0)]
        sample = true_frame(name, t, size, truth)
        sample.set_metainfo(dict(img_shape=size, video_length=length))
        samples.append(sample)
    return frames, TrackDataSample(video_data_samples=samples)


def batch(*videos: Video) -> dict[str, Any]:
    frames, samples = zip(*videos, strict=True)
    return dict(inputs=list(frames), data_samples=list(samples))


def part(whole: Video, frames: slice) -> Video:
    """Some frames of a video, as data sets give them that are read frame by frame."""
    return whole[0][frames], TrackDataSample(video_data_samples=whole[1].video_data_samples[frames])


def of_frames(sample: TrackDataSample, task: str = 'instance') -> list[Any]:
    field = dict(instance='pred_track_instances', panoptic='pred_panoptic_seg', semantic='pred_sem_seg')[task]
    return [frame.get(field) for frame in sample.video_data_samples]


def losses_of(model: Any, data: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.train()
    return model(**model.data_preprocessor(data, training=True), mode='loss')


class Standstill(OptimWrapper):
    """Changes no weight, and leaves the gradients of the step."""

    def __init__(self, model: Any, **kwargs: Any) -> None:
        super().__init__(torch.optim.SGD(model.parameters(), lr=0), **kwargs)

    def zero_grad(self, **kwargs: Any) -> None:
        pass
