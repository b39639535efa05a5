"""LoveDA semantic, aerial images (mmseg's data set): 7 classes, label 0 of the files is void."""

_base_ = ['../../../configs/eomt/_base_/recipes/own_semantic.py']
data_root = 'data/loveDA/'
train_dataloader = dict(
    dataset=dict(
        type='LoveDADataset',
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='LoveDADataset',
        data_root=data_root,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
    )
)
test_dataloader = val_dataloader
