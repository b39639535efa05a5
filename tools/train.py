"""Train a model.

Examples:
    python tools/train.py configs/eomt/coco/eomt_dinov2-l_12e_coco-panoptic-640.py --data-root data/coco
    python tools/train.py CONFIG --resume                      # from the last checkpoint of the work dir
    python tools/train.py CONFIG --resume --cfg-options train_cfg.max_iters=40000    # with settings from the config
    python tools/train.py CONFIG --cfg-options img_size=512 train_cfg.max_iters=20000
    python tools/train.py CONFIG --cfg-options load_from=hf://owner/name    # or any released file
"""

import argparse
import os
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

from eomt_mm.engine.threads import Load, set_threads
from eomt_mm.options import ToolParser, add_cfg_options, read_options


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default: work_dirs/NAME_OF_CONFIG')
    parser.add_argument('--data-root', help='folder of the data set, in place of the one in the config')
    parser.add_argument(
        '--resume', nargs='?', const='auto', help='resume from this checkpoint, or from the last one of the work dir'
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision (needs an accelerator)')
    parser.add_argument('--amp-dtype', choices=['float16', 'bfloat16'], default='float16', help='of --amp')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate where the images per step are others'
    )
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == '__main__':
    args, load = make_parser().parse_args(), Load()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.config import load_config  # isort: skip
from eomt_mm.apis.model import local_checkpoint  # isort: skip
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.runner import Runner

from eomt_mm.checkpoints.files import read_names
from eomt_mm.engine.console import build_runner
from eomt_mm.engine.processes import start_processes
from eomt_mm.engine.resuming import POINTER, check_whole, latest_whole_checkpoint
from eomt_mm.engine.run_log import unwrapped
from eomt_mm.engine.work_dir_lock import work_dir_lock


def set_start(cfg: Config, resume: str | None) -> None:
    """Set what the run starts from: a checkpoint to resume, ``load_from``, or pretrained weights.

    If the checkpoint contains the backbone, its pretrained weights are not downloaded.
    """
    if resume == 'auto':
        resume = latest_whole_checkpoint(cfg.work_dir)
        if resume is None:
            print(f'--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning')
    elif resume is not None:
        check_whole(resume)
    if resume is not None:
        cfg.resume, cfg.load_from = True, resume
    if cfg.get('load_from'):
        keep = resume is not None or cfg.get('default_hooks', {}).get('checkpoint_fit', {}).get('class_head', True)
        cfg.load_from = local_checkpoint(cfg, cfg.load_from, class_head=keep)
        whole = resume is not None or holds_backbone(cfg.load_from)
        if whole and cfg.model.backbone.type == 'eomt_mm.TimmViT':
            cfg.model.backbone.update(pretrained=False, weights=None)


def holds_backbone(checkpoint: str) -> bool:
    """Whether a checkpoint has weights for the backbone; folders of sharded training always have them."""
    return Path(checkpoint).is_dir() or any(name.startswith('backbone.') for name in read_names(Path(checkpoint)))


def next_commands(runner: Runner) -> list[str]:
    """Commands to test and use the last checkpoint, if any, with the config that the run saved beside it."""
    pointer = Path(runner.work_dir) / POINTER
    if not pointer.is_file():
        return []
    tools, python = Path(os.path.relpath(__file__)).parent, Path(sys.executable)
    if shutil.which('python') == str(python):
        python = Path('python')  # of an active environment
    elif python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    config = Path(runner.work_dir) / Path(runner.cfg.filename).name
    checkpoint = pointer.read_text().strip()
    commands = {
        'test': [tools / 'test.py', config, checkpoint],
        'predict': [tools / 'demo.py', example_image(runner), config, checkpoint, '--out-dir', config.parent / 'found'],
    }
    return [f'{name}: {shlex.join(map(str, [python, *words]))}' for name, words in commands.items()]


def example_image(runner: Runner) -> str:
    """Path of an image of the data set, or a placeholder."""
    loader = runner.train_dataloader if runner.val_loop is None else runner.val_dataloader
    dataset = unwrapped(loader.dataset)
    file = dataset.get_data_info(0).get('img_path', '') if isinstance(dataset, BaseDataset) else ''
    return file if os.path.isfile(file) else 'IMAGES_OR_VIDEO'


def main(args: argparse.Namespace, load: Load) -> None:
    if args.amp and get_device() == 'cpu':
        make_parser().error('--amp needs an accelerator, and this machine shows none: leave it out')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'none':
        set_threads(load)
    cfg = load_config(args.config, read_options(args.cfg_options), args.data_root)
    start_processes(cfg, args.launcher)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    if args.amp:
        # bfloat16 has the range of float32: no loss scaling needed
        scale = 'dynamic' if args.amp_dtype == 'float16' else dict(enabled=False)
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype=args.amp_dtype, loss_scale=scale)
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise ValueError(f'--auto-scale-lr: {args.config} states no auto_scale_lr.base_batch_size to scale from')
        cfg.auto_scale_lr.enable = True
        # mmengine compares base_batch_size with the images of a micro-batch
        cfg.auto_scale_lr.base_batch_size /= cfg.optim_wrapper.get('accumulative_counts', 1)
    is_first = args.launcher == 'none' or os.environ['RANK'] == '0'
    set_start(cfg, args.resume)
    with work_dir_lock(cfg.work_dir) if is_first else nullcontext():
        runner = build_runner(cfg)
        runner.train()
        if is_first:
            runner.logger.info('\n'.join(['done', *(f'  {command}' for command in next_commands(runner))]))


if __name__ == '__main__':
    main(args, load)
