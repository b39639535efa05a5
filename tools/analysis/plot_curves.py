"""Plot losses, validation, learning rate and mask annealing of one or several runs, or the schedule of a config.

Examples:
    python tools/analysis/plot_curves.py work_dirs/NAME --out curves.png
    python tools/analysis/plot_curves.py work_dirs/A work_dirs/B --out a_and_b.png      # the same curves of each run
    python tools/analysis/plot_curves.py --plan CONFIG --out plan.png                   # before training
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser, add_cfg_options, file_to_write, read_options


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('work_dirs', nargs='*', type=Path, help='work dirs of training runs')
    parser.add_argument('--plan', help='config whose schedule is drawn')
    parser.add_argument('--out', type=file_to_write, help='picture (PNG); default: curves.png in the (first) work dir')
    add_cfg_options(parser, 'overrides of the config of --plan')
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.config import load_config  # isort: skip
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS

from eomt_mm.core.schedules import annealed_keep_prob, two_stage_factor
from eomt_mm.engine.mask_annealing import find_head, stated_annealing, trains_with_masks
from eomt_mm.engine.schedule import TwoStagePolyLR
from eomt_mm.fileio.writing import check_apart
from eomt_mm.visualization.figures import LINE_COLOURS, new_figure, save_picture

Scalars = dict[str, list[tuple[int, float]]]  # name to (step, value)

LOSSES = {'loss': 'loss (all layers)', 'loss_cls': 'loss_cls', 'loss_mask': 'loss_mask', 'loss_dice': 'loss_dice'}
RATES = {'lr': 'learning rate', 'lr_backbone': 'of the backbone, before layer decay'}
METRICS = {
    'coco_panoptic/PQ': 'PQ', 'coco/segm_mAP': 'mask AP', 'cityscapes/mAP': 'AP (Cityscapes)', 'mIoU': 'mIoU',
}  # fmt: skip
DASHES = ('-', '--', ':', '-.')
PLAN_POINTS = 1000


def read_scalars(work_dir: Path) -> Scalars:
    """Read the scalars of all runs in a work dir; if steps repeat, the latest run counts.

    Raises:
        FileNotFoundError: there are no scalars.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no */vis_data/scalars.json in {work_dir}: give the work dir of a training run')
    found: dict[str, dict[int, float]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # a killed run's last line
                continue
            for name, value in record.items():
                # from a validation, read only its metrics: its times are named as in training
                if 'loss' in record or name in METRICS:
                    found.setdefault(name, {})[record['step']] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def plan(cfg: Config) -> Scalars:
    """Compute a config's learning rates and keep probabilities, without training, loading or downloading anything.

    A config without mask annealing, such as a video model's, has learning rates only.

    Raises:
        ValueError: the config has no EoMT schedule.
    """
    total = cfg.get('train_cfg', {}).get('max_iters')
    schedulers = [s for s in cfg.get('param_scheduler', []) if s['type'] == 'eomt_mm.TwoStagePolyLR']
    hooks = [hook for hook in cfg.get('custom_hooks', []) if hook['type'] == 'eomt_mm.MaskAnnealingHook']
    settings = stated_annealing(cfg)
    if not hooks and settings is not None and 'mask_annealing' in cfg.get('default_hooks', {}):
        hooks = [dict(settings, type='eomt_mm.MaskAnnealingHook')]
    if not total or len(schedulers) != 1 or len(hooks) > 1:
        raise ValueError(
            f'--plan {cfg.filename}: train_cfg.max_iters={total}, {len(schedulers)} TwoStagePolyLR, {len(hooks)} '
            'MaskAnnealingHook; it takes a config of a training, with one schedule and at most one annealing'
        )
    steps = np.unique(np.linspace(0, total, min(total + 1, PLAN_POINTS), dtype=int)).tolist()
    rate = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule: TwoStagePolyLR = PARAM_SCHEDULERS.build(dict({'end': total, **schedulers[0]}, optimizer=optimizer))
    scalars: Scalars = {}
    for name, in_backbone in (('lr', False), ('lr_backbone', True)):
        factors = [
            two_stage_factor(s, schedule.total, schedule.warmup_steps, in_backbone, schedule.power) for s in steps
        ]
        scalars[name] = [(step, rate * factor) for step, factor in zip(steps, factors, strict=True)]
    for annealing in (HOOKS.build(hook).annealing for hook in hooks):
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        if not trains_with_masks(model):
            break
        num_blocks = find_head(model).num_blocks
        for b, (start, end) in enumerate(annealing.steps(num_blocks, total)):
            scalars[f'mask_prob_{b}'] = [(s, annealed_keep_prob(s, start, end, annealing.power)) for s in steps]
    return scalars


def plot(runs: Mapping[str, Scalars], out: Path) -> None:
    """Plot the runs in one picture: a panel each for losses, validation, keep probabilities and learning rate.

    For one run, each curve has its own colour. For several runs, each run has a colour, and its curves have different
    dashes.
    """
    probs = sorted({name for scalars in runs.values() for name in scalars if name.startswith('mask_prob_')})
    panels = [
        ('loss', LOSSES if len(runs) == 1 else {'loss': 'loss (all layers)'}),
        ('validation', METRICS),
        ('probability of keeping masks', {name: f'joint block {name.removeprefix("mask_prob_")}' for name in probs}),
        ('learning rate', RATES),
    ]
    panels = [(title, names) for title, names in panels if any(set(names) & set(s) for s in runs.values())]
    figure = new_figure(9, 1 + 2.7 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, names) in zip(all_axes, panels, strict=True):
        draw_panel(axes, runs, names)
        axes.set_ylabel(title)
        if title == 'loss':
            axes.set_yscale('log')
    all_axes[-1].set_xlabel('iteration')
    save_picture(figure, out)


def draw_panel(axes: Any, runs: Mapping[str, Scalars], names: Mapping[str, str]) -> None:
    """Draw those curves of ``names`` that the runs have."""
    present = [name for name in names if any(name in scalars for scalars in runs.values())]
    for r, (run, scalars) in enumerate(runs.items()):
        for n, name in enumerate(present):
            if name not in scalars:
                continue
            steps, values = zip(*scalars[name], strict=True)
            label = names[name] if len(runs) == 1 else f'{run}: {names[name]}'
            colour, dash = (n, 0) if len(runs) == 1 else (r, n)
            axes.plot(
                steps, values, DASHES[dash % len(DASHES)], color=LINE_COLOURS[colour % len(LINE_COLOURS)], label=label,
                marker='o' if len(steps) < 12 else None, markersize=4,
            )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small', ncols=1 + len(axes.lines) // 9)


def run_names(folders: list[Path]) -> list[str]:
    """Name folders by the shortest ends of their paths that are unique."""
    parts = [folder.resolve().parts for folder in folders]
    length = next((n for n in range(1, 99) if len({part[-n:] for part in parts}) == len(parts)), None)
    if length is None:
        raise ValueError(f'work dirs {[str(folder) for folder in folders]}: one of them is given twice')
    return ['/'.join(part[-length:]) for part in parts]


def main(args: argparse.Namespace) -> None:
    if bool(args.plan) == bool(args.work_dirs):
        make_parser().error('give work dirs of runs, or --plan CONFIG')
    if args.plan and not args.out:
        make_parser().error('--plan needs --out, the picture to write')
    if args.plan:
        check_apart([args.out], [args.plan])
        runs = {Path(args.plan).stem: plan(load_config(args.plan, read_options(args.cfg_options)))}
    else:
        runs = {
            name: read_scalars(folder) for name, folder in zip(run_names(args.work_dirs), args.work_dirs, strict=True)
        }
    out = args.out or args.work_dirs[0] / 'curves.png'
    plot(runs, out)
    print(f'wrote {out}')


if __name__ == '__main__':
    main(args)
