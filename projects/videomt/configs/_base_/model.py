"""VidEoMT in mmdet; the recipe adds task and classes, the leaf the backbone."""

_base_ = ['../../../../configs/eomt/_base_/runtime/det.py']
custom_imports = dict(imports=['videomt'], allow_failed_imports=False)
model = dict(
    type='eomt_mm.VidEoMTDetector',
    data_preprocessor=dict(type='eomt_mm.VidEoMTDataPreprocessor'),
    panoptic_head=dict(type='eomt_mm.VidEoMTHostHead', num_queries=200),
)
# trainings start from an EoMT of these classes or others
default_hooks = dict(checkpoint_fit=dict(class_head='auto'))
