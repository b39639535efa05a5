"""Heads for mmseg and mmdet: ``loss`` and ``predict`` from the network's output and the host's samples."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub, print_log
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.annotations.masks import encode_masks
from eomt_mm.annotations.panoptic_codes import INSTANCE_OFFSET, check_num_classes
from eomt_mm.core.boxes import boxes_of_masks
from eomt_mm.core.criterion import StepLosses, StepTotals
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import Predictions
from eomt_mm.core.postprocess import Segment, ToImage, instance_parts, instance_prediction, panoptic_prediction
from eomt_mm.core.targets import Target, with_valid
from eomt_mm.core.window_scores import semantic_predictions
from eomt_mm.models.losses import build_criterion
from eomt_mm.models.sample_targets import det_sample_target, num_det_targets, num_seg_targets, seg_sample_target
from eomt_mm.registry import MODELS

DET_TASKS = ('panoptic', 'instance')


@dataclass(frozen=True)
class SegRules:
    """How a call turns logits into semantic results; see :class:`EoMTSegHead`."""

    keep_scores: bool = True


@dataclass(frozen=True)
class DetRules:
    """How a call turns logits into instances or a panoptic map.

    Attributes:
        score_thr, overlap_thr, max_per_image: see :class:`EoMTDetHead`.
        min_score: minimum score of instances, in [0, 1].
        rle: instance masks as a list of run lengths instead of booleans, in the memory of a few masks.
    """

    score_thr: float = 0.8
    overlap_thr: float = 0.8
    max_per_image: int = 100
    min_score: float = 0.0
    rle: bool = False


class HostHead(StepLosses, EoMTHead):
    """EoMT's head with its criterion.

    Args:
        num_classes: number K of classes.
        criterion: arguments of :class:`~eomt_mm.core.criterion.Criterion` that differ from the published ones, or a
            different criterion (``type``) or matcher (``matcher``); see :func:`~eomt_mm.models.losses.build_criterion`.
        ignore_void: exclude pixels without ground truth from matching and mask losses: void, crowds, and the padding of
            crops, which pipelines fill with void. False, as published: they count as background of every mask.
        **head_kwargs: arguments of :class:`~eomt_mm.core.head.EoMTHead`; ``embed_dim``, ``depth`` and
            ``patch_size`` come from the backbone.
    """

    def __init__(
        self,
        num_classes: int,
        criterion: dict[str, Any] | None = None,
        ignore_void: bool = False,
        **head_kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **head_kwargs)
        self.ignore_void = ignore_void
        self.criterion = build_criterion(num_classes, criterion)
        self._masks_reported = False

    def target(self, sample: Any) -> Target:
        """Return labels (N,) and masks (N, H, W) of a sample, padded to its ``batch_input_shape``."""
        raise NotImplementedError

    def num_targets(self, sample: Any) -> int:
        """Return the number N of a sample's targets, without computing their masks."""
        raise NotImplementedError

    def count_step(self, micro_batches: Sequence[Sequence[Any]]) -> StepTotals:
        samples = [sample for batch in micro_batches for sample in batch]
        num_matched = sum(min(self.num_targets(sample), self.num_queries) for sample in samples)
        return StepTotals(len(samples), num_matched, len(micro_batches))

    def loss(self, predictions: Predictions, samples: list[Any]) -> dict[str, Tensor]:
        """Compute the weighted losses of all layers; see :meth:`~eomt_mm.core.criterion.Criterion.forward`."""
        self._report_masks_left_on()
        targets = [self.target(sample) for sample in samples]
        if self.ignore_void:
            targets = [with_valid(target) for target in targets]
        return self.criterion(*predictions, targets, totals=self.step_totals)

    def _report_masks_left_on(self) -> None:
        """Warn in a training run, with any loop and hooks, if nothing anneals the masks."""
        if self._masks_reported or self.probs_were_set or not any(map(self.masks_block, range(self.num_blocks))):
            return
        if MessageHub.get_current_instance().get_info('max_iters') is None:  # not in a training run
            return
        self._masks_reported = True
        print_log(
            'masks are not annealed: the model trains with masked attention, no hook is a MaskAnnealingHook, and masks '
            "are off in evaluation. Add dict(type='eomt_mm.DefaultAnnealingHook') to default_hooks (without "
            'mask_annealing=None), or set masked_attention=False in the head',
            logger='current',
            level=logging.WARNING,
        )

    @property
    def rules(self) -> Any:
        """The config's choices and thresholds for results. A call may replace some; the head never changes for it."""
        raise NotImplementedError

    def predict(self, predictions: Predictions, samples: list[Any], rules: Any = None) -> list[Any]:
        """Add the prediction of the final layer to the samples, by ``rules`` or, if None, the head's."""
        raise NotImplementedError

    def predict_inputs(
        self, network: Callable[[Tensor], Predictions], inputs: Tensor, samples: list[Any], rules: Any = None
    ) -> list[Any]:
        """Run ``network`` on inputs (N, 3, H, W), and add the predictions to the samples; see :meth:`predict`."""
        return self.predict(network(inputs), samples, rules)

    def predict_layer(self, class_logits: Tensor, mask_logits: Tensor, samples: list[Any], rules: Any = None) -> None:
        """Add the prediction of one layer, limited to the fields that metrics read."""
        self.predict(([class_logits], [mask_logits]), samples, rules)

    def add_layer_predictions(self, predictions: Predictions, samples: list[Any], rules: Any = None) -> None:
        """Add ``layer_predictions``: for each layer before the final one, a dict of the fields of :meth:`predict`.

        Without ``predict_intermediate`` there are no such layers, and samples are unchanged.
        """
        earlier = list(zip(*predictions, strict=True))[:-1]
        found: list[list[dict[str, Any]]] = [[] for _ in samples]
        for class_logits, mask_logits in earlier:
            bare = [type(sample)(metainfo=sample.metainfo) for sample in samples]
            self.predict_layer(class_logits, mask_logits, bare, rules)
            for fields, predicted in zip(found, bare, strict=True):
                left_out = predicted.metainfo_keys()
                fields.append({name: value for name, value in predicted.to_dict().items() if name not in left_out})
        for sample, fields in zip(samples, found, strict=True):
            if fields:
                sample.set_field(fields, 'layer_predictions')


@MODELS.register_module()
class EoMTSegHead(HostHead):
    """``decode_head`` of mmseg: semantic segmentation.

    Args:
        num_classes: number of classes. Required; ``load_config`` derives it from the config's ``metainfo``.
        ignore_index: label of void pixels.
        keep_scores: keep the class scores in the predictions (mmseg's test-time augmentation merges them).
        window_batch: number of windows per forward pass, or the number of images in the batch if that is larger. An
            image with more windows takes several passes, so that memory does not grow with the number of windows.
        **kwargs: see :class:`HostHead`.
    """

    align_corners = False  # mmseg's tools read it

    def __init__(
        self,
        num_classes: int | None = None,
        ignore_index: int = 255,
        keep_scores: bool = True,
        window_batch: int = 8,
        **kwargs: Any,
    ) -> None:
        num_classes = stated_count('num_classes', num_classes)
        if window_batch < 1:
            raise ValueError(f'window_batch={window_batch}: must be at least 1')
        super().__init__(num_classes=num_classes, **kwargs)
        self.ignore_index = ignore_index
        self.keep_scores = keep_scores
        self.window_batch = window_batch
        self.out_channels = num_classes

    def target(self, sample: SegDataSample) -> Target:
        return seg_sample_target(sample, self.num_classes, sample.batch_input_shape, self.ignore_index)

    def num_targets(self, sample: SegDataSample) -> int:
        return num_seg_targets(sample, self.ignore_index)

    @property
    def rules(self) -> SegRules:
        return SegRules(self.keep_scores)

    def predict(
        self, predictions: Predictions, samples: list[SegDataSample], rules: SegRules | None = None
    ) -> list[SegDataSample]:
        """Add ``pred_sem_seg`` (1, H, W) and the scores ``seg_logits`` (K, H, W) at the original image size.

        Args:
            predictions: predictions for the windows of all images, in sequence.
            samples: samples with ``geometry``.
            rules: of this call; None: the head's.
        """
        return self._add_semantic([predictions], samples, rules)

    def predict_inputs(
        self,
        network: Callable[[Tensor], Predictions],
        inputs: Tensor,
        samples: list[SegDataSample],
        rules: SegRules | None = None,
    ) -> list[SegDataSample]:
        """Predict inputs (N, 3, H, W) in chunks of ``window_batch`` windows, at least one per image; see `predict`."""
        return self._add_semantic(map(network, inputs.split(max(self.window_batch, len(samples)))), samples, rules)

    def _add_semantic(
        self, chunks: Iterable[Predictions], samples: list[SegDataSample], rules: SegRules | None
    ) -> list[SegDataSample]:
        geometries = [sample.geometry for sample in samples]
        found = semantic_predictions(chunks, geometries, (rules or self.rules).keep_scores)
        for sample, layers in zip(samples, found, strict=True):
            *earlier, (labels, scores) = layers
            sample.pred_sem_seg = PixelData(data=unflip(labels, sample)[None])
            if scores is not None:
                sample.seg_logits = PixelData(data=unflip(scores, sample))
            if earlier:
                fields = [dict(pred_sem_seg=dict(data=unflip(labels, sample)[None])) for labels, _ in earlier]
                sample.set_field(fields, 'layer_predictions')
        return samples


@MODELS.register_module()
class EoMTDetHead(HostHead):
    """``panoptic_head`` of mmdet: panoptic or instance segmentation.

    Args:
        task: 'panoptic' or 'instance'.
        num_things_classes: number of thing classes, which come before the stuff classes. Required, see ``num_classes``
            of :class:`EoMTSegHead`.
        num_stuff_classes: number of stuff classes; 0 for instance segmentation.
        score_thr, overlap_thr: see :func:`~eomt_mm.core.postprocess.panoptic_prediction`.
        max_per_image: number of instances predicted per image.
        **kwargs: see :class:`HostHead`.
    """

    def __init__(
        self,
        task: str,
        num_things_classes: int | None = None,
        num_stuff_classes: int = 0,
        score_thr: float = 0.8,
        overlap_thr: float = 0.8,
        max_per_image: int = 100,
        **kwargs: Any,
    ) -> None:
        if task not in DET_TASKS:
            raise ValueError(
                f"task='{task}': EoMTDetHead supports {DET_TASKS}; for semantic segmentation use EoMTSegHead with mmseg"
            )
        if task == 'instance' and num_stuff_classes:
            raise ValueError(f"num_stuff_classes={num_stuff_classes} with task='instance': instances are things only")
        num_things_classes = stated_count('num_things_classes', num_things_classes)
        if task == 'panoptic':
            check_num_classes(num_things_classes + num_stuff_classes)
        super().__init__(num_classes=num_things_classes + num_stuff_classes, **kwargs)
        if task == 'instance' and self.ignore_void:
            raise ValueError(
                "ignore_void=True with task='instance': instance ground truth does not distinguish void from background"
            )
        self.task = task
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.score_thr = score_thr
        self.overlap_thr = overlap_thr
        self.max_per_image = max_per_image

    def target(self, sample: DetDataSample) -> Target:
        return det_sample_target(sample, self.num_things_classes, self.num_classes, sample.batch_input_shape)

    def num_targets(self, sample: DetDataSample) -> int:
        return num_det_targets(sample, self.num_things_classes, self.num_classes)

    @property
    def rules(self) -> DetRules:
        return DetRules(self.score_thr, self.overlap_thr, self.max_per_image)

    def predict(
        self, predictions: Predictions, samples: list[DetDataSample], rules: DetRules | None = None
    ) -> list[DetDataSample]:
        """Add ``pred_panoptic_seg`` or ``pred_instances`` at the original image size.

        A panoptic sample also gets the metadata ``panoptic_segments``: id, label and score of each segment. mmdet's
        encoding of the map (label + 1000 * id) has no place for scores.

        Args:
            predictions: predictions with one entry per image.
            samples: samples with ``geometry``.
            rules: of this call; None: the head's.
        """
        rules = rules or self.rules
        self.add_layer_predictions(predictions, samples, rules)
        class_logits, mask_logits = predictions[0][-1], predictions[1][-1]
        for sample, classes, masks in zip(samples, class_logits, mask_logits, strict=True):
            if self.task == 'panoptic':
                self._add_panoptic(classes, masks, sample, rules)
            else:
                sample.pred_instances = instances_of(classes, masks, sample.geometry.invert, rules)
        return samples

    def _add_panoptic(self, class_logits: Tensor, mask_logits: Tensor, sample: DetDataSample, rules: DetRules) -> None:
        segment_map, segments = panoptic_prediction(
            class_logits,
            mask_logits,
            sample.geometry.invert,
            self.num_things_classes,
            rules.score_thr,
            rules.overlap_thr,
        )
        sample.pred_panoptic_seg = PixelData(sem_seg=encode_panoptic(segment_map, segments, self.num_classes)[None])
        sample.set_metainfo(dict(panoptic_segments=[asdict(segment) for segment in segments]))


def instances_of(class_logits: Tensor, mask_logits: Tensor, to_image: ToImage, rules: DetRules) -> InstanceData:
    """Predict the instances of one image from logits (Q, K + 1) and (Q, h, w).

    Returns:
        labels, scores, bboxes in pixels, and masks: (N, H, W) bool, or with ``rules.rle`` a list of N run lengths, of
        which only a few are booleans at a time.
    """
    if not rules.rle and rules.min_score == 0:
        whole = instance_prediction(class_logits, mask_logits, to_image, rules.max_per_image)
        return InstanceData(
            labels=whole.labels, scores=whole.scores, masks=whole.masks, bboxes=boxes_of_masks(whole.masks)
        )
    columns: list[tuple[Any, ...]] = []
    for part in instance_parts(class_logits, mask_logits, to_image, rules.max_per_image, rules.min_score):
        masks: Any = encode_masks(part.masks.cpu().numpy()) if rules.rle else part.masks
        columns.append((part.labels, part.scores, boxes_of_masks(part.masks), masks))
    labels, scores, boxes, parts = zip(*columns, strict=True)
    return InstanceData(
        labels=torch.cat(labels),
        scores=torch.cat(scores),
        masks=[mask for masks in parts for mask in masks] if rules.rle else torch.cat(parts),
        bboxes=torch.cat(boxes),
    )


def stated_count(name: str, count: int | None) -> int:
    """Return a head's number of classes.

    Raises:
        ValueError: it is not stated, because a host read a config that derives it from ``metainfo``.
    """
    if count is None:
        raise ValueError(
            f'the head has no {name}: it follows from the metainfo of the config, which load_config reads. Give '
            f'eomt_mm.apis.load_config(PATH) instead of PATH, or the config that training saved in its work directory'
        )
    return count


def unflip(maps: Tensor, sample: SegDataSample) -> Tensor:
    """Undo the flip of maps (..., H, W), as test-time augmentation needs for merging."""
    if not sample.get('flip', False):
        return maps
    return maps.flip(-1 if sample.get('flip_direction') == 'horizontal' else -2)


def encode_panoptic(segment_map: Tensor, segments: list[Segment], num_classes: int) -> Tensor:
    """Convert a map of segment ids (H, W) to mmdet's encoding, see `panoptic_codes`; void is ``num_classes``."""
    codes = [num_classes, *(segment.label + INSTANCE_OFFSET * segment.id for segment in segments)]
    return torch.tensor(codes, dtype=torch.int32, device=segment_map.device)[segment_map.long()]
