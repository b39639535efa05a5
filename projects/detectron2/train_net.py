"""Train or evaluate EoMT on detectron2.

    python projects/detectron2/train_net.py --config-file eomt_dinov2-l_12e_coco-panoptic-640 --num-gpus 4
    python projects/detectron2/train_net.py --config-file CONFIG --resume
    python projects/detectron2/train_net.py --config-file CONFIG --eval-only train.init_checkpoint=CHECKPOINT
    python projects/detectron2/train_net.py --config-file CONFIG data_root=data/mine img_size=512 train.max_iter=5000

CONFIG is the name or path of a config of the mm side (configs/eomt, your own), or a yaml with EOMT.RECIPE. Options at
the end: KEY=VALUE for what a config states once (data_root, img_size, metainfo, ...) and for the LazyConfig made from
it (model, dataloader, optimizer, lr_multiplier, annealing, train); for yaml KEY VALUE, as in detectron2.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

try:
    import eomt_mm.detectron2  # noqa: F401
except ImportError as missing:  # detectron2 is missing or too old: one line says what to do
    sys.exit(f'train_net.py: {missing}')

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from eomt_mm.detectron2 import (
    EoMTCheckpointer,
    EoMTTrainer,
    apply_overrides,
    evaluate_checkpoint,
    lazy_config,
    load_yaml,
    split_options,
    train,
)


def read_config(args: Namespace) -> DictConfig | CfgNode:
    """Read the config of the command line, and apply its options."""
    if Path(args.config_file).suffix in ('.yaml', '.yml'):
        yaml = load_yaml(args.config_file, args.opts)
        if args.eval_only and not (yaml.MODEL.WEIGHTS and yaml.DATASETS.TEST):
            raise ValueError('--eval-only: which weights and data? Add MODEL.WEIGHTS FILE, and state DATASETS.TEST')
        return yaml
    options, overrides = split_options(args.opts)
    cfg = apply_overrides(lazy_config(args.config_file, options), overrides)
    if args.eval_only and not cfg.train.init_checkpoint:
        raise ValueError('--eval-only: which weights? Add train.init_checkpoint=CHECKPOINT')
    return cfg


def run_lazy(args: Namespace, cfg: DictConfig) -> dict[str, Any]:
    """Train or evaluate by a LazyConfig; return the results of the evaluation."""
    setup(cfg, args, cfg.train.output_dir)
    return evaluate_checkpoint(cfg) if args.eval_only else train(cfg, args.resume)


def run_yaml(args: Namespace, cfg: CfgNode) -> dict[str, Any]:
    """Train or evaluate by a yaml config; return the results of the evaluation."""
    cfg.freeze()
    setup(cfg, args, cfg.OUTPUT_DIR)
    if not args.eval_only:
        trainer = EoMTTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        return getattr(trainer, '_last_eval_results', {})
    model = EoMTTrainer.build_model(cfg)
    EoMTCheckpointer(model, data_set=cfg.DATASETS.TEST[0]).load(cfg.MODEL.WEIGHTS)
    return EoMTTrainer.test(cfg, model)


def setup(cfg: Any, args: Namespace, output_dir: str) -> None:
    """Set up folders, logs and seeds."""
    default_setup(cfg, Namespace(**{**vars(args), 'config_file': ''}))  # a name need not be a file
    setup_logger(output_dir, distributed_rank=comm.get_rank(), name='eomt_mm')


def main(args: Namespace) -> dict[str, Any]:
    """Run in one of the processes."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    cfg = read_config(args)
    return run_yaml(args, cfg) if isinstance(cfg, CfgNode) else run_lazy(args, cfg)


if __name__ == '__main__':
    parser = default_argument_parser(__doc__)
    arguments = parser.parse_args()
    if arguments.num_gpus < 1:
        parser.error(f'--num-gpus {arguments.num_gpus}: the number of processes, at least 1')
    try:
        read_config(arguments)  # before processes are started: a wrong option ends in one line
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        sys.exit(f'train_net.py: {error}')
    except torch.multiprocessing.ProcessRaisedException as error:  # its text is the traceback of the process
        last = str(error).rstrip().rpartition('\n')[2]
        if not last.startswith(('ValueError: ', 'FileNotFoundError: ')):
            raise
        sys.exit(f'train_net.py: {last.partition(": ")[2]}')
