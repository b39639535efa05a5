"""Work in other processes, which it may change or end."""

import sys
from collections.abc import Callable
from typing import Any

import torch


def in_copies(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)`` in ``number`` copies of this process, which import nothing; raise their errors."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=number, start_method='fork')


def in_new_processes(number: int, work: Callable[..., None], *arguments: Any) -> None:
    """Do so in copies of a new process, which imports once for all of them.

    For work with gradients: autograd may refuse to run in a copy of a process that has computed some.
    """
    torch.multiprocessing.spawn(_in_copies_of_this, (number, work, arguments), nprocs=1)


def _in_copies_of_this(rank: int, number: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    in_copies(number, work, *arguments)


def forget(*packages: str) -> dict[str, Any]:
    """Remove modules of these packages as if they had never been imported; returns them by name."""
    names = [name for name in sys.modules if name.partition('.')[0] in packages]
    return {name: sys.modules.pop(name) for name in names}
