"""Step 2: the pyramid feeds the Transformer decoder directly."""

_base_ = ['./vit_mask2former.py']
model = dict(
    panoptic_head=dict(
        pixel_decoder=dict(
            _delete_=True,
            type='mmdet.NoPixelDecoder',
            encoder=dict(layer_cfg=dict(self_attn_cfg=dict(num_levels=_base_.num_levels))),
        )
    )
)
