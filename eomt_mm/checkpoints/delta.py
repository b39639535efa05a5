"""Detect delta files, whose backbone is stored as a difference from the pretrained one, and add the base.

Official DINOv3 files are delta files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from eomt_mm.checkpoints.files import State, read_checkpoint
from eomt_mm.checkpoints.formats import OFFICIAL_DINOV2, OFFICIAL_DINOV3, Format, to_ours
from eomt_mm.checkpoints.official import IMAGENET_MEAN, PIXEL_MEAN

Weights = Literal['auto', 'absolute', 'delta']

BACKBONE = 'backbone.'
# LayerNorm weights of a trained ViT are of order 1: an average magnitude below the first threshold means differences.
# Differences are small or, if weight decay shrank the weights, opposite in sign to the base: a projection onto the
# base's LayerNorm weights above the second threshold, as a multiple of them, means absolute weights.
LEAST_NORM_WEIGHT = 0.02
LARGEST_MULTIPLE = 0.5
EXPLAIN = (
    'official DINOv3 files hold differences to the pretrained backbone (--weights delta, with --base) unless they were '
    'trained or converted otherwise (--weights absolute)'
)


def resolve(weights: Weights, known: Format, state: Mapping[str, Tensor], path: str) -> Literal['absolute', 'delta']:
    """Decide whether the backbone weights of a file are absolute or differences.

    The official loader also adds its own buffers. A delta file therefore has a ``pixel_mean`` near 0, other files
    have ImageNet's.

    Args:
        weights: kind of the weights as the user states it (``--weights``).
        known: the file's format.
        state: the file's weights, in its own names.
        path: the file, for messages.

    Raises:
        ValueError: the file contradicts ``weights``, or ``weights`` is 'auto' and the kind cannot be detected.
    """
    if weights not in ('auto', 'absolute', 'delta'):
        raise ValueError(f"--weights {weights}: one of 'auto', 'absolute', 'delta'")
    if known not in (OFFICIAL_DINOV2, OFFICIAL_DINOV3):
        if weights == 'delta':
            raise ValueError(
                f'--weights delta: {path} is of the format {known.title}, whose weights are always absolute; '
                f'only official EoMT files hold differences. Leave --weights out'
            )
        return 'absolute'
    mean = state.get(PIXEL_MEAN)
    stored = _stored_kind(mean)
    if weights != 'auto':
        if stored is not None and stored != weights:
            raise ValueError(
                f'--weights {weights}: the pixel_mean stored in {path} is {_shown(mean)}, that is, {stored} weights. '
                f'Leave --weights out, or give --weights {stored}'
            )
        return weights
    if stored is not None:
        return stored
    if mean is None and known is OFFICIAL_DINOV2:
        return 'absolute'
    found = 'stores no pixel_mean' if mean is None else f'stores a pixel_mean of {_shown(mean)}'
    raise ValueError(
        f'{path} {found}, neither near 0 (differences) nor ImageNet {IMAGENET_MEAN} (absolute), so the kind of its '
        f'weights cannot be detected. State it with --weights: {EXPLAIN}'
    )


def _stored_kind(mean: Tensor | None) -> Literal['absolute', 'delta'] | None:
    if mean is None or mean.numel() != 3:
        return None
    values = mean.float().flatten()
    if bool((values.abs() < 0.02).all()):
        return 'delta'
    return 'absolute' if bool((values - torch.tensor(IMAGENET_MEAN)).abs().max() < 0.02) else None


def _shown(mean: Tensor | None) -> list[float] | None:
    return None if mean is None else [round(value, 3) for value in mean.float().flatten().tolist()]


def add_base(weights: Mapping[str, Tensor], base: str | Path | None, path: str) -> tuple[State, str]:
    """Add the pretrained backbone to the differences; weights outside the backbone are already absolute.

    Args:
        weights: weights of the delta file, in our names.
        base: file, folder or ``hf://`` address of the backbone, in any known format.
        path: the delta file, for messages.

    Returns:
        absolute weights, and the title of the base's format.

    Raises:
        ValueError: the base is missing, is not a bare backbone, does not fit, or holds differences itself; or the
            weights of the file are too large to be differences.
    """
    if base is None:
        raise ValueError(
            f'{path} holds differences to a pretrained backbone: give it with --base, for example '
            f"--base hf://facebook/dinov3-vitl16-pretrain-lvd1689m (gated), Meta's .pth or timm's file"
        )
    read = read_checkpoint(base)
    known, mapped = to_ours(read.state, read.path)
    if known.whole:
        raise ValueError(
            f'--base {base}: this is a whole model ({known.title}); the bare pretrained backbone is needed'
        )
    delta = {name: value for name, value in weights.items() if name.startswith(BACKBONE)}
    base_weights = {**_zero_biases(delta, mapped.weights), **mapped.weights}
    _check_shapes(delta, base_weights, str(base))
    check_absolute(base_weights, f'--base {base}')
    multiple = multiple_of_base(delta, base_weights)
    if multiple > LARGEST_MULTIPLE:
        raise ValueError(
            f"{path} is treated as differences, but its LayerNorm weights are {multiple:.2f} times the base's and "
            f'look absolute. If they are, give --weights absolute and no --base'
        )
    total = {name: base_weights[name].float() + value.float() for name, value in delta.items()}
    return {**weights, **total}, known.title


def _zero_biases(delta: State, base: State) -> State:
    """Return zero biases of q and v if the base lacks them: timm's plain models omit them because they are zero."""
    return {
        name: torch.zeros_like(value)
        for name, value in delta.items()
        if name.endswith(('.attn.q_bias', '.attn.v_bias')) and name not in base
    }


def _check_shapes(delta: State, base: State, source: str) -> None:
    lines = []
    for name in {**delta, **base}:
        there, needed = (tuple(part[name].shape) if name in part else 'missing' for part in (base, delta))
        if there != needed:
            lines.append(f'  {name}: {needed} in the file, {there} in the base')
    if lines:
        listed = '\n'.join(lines)
        raise ValueError(
            f'--base {source} is not the backbone of this file; {len(lines)} weights differ:\n{listed}\n'
            f'Give the pretrained DINOv3 model of the same size'
        )


def norm_weights(weights: Mapping[str, Tensor]) -> Tensor:
    """Concatenate all LayerNorm weights of the backbone's blocks, sorted by name."""
    ends = ('.norm1.weight', '.norm2.weight')
    names = sorted(name for name in weights if name.startswith(BACKBONE) and name.endswith(ends))
    return torch.cat([weights[name].float() for name in names]) if names else torch.ones(1)


def multiple_of_base(delta: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Compute the multiple of the base's LayerNorm weights closest to the given ones: about 1 for absolute weights."""
    ours, theirs = norm_weights(delta), norm_weights(base)
    return float((ours @ theirs) / (theirs @ theirs))


def check_absolute(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse backbones that look like differences.

    Raises:
        ValueError: the average magnitude of the LayerNorm weights is near 0.
    """
    size = float(norm_weights(weights).abs().mean())
    if size < LEAST_NORM_WEIGHT:
        raise ValueError(
            f'{what}: LayerNorm weights of {size:.2g} on average look like differences, not like absolute weights. '
            f'Give the pretrained backbone as --base, and the file with differences as SRC with --weights delta'
        )
