"""ViT-S + pyramid + Mask2Former: step 1, the whole of Mask2Former; COCO panoptic, 640 px."""

_base_ = [
    './_base_/vit_mask2former.py',
    './_base_/dinov2_small.py',
    './_base_/coco_24e.py',
]
model = dict(backbone=_base_.backbone)
