"""Command-line options that tools share. Imports neither torch nor a host, so that ``--help`` and errors are fast."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

OVERRIDES = 'overrides, such as img_size=512'
TASKS = ('semantic', 'instance', 'panoptic')
AMP_DTYPES = ('float16', 'bfloat16')
PICTURES, PREDICTIONS = 'vis', 'preds'  # sub-folders of an inferencer's results


class ToolParser(argparse.ArgumentParser):
    """Parser of a tool's arguments: shows the tool's docstring unchanged, and refuses empty arguments.

    An empty path would stand for the working directory, and comes from a variable of the shell that is not set.
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
        return super().parse_known_args(args, namespace)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an argument: a whole number from ``least`` to ``most``."""
    wanted = f'a whole number from {least} to {most}' if most is not None else f'a whole number of at least {least}'

    def parsed(text: str) -> int:
        if not text.lstrip('-').isdecimal() or not least <= int(text) <= (int(text) if most is None else most):
            raise argparse.ArgumentTypeError(f"'{text}': {wanted}")
        return int(text)

    return parsed


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
