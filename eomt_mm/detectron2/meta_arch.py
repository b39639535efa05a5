"""EoMT as a meta-architecture of detectron2: an adapter that connects detectron2's dicts with the core."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from eomt_mm.core.backbone import IMAGENET_MEAN, IMAGENET_STD, PlainViT
from eomt_mm.core.boxes import boxes_of_masks
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.geometry import Padding, Size, Windows, as_size, pad_bottom_right
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import Predictions, eomt_forward
from eomt_mm.core.postprocess import instance_prediction, panoptic_prediction
from eomt_mm.core.targets import Target, check_labels, pad_masks, semantic_target, with_valid
from eomt_mm.core.window_scores import semantic_predictions
from eomt_mm.detectron2.containers import plain

Item = Mapping[str, Any]
Geometry = TypeVar('Geometry', Padding, Windows)
# Attribute that holds the head, as on the mm side: checkpoints of both are the same files.
HEADS = {'panoptic': 'panoptic_head', 'instance': 'panoptic_head', 'semantic': 'decode_head'}


@dataclass(frozen=True)
class Rules:
    """How logits become results.

    Attributes:
        score_thr, overlap_thr: see :func:`~eomt_mm.core.postprocess.panoptic_prediction`.
        max_per_image: number of instances predicted per image.
        window_batch: number of windows per forward pass of semantic evaluation, or the number of images if that is
            larger.
        keep_scores: return class scores (K, H, W), as detectron2's evaluators read them; False: labels (H, W), for
            which the scores need not be kept in memory.
    """

    score_thr: float = 0.8
    overlap_thr: float = 0.8
    max_per_image: int = 100
    window_batch: int = 8
    keep_scores: bool = True


@META_ARCH_REGISTRY.register()
class EoMT(nn.Module):
    """EoMT for panoptic, instance or semantic segmentation.

    Args:
        task: 'panoptic', 'instance' or 'semantic'.
        backbone: the plain ViT.
        img_size: side or (height, width) of the model's input in pixels.
        num_classes: number K of classes, without "no object".
        num_things: with 'panoptic', the number of thing classes, which come before the stuff classes.
        head: arguments of :class:`~eomt_mm.core.head.EoMTHead`, except those that the backbone and ``num_classes``
            determine.
        criterion: arguments of :class:`~eomt_mm.core.criterion.Criterion` that differ from the published ones.
        ignore_void: exclude pixels without ground truth from matching and mask losses; False, as published: they count
            as background of every mask.
        ignore_index: label of void pixels in ``sem_seg``.
        rules: arguments of :class:`Rules` that differ from the published ones.
        pixel_mean, pixel_std: per RGB channel, in [0, 255].

    Raises:
        ValueError: an argument is invalid; the message names it.
    """

    input_format = 'RGB'
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        task: str,
        backbone: PlainViT,
        img_size: int | Sequence[int],
        num_classes: int,
        num_things: int | None = None,
        head: Mapping[str, Any] | None = None,
        criterion: Mapping[str, Any] | None = None,
        ignore_void: bool = False,
        ignore_index: int = 255,
        rules: Mapping[str, Any] | None = None,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        check_arguments(task, num_classes, num_things, ignore_void)
        self.img_size = input_size(plain(img_size), backbone.patch_size)
        self.task = task
        self.backbone = backbone
        self.head_name = HEADS[task]
        from_backbone: dict[str, Any] = dict(
            embed_dim=backbone.embed_dim, depth=backbone.depth, patch_size=backbone.patch_size
        )
        self.add_module(self.head_name, EoMTHead(num_classes=num_classes, **from_backbone, **plain(head or {})))
        self.criterion = Criterion(num_classes, **plain(criterion or {}))
        self.num_classes = num_classes
        self.num_things = num_things
        self.ignore_void = ignore_void
        self.ignore_index = ignore_index
        self.rules = Rules(**plain(rules or {}))
        self.register_buffer('pixel_mean', torch.tensor(plain(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer('pixel_std', torch.tensor(plain(pixel_std)).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments for a yaml config: those of the recipe ``cfg.EOMT.RECIPE``."""
        from eomt_mm.detectron2.yaml_config import model_arguments

        return model_arguments(cfg)

    @property
    def head(self) -> EoMTHead:
        """The head, whose attribute is ``panoptic_head`` or ``decode_head``."""
        head: EoMTHead = self.get_submodule(self.head_name)  # type: ignore[assignment]
        return head

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Sequence[Item]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute the losses in training, the results in evaluation.

        Args:
            batched_inputs: per image a dict with ``image`` (3, h, w), RGB in [0, 255], no larger than the input; in
                training ``instances`` (``gt_classes`` (N,), ``gt_masks`` (N, h, w)) or, for semantic segmentation,
                ``sem_seg`` (h, w); in evaluation ``height`` and ``width`` of the results, by default the image's.

        Returns:
            in training the weighted losses. In evaluation one dict per image, with results of height x width:
            ``panoptic_seg``, a map of segment ids (0: void) and a list of segments; or ``instances``, with
            ``pred_masks``, ``pred_boxes``, ``scores`` and ``pred_classes``; or ``sem_seg``, see ``keep_scores``.

        Raises:
            ValueError: an image is larger than the input, or its ground truth is missing or has labels outside the
                classes; the message names the file.
        """
        for item in batched_inputs:
            self._check_size(item)
        return self.losses(batched_inputs) if self.training else self.predict(batched_inputs)

    def network(self, images: Tensor) -> Predictions:
        """Run the network on normalised images (B, 3, H, W); see :func:`~eomt_mm.core.network.eomt_forward`."""
        return eomt_forward(self.backbone, self.head, images)

    def losses(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Compute the weighted losses of all layers; see :meth:`~eomt_mm.core.criterion.Criterion.forward`."""
        images = [pad_bottom_right(item['image'].to(self.device), self.img_size) for item in items]
        targets = [self.target(item) for item in items]
        if self.ignore_void:
            targets = [with_valid(target) for target in targets]
        losses: dict[str, Tensor] = self.criterion(*self.network(self.normalised(torch.stack(images))), targets)
        return losses

    def predict(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Predict the results of the images; see :meth:`forward`."""
        if self.task == 'semantic':
            batch, windows = self._inputs(items, Windows)
            chunks = map(self.network, batch.split(max(self.rules.window_batch, len(items))))
            found = (layers[-1] for layers in semantic_predictions(chunks, windows, self.rules.keep_scores))
            return [dict(sem_seg=labels if scores is None else scores) for labels, scores in found]
        batch, paddings = self._inputs(items, Padding)
        class_logits, mask_logits = self.network(batch)
        result = self._panoptic if self.task == 'panoptic' else self._instances
        return [result(*each) for each in zip(class_logits[-1], mask_logits[-1], paddings, strict=True)]

    def _inputs(self, items: Sequence[Item], kind: type[Geometry]) -> tuple[Tensor, list[Geometry]]:
        """Build the normalised input (B, 3, *img_size) of images, and the way back to each."""
        geometries, inputs = list[Geometry](), []
        for item in items:
            image = item['image'].to(self.device)
            resized = (int(image.shape[-2]), int(image.shape[-1]))
            ori_size = (int(item.get('height', resized[0])), int(item.get('width', resized[1])))
            geometries.append(kind(ori_size, resized, self.img_size))
            inputs.append(geometries[-1].apply(image))
        return self.normalised(torch.cat(inputs)), geometries

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in [0, 255] to float."""
        batch = images.to(torch.promote_types(torch.float32, self.pixel_mean.dtype), copy=True)
        return batch.sub_(self.pixel_mean).div_(self.pixel_std)

    def target(self, item: Item) -> Target:
        """Return the target of an image: labels (N,) and masks (N, *img_size)."""
        source = str(item.get('file_name', ''))
        if 'instances' in item:
            target = self._instances_target(item['instances'].to(self.device), source)
        elif self.task == 'semantic' and 'sem_seg' in item:
            target = semantic_target(item['sem_seg'].to(self.device), self.num_classes, self.ignore_index, source)
        else:
            needed = 'instances or sem_seg' if self.task == 'semantic' else 'instances with gt_masks'
            raise ValueError(f'training image {source} has no {needed}: use EoMTMapper of eomt_mm.detectron2.mappers')
        return pad_masks(target, self.img_size)

    def _instances_target(self, instances: Instances, source: str) -> Target:
        labels = instances.gt_classes.long()
        check_labels(labels, self.num_classes, source)
        masks = instances.gt_masks if instances.has('gt_masks') else None
        if isinstance(masks, BitMasks):
            masks = masks.tensor
        if masks is None and len(labels) == 0:
            masks = torch.zeros(0, *instances.image_size, device=self.device)
        if not isinstance(masks, Tensor):
            raise ValueError(
                f'training image {source}: gt_masks are {type(masks).__name__}, EoMT needs bitmaps: use EoMTMapper of '
                f"eomt_mm.detectron2.mappers, or set INPUT.MASK_FORMAT='bitmask'"
            )
        return dict(labels=labels, masks=masks.bool())

    def _panoptic(self, class_logits: Tensor, mask_logits: Tensor, geometry: Padding) -> dict[str, Any]:
        num_things, rules = self.num_things or 0, self.rules
        segment_map, segments = panoptic_prediction(
            class_logits, mask_logits, geometry.invert, num_things, rules.score_thr, rules.overlap_thr
        )
        described = [
            dict(id=each.id, category_id=each.label, isthing=each.label < num_things, score=each.score)
            for each in segments
        ]
        return dict(panoptic_seg=(segment_map, described))

    def _instances(self, class_logits: Tensor, mask_logits: Tensor, geometry: Padding) -> dict[str, Any]:
        found = instance_prediction(class_logits, mask_logits, geometry.invert, self.rules.max_per_image)
        boxes = Boxes(boxes_of_masks(found.masks))
        instances = Instances(
            geometry.ori_size, pred_masks=found.masks, pred_boxes=boxes, scores=found.scores, pred_classes=found.labels
        )
        return dict(instances=instances)

    def _check_size(self, item: Item) -> None:
        h, w = item['image'].shape[-2:]
        fits = h <= self.img_size[0] and w <= self.img_size[1]
        if not fits and (self.training or self.task != 'semantic'):  # semantic evaluation cuts windows
            raise ValueError(
                f'image {item.get("file_name", "")} of {h} x {w} pixels is larger than the input of '
                f'{self.img_size[0]} x {self.img_size[1]}: use EoMTMapper of eomt_mm.detectron2.mappers, or set '
                f'INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST to the input size'
            )


def check_arguments(task: str, num_classes: int, num_things: int | None, ignore_void: bool) -> None:
    """Raise ValueError if arguments of :class:`EoMT` do not fit together."""
    if task not in HEADS:
        raise ValueError(f'task={task!r}: one of {", ".join(HEADS)}')
    if (num_things is None) == (task == 'panoptic') or not 0 <= (num_things or 0) <= num_classes:
        raise ValueError(
            f'num_things={num_things} with task={task!r} and num_classes={num_classes}: the number of thing classes '
            f'for panoptic segmentation, None for other tasks'
        )
    if task == 'instance' and ignore_void:
        raise ValueError(
            "ignore_void=True with task='instance': instance ground truth does not distinguish void from background"
        )


def input_size(img_size: int | Sequence[int], patch_size: int) -> Size:
    """Return (height, width) of the input; raise ValueError if the sides are no multiples of the patch size."""
    size = as_size(img_size)
    if any(side % patch_size for side in size):
        raise ValueError(f'img_size={img_size}: both sides must be multiples of the patch size {patch_size}')
    return size
