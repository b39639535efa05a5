"""Segment videos frame by frame: online, or with the class scores of the whole video at its end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from torch import Tensor

from eomt_mm.core.geometry import pad_bottom_right
from eomt_mm.models.preprocessors import IMAGENET_MEAN, IMAGENET_STD
from videomt.mask_store import MaskStore
from videomt.network import videomt_forward
from videomt.postprocess import (
    RUNNING_MEAN,
    WHOLE_VIDEO,
    Rules,
    add_predictions,
    add_segments,
    frame_geometry,
    panoptic_frames,
    predict_video,
)

SIZE_DIVISOR = 32


class RunningMean:
    """Running mean of class logits, used online in place of the whole video's mean."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._num_frames = 0

    def update(self, class_logits: Tensor) -> Tensor:
        """Add the logits (Q, K + 1) of the next frame; return the mean so far, float32."""
        logits = class_logits.float()
        self._sum = logits if self._sum is None else self._sum + logits
        self._num_frames += 1
        return self._sum / self._num_frames


class OnlineVideo:
    """Segment a video frame by frame, keeping only queries and class logits between frames.

    Masks equal those of the whole-video mode. Classes, and therefore the tracks or segments that appear, depend on the
    frames so far: samples have ``class_scores = 'mean of the frames so far'``. At the last frame, they equal the whole
    video's. Track ids equal those of the whole-video mode, and a query keeps its ids.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        rules: task and thresholds.
        amp_dtype: type for mixed precision of the network; post-processing is in float32. None: the caller's autocast.

    Raises:
        ValueError: the model is in training mode.
    """

    def __init__(self, model: Any, rules: Rules, amp_dtype: torch.dtype | None = None) -> None:
        _check_mode(model)
        self.model = model
        self.rules = rules
        self.amp_dtype = amp_dtype
        self.reset()

    def reset(self) -> None:
        """Forget the video: the next frame is the first of another."""
        self._state: Tensor | None = None
        self._class_scores = RunningMean()

    def segment(self, image: Tensor, sample: DetDataSample) -> DetDataSample:
        """Segment the next frame.

        Args:
            image: (3, H, W), normalised and padded.
            sample: gets the prediction; see :func:`~videomt.postprocess.add_predictions`.
        """
        return self.segment_window(image[None], [sample])[0]

    @torch.no_grad()
    def segment_window(self, images: Tensor, samples: Sequence[DetDataSample]) -> list[DetDataSample]:
        """Segment the next frames, which go through the backbone together, with the same results as one by one.

        Args:
            images: (t, 3, H, W), normalised and padded.
            samples: of the frames; predictions are added.
        """
        (class_logits, mask_logits), self._state = _final(self.model, images, self._state, self.amp_dtype)
        for classes, masks, sample in zip(class_logits, mask_logits, samples, strict=True):
            mean_logits = self._class_scores.update(classes)
            add_predictions(mean_logits, masks[None], [sample], self.rules, RUNNING_MEAN)
        return list(samples)


class StoredVideo:
    """Store the logits of a video window by window, then produce results with the class scores of all frames.

    Masks are kept in bounded memory (:class:`~videomt.mask_store.MaskStore`); only run lengths of panoptic maps grow
    with the video.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        amp_dtype: see :class:`OnlineVideo`.

    Raises:
        ValueError: the model is in training mode.
    """

    def __init__(self, model: Any, amp_dtype: torch.dtype | None = None) -> None:
        _check_mode(model)
        self.model = model
        self.amp_dtype = amp_dtype
        self.masks = MaskStore()
        self._class_logits: list[Tensor] = []
        self._state: Tensor | None = None

    @property
    def class_logits(self) -> Tensor:
        """Class logits of the final layer, (T, Q, K + 1)."""
        return torch.cat(self._class_logits)

    @torch.no_grad()
    def add(self, images: Tensor) -> None:
        """Add the next frames (t, 3, H, W), normalised and padded."""
        (class_logits, mask_logits), self._state = _final(self.model, images, self._state, self.amp_dtype)
        self._class_logits.append(class_logits)
        self.masks.append(mask_logits)

    @torch.no_grad()
    def results(self, samples: Sequence[DetDataSample], rules: Rules) -> Iterator[DetDataSample]:
        """Yield copies of the frames' samples with predictions; see :func:`~videomt.postprocess.predict_video`.

        Args:
            samples: of all frames, of one size.
            rules: task and thresholds.
        """
        mean_logits = self.class_logits.float().mean(0)
        if rules.task == 'panoptic':  # whether a segment is kept depends on its areas in all frames
            maps = panoptic_frames(mean_logits, self.masks, frame_geometry(samples[0]), rules)
            for sample, ids in zip(samples, maps, strict=True):
                found = sample.new(metainfo={**sample.metainfo, 'class_scores': WHOLE_VIDEO})
                found.pred_panoptic_seg = PixelData(sem_seg=ids[None])
                add_segments(mean_logits, found)
                yield found
            return
        for number, sample in enumerate(samples):
            found, masks = sample.new(), _StoredFrame(self.masks, number)
            add_predictions(mean_logits, masks, [found], rules, WHOLE_VIDEO)
            yield found


@dataclass(frozen=True)
class _StoredFrame:
    """View of one frame of a store as a video of one frame."""

    store: MaskStore
    number: int

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: tuple[int, Tensor]) -> Tensor:
        return self.store[self.number, place[1]]


@torch.no_grad()
def segment_video(
    model: Any,
    frames: Tensor,
    samples: Sequence[DetDataSample],
    rules: Rules,
    window_size: int = 1,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Segment a whole video with the class scores of all its frames; only the results grow with the video.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        frames: (T, 3, H, W), normalised and padded; with ``prepare``, frames that it accepts.
        samples: of the frames; the predictions of :func:`~videomt.postprocess.predict_video` are added.
        rules: task and thresholds.
        window_size: number of frames that go through the backbone together; changes memory, not results.
        prepare: converts a window of frames to the network's input.

    Raises:
        ValueError: the model is in training mode, or ``window_size`` is below 1.
    """
    if window_size < 1:
        raise ValueError(f'window_size={window_size}: give a number of frames from 1 on')
    video = StoredVideo(model)
    for window in frames.split(window_size):
        video.add(window if prepare is None else prepare(window))
    predict_video(video.class_logits, video.masks, samples, rules)


def _check_mode(model: Any) -> None:
    if model.training:
        raise ValueError('the model is in training mode: call model.eval() first')


def _final(
    model: Any, frames: Tensor, state: Tensor | None, amp_dtype: torch.dtype | None
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Compute class and mask logits (T, Q, ...) of the final layer for frames (T, 3, H, W), and the next state."""
    with nullcontext() if amp_dtype is None else torch.autocast(frames.device.type, amp_dtype):
        predictions, state = videomt_forward(model.backbone, model.panoptic_head, frames[None], state)
    return (predictions.class_logits[-1][0], predictions.mask_logits[-1][0]), state


class VideoSegmenter:
    """Segment the frames of a camera or a file one by one: `OnlineVideo` with its preprocessing.

    Args:
        model: with ``backbone`` and ``panoptic_head``, in evaluation mode.
        rules: task and thresholds.
        short_side: short side of the resized frame in pixels.
        max_long_side: limit of the long side in pixels; longer frames are resized to a smaller short side.
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
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.video = OnlineVideo(model, rules)
        self.scale = (max_long_side, short_side)
        device = model.panoptic_head.queries.weight.device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        self._frame_id = 0

    def reset(self) -> None:
        """Forget the video: the next frame is the first of another."""
        self.video.reset()
        self._frame_id = 0

    def step(self, frame: np.ndarray) -> DetDataSample:
        """Segment the next frame.

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
        """Make the model's input (3, H, W), resized, normalised and zero-padded as published, and its sample."""
        resized = mmcv.imrescale(frame, self.scale, interpolation='bilinear', backend='pillow')
        pixels = torch.from_numpy(resized).to(self._mean.device).permute(2, 0, 1).float()
        height, width = resized.shape[:2]
        size = (height + -height % SIZE_DIVISOR, width + -width % SIZE_DIVISOR)
        image = pad_bottom_right((pixels - self._mean) / self._std, size)
        meta = dict(
            frame_id=self._frame_id, ori_shape=frame.shape[:2], img_shape=(height, width), batch_input_shape=size
        )
        return image, DetDataSample(metainfo=meta)
