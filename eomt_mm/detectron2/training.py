"""Train and evaluate the model of a LazyConfig."""

import logging
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from eomt_mm.detectron2.checkpoint import EoMTCheckpointer
from eomt_mm.detectron2.containers import plain
from eomt_mm.detectron2.lazy import register

logger = logging.getLogger(__name__)
Results = dict[str, Any]


def build_checkpointer(cfg: DictConfig, model: nn.Module, **checkpointables: Any) -> EoMTCheckpointer:
    """Build the checkpointer of a config; it writes to ``train.output_dir`` and knows the classes of the data."""
    return EoMTCheckpointer(
        model,
        cfg.train.output_dir,
        data_set=register(cfg.dataloader.train.dataset),
        base=cfg.train.base_weights or None,
        class_head=cfg.train.class_head,
        **checkpointables,
    )


def train(cfg: DictConfig, resume: bool = False) -> Results:
    """Train from ``train.init_checkpoint`` or, with ``resume``, from the last checkpoint in ``train.output_dir``.

    Returns:
        results of the evaluation after the last iteration, in the main process.

    Raises:
        ValueError: an option is invalid, there is nothing left to train, or a file does not fit.
    """
    check_batch(cfg.dataloader.train.total_batch_size, 'dataloader.train.total_batch_size')
    if cfg.train.max_iter < 1:
        raise ValueError(f'train.max_iter={cfg.train.max_iter}: at least 1')
    if cfg.train.amp.enabled and not str(cfg.train.device).startswith('cuda'):
        raise ValueError(f'train.amp.enabled=True with train.device={cfg.train.device}: mixed precision needs a GPU')
    model = _build(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    cfg.optimizer.params.model = None
    wrapped = create_ddp_model(model, **_ddp(cfg))
    kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = kind(wrapped, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = build_checkpointer(cfg, wrapped, trainer=trainer)
    results: Results = {}

    def evaluate_now() -> Results:
        results.clear()
        results.update(evaluate(cfg, wrapped))
        return results

    main = comm.is_main_process()
    annealing = instantiate(cfg.annealing) if cfg.annealing is not None else None
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            instantiate(cfg.lr_multiplier),
            annealing,
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if main else None,
            hooks.EvalHook(cfg.train.eval_period, evaluate_now),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period)
            if main
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    if start >= cfg.train.max_iter:
        raise ValueError(
            f'--resume: the last checkpoint in {cfg.train.output_dir} is after iteration {start}, and train.max_iter='
            f'{cfg.train.max_iter}: nothing is left to train'
        )
    trainer.train(start, cfg.train.max_iter)
    return results


def evaluate(cfg: DictConfig, model: nn.Module) -> Results:
    """Evaluate a model on the data of ``dataloader.test``; return the results in the main process."""
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    found: Results = inference_on_dataset(model, loader, evaluator) or {}
    if comm.is_main_process():
        print_csv_format(found)
    return found


def evaluate_checkpoint(cfg: DictConfig) -> Results:
    """Load ``train.init_checkpoint``, all of it, and evaluate it.

    Raises:
        ValueError: the file is no whole model, or does not fit.
    """
    model = _build(cfg)
    build_checkpointer(cfg, model).load(cfg.train.init_checkpoint)
    return evaluate(cfg, create_ddp_model(model, **_ddp(cfg)))


def check_batch(total: int, key: str) -> None:
    """Raise ValueError if a number of images cannot be shared equally by the processes; ``key`` is its option."""
    processes = comm.get_world_size()
    if total < 1 or total % processes:
        raise ValueError(f'{key}={total}: give a positive multiple of the number of processes, {processes}')


def _build(cfg: DictConfig) -> nn.Module:
    """Build the model of a config on its device."""
    device = str(cfg.train.device)
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f'train.device={device}: give cpu, cuda or cuda:0') from error
    if kind == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'train.device={device}: there is no GPU, or this PyTorch cannot use it; set train.device=cpu')
    model: nn.Module = instantiate(cfg.model).to(device)
    return model


def _ddp(cfg: DictConfig) -> dict[str, Any]:
    on_cpu = not str(cfg.train.device).startswith('cuda')
    return plain(cfg.train.ddp) | (dict(device_ids=None) if on_cpu else {})
