"""Export a model for other runtimes: ONNX, OpenVINO, or a torch.export program; see docs/deployment.md.

Examples:
    python tools/export.py CONFIG CHECKPOINT --out eomt.onnx
    python tools/export.py CONFIG hf://tue-mps/coco_panoptic_eomt_large_640 --dynamic-batch --out eomt.onnx
    python tools/export.py CONFIG CHECKPOINT --size 480 640 --with-postprocess --out eomt.onnx
    python tools/export.py CONFIG CHECKPOINT --format openvino --out eomt.xml
    python tools/export.py CONFIG CHECKPOINT --format torch-export --half --out eomt.pt2
    python tools/export.py CONFIG CHECKPOINT --format openvino --quantize int8 --calibration photos/ --out eomt.xml
    python tools/export.py CONFIG none --out random.onnx    # random weights: for timing only

CONFIG is a file, or the name of a config of the package. The input is uint8 RGB (N, 3, H, W); the graph normalises it.
tools/run_exported.py runs ONNX and OpenVINO files.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from eomt_mm.export.formats import FORMATS
from eomt_mm.options import ToolParser, add_cfg_options, read_options, whole_number


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument(
        'checkpoint', help="file, folder or hf://owner/name of any known format; 'none': random weights"
    )
    parser.add_argument('--format', choices=list(FORMATS), default='onnx', help='default: onnx')
    parser.add_argument(
        '--size', type=whole_number(1), nargs=2, metavar=('H', 'W'), help="of the input; default: the config's"
    )
    parser.add_argument('--dynamic-batch', action='store_true', help='take any number of images, not one')
    parser.add_argument('--half', action='store_true', help='float16 weights and activations')
    parser.add_argument('--with-postprocess', action='store_true', help='results in place of logits')
    parser.add_argument('--quantize', choices=['int8'], help='8-bit weights and activations; needs --calibration')
    parser.add_argument(
        '--calibration', metavar='FOLDER_OR_CONFIG', help='images, or a config (.py), whose training images are taken'
    )
    parser.add_argument('--samples', type=whole_number(1), metavar='N', help='calibration images; default: 100')
    suffixes = ', '.join(f'*{one.suffix} ({one.name})' for one in FORMATS.values())
    parser.add_argument('--out', required=True, type=Path, help=f'file: {suffixes}')
    add_cfg_options(parser, 'overrides of the config, as in training')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis import init_model, load_config  # isort: skip
from eomt_mm.apis.calibration import SAMPLES, CalibrationImages  # isort: skip
from eomt_mm.apis.exporting import metadata_of, network_of  # isort: skip
from torch import nn

from eomt_mm.checkpoints.files import weights_file
from eomt_mm.export.program import export_program
from eomt_mm.fileio.writing import check_apart, check_free


def check_target(args: argparse.Namespace) -> None:
    """Reject arguments early that would otherwise fail only after the export."""
    form = FORMATS[args.format]
    suffix = form.suffix
    if args.out.suffix != suffix:
        raise ValueError(
            f'--out {args.out}: --format {args.format} writes {suffix} files; name it {args.out.stem}{suffix}'
        )
    for target in form.files(args.out):
        check_free(target)
    check_apart(form.files(args.out), [args.config, weights_file(args.checkpoint)])
    form.check(['--quantize'] if args.quantize else [])
    if bool(args.quantize) != bool(args.calibration) or (args.samples and not args.quantize):
        raise ValueError(
            '--quantize int8 needs --calibration FOLDER_OR_CONFIG, and --calibration and --samples need --quantize int8'
        )
    if args.quantize and args.half:
        raise ValueError('--quantize int8 with --half: the parts that stay in float are float32; leave --half out')


def calibration_of(args: argparse.Namespace) -> CalibrationImages | None:
    """Find the calibration images, which are resized for the size of the exported input."""
    if not args.calibration:
        return None
    size = dict(img_size=tuple(args.size)) if args.size else {}
    cfg = load_config(args.config, {**(read_options(args.cfg_options) or {}), **size})
    return CalibrationImages(cfg, args.calibration, args.samples or SAMPLES)


def built_model(args: argparse.Namespace) -> nn.Module:
    """Build the model with its weights."""
    cfg = load_config(args.config, read_options(args.cfg_options))
    if args.checkpoint == 'none':
        print('WARNING: random weights (CHECKPOINT is none): the file is good for measuring times, not for results')
        return init_model(cfg)
    return init_model(cfg, args.checkpoint)


def export(args: argparse.Namespace) -> list[str]:
    """Export the model; return the lines to print."""
    check_target(args)
    calibration = calibration_of(args)
    model: Any = built_model(args)
    network = network_of(model, args.size, args.with_postprocess, args.half)
    weights = None if args.checkpoint == 'none' else args.checkpoint
    metadata = metadata_of(model, network, weights, args.dynamic_batch, args.quantize)
    program = export_program(network, args.dynamic_batch)
    batch = 'N' if args.dynamic_batch else 1
    told = [
        f'input: images, uint8 RGB ({batch}, 3, {network.size[0]}, {network.size[1]}), normalised inside',
        *(f'output: {name}, {what}' for name, what in network.postprocess.outputs.items()),
    ]
    options: Any = {} if calibration is None else dict(calibration=calibration)
    found = FORMATS[args.format].save(program, network, args.out, metadata, **options)
    compared = ', '.join(f'{name} {value:.1e}' for name, value in found.items())
    if calibration is not None:
        told.append(f'quantised with {len(calibration)} images; compared on the first of them:')
    return [*told, f'difference to PyTorch, relative or share: {compared or "not compared"}']


def main(args: argparse.Namespace) -> None:
    try:
        told = export(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'export: {error}')
    print('\n'.join(told))
    size = sum(file.stat().st_size for file in FORMATS[args.format].files(args.out) if file.exists())
    print(f'written: {args.out} ({args.format}, {size / 2**20:.0f} MB)')


if __name__ == '__main__':
    main(args)
