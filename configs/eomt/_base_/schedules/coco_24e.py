"""24 epochs of COCO at 16 images per step (7,391 steps each)."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=177384, val_interval=7391)
