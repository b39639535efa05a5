"""ViT-B + pyramid + Mask2Former: step 3, without pixel decoder and multiple scales; COCO panoptic, 640 px."""

_base_ = [
    './_base_/without_multi_scale.py',
    './_base_/dinov2_base.py',
    './_base_/coco_24e.py',
]
model = dict(backbone=_base_.backbone)
