"""Arguments of tools/benchmark.py. Imports neither torch nor a host, so that -h and errors are fast."""

import argparse
from pathlib import Path

from eomt_mm.options import ToolParser, add_cfg_options, whole_number

STAGES = ('model', 'full', 'train')
COMPILE_MODES = ('default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs')


def make_parser(description: str) -> argparse.ArgumentParser:
    parser = ToolParser(description)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='sides; speed is relative to the first')
    parser.add_argument('--stage', choices=STAGES, default='model')
    parser.add_argument('--device', default='cpu', help='cpu, cuda or cuda:N; default: cpu')
    parser.add_argument(
        '--size', nargs=2, type=whole_number(1), metavar=('H', 'W'), help="input; default: the first config's"
    )
    parser.add_argument('--batch', type=int, default=1, help='images or clips per call; default: 1')
    parser.add_argument('--frames', type=int, help='per call; default: 5 where a config is for videos, else 1')
    parser.add_argument('--window', type=int, default=1, help='frames together in a video model; default: 1')
    parser.add_argument('--whole-video', action='store_true', help='in --stage full; default: frame by frame')
    parser.add_argument('--rounds', type=int, default=10, help='timed calls of each side; default: 10')
    parser.add_argument('--amp', choices=['float16', 'bfloat16'], help='mixed precision; default: float32')
    parser.add_argument('--compile', choices=COMPILE_MODES, help='mode of torch.compile; default: eager')
    parser.add_argument('--image', help='for --stage full; default: one is drawn, at 3/4 of the size')
    parser.add_argument(
        '--kept', type=whole_number(0), default=25, help='queries kept in --stage full, see above; default: 25'
    )
    parser.add_argument('--checkpoints', nargs='+', metavar='FILE', help='one per config')
    parser.add_argument('--data-root', help='data set of all configs: adds the accuracy of the checkpoints')
    parser.add_argument('--growth', nargs='*', metavar='AXIS[=V,V]', help='of one config over size, batch and queries')
    parser.add_argument('--no-memory', action='store_true', help='do not measure the memory')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='all numbers, every round included')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='picture')
    add_cfg_options(parser, 'overrides in every config')
    return parser
