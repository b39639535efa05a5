"""Your own data, panoptic, small: for CPUs and for a few hundred images. See docs/custom_data.md."""
_base_ = ['./own_panoptic.py']
img_size = 160
train_dataloader = dict(num_workers=2)
model = dict(panoptic_head=dict(num_queries=40, criterion=dict(num_points=2048), recompute_masks=False))
