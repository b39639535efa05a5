"""VidEoMT in tools/benchmark: a side whose frames pass their state on. Importing it registers the side."""

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor

from benchmark.configs import Size, is_video
from benchmark.harness import Call
from benchmark.inputs import NUM_THINGS, metainfo_of, rectangles, stripes
from benchmark.models import class_counts, is_ours
from benchmark.sides import PROJECT_SIDES, RESULTS, SMALL, Side

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

    @staticmethod
    def takes(cfg: Config) -> bool:
        return is_video(cfg) and is_ours(cfg)

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


def make_clips(task: str, size: Size, batch: int, frames: int, num_things: int, num_stuff: int) -> dict[str, Any]:
    """Clips with tracks, as a loader gives them to a data preprocessor.

    Args:
        task: 'semantic', 'instance' or 'panoptic'.
        size: height and width of the frames.
        batch: number of clips.
        frames: of each clip.
        num_things, num_stuff: classes of the model; those of a semantic one are all stuff here.

    Returns:
        ``inputs``: uint8 (frames, 3, H, W) each; ``data_samples``: what :func:`~benchmark.inputs.make_batch` has for
        one image, standing still, each thing and each class of stuff with a mask and an id.
    """
    if task == 'semantic':
        num_things, num_stuff = 0, num_things + num_stuff
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.integers(0, 256, (frames, 3, *size), dtype=np.uint8)) for _ in range(batch)]
    samples = []
    for _ in clips:
        frame = _tracks(rng, size, num_things, num_stuff)
        samples.append(TrackDataSample(video_data_samples=[copy.deepcopy(frame) for _ in range(frames)]))
    return dict(inputs=clips, data_samples=samples)


def _tracks(rng: np.random.Generator, size: Size, num_things: int, num_stuff: int) -> DetDataSample:
    labels, masks = np.zeros(0, np.int64), np.zeros((0, *size), np.uint8)
    if num_things:
        labels, masks = rng.integers(0, num_things, NUM_THINGS), rectangles(rng, size)[0]
    if num_stuff:
        label_map = stripes(rng, size, num_things + np.arange(num_stuff)).numpy()
        classes = np.unique(label_map)
        labels = np.concatenate([labels, classes])
        masks = np.concatenate([masks, (label_map == classes[:, None, None]).astype(np.uint8)])
    sample = DetDataSample(metainfo=metainfo_of(size))
    sample.gt_instances = InstanceData(
        labels=torch.from_numpy(labels), masks=BitmapMasks(masks, *size), instances_ids=torch.arange(len(labels))
    )
    return sample


PROJECT_SIDES.append(VideoSide)
