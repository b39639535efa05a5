"""Sides small enough for tests: our toy configs, images' and videos', and the hosts' Mask2Former at a few channels."""

import ast
from pathlib import Path
from typing import Any

from tool_runs import CONFIGS, ROOT, small

from benchmark.configs import find_config
from benchmark.sides import Spec

STOCK = dict(
    panoptic='mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
    instance='mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco',
    semantic='mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
)
VIDEO = next((ROOT / 'projects' / 'videomt' / 'configs').glob('videomt_tiny_*.py'))
TINY_MASK2FORMER = """
_base_ = ['{base}']
encoder_layer = dict(self_attn_cfg=dict(embed_dims=32), ffn_cfg=dict(embed_dims=32, feedforward_channels=32))
decoder_layer = dict(
    self_attn_cfg=dict(embed_dims=32),
    cross_attn_cfg=dict(embed_dims=32),
    ffn_cfg=dict(embed_dims=32, feedforward_channels=32),
)
head = dict(
    in_channels=[8, 16, 32, 64],
    feat_channels=32,
    out_channels=32,
    num_queries=10,
    pixel_decoder=dict(
        norm_cfg=dict(num_groups=4),
        encoder=dict(num_layers=1, layer_cfg=encoder_layer),
        positional_encoding=dict(num_feats=16),
    ),
    positional_encoding=dict(num_feats=16),
    transformer_decoder=dict(num_layers=3, layer_cfg=decoder_layer),
)
model = dict(backbone=dict(depth=18, base_channels=8), {key}=head)
"""


def ours(task: str, **changes: Any) -> Spec:
    """Spec of a toy config with a ViT of two blocks, at 64 px."""
    options = {key: ast.literal_eval(value) for key, _, value in (text.partition('=') for text in small(task))}
    return Spec(str(CONFIGS[task]), options=options, **(dict(size=(64, 64)) | changes))


def video(task: str = 'instance', **changes: Any) -> Spec:
    """Spec of a VidEoMT with the ViT of :func:`ours`, 4 classes and 10 queries, on 3 frames of 64 px."""
    things = 4 if task == 'instance' else 2
    vit = dict(depth=2, embed_dim=48, num_heads=3, patch_size=16)
    head = dict(num_queries=10, task=task, num_things_classes=things, num_stuff_classes=4 - things)
    options = {f'model.backbone.{key}': value for key, value in vit.items()}
    options |= {f'model.panoptic_head.{key}': value for key, value in head.items()}
    options |= {'model.panoptic_head.criterion.num_points': 64}
    if task == 'panoptic':
        options |= {'metainfo.thing_classes': ('turtle', 'train'), 'metainfo.stuff_classes': ('shark', 'frog')}
    return Spec(str(VIDEO), options=options, **(dict(size=(64, 64), frames=3) | changes))


def mask2former(task: str, folder: Path, **changes: Any) -> Spec:
    """Spec of the hosts' Mask2Former with 8 to 64 channels, at 64 px; its config is written to ``folder``."""
    path = folder / f'tiny_mask2former_{task}.py'
    key = 'decode_head' if task == 'semantic' else 'panoptic_head'
    path.write_text(TINY_MASK2FORMER.format(base=find_config(STOCK[task]), key=key))
    return Spec(str(path), **(dict(size=(64, 64)) | changes))
