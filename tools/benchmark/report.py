"""Report measurements as a Markdown table, as JSON and as a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmdet
import mmseg
import timm
import torch

from benchmark.harness import Spread
from benchmark.measure import Result
from benchmark.sides import Spec
from eomt_mm.fileio.writing import written_aside

WHAT = dict(
    model='model forward',
    full='image file to result',
    train='training step on generated targets',
)
MAIN_METRICS = ('PQ', 'VPQ', 'segm_mAP', 'AP', 'mIoU', 'bbox_mAP')
BLUE, ORANGE = '#0072b2', '#d55e00'  # of Okabe and Ito's palette


def environment(device: str) -> dict[str, Any]:
    """Environment of the measurements: versions, device, threads."""
    on_cuda = device.startswith('cuda')
    return dict(
        torch=torch.__version__,
        timm=timm.__version__,
        mmdet=mmdet.__version__,
        mmseg=mmseg.__version__,
        device=device,
        device_name=torch.cuda.get_device_name(device) if on_cuda else cpu_name(),
        threads=torch.get_num_threads(),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
    )


def cpu_name() -> str:
    """CPU model as Linux states it; 'CPU' elsewhere."""
    file = Path('/proc/cpuinfo')
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), 'CPU')


def caption(spec: Spec, task: str, rounds: int, env: dict[str, Any]) -> str:
    """Describe in one line what was measured, and on what."""
    kept = spec.stage == 'full' and task == 'panoptic' and spec.checkpoint is None
    parts = [
        WHAT[spec.stage],
        'input {} x {}, batch {}'.format(*spec.size, spec.batch),
        frames_of(spec),
        f'{spec.kept} queries kept' if kept else '',
        f'{spec.amp} autocast' if spec.amp else 'float32',
        f'torch.compile {spec.compile_mode}' if spec.compile_mode else 'eager',
        f'{env["device_name"]}, {env["threads"]} threads, torch {env["torch"]}',
        f'{rounds} rounds, in turns',
    ]
    return '; '.join(part for part in parts if part)


def frames_of(spec: Spec) -> str:
    """Describe how a call takes its frames; '' for images."""
    if spec.frames == 1:
        return ''
    way = f'in windows of {spec.window} by video models' if spec.window > 1 else 'one by one'
    if spec.stage == 'train':
        way = 'as a clip or a batch'
    elif spec.whole_video:
        way += ', results of videos in the end'
    return f'{spec.frames} frames {way}, times and operations per frame'


def markdown(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Format a Markdown table; the first column is text, the others are numbers."""
    lines = [header, ['---', *('---:' for _ in header[1:])], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def table(results: Sequence[Result]) -> str:
    """Format a table with sides as rows; brackets show the quartiles."""
    rate = 'images/s' if results[0].spec.frames == 1 else 'frames/s'
    header = ['config', 'parameters', 'GFLOPs', 'time (ms)', rate, 'peak memory', 'speed', 'attention']
    with_accuracy = any(result.accuracy for result in results)
    with_sizes = len({result.input_size for result in results}) > 1
    header[1:1] = ['input'] if with_sizes else []
    header += ['accuracy'] if with_accuracy else []
    rows = []
    for result in results:
        row = [
            result.name,
            f'{result.parameters / 1e6:.1f} M',
            f'{result.flops / 1e9:.1f}',
            milliseconds(result.time),
            f'{result.images_per_second:.2f}',
            megabytes(result.memory),
            result.speedup.text(1, 2) + ' x' if result.speedup else '',
            '; '.join(result.attention),
        ]
        row[1:1] = ['{} x {}'.format(*result.input_size)] if with_sizes else []
        rows.append(row + ([main_metric(result.accuracy)] if with_accuracy else []))
    return markdown(rows, header)


def milliseconds(seconds: Spread) -> str:
    return seconds.text(1e3, 0 if seconds.median > 0.1 else 2)


def megabytes(count: int | None) -> str:
    return '' if count is None else f'{count / 2**20:,.0f} MiB'


def main_metric(metrics: dict[str, float]) -> str:
    """Main metric of the task, with its name."""
    for name in MAIN_METRICS:
        for key, value in metrics.items():
            if key.rpartition('/')[2] == name:
                return f'{name} {value:.3g}'
    return ', '.join(f'{key} {value:.3g}' for key, value in list(metrics.items())[:1])


def write_json(path: Path, env: dict[str, Any], sides: Sequence[Any], **more: Any) -> None:
    """Write all measurements, including every round."""
    content = dict(environment=env, **more, sides=[dict(asdict(side), time=asdict(side.time)) for side in sides])
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1, default=str) + '\n')


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """Plot images or frames per second as bars with quartiles and speed-ups; beside them, time over operations."""
    names = [f'{two_lines(result.name)}  ({k})' for k, result in enumerate(results, 1)]
    colours = [BLUE if result.spec.config == results[0].spec.config else ORANGE for result in results]
    height = 1.6 + 0.55 * len(results)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, max(3.4, height)), layout='constrained')
    speeds = [result.images_per_second for result in results]
    ends = [[result.spec.batch / t for t in (result.time.high, result.time.low)] for result in results]
    errors = [[abs(v - e[k]) for v, e in zip(speeds, ends, strict=True)] for k in range(2)]
    bars = left.barh(names, speeds, xerr=errors, color=colours, capsize=3, height=0.6)
    left.bar_label(bars, [f'{r.speedup.median:.2f} x' if r.speedup else '' for r in results], padding=6)
    left.invert_yaxis()
    left.set_xlim(0, max(end[1] for end in ends) * 1.2)
    left.set_xlabel(f'{"images" if results[0].spec.frames == 1 else "frames"} per second')
    right.scatter([r.flops / 1e9 for r in results], [r.time.median for r in results], color=colours, zorder=3)
    for k, result in enumerate(results, 1):
        place = (result.flops / 1e9, result.time.median)
        right.annotate(f'({k})', place, xytext=(0, 7), textcoords='offset points', ha='center')
    right.set(xlabel='GFLOPs', ylabel='seconds')
    right.set_xlim(0, max(result.flops for result in results) / 1e9 * 1.3)
    right.set_ylim(0, max(result.time.median for result in results) * 1.25)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title, fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=120)
    plt.close(figure)


def two_lines(name: str) -> str:
    """Break a config's name at the underscore nearest to its middle."""
    breaks = [i for i, letter in enumerate(name) if letter == '_'] or [len(name)]
    middle = min(breaks, key=lambda i: abs(i - len(name) / 2))
    return f'{name[:middle]}\n{name[middle + 1 :]}'.strip()
