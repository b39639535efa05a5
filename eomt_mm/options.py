"""Command-line options that tools share. Imports neither torch nor a host, so that ``--help`` and errors are fast."""

import argparse
import dis
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

OVERRIDES = 'overrides, such as img_size=512'
TASKS = ('semantic', 'instance', 'panoptic')
AMP_DTYPES = ('float16', 'bfloat16')
# Modules of tools and of the packages that are installed.
OURS = ('__main__', 'benchmark', 'eomt_mm', 'videomt', 'vit_mask2former')
PICTURES, PREDICTIONS = 'vis', 'preds'  # sub-folders of an inferencer's results


class ToolParser(argparse.ArgumentParser):
    """Parser of a tool's arguments: shows the tool's docstring unchanged, and refuses empty arguments.

    An empty path would stand for the working directory, and comes from a variable of the shell that is not set. From
    then on, an error that our code raises to report a mistake ends the tool with its message alone, without traceback.
    """

    def __init__(self, description: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        for number, text in enumerate(given, start=1):
            if not text.strip() or (text.startswith('--') and text.endswith('=')):
                before = f', after {given[number - 2]}' if number > 1 else ''
                self.error(f"argument {number}, '{text}'{before}, is empty: give a value, or leave the option out")
        found = super().parse_known_args(args, namespace)
        if args is None:
            sys.excepthook = partial(_show_error, Path(self.prog).stem)
        return found


def _show_error(name: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show a mistake that our code reports as one line, any other error with its traceback."""
    cause: BaseException | None = error
    while cause is not None and str(cause) in str(error):  # mmengine raises errors of what it builds once more
        if isinstance(cause, OSError | ValueError) and _reports_a_mistake(cause):
            print(f'{name}: {error}', file=sys.stderr)
            return
        cause = cause.__context__
    sys.__excepthook__(kind, error, trace)


def _reports_a_mistake(error: BaseException) -> bool:
    """Whether our code raises an error, or opens a file that cannot be opened."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return False
    frame = step.tb_frame
    package = str(frame.f_globals.get('__name__')).partition('.')[0]
    is_ours = package in OURS or 'projects' in Path(frame.f_code.co_filename).parts
    is_raised = frame.f_code.co_code[step.tb_lasti] == dis.opmap['RAISE_VARARGS']
    return is_ours and (is_raised or isinstance(error, OSError))


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an argument: a whole number from ``least`` to ``most``."""
    wanted = f'a whole number from {least} to {most}' if most is not None else f'a whole number of at least {least}'

    def parsed(text: str) -> int:
        if not text.lstrip('-').isdecimal() or not least <= int(text) <= (int(text) if most is None else most):
            raise argparse.ArgumentTypeError(f"'{text}': {wanted}")
        return int(text)

    return parsed


def file_to_write(text: str) -> Path:
    """Type of an argument: path of a file that is written, which no folder has."""
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"'{text}' is a folder: name a file")
    return Path(text)


def add_cfg_options(parser: argparse.ArgumentParser, text: str = OVERRIDES) -> None:
    """Add ``--cfg-options KEY=VALUE ...``; `read_options` parses the values."""
    parser.add_argument('--cfg-options', nargs='+', action='extend', type=override, metavar='KEY=VALUE', help=text)


def override(text: str) -> str:
    """Check that a text has the form KEY=VALUE, and return it unchanged.

    Raises:
        argparse.ArgumentTypeError: it has another form.
    """
    if not text.partition('=')[1]:
        raise argparse.ArgumentTypeError(f"'{text}': give KEY=VALUE, such as img_size=512")
    return text


def read_options(texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Parse texts KEY=VALUE with mmengine's ``DictAction``; None if there are none."""
    if not texts:
        return None
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options: dict[str, Any] = parser.parse_args(['--cfg-options', *texts]).cfg_options
    return options
