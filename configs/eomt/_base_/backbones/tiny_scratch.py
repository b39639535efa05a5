"""A small ViT from scratch, for trying things out: 6 blocks of width 192, published optimisation at a higher rate."""
_base_ = ['./dinov2.py']
backbone = dict(type='eomt_mm.TimmViT', model_name='vit_tiny_patch16_224', depth=6)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0), paramwise_cfg=dict(layer_decay=1.0)
)
param_scheduler = [dict(type='eomt_mm.TwoStagePolyLR', warmup_steps=(20, 20), by_epoch=False)]
auto_scale_lr = dict(base_batch_size=4)
