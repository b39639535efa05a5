"""107 epochs of Cityscapes at 16 images per step (186 each); DINOv3 anneals the first joint block from the start."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=19902, val_interval=930)
mask_annealing = dict(first_block=(0, 3000), total_steps=19902)
