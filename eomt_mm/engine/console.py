"""Terse console output: a few short lines on the screen, everything in the log file."""

import ast
import copy
import io
import logging
import re
import tokenize
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from eomt_mm.models.heads import EoMTSegHead

# Prefixes of lines that go to the log file only: environment, config, order of hooks, and others no user acts on.
FILE_ONLY = (
    '\n----', 'Config:', 'Hooks will be executed', 'Distributed training is not used', 'Exp name:',
    'Checkpoints will be saved', 'layer decay',
)  # fmt: skip


def _is_written_by_hand(text: str) -> bool:
    """Whether a config has bases, a docstring or comments, which those that runners write have not."""
    first = next(iter(ast.parse(text).body), None)
    return (
        isinstance(first, ast.Expr)
        or re.search(r'^_base_\s*=', text, re.MULTILINE) is not None
        or any(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))
    )


class ScreenFormatter(logging.Formatter):
    """Formatter for the screen: time and message, with the level for warnings and errors only.

    If a record has an attribute ``screen``, that text replaces the message.
    """

    def __init__(self) -> None:
        super().__init__('%(asctime)s %(message)s', datefmt='%H:%M:%S')

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        shown = copy.copy(record)
        level = '' if record.levelno == logging.INFO else f'{record.levelname}: '
        shown.msg, shown.args = f'{level}{getattr(record, "screen", record.getMessage())}', None
        return super().format(shown)


def is_for_screen(record: logging.LogRecord) -> bool:
    """Return whether a record is shown on the screen."""
    return record.levelno > logging.INFO or not record.getMessage().startswith(FILE_ONLY)


class TerseConsole(Runner):
    """Runner with a few short lines on the screen and mmengine's usual log file."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build mmengine's logger, with short lines on the screen unless the level is DEBUG."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler) and handler.level > logging.DEBUG:
                handler.setFormatter(ScreenFormatter())
                handler.addFilter(is_for_screen)
        return logger


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config: its ``runner_type`` if given, otherwise `TerseConsole`.

    Raises:
        ValueError: the config that the runner writes to its work dir would replace one that was written by hand.
    """
    own = Path(cfg.filename or '')
    target = Path(cfg.get('work_dir') or '.') / own.name
    is_target = own.suffix == '.py' and own.is_file() and target.is_file() and target.samefile(own)
    if is_target and _is_written_by_hand(own.read_text()):
        raise ValueError(f'{own} lies in the work dir, where the run writes its whole config: give another --work-dir')
    runner: Runner = RUNNERS.build(cfg) if 'runner_type' in cfg else TerseConsole.from_cfg(cfg)
    if 'decode_head' in cfg.get('model', {}) and 'keep_scores' not in cfg.model.decode_head:
        leave_out_scores(runner.model)
    return runner


def leave_out_scores(model: nn.Module | dict[str, Any]) -> None:
    """Let a semantic model predict labels only, which metrics read. Scores of 150 classes take 600 bytes per pixel."""
    for head in model.modules() if isinstance(model, nn.Module) else ():  # sharded models are built later
        if isinstance(head, EoMTSegHead):
            head.keep_scores = False
