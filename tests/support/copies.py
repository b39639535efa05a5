"""Work in other processes, which it may change or end."""

import sys
from collections.abc import Callable
from typing import Any

import torch


def in_copies(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)`` in ``number`` copies of this process, which import nothing; raise their errors."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=number, start_method='fork')


def in_new_processes(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do so in new processes. For work with gradients: autograd may refuse to run in a copy, because of its threads."""
    torch.multiprocessing.spawn(work, arguments, nprocs=number)


def forget(*packages: str) -> dict[str, Any]:
    """Remove modules of these packages as if they had never been imported; returns them by name."""
    names = [name for name in sys.modules if name.partition('.')[0] in packages]
    return {name: sys.modules.pop(name) for name in names}
