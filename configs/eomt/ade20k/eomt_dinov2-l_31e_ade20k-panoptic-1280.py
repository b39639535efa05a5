"""EoMT-L DINOv2, ADE20K panoptic, 1280 px: PQ 51.7 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/ade20k_panoptic_1280.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
load_from = 'hf://tue-mps/coco_panoptic_eomt_large_1280'
