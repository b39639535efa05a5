"""Export our weights to other programs: folders for transformers, and files in the format of the official release."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST
from eomt_mm.checkpoints import huggingface, official
from eomt_mm.checkpoints.class_order import to_ade20k_order
from eomt_mm.checkpoints.describe import GRID, NORM_EPS, Description, describe
from eomt_mm.checkpoints.files import State
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.checkpoints.rules import map_to_theirs
from eomt_mm.core.geometry import Size
from eomt_mm.fileio.writing import written_aside

REGISTERS = 4
# Settings of all image and video processors; resample 2 is bilinear.
PIXELS = dict(
    do_resize=True,
    resample=2,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=list(official.IMAGENET_MEAN),
    image_std=list(official.IMAGENET_STD),
)


def export_official(state: Mapping[str, Tensor], path: str | Path, ade20k_order: bool = False) -> None:
    """Write a ``pytorch_model.bin`` in the format of the official release, with absolute weights.

    With DINOv3, the official program adds the pretrained backbone to them unless ``delta_weights=False`` is set there.

    Args:
        state: ``state_dict()`` of our model.
        path: file to write; an existing file is replaced only after the new one is complete.
        ade20k_order: class rows are in mmdet's order of ADE20K panoptic; convert them to ADE20K's order.

    Raises:
        ValueError: the backbone is neither DINOv2 with registers nor DINOv3.
    """
    weights, found = _weights(state, ade20k_order)
    if found.family == 'dinov2':
        rules = official.dinov2_rules()
    else:
        rules, weights = official.dinov3_rules(_gated(weights)), _with_biases(weights)
    with written_aside(path) as aside:
        torch.save({**map_to_theirs(weights, rules), **official.buffers(found.num_classes or 0)}, aside)


def export_huggingface(
    state: Mapping[str, Tensor],
    folder: str | Path,
    img_size: int | Size | None = None,
    num_heads: int | None = None,
    classes: Sequence[str] | None = None,
    semantic: bool = False,
    ade20k_order: bool = False,
) -> None:
    """Write a folder that ``EomtForUniversalSegmentation`` or ``EomtDinov3ForUniversalSegmentation`` can load.

    The loaded model has the same outputs as ours: masks are off, and positions are not rescaled in training.

    Args:
        state: ``state_dict()`` of our model.
        folder: new or empty folder for ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.
        img_size: side in pixels of the input, which must be square. None: that of the stored position embeddings
            (DINOv2).
        num_heads: number of attention heads. None: that of the published model of this size.
        classes: class names in the order of the model's classes. None: transformers' placeholders LABEL_0, LABEL_1, ...
        semantic: the image processor cuts images into windows; False: it pads whole images.
        ade20k_order: class rows and names are in mmdet's order of ADE20K panoptic; convert them to ADE20K's order.

    Raises:
        ValueError: the model is of a different kind, transformers would compute different outputs, or ``img_size`` or
            ``num_heads`` is unknown.
        FileExistsError: the folder is not empty.
    """
    theirs, config = huggingface_model(state, img_size, num_heads, classes, ade20k_order)
    processor = _image_processor(config['image_size'], semantic)
    write_folder(folder, theirs, {'config.json': config, 'preprocessor_config.json': processor})


def huggingface_model(
    state: Mapping[str, Tensor],
    img_size: int | Size | None = None,
    num_heads: int | None = None,
    classes: Sequence[str] | None = None,
    ade20k_order: bool = False,
) -> tuple[State, dict[str, Any]]:
    """Return weights in transformers' names, and ``config.json``; for arguments see :func:`export_huggingface`."""
    weights, found = _weights(state, ade20k_order)
    gated = _gated(weights)
    if found.family == 'dinov3' and gated:
        raise ValueError(
            "DINOv3 with a gated MLP (huge+, 7B) cannot be exported: transformers' hidden_act also applies to the mask "
            'head, so its outputs would differ from those of this model. Use --to official'
        )
    img_size = img_size or found.img_size
    num_heads = num_heads or found.num_heads
    if img_size is None or num_heads is None:
        what = 'img_size' if img_size is None else 'num_heads'
        raise ValueError(f'{what} cannot be read off the weights: give it, or the config with --config')
    if not isinstance(img_size, int):
        raise ValueError(f'img_size={img_size}: transformers takes square inputs only')
    names = list(classes or [f'LABEL_{k}' for k in range(found.num_classes or 0)])
    if len(names) != found.num_classes:
        raise ValueError(f'classes: {len(names)} names for a model with {found.num_classes} classes')
    if ade20k_order:
        names = [names[ADE20K_THINGS_FIRST.index(k)] for k in range(len(names))]
    config = _common_config(found, img_size, num_heads, names)
    if found.family == 'dinov2':
        config |= _dinov2_config(weights, found.width)
        theirs = map_to_theirs(weights, huggingface.dinov2_rules(gated=bool(config['use_swiglu_ffn'])))
    else:
        config |= _dinov3_config(weights)
        theirs = map_to_theirs(weights, huggingface.dinov3_rules(gated))
    theirs['criterion.empty_weight'] = official.buffers(len(names))['criterion.empty_weight']
    return theirs, config


def write_folder(folder: str | Path, weights: State, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``model.safetensors`` and JSON files to a folder.

    Raises:
        FileExistsError: the folder is not empty.
    """
    with written_aside(folder, folder=True) as aside:
        save_file({name: value.contiguous() for name, value in weights.items()}, aside / 'model.safetensors',
                  metadata=dict(format='pt'))  # fmt: skip
        for name, content in files.items():
            (aside / name).write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def _weights(state: Mapping[str, Tensor], ade20k_order: bool) -> tuple[State, Description]:
    """Prepare weights for export: head prefix ``head.``, masks off; raise ValueError if no format can hold them.

    Returns:
        weights and their description.
    """
    found = describe(state)
    if found.num_classes is None or found.num_queries is None:
        raise ValueError('only whole models can be exported; this one has no head with queries and class rows')
    registers = state.get('backbone.vit.reg_token')
    if found.family == 'other' or registers is None or registers.shape[1] != REGISTERS:
        raise ValueError(
            f'backbone {found.text()}: other formats support only DINOv2 with {REGISTERS} registers and DINOv3'
        )
    if GRID in state:
        rows, columns = map(int, state[GRID].tolist())
        raise ValueError(
            f'position embeddings of {rows} x {columns} patches: other formats store those of squares; build the model '
            f'with a square img_size, for which tools/convert_checkpoint.py resamples them'
        )
    weights = {}
    for name, value in state.items():
        prefix, _, rest = name.partition('.')
        if prefix in HEADS or prefix == 'backbone':
            weights[f'head.{rest}' if prefix in HEADS else name] = value.detach().cpu()
    if 'head.attn_mask_probs' not in weights:
        raise ValueError('attn_mask_probs is missing, so the number of joint blocks is unknown')
    weights['head.attn_mask_probs'] = torch.zeros_like(weights['head.attn_mask_probs'])
    return to_ade20k_order(weights) if ade20k_order else weights, found


def _gated(weights: Mapping[str, Tensor]) -> bool:
    return 'backbone.vit.blocks.0.mlp.fc1_g.weight' in weights


def _with_biases(weights: State) -> State:
    """Add zero biases of q and v if they are missing: the official DINOv3 backbone always has them."""
    lacking: State = {}
    for name, value in weights.items():
        attention = name.removesuffix('qkv.weight')
        if attention != name and attention + 'q_bias' not in weights:
            lacking |= {attention + bias: value.new_zeros(len(value) // 3) for bias in ('q_bias', 'v_bias')}
    return {**weights, **lacking}


def _common_config(found: Description, img_size: int, num_heads: int, names: list[str]) -> dict[str, Any]:
    return dict(
        hidden_size=found.width,
        num_hidden_layers=found.depth,
        num_attention_heads=num_heads,
        hidden_act='gelu',
        layer_norm_eps=NORM_EPS[found.family],
        image_size=img_size,
        patch_size=found.patch_size,
        num_register_tokens=REGISTERS,
        num_upscale_blocks=found.num_scale_blocks,
        num_blocks=found.num_blocks,
        num_queries=found.num_queries,
        id2label={str(k): name for k, name in enumerate(names)},
        label2id={name: k for k, name in enumerate(names)},
        dtype='float32',
    )


def _dinov2_config(weights: State, width: int) -> dict[str, Any]:
    """Return the config entries of DINOv2; transformers derives the MLP's width from an integer ``mlp_ratio``.

    For giant's gated MLP see ``EomtSwiGLUFFN``.
    """
    hidden, joined = (weights[f'backbone.vit.blocks.0.mlp.{name}.weight'] for name in ('fc2', 'fc1'))
    size, gated = hidden.shape[1], len(joined) == 2 * hidden.shape[1]
    for ratio in range(1, 17):
        derived = (int(width * ratio * 2 / 3) + 7) // 8 * 8 if gated else width * ratio
        if derived == size:
            return dict(
                model_type='eomt',
                architectures=['EomtForUniversalSegmentation'],
                mlp_ratio=ratio,
                use_swiglu_ffn=gated,
            )
    raise ValueError(f'MLP of {size} for a width of {width}: transformers supports only whole multiples (mlp_ratio)')


def _dinov3_config(weights: State) -> dict[str, Any]:
    has_bias = 'backbone.vit.blocks.0.attn.q_bias' in weights
    return dict(
        model_type='eomt_dinov3',
        architectures=['EomtDinov3ForUniversalSegmentation'],
        intermediate_size=len(weights['backbone.vit.blocks.0.mlp.fc1.weight']),
        use_gated_mlp=False,
        query_bias=has_bias,
        key_bias=False,
        value_bias=has_bias,
        rope_parameters=dict(rope_type='default', rope_theta=100.0),
        pos_embed_rescale=None,  # published models were trained without it
    )


def _image_processor(img_size: int, semantic: bool) -> dict[str, Any]:
    return dict(
        image_processor_type='EomtImageProcessor',
        size=dict(shortest_edge=img_size, longest_edge=None if semantic else img_size),
        do_split_image=semantic,
        do_pad=not semantic,
        **PIXELS,
    )
