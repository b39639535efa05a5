"""107 epochs of Cityscapes at 16 images per step (186 steps each); validation every 5."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=19902, val_interval=930)
