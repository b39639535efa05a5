"""Your own images and label maps (class k has value k, 255 = void); the leaf states data_root and metainfo (classes).

Without other names in the leaf: images/{train,val}/ and, of the same names, labels/{train,val}/, of any suffix. Other
values in the files: label_ids. Other ends of names: img_suffix, seg_map_suffix. Augmentation as for
ADE20K.
"""
_base_ = ['./ade20k_semantic.py']
data_root = 'data/own/'
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.LabelMaps',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.LabelMaps',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
    )
)
test_dataloader = val_dataloader
