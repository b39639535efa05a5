"""The published schedules: learning rates by layer and by step, and mask annealing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def fitting_warmup(warmup_steps: Sequence[int], total: int, max_warmup: float = 0.25) -> tuple[int, int]:
    """Shorten the warm-up (w0, w1) in proportion if it takes more than the fraction ``max_warmup`` of ``total`` steps.

    Args:
        warmup_steps: (w0, w1); published are (500, 1000) with DINOv2, (2000, 3000) with DINOv3.
        total: length of the schedule in optimiser steps.
        max_warmup: in (0, 1]; the largest published fraction is just below a quarter.

    Raises:
        ValueError: ``warmup_steps`` are negative, or ``max_warmup`` is outside (0, 1].
    """
    if min(warmup_steps) < 0 or not 0 < max_warmup <= 1:
        raise ValueError(
            f'warmup_steps={tuple(warmup_steps)}, max_warmup={max_warmup}: steps must be at least 0, max_warmup in '
            f'(0, 1]'
        )
    share = min(1.0, max_warmup * total / max(1, sum(warmup_steps)))
    head, backbone = warmup_steps
    return (head, backbone) if share == 1 else (int(head * share), int(backbone * share))


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


@dataclass(frozen=True)
class MaskAnnealing:
    """When the masks of each joint block are phased out (EoMT paper, "Mask annealing").

    By default the steps follow the rule of the published recipes: annealing starts at 1/6 (first block) to 4/6 (last
    block) of the schedule and ends at 2/6 to 5/6, for any number of joint blocks (:func:`published_steps`).

    Attributes:
        starts, ends: where the annealing of each joint block starts and ends, instead of the rule: fractions of the
            schedule in [0, 1] or, with ``total_steps``, optimiser steps.
        unit: number of optimiser steps that the annealing of each block takes. None: a sixth of the schedule.
        first_block: (start, end) of the first joint block in optimiser steps, instead of the rule's (published with
            DINOv3: (0, 3000)).
        total_steps: length of the schedule that the steps above refer to. For a schedule of another length, the steps
            are scaled to it.
        power: exponent of the polynomial decay.

    Raises:
        ValueError: the arguments are inconsistent.
    """

    starts: Sequence[float] | None = None
    ends: Sequence[float] | None = None
    unit: int | None = None
    first_block: Sequence[int] | None = None
    total_steps: int | None = None
    power: float = 0.9

    def __post_init__(self) -> None:
        starts, ends, unit, first_block = self.starts, self.ends, self.unit, self.first_block
        if starts is not None and (unit is not None or first_block is not None):
            raise ValueError(
                f'starts={starts} with unit={unit}, first_block={first_block}: give either starts and ends, or unit '
                f'and first_block, not both'
            )
        if (unit is not None or first_block is not None) and self.total_steps is None:
            raise ValueError(
                f'unit={unit}, first_block={first_block} need total_steps, the length of the schedule that these '
                f'steps refer to'
            )
        if first_block is not None and not 0 <= first_block[0] <= first_block[1]:
            raise ValueError(f'first_block={first_block}: 0 <= start <= end, in optimiser steps')
        if unit is not None and unit < 1:
            raise ValueError(f'unit={unit}: at least 1 optimiser step')
        if (starts is None) != (ends is None):
            raise ValueError(f'starts={starts}, ends={ends}: give both or neither')
        if starts is not None and ends is not None:
            if len(starts) != len(ends) or any(a < 0 or e < a for a, e in zip(starts, ends, strict=True)):
                raise ValueError(f'starts={starts}, ends={ends}: one of each per joint block, 0 <= start <= end')
            if self.total_steps is None and max(ends) > 1:
                raise ValueError(
                    f'ends={ends} exceed 1: give fractions of the schedule, or set total_steps to the length of the '
                    f'schedule that these steps refer to'
                )
        elif self.total_steps is not None and unit is None and first_block is None:
            raise ValueError(f'total_steps={self.total_steps} needs starts and ends, unit, or first_block in steps')

    def steps(self, num_blocks: int, total: int) -> list[tuple[int, int]]:
        """Return (start, end) of each joint block's annealing, in steps of a schedule of ``total`` steps.

        Raises:
            ValueError: ``starts`` and ``ends`` are for another number of joint blocks.
        """
        stated: list[tuple[float, float]]
        if self.starts is None or self.ends is None:
            if self.total_steps is None:
                return published_steps(num_blocks, total)
            stated = [*published_steps(num_blocks, self.total_steps, self.unit)]
            if self.first_block is not None:
                stated[0] = (self.first_block[0], self.first_block[1])
        elif len(self.starts) == num_blocks:
            stated = list(zip(self.starts, self.ends, strict=True))
        else:
            raise ValueError(
                f'mask annealing has {len(self.starts)} starts and ends, the model {num_blocks} joint blocks: give one '
                f'of each per block'
            )
        scale = total / (self.total_steps or 1)
        return [(math.floor(start * scale + 0.5), math.floor(end * scale + 0.5)) for start, end in stated]

    def keep_probs(
        self, step: int, steps: Sequence[tuple[int, int]], most: Sequence[float] | None = None
    ) -> list[float]:
        """Return the keep probability of each joint block after ``step`` optimiser steps.

        Args:
            step: number of completed steps.
            steps: (start, end) of each block, see :meth:`steps`.
            most: upper limits, the probabilities in the checkpoint of a resumed run, so that a longer schedule turns no
                mask on again.
        """
        probs = [annealed_keep_prob(step, start, end, self.power) for start, end in steps]
        # The saved probabilities are float32: small differences from the schedule's values are rounding.
        limits = most or [1.0] * len(probs)
        return [prob if prob <= limit + 1e-6 else limit for prob, limit in zip(probs, limits, strict=True)]
