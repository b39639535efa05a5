"""Head for video segmentation: network, losses of clips, and rules for results."""

from collections.abc import Sequence
from typing import Any

from mmdet.structures import TrackDataSample
from torch import Tensor

from eomt_mm.annotations.panoptic_codes import check_num_classes
from eomt_mm.core.criterion import StepLosses, StepTotals
from eomt_mm.models.losses import build_criterion
from eomt_mm.registry import MODELS
from videomt.criterion import ClipCriterion
from videomt.network import ClipPredictions, VidEoMTHead
from videomt.postprocess import TASKS, Rules
from videomt.targets import clip_target, num_clip_targets


@MODELS.register_module()
class VidEoMTHostHead(StepLosses, VidEoMTHead):
    """The ``panoptic_head`` of :class:`~videomt.detector.VidEoMTDetector`.

    Args:
        task: 'instance' (VIS), 'panoptic' (VPS) or 'semantic' (VSS).
        num_things_classes: number of thing classes; they come first.
        num_stuff_classes: number of stuff classes; 0 for instances.
        criterion: arguments of :class:`~videomt.criterion.ClipCriterion` that differ from the published ones, or a
            subclass of it (``type``) or another matcher (``matcher``).
        score_thr, overlap_thr, max_per_video, rle: see :class:`~videomt.postprocess.Rules`; run lengths are the default
            because they keep long videos in bounded memory.
        **head_kwargs: arguments of :class:`~videomt.network.VidEoMTHead`; ``embed_dim``, ``depth`` and ``patch_size``
            come from the backbone.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """

    def __init__(
        self,
        task: str,
        num_things_classes: int,
        num_stuff_classes: int = 0,
        criterion: dict[str, Any] | None = None,
        score_thr: float = 0.8,
        overlap_thr: float = 0.8,
        max_per_video: int = 10,
        rle: bool = True,
        **head_kwargs: Any,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"task='{task}': VidEoMTHostHead knows {', '.join(map(repr, TASKS))}")
        if task == 'instance' and num_stuff_classes:
            raise ValueError(f"num_stuff_classes={num_stuff_classes} with task='instance': instances are things only")
        if task == 'panoptic':
            check_num_classes(num_things_classes + num_stuff_classes)
        super().__init__(num_classes=num_things_classes + num_stuff_classes, **head_kwargs)
        self.task = task
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.score_thr = score_thr
        self.overlap_thr = overlap_thr
        self.max_per_video = max_per_video
        self.rle = rle
        self.criterion: ClipCriterion = build_criterion(self.num_classes, criterion, 'eomt_mm.ClipCriterion')
        if self.criterion.official_labels and task != 'instance':
            raise ValueError(f"official_labels=True with task='{task}': the fault that it repeats is that of instances")

    @property
    def rules(self) -> Rules:
        """Rules for turning logits into results."""
        return Rules(self.task, self.num_things_classes, self.max_per_video, self.score_thr, self.overlap_thr, self.rle)

    def count_step(self, micro_batches: Sequence[Sequence[TrackDataSample]]) -> StepTotals:
        """Count the totals of a step in frames."""
        clips = [clip for batch in micro_batches for clip in batch]
        num_matched = sum(
            len(clip) * min(num_clip_targets(clip.video_data_samples), self.num_queries) for clip in clips
        )
        return StepTotals(sum(map(len, clips)), num_matched, len(micro_batches))

    def loss(self, predictions: ClipPredictions, clips: Sequence[TrackDataSample]) -> dict[str, Tensor]:
        """Compute the weighted losses of all prediction layers.

        Args:
            predictions: of the clips.
            clips: with ``batch_input_shape`` in their frames; see :func:`~videomt.targets.clip_target`.
        """
        device, by_appearance = predictions.mask_logits[-1].device, self.task == 'instance'
        targets = [
            clip_target(clip.video_data_samples, self.num_classes, clip[0].batch_input_shape, by_appearance, device)
            for clip in clips
        ]
        return self.criterion.clip_losses(predictions, targets, self.step_totals)
