"""24 epochs of COCO, with masked attention to the end."""

_base_ = ['../../../../configs/eomt/_base_/schedules/coco_24e.py']
mask_annealing = None
