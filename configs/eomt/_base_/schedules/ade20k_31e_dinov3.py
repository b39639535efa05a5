"""31 epochs of ADE20K at 16 images per step (1,262 steps each); DINOv3 anneals the first joint block from the start."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=39122, val_interval=1262)
mask_annealing = dict(first_block=(0, 3000), total_steps=39122)
