"""Step 1: ViT, simple feature pyramid, Mask2Former's pixel decoder and Transformer decoder; COCO panoptic.

Numbers of the decoders, the losses and the matching are those of mmdet's Mask2Former configs, queries and
post-processing those of EoMT.
"""

_base_ = [
    '../../../../configs/eomt/_base_/runtime/det.py',
    '../../../../configs/eomt/_base_/datasets/coco_panoptic.py',
]
custom_imports = dict(imports=['vit_mask2former'], allow_failed_imports=False)
num_things, num_stuff = 80, 53
num_levels = 3  # that the decoders attend to

attention = dict(embed_dims=256, num_heads=8, batch_first=True)
positions = dict(num_feats=128, normalize=True)
relu = dict(type='ReLU', inplace=True)

model = dict(
    type='mmdet.ViTMask2Former',
    data_preprocessor=dict(type='eomt_mm.EoMTDetDataPreprocessor', img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    neck=dict(type='mmdet.SimpleFeaturePyramid', strides=(4, 8, 16, 32), out_channels=256),
    panoptic_head=dict(
        type='mmdet.Mask2FormerHead',
        in_channels=[256, 256, 256, 256],
        feat_channels=256,
        out_channels=256,
        num_things_classes=num_things,
        num_stuff_classes=num_stuff,
        num_queries=200,
        num_transformer_feat_level=num_levels,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            strides=[4, 8, 16, 32],
            num_outs=num_levels,
            norm_cfg=dict(type='GN', num_groups=32),
            act_cfg=dict(type='ReLU'),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(**attention, num_levels=num_levels, num_points=4, dropout=0.0),
                    ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, num_fcs=2, ffn_drop=0.0, act_cfg=relu),
                ),
            ),
            positional_encoding=positions,
        ),
        positional_encoding=positions,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=256, feedforward_channels=2048, num_fcs=2, ffn_drop=0.0, act_cfg=relu),
            ),
        ),
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss', loss_weight=2.0, class_weight=[1.0] * (num_things + num_stuff) + [0.1]
        ),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0),
        loss_dice=dict(type='mmdet.DiceLoss', activate=True, naive_dice=True, eps=1.0, loss_weight=5.0),
    ),
    panoptic_fusion_head=dict(
        type='mmdet.MaskFormerFusionHead', num_things_classes=num_things, num_stuff_classes=num_stuff
    ),
    train_cfg=dict(
        num_points=12544,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type='mmdet.HungarianAssigner',
            match_costs=[
                dict(type='mmdet.ClassificationCost', weight=2.0),
                dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type='mmdet.MaskPseudoSampler'),
    ),
    test_cfg=dict(panoptic_on=True, instance_on=False, object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True),
)
