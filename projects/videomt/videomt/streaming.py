"""VidEoMT online: one frame in, its result out, as frames come."""

from collections.abc import Callable, Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from eomt_mm.models.geometry import pad_bottom_right
from videomt.mask_store import MaskStore
from videomt.network import videomt_forward
from videomt.postprocess import RUNNING_MEAN, Rules, add_predictions, predict_video

SIZE_DIVISOR = 32


class RunningMean:
    """Mean of the class logits of the frames so far, the online stand-in for that of the whole video."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._num_frames = 0

    def update(self, class_logits: Tensor) -> Tensor:
        """Takes the logits (Q, K + 1) of the next frame; returns the mean, float32."""
        logits = class_logits.float()
        self._sum = logits if self._sum is None else self._sum + logits
        self._num_frames += 1
        return self._sum / self._num_frames


class OnlineVideo:
    """Segments a video frame by frame; nothing of a frame is kept but its queries and class logits.

    Masks are those of the whole-video mode. Classes, and with them which tracks or segments appear, follow from the
    frames so far: the sample says ``class_scores = 'mean of the frames so far'``. At the last frame they are those of
    the whole video. The id of a track is that of the whole-video mode, and stays with its query.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        rules: task and thresholds.

    Raises:
        ValueError: the model is in training mode.
    """

    def __init__(self, model: Any, rules: Rules) -> None:
        _check_mode(model)
        self.model = model
        self.rules = rules
        self.reset()

    def reset(self) -> None:
        """Forgets the video: the next frame is the first of another."""
        self._state: Tensor | None = None
        self._class_scores = RunningMean()

    @torch.no_grad()
    def segment(self, image: Tensor, sample: DetDataSample) -> DetDataSample:
        """Segments the next frame.

        Args:
            image: (3, H, W), normalised and padded.
            sample: gets the prediction; see :func:`~videomt.postprocess.add_predictions`.
        """
        logits, self._state = _final(self.model, image[None], self._state)
        mean_logits = self._class_scores.update(logits[0][0])
        add_predictions(mean_logits, logits[1], [sample], self.rules, RUNNING_MEAN)
        return sample


@torch.no_grad()
def segment_video(
    model: Any,
    frames: Tensor,
    samples: Sequence[DetDataSample],
    rules: Rules,
    window_size: int = 1,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Segments a whole video with the class scores of all its frames; memory does not grow with it but by the results.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        frames: (T, 3, H, W), normalised and padded; with ``prepare`` anything that it takes.
        samples: of the frames; get the predictions of :func:`~videomt.postprocess.predict_video`.
        rules: task and thresholds.
        window_size: number of frames that go through the backbone together; changes memory, not results.
        prepare: makes the network's input of a window of frames.

    Raises:
        ValueError: the model is in training mode, or ``window_size`` is below 1.
    """
    _check_mode(model)
    if window_size < 1:
        raise ValueError(f'window_size={window_size}: give a number of frames from 1 on')
    state, class_logits, masks = None, [], MaskStore()
    for window in frames.split(window_size):
        window = window if prepare is None else prepare(window)
        (classes, mask_logits), state = _final(model, window, state)
        class_logits.append(classes)
        masks.append(mask_logits)
    predict_video(torch.cat(class_logits), masks, samples, rules)


def _check_mode(model: Any) -> None:
    if model.training:
        raise ValueError('the model is in training mode: call model.eval() first')


def _final(model: Any, frames: Tensor, state: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Class and mask logits (T, Q, ...) of the final layer for frames (T, 3, H, W), and the state."""
    predictions, state = videomt_forward(model.backbone, model.panoptic_head, frames[None], state)
    return (predictions.class_logits[-1][0], predictions.mask_logits[-1][0]), state


class VideoSegmenter:
    """Segments the frames of a camera or a file as they come: `OnlineVideo` with its preprocessing.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        rules: task and thresholds.
        short_side: of the resized frame, in pixels.
        max_long_side: the short side gets smaller where the long one would exceed it.
        mean, std: of the pixels, RGB, 0 to 255.

    Raises:
        ValueError: the model is in training mode.
    """

    def __init__(
        self,
        model: Any,
        rules: Rules,
        short_side: int = 480,
        max_long_side: int = 1333,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
    ) -> None:
        self.video = OnlineVideo(model, rules)
        self.scale = (max_long_side, short_side)
        device = model.panoptic_head.queries.weight.device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        self._frame_id = 0

    def reset(self) -> None:
        """Forgets the video: the next frame is the first of another."""
        self.video.reset()
        self._frame_id = 0

    def step(self, frame: np.ndarray) -> DetDataSample:
        """Segments the next frame.

        Args:
            frame: (H, W, 3), uint8, RGB. Frames of a video may differ in size.

        Returns:
            data sample with ``frame_id`` and the prediction of :func:`~videomt.postprocess.add_predictions`.

        Raises:
            ValueError: the frame has another shape or type.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f'frame of shape {frame.shape}, type {frame.dtype}: give RGB bytes (H, W, 3)')
        sample = self.video.segment(*self.prepare(frame))
        self._frame_id += 1
        return sample

    def prepare(self, frame: np.ndarray) -> tuple[Tensor, DetDataSample]:
        """The model's input (3, H, W), resized, normalised and then padded with zeros as published, and its sample."""
        resized = mmcv.imrescale(frame, self.scale, interpolation='bilinear', backend='pillow')
        pixels = torch.from_numpy(resized).to(self._mean.device).permute(2, 0, 1).float()
        height, width = resized.shape[:2]
        size = (height + -height % SIZE_DIVISOR, width + -width % SIZE_DIVISOR)
        image = pad_bottom_right((pixels - self._mean) / self._std, size)
        meta = dict(
            frame_id=self._frame_id, ori_shape=frame.shape[:2], img_shape=(height, width), batch_input_shape=size
        )
        return image, DetDataSample(metainfo=meta)
