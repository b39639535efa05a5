"""Your own data in COCO's panoptic format; the leaf states data_root and metainfo (thing_classes, stuff_classes).

Without other names in the leaf: images/{train,val}/, annotations/panoptic_{train,val}.json and, beside each json, the
folder of PNGs of the same name.
"""
_base_ = ['./coco_panoptic.py']
data_root = 'data/own/'
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='images/train/', seg='annotations/panoptic_train/'),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/panoptic_val.json',
        data_prefix=dict(img='images/val/', seg='annotations/panoptic_val/'),
    )
)
test_dataloader = val_dataloader
