"""EoMT-L DINOv2 with masked attention in inference: step 4, without Transformer decoder; COCO panoptic, 640 px."""

_base_ = [
    './_base_/without_transformer_decoder.py',
    '../../../configs/eomt/_base_/backbones/dinov2_large.py',
    './_base_/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
