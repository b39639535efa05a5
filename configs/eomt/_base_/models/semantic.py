"""EoMT for semantic segmentation in mmseg; the recipe adds sizes and classes, the leaf the backbone."""
model = dict(
    type='eomt_mm.EoMTSegmentor',
    data_preprocessor=dict(type='eomt_mm.EoMTSegDataPreprocessor'),
    decode_head=dict(type='eomt_mm.EoMTSegHead', num_queries=100),
)
