"""VidEoMT as an mmdet model: connects backbone, head and host without computing anything itself."""

from collections.abc import Sequence
from typing import Any

from mmdet.models.detectors import BaseDetector
from mmdet.structures import TrackDataSample
from torch import Tensor

from eomt_mm.core.backbone import PlainViT
from eomt_mm.models.segmentors import build_backbone_and_head
from eomt_mm.registry import MODELS
from videomt import head, preprocessor  # noqa: F401  they register
from videomt.formats import VIDEOMT
from videomt.head import VidEoMTHostHead
from videomt.network import ClipPredictions, videomt_forward
from videomt.streaming import OnlineVideo, segment_video

Config = dict[str, Any]


@MODELS.register_module()
class VidEoMTDetector(BaseDetector):
    """Instance, panoptic or semantic segmentation of videos.

    Args:
        backbone: config of a :class:`~eomt_mm.core.backbone.PlainViT`.
        panoptic_head: config of a :class:`~videomt.head.VidEoMTHostHead`.
        data_preprocessor: config of a :class:`~videomt.preprocessor.VidEoMTDataPreprocessor`.
        window_size: number of frames that go through the backbone together in evaluation; changes memory, not results.
        train_cfg, test_cfg: unused; mmdet's tools pass them.
        init_cfg: mmengine's initialisation.
    """

    checkpoint_formats = VIDEOMT  # what tools and init_model load
    panoptic_head: VidEoMTHostHead

    def __init__(
        self,
        backbone: Config,
        panoptic_head: Config,
        data_preprocessor: Config | None = None,
        window_size: int = 1,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Config | None = None,
    ) -> None:
        if window_size < 1:
            raise ValueError(f'window_size={window_size}: at least 1 frame')
        super().__init__(data_preprocessor or dict(type='eomt_mm.VidEoMTDataPreprocessor'), init_cfg)
        self.backbone: PlainViT
        self.backbone, self.panoptic_head = build_backbone_and_head(backbone, panoptic_head, self.data_preprocessor)
        divisor, patch_size = self.data_preprocessor.size_divisor, self.backbone.patch_size
        if divisor % patch_size:
            raise ValueError(f'data_preprocessor.size_divisor={divisor}: a multiple of the patch size, {patch_size}')
        self.window_size = window_size
        self._online: OnlineVideo | None = None
        self._place: tuple[Any, int] = (None, -1)  # video_id and frame_id of the last frame segmented online

    def stream(self, frames: Tensor, state: Tensor | None = None) -> tuple[ClipPredictions, Tensor]:
        """Predictions for the next frames (B, T, 3, H, W); see :func:`~videomt.network.videomt_forward`."""
        return videomt_forward(self.backbone, self.panoptic_head, frames, state)

    def extract_feat(self, batch_inputs: Tensor) -> ClipPredictions:
        """Predictions for whole clips (B, T, 3, H, W)."""
        return self.stream(batch_inputs)[0]

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> ClipPredictions:
        return self.extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[TrackDataSample]) -> dict[str, Tensor]:
        return self.panoptic_head.loss(self.extract_feat(batch_inputs), batch_data_samples)

    def predict(
        self, batch_inputs: Sequence[Tensor], batch_data_samples: Sequence[TrackDataSample], rescale: bool = True
    ) -> list[TrackDataSample]:
        """Add predictions to the frames; see :func:`~videomt.postprocess.add_predictions`.

        If a sample has all frames of its video (``video_length``), class scores are averaged over the whole video. If a
        video comes in parts, with frames in order, class scores are averaged over the frames so far.

        Args:
            batch_inputs: per sample (T, 3, h, w), uint8, as loaded.
            batch_data_samples: frames with ``video_id``, ``frame_id``, ``video_length`` and what
                :func:`~videomt.postprocess.frame_geometry` reads.
            rescale: unused argument of mmdet's interface; results are always at the frames' own size.

        Raises:
            ValueError: frames of a video that comes in parts are out of order.
        """
        for frames, video in zip(batch_inputs, batch_data_samples, strict=True):
            samples = video.video_data_samples
            if len(samples) == samples[0].get('video_length', len(samples)):
                segment_video(
                    self, frames, samples, self.panoptic_head.rules, self.window_size, self.data_preprocessor.prepare
                )
            else:
                self._go_on(frames, samples)
        return list(batch_data_samples)

    def _go_on(self, frames: Tensor, samples: Sequence[Any]) -> None:
        """Segment the first or the next frames of a video that comes in parts."""
        for frame, sample in zip(frames, samples, strict=True):
            place = (sample.video_id, sample.frame_id)
            if sample.frame_id == 0:
                self._online = OnlineVideo(self, self.panoptic_head.rules)
            elif self._online is None or place != (self._place[0], self._place[1] + 1):
                last = 'nothing' if self._online is None else f'frame {self._place[1]} of video {self._place[0]}'
                raise ValueError(
                    f'frame {sample.frame_id} of video {sample.video_id} after {last}: frames must come in order, '
                    f'from 0 on: evaluate with batch_size=1 and mmdet.TrackImgSampler, or load whole videos'
                )
            self._online.segment(self.data_preprocessor.prepare(frame[None])[0], sample)
            self._place = place
