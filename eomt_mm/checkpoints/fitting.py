"""Fit imported weights to a model: resample positions and patch kernels, and check that everything else matches."""

from collections.abc import Iterable, Mapping

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from eomt_mm.checkpoints.describe import GRID, POSITIONS, Description, position_grid
from eomt_mm.checkpoints.files import State

KERNEL = 'backbone.vit.patch_embed.proj.weight'
HEAD_PARTS = ('queries.weight', *(f'mask_mlp.{k}.{part}' for k in (0, 2, 4) for part in ('weight', 'bias')))
SCALE_PARTS = ('up.weight', 'up.bias', 'conv.weight', 'norm.weight', 'norm.bias')
QV_BIASES = ('.attn.q_bias', '.attn.v_bias')


def resample(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], whole: bool) -> tuple[State, list[str]]:
    """Resample position embeddings, and for bare backbones the patch kernel, as timm does.

    Position embeddings: float32, bicubic with antialiasing. Kernel: pseudo-inverse, which preserves the outputs on
    resized patches.

    Args:
        weights: weights of the file, in our names.
        expected: the model's ``state_dict()``.
        whole: whether the file holds a whole EoMT, whose patch kernel is not resampled: its masks would change their
            resolution.

    Returns:
        weights, and notes for the user on what was resampled.
    """
    weights, notes = dict(weights), []
    positions, wanted = weights.get(POSITIONS), expected.get(POSITIONS)
    (prefix, old), (wanted_prefix, new) = position_grid(weights), position_grid(expected)
    same_kind = positions is not None and wanted is not None and positions.shape[2] == wanted.shape[2]
    if same_kind and old and new and old != new and prefix == wanted_prefix:
        weights[POSITIONS] = resample_abs_pos_embed(weights[POSITIONS].float(), list(new), list(old), prefix)
        sizes = ' to '.join(f'{rows} x {columns}' for rows, columns in (old, new))
        notes.append(f'position embeddings resampled from {sizes} patches')
    weights.pop(GRID, None)
    weights.update({GRID: expected[GRID]} if GRID in expected else {})
    kernel, wanted = weights.get(KERNEL), expected.get(KERNEL)
    if not whole and kernel is not None and wanted is not None and kernel.shape[2:] != wanted.shape[2:]:
        weights[KERNEL] = resample_patch_embed(kernel.float(), list(wanted.shape[2:]))
        notes.append(f'patch kernel resampled from {_by(kernel)} to {_by(wanted)} pixels')
    return weights, notes


def _by(kernel: Tensor) -> str:
    return f'{kernel.shape[2]} x {kernel.shape[3]}'


def settle_biases(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Add zero biases of q and v if only the model has them, and drop zero ones if only the file has them.

    Raises:
        ValueError: the biases of the file are not zero, and the model has none.
    """
    weights = dict(weights)
    extra = [name for name in weights if name.endswith(QV_BIASES) and name not in expected]
    nonzero = [name for name in extra if bool(weights[name].any())]
    if nonzero:
        raise ValueError(
            f'the file has biases of q and v that are not zero ({nonzero[0]}, {len(nonzero)} in all), and the model '
            f'has none: use the timm model whose name ends in _qkvb, or set model.backbone.qkv_bias=True (7B)'
        )
    for name in extra:
        del weights[name]
    lacking = [name for name in expected if name.endswith(QV_BIASES) and name not in weights]
    if any(name.endswith(QV_BIASES) for name in weights):
        lacking = []  # the file has some of them: the others are missing, not zero
    for name in lacking:
        weights[name] = torch.zeros_like(expected[name])
    notes = [f'{len(extra)} zero biases of q and v left out: the model has none'] if extra else []
    notes += [f'{len(lacking)} biases of q and v set to zero: the file has none'] if lacking else []
    return weights, notes


def check_model(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    found: Description,
    wanted: Description,
    may_miss: Iterable[str],
    head: str,
    unexpected: Iterable[str] = (),
) -> list[str]:
    """Compare weights with those of a model.

    Args:
        weights: weights of the file, with the model's names.
        expected: the model's ``state_dict()``.
        found: description of the file.
        wanted: description of the model.
        may_miss: prefixes of names that may be missing and then keep their initial values.
        head: the head's name in the model.
        unexpected: names in the file that its format does not have.

    Returns:
        names that are missing and allowed to be.

    Raises:
        ValueError: the weights do not fit; the message lists the settings and the names that differ.
    """
    lines = _settings(found, wanted, head)
    missing = [name for name in expected if name not in weights]
    allowed = [name for name in missing if name.startswith(tuple(may_miss))]
    if not any(line.startswith('backbone') for line in lines):  # with a different backbone, every shape differs
        lines += [
            f'{name}: {tuple(value.shape)} in the file, {tuple(expected[name].shape)} in the model'
            for name, value in weights.items()
            if name in expected and value.shape != expected[name].shape
        ]
    lines += [f'missing in the file: {name}' for name in missing if name not in allowed]
    lines += [f'unexpected in the file: {name}' for name in weights if name not in expected]
    lines += [f'unexpected in the file: {name}' for name in unexpected]
    if lines:
        raise ValueError(listed(lines))
    return allowed


def listed(lines: Iterable[str]) -> str:
    return '\n'.join(f'  {line}' for line in lines)


def check_complete(weights: Mapping[str, Tensor], depth: int, whole: bool, path: str) -> None:
    """Check without a model that weights are complete: all blocks have the same weights, and no other part is missing.

    Args:
        weights: weights in our names.
        depth: number of blocks.
        whole: whether a head is expected; its class rows may be missing.
        path: the file, for the message.

    Raises:
        ValueError: weights are missing; the message lists them.
    """
    blocks = 'backbone.vit.blocks.'
    found = [name.removeprefix(blocks).split('.', 1) for name in weights if name.startswith(blocks)]
    needed = {f'{blocks}{i}.{rest}' for i in range(depth) for rest in {rest for _, rest in found}}
    needed |= {f'backbone.vit.{name}' for name in ('patch_embed.proj.bias', 'norm.weight', 'norm.bias')}
    if whole:
        scales = {name.split('.')[2] for name in weights if name.startswith('head.upscale.')} or {'0'}
        needed |= {f'head.{name}' for name in HEAD_PARTS}
        needed |= {f'head.upscale.{k}.{name}' for k in scales for name in SCALE_PARTS}
    missing = sorted(needed - weights.keys())
    if missing:
        raise ValueError(f'{path} is incomplete, {len(missing)} weights are missing:\n{listed(missing)}')


def _settings(found: Description, wanted: Description, head: str) -> list[str]:
    """List the differences that a setting can fix."""
    lines = []
    if (found.family, found.width, found.depth) != (wanted.family, wanted.width, wanted.depth):
        lines.append(f'backbone: the file has {found.text()}; the model {wanted.text()}. Set model.backbone.model_name')
    elif found.patch_size != wanted.patch_size:
        lines.append(f'patches: {found.patch_size} in the file, {wanted.patch_size} in the model. Set its patch_size')
    if found.num_classes is not None and found.num_classes != wanted.num_classes:
        lines.append(
            f'classes: {found.num_classes} in the file, {wanted.num_classes} in the model. Use the config of the '
            f"file's data set, or leave the class rows out with --no-class-head (class_head=False)"
        )
    for name, text in dict(num_queries='queries', num_blocks='joint blocks').items():
        there, needed = getattr(found, name), getattr(wanted, name)
        if there is not None and there != needed:
            lines.append(f'{text}: {there} in the file, {needed} in the model. Set model.{head}.{name}={there}')
    return lines
