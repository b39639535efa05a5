"""ViT-L + pyramid + Mask2Former: step 2, without pixel decoder; COCO panoptic, 640 px."""

_base_ = [
    './_base_/without_pixel_decoder.py',
    './_base_/dinov2_large.py',
    './_base_/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
