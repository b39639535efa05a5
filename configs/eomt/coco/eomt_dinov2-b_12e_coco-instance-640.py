"""EoMT-B DINOv2, COCO instance, 640 px: nobody published it; L's recipe with 3 joint blocks."""
_base_ = [
    '../_base_/recipes/coco_instance.py',
    '../_base_/backbones/dinov2_base.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
