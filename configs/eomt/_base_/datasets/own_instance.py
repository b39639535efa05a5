"""Your own data in COCO's instance format; the leaf states data_root and metainfo (classes).

Without other names in the leaf: images/{train,val}/ and annotations/instances_{train,val}.json.
"""
_base_ = ['./coco_instance.py']
data_root = 'data/own/'
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/'),
    )
)
test_dataloader = val_dataloader
