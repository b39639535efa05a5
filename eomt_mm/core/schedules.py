"""The published schedules: learning rates by layer and by step, and mask annealing."""

import math


def two_stage_factor(
    step: int, total: int, warmup_steps: tuple[int, int], is_backbone: bool, power: float = 0.9
) -> float:
    """Compute the learning-rate factor at optimiser step ``step`` (0-based) of ``total``.

    With warm-up (w0, w1), the factor of everything but the backbone rises linearly over w0 steps. The backbone's factor
    is 0 for w0 steps and rises linearly over the next w1. Both then fall as (1 - progress)^power to 0 at ``total``.
    """
    head_warmup, backbone_warmup = warmup_steps
    start, length = (head_warmup, backbone_warmup) if is_backbone else (0, head_warmup)
    if step < start:
        return 0.0
    if step < start + length:
        return (step - start) / length
    progress = (step - start - length) / max(1, total - start - length)
    return max(0.0, 1 - progress) ** power


def lr_factor(
    block: int | None, depth: int, layer_decay: float, num_joint_blocks: int, decay_joint_blocks: bool
) -> float:
    """Compute the learning-rate factor of a backbone parameter, as published.

    Block i of L has the factor ``layer_decay ** (L - 1 - i)``. Embeddings have the factor of block 0. The final norm
    (``block=None``) has the factor 1, and so have the joint blocks unless ``decay_joint_blocks``.
    """
    if block is None or (block >= depth - num_joint_blocks and not decay_joint_blocks):
        return 1.0
    return layer_decay ** (depth - 1 - block)


def published_steps(num_blocks: int, total: int, unit: int | None = None) -> list[tuple[int, int]]:
    """Compute the annealing steps (start, end) of each joint block in a schedule of ``total`` steps.

    With the unit u = total // 6, starts are spaced evenly from u to 4u and each block takes u steps; halves round up.
    These are the published steps of all configurations except those whose hook sets ``unit`` or ``first_block``.
    """
    unit = total // 6 if unit is None else unit
    starts = [math.floor(unit * (1 + 3 * b / max(1, num_blocks - 1)) + 0.5) for b in range(num_blocks)]
    return [(start, start + unit) for start in starts]


def annealed_keep_prob(step: int, start: float, end: float, power: float = 0.9) -> float:
    """Compute the keep probability of a block's masks after ``step`` steps: 1, then polynomial decay, then 0.

    Args:
        step: number of completed optimiser steps.
        start: step at which the decay starts.
        end: first step without masks; at least ``start``.
        power: exponent of the decay, 0.9 as published.
    """
    if step >= end:
        return 0.0
    if step < start:
        return 1.0
    return (1 - (step - start) / (end - start)) ** power
