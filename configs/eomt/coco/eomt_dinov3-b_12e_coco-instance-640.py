"""EoMT-B DINOv3, COCO instance, 640 px: AP 40.3 (LightlyTrain, its own recipe of 90k steps).

Not published by EoMT's authors; here L's recipe with 3 joint blocks.
"""
_base_ = [
    '../_base_/recipes/coco_instance.py',
    '../_base_/backbones/dinov3_base.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
