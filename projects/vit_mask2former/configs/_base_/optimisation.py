"""As mmdet trains Mask2Former: a tenth of the learning rate in the backbone, no weight decay of norms and queries."""

_base_ = ['../../../../configs/eomt/_base_/backbones/dinov2.py']
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            query_embed=dict(decay_mult=0.0),
            query_feat=dict(decay_mult=0.0),
            level_embed=dict(decay_mult=0.0),
        ),
        norm_decay_mult=0.0,
    ),
)
