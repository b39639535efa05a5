"""EoMT-S DINOv2, ADE20K panoptic, 640 px: nobody published it; L's recipe with 3 joint blocks."""
_base_ = [
    '../_base_/recipes/ade20k_panoptic.py',
    '../_base_/backbones/dinov2_small.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
load_from = 'hf://tue-mps/coco_panoptic_eomt_small_640_2x'
