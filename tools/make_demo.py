"""The demo: generates shapes, trains a tiny EoMT from scratch, evaluates it on held-out images and draws.

    make demo
    python tools/make_demo.py --max-iters 300 --num-train 64

Everything goes through the tools that users have: eomt_mm.datasets.generate, train.py, test.py, plot_curves.py.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--max-iters', type=int, help='length of the training; default: as in the config')
    parser.add_argument('--num-train', type=int, default=400, help='training images')
    parser.add_argument('--num-val', type=int, default=40, help='held-out images')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder of everything written')
    return parser.parse_args()


def run(*command: str | Path) -> None:
    """Runs a Python command line and shows it; a failure ends the demo with the command's exit code."""
    words = [str(word) for word in command]
    print(f'\n$ python {" ".join(words)}', flush=True)
    code = subprocess.run([sys.executable, *words], env={**os.environ, 'PYTHONUNBUFFERED': '1'}).returncode
    if code:
        sys.exit(code)


def newest_metrics(work_dir: Path) -> dict[str, float]:
    """Metrics of the latest test run, which mmengine writes as <time>/<time>.json."""
    files = [file for file in work_dir.glob('*/*.json') if file.stem == file.parent.name]
    return json.loads(max(files).read_text())


def main() -> None:
    args = parse_args()
    data, train, test = (args.work_dir / name for name in ('data', 'train', 'test'))
    for folder in (train, test):  # a former demo's
        shutil.rmtree(folder, ignore_errors=True)
    options = ['--cfg-options', f'train_cfg.max_iters={args.max_iters}'] if args.max_iters else []
    if args.max_iters and args.max_iters <= 40:  # the warm-up of the config is 20 + 20
        options.append('param_scheduler.0.warmup_steps=(0,0)')
    counts = ['--num-train', args.num_train, '--num-val', args.num_val]
    run('-m', 'eomt_mm.datasets.generate', 'coco', data, *map(str, counts), '--size', '128', '160', '--overwrite')
    run(ROOT / 'tools/train.py', CONFIG, '--data-root', data, '--work-dir', train, *options)
    checkpoint = (train / 'last_checkpoint').read_text().strip()
    pictures = args.work_dir / 'pictures'
    shutil.rmtree(pictures, ignore_errors=True)
    run(ROOT / 'tools/test.py', CONFIG, checkpoint, '--data-root', data, '--work-dir', test, '--show-dir', pictures)
    run(ROOT / 'tools/analysis/plot_curves.py', train, '--out', pictures / 'curves.png')
    quality = newest_metrics(test)['coco_panoptic/PQ']
    print(f'demo: PQ {quality:.1f} on {args.num_val} held-out images, pictures in {pictures}')


if __name__ == '__main__':
    main()
