"""YouTube-VIS 2022: trained on 2021, evaluated on the long videos of 2022 (AP^L: gt_long.json has their annotations).

Without that file use valid.json, which lists all videos without annotations. --data-root moves the evaluation, and
train_dataloader.dataset.datasets.0.data_root the training.
"""

_base_ = ['./ytvis2021.py']
data_root = 'data/ytvis_2022/'
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='gt_long.json', data_prefix=dict(img='valid/JPEGImages'))
)
test_dataloader = val_dataloader
