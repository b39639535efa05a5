"""Weight names in files of bare backbones: timm, Hugging Face's DINOv2 and DINOv3, Meta's own files.

Our names are those of timm's ViT (DINOv2) and Eva (DINOv3) models. In DINOv3, the attention keys have no bias.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from eomt_mm.checkpoints.files import State
from eomt_mm.checkpoints.rules import Rule, copy, stack

VIT = 'backbone.vit.'
BLOCK = VIT + 'blocks.{i}.'
# Classifiers, and weights that only the pretraining used.
IGNORED = (
    'mask_token',
    'embeddings.mask_token',
    'head.{rest}',
    'fc_norm.{p}',
    'attn_pool.{rest}',
    'pooler.{rest}',
    'local_cls_norm.{p}',
    'projectors.{rest}',
    'rope_embed.{rest}',
    'rope.{rest}',
    'blocks.{i}.attn.qkv.bias_mask',
)


def timm_rules() -> tuple[Rule, ...]:
    return (copy('{rest}', VIT + '{rest}'),)


def prepare_timm(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Rename the last norm of models with average pooling, which apply it after the pooling; ours is before it."""
    if 'norm.weight' in state or 'fc_norm.weight' not in state:
        return dict(state), []
    return {re.sub('^fc_norm', 'norm', name): value for name, value in state.items()}, ['last norm taken from fc_norm']


def hf_dinov2_block_rules(layer: str, gated: bool, output: str) -> tuple[Rule, ...]:
    """Return the rules for DINOv2's blocks.

    Args:
        layer: template of a block's prefix.
        gated: whether the MLP is gated, with separate weights. The packed form (``weights_in``) is always read, but
            never written.
        output: name of the attention's output projection.
    """
    mlp: tuple[Rule, ...] = (
        copy(layer + 'mlp.fc1.{p}', BLOCK + 'mlp.fc1.{p}'),
        copy(layer + 'mlp.fc2.{p}', BLOCK + 'mlp.fc2.{p}'),
        copy(layer + 'mlp.weights_in.{p}', BLOCK + 'mlp.fc1.{p}'),
        copy(layer + 'mlp.weights_out.{p}', BLOCK + 'mlp.fc2.{p}'),
    )
    if gated:
        mlp = (
            stack((layer + 'mlp.gate_proj.{p}', layer + 'mlp.up_proj.{p}'), BLOCK + 'mlp.fc1.{p}'),
            copy(layer + 'mlp.down_proj.{p}', BLOCK + 'mlp.fc2.{p}'),
        )
    return (
        stack((f'{layer}attention.{x}_proj.{{p}}' for x in 'qkv'), BLOCK + 'attn.qkv.{p}'),
        copy(f'{layer}attention.{output}.{{p}}', BLOCK + 'attn.proj.{p}'),
        copy(layer + 'layer_scale1.lambda1', BLOCK + 'ls1.gamma'),
        copy(layer + 'layer_scale2.lambda1', BLOCK + 'ls2.gamma'),
        copy(layer + 'norm1.{p}', BLOCK + 'norm1.{p}'),
        copy(layer + 'norm2.{p}', BLOCK + 'norm2.{p}'),
        *mlp,
    )


def hf_dinov2_rules(gated: bool) -> tuple[Rule, ...]:
    """Return rules for ``Dinov2WithRegistersModel``, with the names in files and those of transformers 5 in memory.

    In files, the queries are ``attention.attention.query``.
    """
    layer = 'encoder.layer.{i}.'
    saved = (f'{layer}attention.attention.{x}.{{p}}' for x in ('query', 'key', 'value'))
    return (
        copy('embeddings.cls_token', VIT + 'cls_token'),
        copy('embeddings.register_tokens', VIT + 'reg_token'),
        copy('embeddings.position_embeddings', VIT + 'pos_embed'),
        copy('embeddings.patch_embeddings.projection.{p}', VIT + 'patch_embed.proj.{p}'),
        stack(saved, BLOCK + 'attn.qkv.{p}'),
        copy(layer + 'attention.output.dense.{p}', BLOCK + 'attn.proj.{p}'),
        *hf_dinov2_block_rules(layer, gated, output='o_proj'),
        copy('layernorm.{p}', VIT + 'norm.{p}'),
    )


def prepare_hf_dinov2(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    return _fold_class_position(state, 'embeddings.position_embeddings', 'embeddings.')


def meta_dinov2_rules() -> tuple[Rule, ...]:
    return (
        copy('register_tokens', VIT + 'reg_token'),
        copy('blocks.{i}.mlp.w12.{p}', BLOCK + 'mlp.fc1.{p}'),
        copy('blocks.{i}.mlp.w3.{p}', BLOCK + 'mlp.fc2.{p}'),
        *timm_rules(),
    )


def prepare_meta_dinov2(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    return _fold_class_position(state, 'pos_embed', '')


def _fold_class_position(state: Mapping[str, Tensor], positions: str, prefix: str) -> tuple[State, list[str]]:
    """Add the position embedding of the class token to the token itself, as timm does in models with registers.

    The position embeddings of the patches are then the only ones left.
    """
    state = dict(state)
    if prefix + 'register_tokens' not in state or positions not in state or prefix + 'cls_token' not in state:
        return state, []
    state[prefix + 'cls_token'] = state[prefix + 'cls_token'] + state[positions][:, :1]
    state[positions] = state[positions][:, 1:]
    return state, ['position of the class token added to the class token']


def hf_dinov3_rules(embeddings: str, layers: str, norm: str, gated: bool) -> tuple[Rule, ...]:
    """Return the rules for DINOv3 in Hugging Face's naming, which official EoMT files use too.

    Args:
        embeddings: prefix of the embeddings, including the dot.
        layers: prefix of the blocks, up to the index.
        norm: name of the last norm.
        gated: whether the MLP has a gate.
    """
    layer = layers + '{i}.'
    up = 'fc1_x' if gated else 'fc1'
    return (
        copy(embeddings + 'cls_token', VIT + 'cls_token'),
        copy(embeddings + 'register_tokens', VIT + 'reg_token'),
        copy(embeddings + 'patch_embeddings.{p}', VIT + 'patch_embed.proj.{p}'),
        stack((f'{layer}attention.{x}_proj.weight' for x in 'qkv'), BLOCK + 'attn.qkv.weight'),
        copy(layer + 'attention.q_proj.bias', BLOCK + 'attn.q_bias'),
        copy(layer + 'attention.v_proj.bias', BLOCK + 'attn.v_bias'),
        copy(layer + 'attention.o_proj.{p}', BLOCK + 'attn.proj.{p}'),
        copy(layer + 'layer_scale1.lambda1', BLOCK + 'gamma_1'),
        copy(layer + 'layer_scale2.lambda1', BLOCK + 'gamma_2'),
        copy(layer + 'norm1.{p}', BLOCK + 'norm1.{p}'),
        copy(layer + 'norm2.{p}', BLOCK + 'norm2.{p}'),
        *((copy(layer + 'mlp.gate_proj.{p}', BLOCK + 'mlp.fc1_g.{p}'),) if gated else ()),
        copy(layer + 'mlp.up_proj.{p}', BLOCK + f'mlp.{up}.{{p}}'),
        copy(layer + 'mlp.down_proj.{p}', BLOCK + 'mlp.fc2.{p}'),
        copy(norm + '.{p}', VIT + 'norm.{p}'),
    )


def meta_dinov3_rules() -> tuple[Rule, ...]:
    return (
        copy('storage_tokens', VIT + 'reg_token'),
        copy('blocks.{i}.ls1.gamma', BLOCK + 'gamma_1'),
        copy('blocks.{i}.ls2.gamma', BLOCK + 'gamma_2'),
        copy('blocks.{i}.mlp.w1.{p}', BLOCK + 'mlp.fc1_g.{p}'),
        copy('blocks.{i}.mlp.w2.{p}', BLOCK + 'mlp.fc1_x.{p}'),
        copy('blocks.{i}.mlp.w3.{p}', BLOCK + 'mlp.fc2.{p}'),
        *timm_rules(),
    )


def prepare_meta_dinov3(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Split the bias of q, k and v, and drop the part of the keys, which Meta masks out and leaves meaningless."""
    prepared: State = {}
    for name, value in state.items():
        if name.endswith('.attn.qkv.bias'):
            attention = name.removesuffix('qkv.bias')
            prepared[attention + 'q_bias'], _, prepared[attention + 'v_bias'] = value.chunk(3)
        else:
            prepared[name] = value
    return prepared, []
