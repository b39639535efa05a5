"""A side whose model segments videos: its frames hand their state on."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from eomt_mm.benchmarking.inputs import make_clips
from eomt_mm.benchmarking.models import class_counts
from eomt_mm.benchmarking.side_by_side import Call
from eomt_mm.benchmarking.sides import RESULTS, SMALL, Side

FRAME_RESULTS = RESULTS | dict(instance='pred_track_instances')


class VideoSide(Side):
    """A built side of videos; a call takes the spec's frames as one clip.

    Its model has ``stream(frames, state)``, which gives predictions and the next state, and ``window_size``, the number
    of frames that go together through its first blocks in evaluation.

    In the model stage they come in the spec's windows. In the full stage each frame's result is there before the next
    frame is read, or with ``whole_video`` all results in the end. A training step is one on the clip.

    Raises:
        ValueError: the spec asks for what the full stage does not do.
    """

    @cached_property
    def network(self) -> Callable[..., Any]:
        """Frames (B, T, 3, H, W) and a state to predictions and the next state."""
        found: Callable[..., Any] = self.model.stream
        return found

    def stream(self, clips: Tensor) -> Any:
        """Predictions for the last window of normalised clips (B, T, 3, H, W); no others are kept."""
        *earlier, last = clips.split(self.spec.window, dim=1)
        state = None
        with torch.no_grad(), self.autocast():
            for window in earlier:
                state = self.network(window, state)[1]
            return self.network(last, state)[0]

    def forward_small(self) -> None:
        self.model.eval()
        self.stream(torch.zeros(1, 1, 3, SMALL, SMALL, device=self.spec.device))

    def _model(self) -> Call:
        spec = self.spec
        clips = torch.randn(spec.batch, spec.frames, 3, *spec.size, device=spec.device)
        return lambda: self.stream(clips)

    def _full(self) -> Call:
        spec = self.spec
        if spec.batch > 1:
            raise ValueError(f'batch {spec.batch}: from files, videos are segmented one at a time')
        if spec.compile_mode is not None:
            raise ValueError('from files, videos are segmented without torch.compile')
        pipeline, length = self.prepare_full(), spec.frames if spec.whole_video else 1
        self.model.window_size = spec.window

        def call() -> list[Any]:
            results = []
            for frame_ids in torch.arange(spec.frames).split(length):
                item = pipeline(self._files(frame_ids.tolist()))
                with torch.no_grad(), self.autocast():
                    (video,) = self.model.test_step(pseudo_collate([item]))
                results += [frame.get(FRAME_RESULTS[self.task]).cpu() for frame in video.video_data_samples]
            return results

        return call

    def _files(self, frame_ids: list[int]) -> dict[str, list[Any]]:
        """Frames of a video as a data set lists them, all of the spec's image."""
        every = dict(img_path=self.spec.image, img_id=0, video_id=0, video_length=self.spec.frames)
        return {key: [value] * len(frame_ids) for key, value in every.items()} | dict(frame_id=frame_ids)

    def training_batch(self) -> dict[str, Any]:
        spec = self.spec
        return make_clips(self.task, spec.size, spec.batch, spec.frames, *class_counts(self.cfg))

    def compile(self) -> None:
        mode = self.spec.compile_mode
        if mode is not None and self.spec.stage == 'model':
            self.network = torch.compile(self.network, mode=mode)
        else:
            super().compile()
