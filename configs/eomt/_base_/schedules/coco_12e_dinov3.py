"""12 epochs of COCO at 16 images per step (7,391 steps each); DINOv3 anneals the first joint block from the start."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=88692, val_interval=7391)
mask_annealing = dict(first_block=(0, 3000), total_steps=88692)
