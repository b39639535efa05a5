"""What a run shows on the screen: few, short lines. The log file gets everything."""

import copy
import logging
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

# Beginnings of lines that only the log file gets: environment, config, order of hooks, and what no user acts on.
FILE_ONLY = (
    '\n----', 'Config:', 'Hooks will be executed', 'Distributed training is not used', 'Exp name:',
    'Checkpoints will be saved', 'layer decay',
)  # fmt: skip


class ScreenFormatter(logging.Formatter):
    """Time and message; the level only of warnings and errors. A record's ``screen`` takes the place of its message."""

    def __init__(self) -> None:
        super().__init__('%(asctime)s %(message)s', datefmt='%H:%M:%S')

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        shown = copy.copy(record)
        level = '' if record.levelno == logging.INFO else f'{record.levelname}: '
        shown.msg, shown.args = f'{level}{getattr(record, "screen", record.getMessage())}', None
        return super().format(shown)


def is_for_screen(record: logging.LogRecord) -> bool:
    """Whether a record is shown at all."""
    return record.levelno > logging.INFO or not record.getMessage().startswith(FILE_ONLY)


class TerseConsole(Runner):
    """Runner whose screen shows few, short lines, and whose log file is mmengine's."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """mmengine's logger, with short lines on the screen unless the level is DEBUG."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler) and handler.level > logging.DEBUG:
                handler.setFormatter(ScreenFormatter())
                handler.addFilter(is_for_screen)
        return logger


def build_runner(cfg: Config) -> Runner:
    """The runner of a config: its ``runner_type``, or `TerseConsole`."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else TerseConsole.from_cfg(cfg)
