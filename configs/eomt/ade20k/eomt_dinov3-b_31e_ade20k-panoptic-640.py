"""EoMT-B DINOv3, ADE20K panoptic, 640 px: nobody published it; DINOv2's schedule with DINOv3's optimisation."""
_base_ = [
    '../_base_/recipes/ade20k_panoptic.py',
    '../_base_/backbones/dinov3_base.py',
    '../_base_/schedules/ade20k_31e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
load_from = 'hf://tue-mps/coco_panoptic_eomt_base_640_dinov3'
