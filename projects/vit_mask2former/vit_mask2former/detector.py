"""mmdet's Mask2Former over the features of a plain ViT."""

from typing import Any

from mmdet.models import Mask2Former
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from eomt_mm.models.sample_targets import det_sample_target

Config = dict[str, Any]


@MODELS.register_module()
class ViTMask2Former(Mask2Former):
    """Mask2Former with a :class:`~eomt_mm.models.backbone.TimmViT`; queries, decoders and losses are mmdet's.

    Args:
        backbone: config of the ViT.
        neck: config of a :class:`~vit_mask2former.pyramid.SimpleFeaturePyramid`; width and patch size are taken from
            the ViT.
        **kwargs: arguments of mmdet's Mask2Former.
    """

    def __init__(self, backbone: Config, neck: Config, **kwargs: Any) -> None:
        super().__init__(backbone=backbone, **kwargs)
        from_backbone = dict(in_channels=self.backbone.embed_dim, patch_size=self.backbone.patch_size)
        self.neck = MODELS.build(neck, default_args=from_backbone)

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """Compute the pyramid's feature maps, finest first, from images (B, 3, H, W)."""
        tokens = self.backbone.final_norm(self.backbone(batch_inputs))
        h, w = tokens.grid
        patches = tokens.x[:, -h * w :]  # (B, h * w, C), without class token and registers
        return self.neck(patches.transpose(1, 2).unflatten(2, (h, w)))

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Compute the losses of mmdet's head; samples may hold segments as one id map, as from our pipelines."""
        head = self.panoptic_head
        targets = [
            det_sample_target(sample, head.num_things_classes, head.num_classes, sample.batch_input_shape)
            for sample in batch_data_samples
        ]
        truths = [InstanceData(labels=target['labels'], masks=target['masks'].long()) for target in targets]
        class_logits, mask_logits = self._forward(batch_inputs, batch_data_samples)
        return head.loss_by_feat(class_logits, mask_logits, truths, [sample.metainfo for sample in batch_data_samples])
