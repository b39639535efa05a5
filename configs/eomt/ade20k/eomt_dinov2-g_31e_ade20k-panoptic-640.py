"""EoMT-g DINOv2, ADE20K panoptic, 640 px: PQ 51.3 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/ade20k_panoptic.py',
    '../_base_/backbones/dinov2_giant.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
load_from = 'hf://tue-mps/coco_panoptic_eomt_giant_640'
