"""Losses of a clip: EoMT's losses on all frames, with each query matched to one target for the whole clip."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eomt_mm.core.criterion import Criterion, StepTotals
from eomt_mm.registry import MODELS
from videomt.matcher import FirstAppearanceMatcher
from videomt.network import ClipPredictions
from videomt.targets import ClipTarget


@MODELS.register_module()
class ClipCriterion(Criterion):
    """EoMT's criterion over frames, with matches that hold for a clip (spec of VidEoMT, "Training recipe").

    A matched query has to predict its target's class and mask in all T frames; in frames that do not show the target,
    the mask is empty. Losses are divided by the number of pairs of query and frame, averaged over processes.

    Args:
        num_classes: number K of classes, without "no object".
        class_on_absent_frames: as published, the query has to predict the class also in frames that do not show the
            target, which suits class scores that are averaged over a video. False: in these frames it has to predict
            "no object", with that class's weight; the normaliser still counts it as matched.
        official_labels: reproduce a bug of the published training, for comparisons: labels are read from the last
            frame's annotations, so that a target that it does not show is matched as "no object" and trained as the
            last class. False: read them from the first frame that shows the target. Instances only.
        kwargs: see :class:`~eomt_mm.core.criterion.Criterion`.
    """

    matcher: FirstAppearanceMatcher

    def __init__(
        self,
        num_classes: int,
        class_on_absent_frames: bool = True,
        official_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, **dict(make_matcher=FirstAppearanceMatcher) | kwargs)
        self.class_on_absent_frames = class_on_absent_frames
        self.official_labels = official_labels

    def clip_losses(
        self, predictions: ClipPredictions, targets: Sequence[ClipTarget], totals: StepTotals | None = None
    ) -> dict[str, Tensor]:
        """Losses of all prediction layers, each matched on its own.

        Args:
            predictions: of B clips.
            targets: of the clips.
            totals: of the step that the batch is a part of, counted in frames; None where it is the whole step.

        Returns:
            see :meth:`~eomt_mm.core.criterion.Criterion.forward`.
        """
        classes, masks = predictions.class_logits, predictions.mask_logits
        labels = [target.labels for target in targets]
        cost_labels = None
        if self.official_labels:
            in_last = [target.shown[-1].to(target.labels.device) for target in targets]
            cost_labels = [torch.where(i, own, self.num_classes) for i, own in zip(in_last, labels, strict=True)]
            labels = [torch.where(i, own, self.num_classes - 1) for i, own in zip(in_last, labels, strict=True)]
        matches = self.matcher.match_clips(classes, masks, targets, cost_labels)
        frames = [
            dict(labels=frame_labels, masks=inside)
            for own, target in zip(labels, targets, strict=True)
            for frame_labels, inside in zip(self._frame_labels(own, target), target.masks, strict=True)
        ]
        per_frame = [[match for match in layer for _ in range(classes[0].shape[1])] for layer in matches]
        return self.matched_losses(
            [layer.flatten(0, 1) for layer in classes], [layer.flatten(0, 1) for layer in masks], frames, per_frame,
            totals=totals,
        )  # fmt: skip

    def _frame_labels(self, labels: Tensor, target: ClipTarget) -> Tensor:
        """Expand the labels (N,) of a clip's targets to its frames: (T, N)."""
        labels = labels.expand(target.shown.shape)
        if self.class_on_absent_frames:
            return labels
        return torch.where(target.shown.to(labels.device), labels, self.num_classes)
