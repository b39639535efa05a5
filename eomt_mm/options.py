"""Command-line options that tools share. Imports neither torch nor a host, so that ``--help`` and errors are fast."""

import argparse
from collections.abc import Sequence
from typing import Any

OVERRIDES = 'overrides, such as img_size=512'
TASKS = ('semantic', 'instance', 'panoptic')
AMP_DTYPES = ('float16', 'bfloat16')
PICTURES, PREDICTIONS = 'vis', 'preds'  # sub-folders of an inferencer's results


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
