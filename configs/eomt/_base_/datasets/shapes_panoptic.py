"""Generated shapes in COCO's panoptic format: 4 things, 4 stuff (eomt_mm.synthetic.generate writes them)."""
_base_ = ['./coco_panoptic.py']
data_root = 'data/shapes/'
img_size = 128

metainfo = dict(
    classes=('circle', 'square', 'triangle', 'star', 'sky', 'grass', 'brick', 'tiles'),
    thing_classes=('circle', 'square', 'triangle', 'star'),
    stuff_classes=('sky', 'grass', 'brick', 'tiles'),
    palette=[
        (213, 94, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167),
        (86, 180, 233), (0, 158, 115), (230, 159, 0), (153, 153, 153),
    ],
)  # fmt: skip
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
