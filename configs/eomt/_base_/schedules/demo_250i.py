"""A few minutes on a CPU; annealing as published, by fractions of the schedule."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=250, val_interval=125)
