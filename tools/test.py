"""Evaluate a checkpoint.

Examples:
    python tools/test.py CONFIG CHECKPOINT --data-root data/coco
    python tools/test.py CONFIG CHECKPOINT --out results/       # result files for the benchmarks' servers
    python tools/test.py CONFIG CHECKPOINT --out results/ --format-only --cfg-options \
        test_dataloader.dataset.data_prefix.img=leftImg8bit/test       # a test set without annotations
    python tools/test.py CONFIG CHECKPOINT --show-dir pictures/ # image, ground truth and prediction side by side
    python tools/test.py CONFIG eomt.onnx                       # a file of tools/export.py, on the CPU; also .xml
"""

import argparse
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from eomt_mm.engine.threads import Load, set_threads
from eomt_mm.options import ToolParser, add_cfg_options, read_options


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument('checkpoint', help='of training, any that convert_checkpoint.py reads, or an exported file')
    parser.add_argument('--work-dir', help='folder of logs; default: work_dirs/NAME_OF_CONFIG')
    parser.add_argument('--data-root', help='folder of the data set, in place of the one in the config')
    parser.add_argument('--out', help='folder for result files in the format of the benchmark server')
    parser.add_argument('--format-only', action='store_true', help='no evaluation: a test set without annotations')
    parser.add_argument('--dump', help='file (.pkl) for the predictions')
    parser.add_argument('--show-dir', help='folder for pictures')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.format_only and not args.out:
        parser.error('--format-only writes result files and nothing else: name their folder with --out')
    if args.dump and not args.dump.endswith(('.pkl', '.pickle')):
        parser.error(f'--dump {args.dump}: a pickle, name it *.pkl')
    return args


if __name__ == '__main__':
    args, load = parse_args(), Load()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.classes import config_meta  # isort: skip
from eomt_mm.apis.config import check_data_apart, image_folder, load_config  # isort: skip
from eomt_mm.apis.exported import ExportedNetwork  # isort: skip
from eomt_mm.apis.model import local_checkpoint  # isort: skip
import torch
from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope

from eomt_mm.engine.console import build_runner
from eomt_mm.engine.processes import start_processes
from eomt_mm.export.sessions import is_exported
from eomt_mm.fileio.writing import check_apart


def evaluators(cfg: Config) -> list[dict[str, Any]]:
    """List the configs of the test metrics, of which a config may have one or several."""
    return cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]


def write_results(cfg: Config, folder: str, format_only: bool) -> None:
    """Make the metrics write files for benchmark servers to ``folder``; with ``format_only`` without evaluating.

    Raises:
        ValueError: no metric writes files or, with ``format_only``, none can skip the evaluation.
    """
    writing = [metric for metric in evaluators(cfg) if place_of_results(cfg, metric, folder)]
    if format_only:
        writing = [metric for metric in writing if 'format_only' in arguments_of(cfg, metric)]
    if not writing:
        kinds = [metric['type'] for metric in evaluators(cfg)]
        wanted = '--out with --format-only' if format_only else '--out'
        raise ValueError(f'{wanted}: the metrics {kinds} write no result files; take one with out_dir')
    for metric in writing:
        metric.update(place_of_results(cfg, metric, folder))
        if 'img_prefix' in arguments_of(cfg, metric):
            metric.setdefault('img_prefix', image_folder(cfg))
    if format_only:
        cfg.test_evaluator = [dict(metric, format_only=True) for metric in writing]
        prefix = cfg.test_dataloader.dataset.data_prefix
        for name in [name for name in prefix if name not in ('img', 'img_path')]:
            del prefix[name]  # annotation folders, which a test set lacks


def place_of_results(cfg: Config, metric: dict[str, Any], folder: str) -> dict[str, str]:
    """Argument of a metric that sets where it writes result files, as {name: path}; empty if it writes none."""
    places = dict(out_dir=folder, output_dir=folder, outfile_prefix=str(Path(folder) / 'results'))
    return {name: value for name, value in places.items() if name in arguments_of(cfg, metric)}


def arguments_of(cfg: Config, metric: dict[str, Any]) -> set[str]:
    """Names of the arguments that a metric of the config takes, including its parents' arguments."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        kinds = inspect.getmro(METRICS.get(metric['type']))
    return {name for kind in kinds for name in inspect.signature(vars(kind).get('__init__', object)).parameters}


def dump_predictions(cfg: Config, path: str) -> None:
    """Add the host's metric that pickles predictions (instance masks are run-length encoded)."""
    kind = 'DumpResults' if cfg.default_scope == 'mmseg' else 'DumpDetResults'
    cfg.test_evaluator = [*evaluators(cfg), dict(type=kind, out_file_path=path)]
    if 'decode_head' in cfg.model:
        cfg.model.decode_head.keep_scores = False  # a float per class and pixel would fill the memory


def main(args: argparse.Namespace, load: Load) -> None:
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'none':
        set_threads(load)
    cfg = load_config(args.config, read_options(args.cfg_options), args.data_root)
    try:
        check_apart(filter(None, [args.dump]), [args.config, args.checkpoint])
        if is_exported(args.checkpoint) and args.launcher != 'none':
            raise ValueError(f'--launcher {args.launcher}: {args.checkpoint} runs in one process; leave it out')
        for folder in filter(None, (args.out, args.show_dir)):
            check_data_apart(cfg, folder)
    except ValueError as error:
        sys.exit(f'test: {error}')
    start_processes(cfg, args.launcher)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    exported = is_exported(args.checkpoint)
    cfg.load_from = None if exported else local_checkpoint(cfg, args.checkpoint)
    if args.out:
        write_results(cfg, args.out, args.format_only)
    if args.dump:
        dump_predictions(cfg, args.dump)
    if args.show_dir:
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='eomt_mm.PictureHook', out_dir=args.show_dir, img_prefix=image_folder(cfg)),
        ]
    runner = build_runner(cfg)
    if exported:
        model: Any = runner.model
        threads = torch.get_num_threads()
        model.extract_feat = ExportedNetwork(args.checkpoint, model, config_meta(cfg).get('classes', ()), threads)
    runner.test()


if __name__ == '__main__':
    main(args, load)
