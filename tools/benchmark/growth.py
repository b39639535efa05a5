"""Measure how a model's time and memory grow with its operations, varying one axis at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmark.measure import Result, measure
from benchmark.report import BLUE, markdown, megabytes, milliseconds, save
from benchmark.sides import Spec

AXES: dict[str, tuple[int, ...]] = dict(
    size=(320, 480, 640, 800, 960, 1280), batch=(1, 2, 4, 8), queries=(50, 100, 200, 400)
)
SPAN = 2  # minimum ratio of operations for a meaningful exponent
Growth = dict[str, dict[int, Result]]  # axis -> value -> what was measured


def parse_axes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse the axes to vary.

    Args:
        texts: such as 'size' or 'batch=1,2,4'; empty: all axes.

    Raises:
        ValueError: an axis is unknown, or a value is not a positive number.
    """
    axes = {}
    for text in texts or AXES:
        name, given, values = text.partition('=')
        if name not in AXES:
            raise ValueError(f"growth axis '{text}': {', '.join(AXES)}, or with values of your own: size=320,640")
        parts = values.split(',') if given else []
        if not all(part.isdigit() and int(part) for part in parts):
            raise ValueError(f"growth axis '{text}': values are positive numbers with commas between: size=320,640")
        axes[name] = tuple(map(int, parts)) or AXES[name]
    return axes


def point(spec: Spec, axis: str, value: int) -> Spec:
    """Return ``spec`` with one axis set to a value."""
    if axis == 'size':
        return replace(spec, size=(value, value))
    return replace(spec, batch=value) if axis == 'batch' else replace(spec, num_queries=value)


def measure_growth(spec: Spec, axes: Mapping[str, Sequence[int]], rounds: int, memory: bool = True) -> Growth:
    """Measure every point; the points of an axis are timed in turns."""
    return {
        axis: dict(zip(values, measure([point(spec, axis, value) for value in values], rounds, memory), strict=True))
        for axis, values in axes.items()
    }


def slope(operations: Sequence[float], values: Sequence[float]) -> float:
    """Exponent p of the power law ``values ~ operations ** p``, by least squares of the logarithms."""
    return float(np.polyfit(np.log(operations), np.log(values), 1)[0])


def growth_table(growth: Growth) -> str:
    """Format the points as rows, and the exponents below each axis whose operations differ by at least ``SPAN``."""
    blocks = []
    for axis, points in growth.items():
        rows = [
            [
                f'{axis} {value}',
                f'{result.flops / 1e9:.1f}',
                milliseconds(result.time),
                f'{result.flops / 1e9 / result.time.median:.0f}',
                megabytes(result.memory),
            ]
            for value, result in points.items()
        ]
        table = markdown(rows, [axis, 'GFLOPs', 'time (ms)', 'GFLOPs per second', 'peak memory'])
        blocks.append('\n\n'.join(part for part in (table, _exponents(list(points.values()))) if part))
    return '\n\n'.join(blocks)


def _exponents(results: Sequence[Result]) -> str:
    operations = [result.flops for result in results]
    if max(operations) < SPAN * min(operations):
        return ''
    text = f'time ~ operations^{slope(operations, [result.time.median for result in results]):.2f}'
    memory = [result.memory for result in results if result.memory]
    if len(memory) == len(results):
        text += f', memory ~ operations^{slope(operations, memory):.2f}'
    return text


def growth_plot(path: Path, growth: Growth, title: str) -> None:
    """Plot time and memory over operations, with a column per axis and its values at the points."""
    with_memory = any(result.memory for points in growth.values() for result in points.values())
    shape = (1 + with_memory, len(growth))
    figure, panels = plt.subplots(
        *shape, figsize=(1 + 3.6 * shape[1], 0.6 + 2.9 * shape[0]), squeeze=False, layout='constrained'
    )
    for (axis, points), column in zip(growth.items(), panels.T, strict=True):
        operations = [result.flops / 1e9 for result in points.values()]
        times = [result.time.median for result in points.values()]
        draw_line(column[0], operations, times, list(points), 'seconds')
        if with_memory:
            memory = [(result.memory or 0) / 2**20 for result in points.values()]
            draw_line(column[1], operations, memory, list(points), 'peak memory in MiB')
        column[0].set_title(f'{axis} varied')
        column[-1].set_xlabel('GFLOPs')
    figure.suptitle(title, fontsize=8)
    save(figure, path)


def draw_line(panel: Any, x: Sequence[float], y: Sequence[float], labels: Sequence[int], name: str) -> None:
    """Draw a curve, on a y axis from zero, with a label at each point."""
    panel.plot(x, y, color=BLUE, marker='o', clip_on=False)
    for place, label in zip(zip(x, y, strict=True), labels, strict=True):
        panel.annotate(str(label), place, xytext=(-4, 6), textcoords='offset points', fontsize=8, ha='right')
    panel.set_ylim(0, max(y) * 1.15)
    panel.margins(x=0.12)
    panel.set_ylabel(name)
    panel.grid(alpha=0.3)
    panel.spines[['top', 'right']].set_visible(False)
