"""Plots losses, learning rate and annealing of a run from mmengine's scalars.

Example:
    python tools/analysis/plot_curves.py work_dirs/NAME --out curves.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

LOSSES = ('loss', 'loss_cls', 'loss_mask', 'loss_dice')


def read_scalars(work_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Training scalars of all runs in a work dir, name to (step, value); where steps repeat, the latest run's."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no */vis_data/scalars.json in {work_dir}: give the work dir of a training run')
    found: dict[str, dict[int, float]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if 'loss' not in record:  # validation
                continue
            for name, value in record.items():
                found.setdefault(name, {})[record['step']] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def plot(scalars: dict[str, list[tuple[int, float]]], out: Path) -> None:
    """One picture: losses of the final layer and in all; learning rate and keep probabilities below."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 7), sharex=True, layout='constrained')
    for name in LOSSES:
        if name in scalars:
            top.plot(*zip(*scalars[name], strict=True), label='loss (all layers)' if name == 'loss' else name)
    top.set_ylabel('loss')
    top.set_yscale('log')
    top.legend()
    top.grid(alpha=0.3)
    for name in sorted(name for name in scalars if name.startswith('mask_prob_')):
        bottom.plot(*zip(*scalars[name], strict=True), label=f'joint block {name.removeprefix("mask_prob_")}')
    bottom.set_ylabel('probability of keeping masks')
    bottom.set_ylim(-0.05, 1.05)
    bottom.set_xlabel('iteration')
    bottom.grid(alpha=0.3)
    rate = bottom.twinx()
    rate.plot(*zip(*scalars['lr'], strict=True), color='grey', linestyle='--', label='learning rate')
    rate.set_ylabel('learning rate')
    handles, labels = (a + b for a, b in zip(*(ax.get_legend_handles_labels() for ax in (bottom, rate)), strict=True))
    bottom.legend(handles, labels, loc='upper right')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='work dir of a training run')
    parser.add_argument('--out', type=Path, help='picture (PNG); default: WORK_DIR/curves.png')
    args = parser.parse_args()
    out = args.out or args.work_dir / 'curves.png'
    plot(read_scalars(args.work_dir), out)
    print(f'wrote {out}')


if __name__ == '__main__':
    main()
