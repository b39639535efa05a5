"""31 epochs of ADE20K at 16 images per step (1,262 steps each)."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=39122, val_interval=1262)
