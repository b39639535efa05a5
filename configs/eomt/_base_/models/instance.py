"""EoMT for instance segmentation in mmdet; the recipe adds sizes and classes, the leaf the backbone."""
model = dict(
    type='eomt_mm.EoMTDetector',
    data_preprocessor=dict(type='eomt_mm.EoMTDetDataPreprocessor'),
    panoptic_head=dict(type='eomt_mm.EoMTDetHead', task='instance', num_queries=200),
)
