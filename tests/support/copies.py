"""Work in copies of this process, where it may change or end the process; new ones would import everything first."""

import sys
from collections.abc import Callable
from typing import Any

import torch


def in_copies(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)`` in each of ``number`` copies; what one raises, or how it ended, is raised here."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=number, start_method='fork')


def forget(*packages: str) -> dict[str, Any]:
    """Remove modules of these packages as if they had never been imported; returns them by name."""
    names = [name for name in sys.modules if name.partition('.')[0] in packages]
    return {name: sys.modules.pop(name) for name in names}
