"""12 epochs of COCO instance at 16 images per step (7,329 steps each).

The published configurations keep the annealing steps of panoptic, whose epochs are longer.
"""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=87948, val_interval=7329)
mask_annealing = dict(unit=14782, total_steps=87948)
