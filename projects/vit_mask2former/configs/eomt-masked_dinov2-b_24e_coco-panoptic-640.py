"""EoMT-B DINOv2 with masked attention in inference: step 4, without Transformer decoder; COCO panoptic, 640 px."""

_base_ = [
    './_base_/without_transformer_decoder.py',
    '../../../configs/eomt/_base_/backbones/dinov2_base.py',
    './_base_/coco_24e.py',
]
model = dict(backbone=_base_.backbone)
