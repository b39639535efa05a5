"""Run a demo: generate shapes, train a tiny model from scratch, evaluate it on held-out data, and draw its results.

    make demo           # EoMT on images
    make demo-video     # VidEoMT on moving shapes; writes an annotated video
    make demo-detectron2    # the same EoMT on detectron2
    python tools/make_demo.py --max-iters 300 --num-train 64

It only calls the public tools: the data set generators, train.py, test.py, demo.py and plot_curves.py.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from eomt_mm.options import ToolParser, whole_number

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'
VIDEO = ROOT / 'projects' / 'videomt'
DETECTRON2 = ROOT / 'projects' / 'detectron2'
VIDEO_CONFIG = VIDEO / 'configs' / 'videomt_tiny_500i_shapes-96.py'


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument('--video', action='store_true', help='VidEoMT on videos')
    kinds.add_argument('--detectron2', action='store_true', help='EoMT on detectron2')
    parser.add_argument('--max-iters', type=whole_number(1), help='length of the training; default: as in the config')
    parser.add_argument(
        '--num-train', type=whole_number(1), help='training images or videos; default: 400, with --video 200'
    )
    parser.add_argument(
        '--num-val', type=whole_number(1), default=40, help='held-out images; of videos half of --num-train'
    )
    parser.add_argument('--work-dir', type=Path, help='folder of everything written; default: work_dirs/demo[_...]')
    args = parser.parse_args()
    args.num_train = args.num_train or (200 if args.video else 400)
    name = 'demo_video' if args.video else 'demo_detectron2' if args.detectron2 else 'demo'
    args.work_dir = args.work_dir or Path('work_dirs') / name
    return args


def run(*command: str | Path) -> None:
    """Print and run a Python command line; if it fails, exit with its exit code.

    On Ctrl-C, which also reaches the command, wait until the command ends: training saves its last step.
    """
    interrupted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    words = [str(word) for word in command]
    print(f'\n$ python {" ".join(words)}', flush=True)
    # for python -m videomt..., and where `make detectron2` puts detectron2
    folders = [str(VIDEO), str(ROOT / 'build' / 'detectron2'), os.environ.get('PYTHONPATH')]
    paths = os.pathsep.join(filter(None, folders))
    environment = {**os.environ, 'PYTHONUNBUFFERED': '1', 'PYTHONPATH': paths}
    code = subprocess.run([sys.executable, *words], env=environment).returncode
    if code or interrupted:
        sys.exit(code or 130)


def newest_metrics(work_dir: Path) -> dict[str, float]:
    """Read the metrics of the latest test run, which mmengine writes to <time>/<time>.json."""
    files = [file for file in work_dir.glob('*/*.json') if file.stem == file.parent.name]
    return json.loads(max(files).read_text())


def train_options(max_iters: int | None) -> list[str]:
    """Options of train.py for another number of iterations than the config's."""
    if not max_iters:
        return []
    # the warm-up of the configs is 20 + 20
    shorter = ['param_scheduler.0.warmup_steps=(0,0)'] if max_iters <= 40 else []
    return ['--cfg-options', f'train_cfg.max_iters={max_iters}', *shorter]


def image_demo(args: argparse.Namespace) -> None:
    """Train and evaluate EoMT on generated images."""
    data, train, test, pictures = (args.work_dir / name for name in ('data', 'train', 'test', 'pictures'))
    counts = ['--num-train', args.num_train, '--num-val', args.num_val]
    run('-m', 'eomt_mm.synthetic.generate', 'coco', data, *map(str, counts), '--size', '128', '160', '--overwrite')
    run(ROOT / 'tools/train.py', CONFIG, '--data-root', data, '--work-dir', train, *train_options(args.max_iters))
    checkpoint = (train / 'last_checkpoint').read_text().strip()
    run(ROOT / 'tools/test.py', CONFIG, checkpoint, '--data-root', data, '--work-dir', test, '--show-dir', pictures)
    run(ROOT / 'tools/analysis/plot_curves.py', train, '--out', pictures / 'curves.png')
    quality = newest_metrics(test)['coco_panoptic/PQ']
    print(f'demo: PQ {quality:.1f} on {args.num_val} held-out images, pictures in {pictures}')


def detectron2_demo(args: argparse.Namespace) -> None:
    """Train and evaluate EoMT on generated images, on detectron2."""
    data, train, pictures = (args.work_dir / name for name in ('data', 'train', 'pictures'))
    counts = ['--num-train', args.num_train, '--num-val', args.num_val]
    run('-m', 'eomt_mm.synthetic.generate', 'coco', data, *map(str, counts), '--size', '128', '160', '--overwrite')
    script, options = ('--config-file', CONFIG), [f'data_root={data}', f'train.output_dir={train}']
    length = [f'train.max_iter={args.max_iters}'] if args.max_iters else []
    run(DETECTRON2 / 'train_net.py', *script, *options, *length)
    images, weights = sorted((data / 'val2017').glob('*.jpg')), f'train.init_checkpoint={train / "model_final.pth"}'
    run(DETECTRON2 / 'demo.py', *script, '--output', pictures, '--input', *images, *options, weights)
    lines = [json.loads(line) for line in (train / 'metrics.json').read_text().splitlines()]
    quality = [line['panoptic_seg/PQ'] for line in lines if 'panoptic_seg/PQ' in line][-1]
    print(f'demo: PQ {quality:.1f} on {args.num_val} held-out images, pictures in {pictures}')


def video_demo(args: argparse.Namespace) -> None:
    """Train and evaluate VidEoMT on generated videos, then draw the tracks of a longer and larger video."""
    data, train, test, film = (args.work_dir / name for name in ('data', 'train', 'test', 'film'))
    for folder in (data, film):
        shutil.rmtree(folder, ignore_errors=True)
    write = ('-m', 'videomt.datasets.generate', 'youtube_vis')
    run(*write, data, '--num-videos', str(args.num_train), '--num-frames', '8', '--size', '96', '144')
    run(ROOT / 'tools/train.py', VIDEO_CONFIG, '--data-root', data, '--work-dir', train, *train_options(args.max_iters))
    checkpoint = (train / 'last_checkpoint').read_text().strip()
    run(ROOT / 'tools/test.py', VIDEO_CONFIG, checkpoint, '--data-root', data, '--work-dir', test)
    run(*write, film, '--num-videos', '1', '--num-frames', '40', '--size', '288', '432', '--seed', '1')
    frames, found = film / 'valid' / 'JPEGImages', args.work_dir / 'found'
    run(ROOT / 'tools/demo.py', frames, VIDEO_CONFIG, checkpoint, '--out-dir', found)
    (video,) = (found / 'vis').glob('*.mp4')
    held_out = max(1, args.num_train // 2)  # the generator's default
    print(f'demo: AP {newest_metrics(test)["vis/AP"]:.1f} on {held_out} held-out videos, tracks in {video}')


def main() -> None:
    args = parse_args()
    for name in ('train', 'test', 'pictures', 'found'):  # left by an earlier demo
        shutil.rmtree(args.work_dir / name, ignore_errors=True)
    (video_demo if args.video else detectron2_demo if args.detectron2 else image_demo)(args)


if __name__ == '__main__':
    main()
