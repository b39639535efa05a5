"""Step 4: the ViT's last blocks process the queries, masked by their predictions in inference too."""

_base_ = ['../../../../configs/eomt/_base_/recipes/coco_panoptic.py']
custom_imports = dict(imports=['vit_mask2former'], allow_failed_imports=False)
model = dict(panoptic_head=dict(type='mmdet.MaskedEoMTHead'))
