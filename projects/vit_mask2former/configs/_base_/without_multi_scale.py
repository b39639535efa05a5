"""Step 3: the Transformer decoder attends to the ViT's own scale only; masks are still predicted at a quarter."""

_base_ = ['./without_pixel_decoder.py']
model = dict(
    neck=dict(strides=(4, 16)),
    panoptic_head=dict(
        in_channels=[256, 256],
        num_transformer_feat_level=1,
        pixel_decoder=dict(encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=1)))),
    ),
)
