"""Prepare clips and videos for the network: normalise, then pad with zeros, as published."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures import TrackDataSample
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from eomt_mm.core.geometry import pad_bottom_right
from eomt_mm.models.preprocessors import IMAGENET_MEAN, IMAGENET_STD
from eomt_mm.registry import MODELS

Size = tuple[int, int]


@MODELS.register_module()
class VidEoMTDataPreprocessor(BaseDataPreprocessor):
    """Make batches of clips in training; in evaluation, keep videos as bytes on the host.

    A video of 500 frames is 1.4 GB as bytes and 5.5 GB as normalised values: the model prepares its frames window by
    window, with :meth:`prepare`.

    Args:
        mean, std: per RGB channel, in [0, 255].
        bgr_to_rgb: swap the channels; mmcv loads BGR.
        size_divisor: sides of inputs are multiples of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr_to_rgb: bool = True,
        size_divisor: int = 32,
    ) -> None:
        super().__init__()
        if size_divisor < 1:
            raise ValueError(f'size_divisor={size_divisor}: at least 1; published is 32')
        self.bgr_to_rgb = bgr_to_rgb
        self.size_divisor = size_divisor
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Convert collated data to the input of the model's ``loss`` or ``predict``.

        Args:
            data: ``inputs``: list of uint8 (T, 3, h, w); ``data_samples``: list of TrackDataSample with T frames each.
            training: make one batch.

        Returns:
            ``data_samples``, on the host, whose frames have ``batch_input_shape`` (H, W), and ``inputs``: in training
            (B, T, 3, H, W), float, at the largest clip's size, on this module's device; in evaluation unchanged.

        Raises:
            ValueError: clips of a batch differ in their number of frames.
        """
        samples: list[TrackDataSample] = data['data_samples']
        if not training:
            for frames, video in zip(data['inputs'], samples, strict=True):
                self._note_size(video, self.input_size([frames]))
            return dict(inputs=data['inputs'], data_samples=samples)
        clips: list[Tensor] = data['inputs']
        lengths = [len(clip) for clip in clips]
        if len(set(lengths)) > 1:
            raise ValueError(f'clips of a batch have {lengths} frames: give all the same num_frames in the pipeline')
        size = self.input_size(clips)
        for clip in samples:
            self._note_size(clip, size)
        return dict(inputs=torch.stack([self.prepare(clip, size) for clip in clips]), data_samples=samples)

    def prepare(self, frames: Tensor, size: Size | None = None) -> Tensor:
        """Convert frames (t, 3, h, w), uint8, to the input (t, 3, H, W), float, on this module's device.

        Args:
            frames: in the loader's channel order.
            size: (H, W); None: the smallest that fits.
        """
        pixels = frames.to(self.mean.device)
        if self.bgr_to_rgb:
            pixels = pixels.flip(1)
        return pad_bottom_right((pixels.float() - self.mean) / self.std, size or self.input_size([frames]))

    def input_size(self, clips: Sequence[Tensor]) -> Size:
        """The smallest (H, W) of multiples of ``size_divisor`` that holds clips (T, 3, h, w)."""
        sides = [max(clip.shape[axis] for clip in clips) for axis in (-2, -1)]
        height, width = (side + -side % self.size_divisor for side in sides)
        return height, width

    @staticmethod
    def _note_size(video: TrackDataSample, size: Size) -> None:
        for frame in video.video_data_samples:
            frame.set_metainfo(dict(batch_input_shape=size, pad_shape=size))
