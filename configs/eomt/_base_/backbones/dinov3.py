"""Optimisation of the DINOv3 family: AdamW, layer decay 0.8 below the joint blocks, warm-up 2000 + 3000."""
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05, betas=(0.9, 0.999), eps=1e-8),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor='eomt_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay=0.8, decay_joint_blocks=False),
)
param_scheduler = [dict(type='eomt_mm.TwoStagePolyLR', warmup_steps=(2000, 3000), by_epoch=False)]
auto_scale_lr = dict(enable=False, base_batch_size=16)  # images per step that the learning rate is for
