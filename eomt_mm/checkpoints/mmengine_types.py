"""The types that mmengine's checkpoints hold besides tensors; exactly these are allowed when they are read."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
STATISTICS = ('min', 'max', 'current', 'mean')


class HistoryBufferStandIn:
    """Stand-in for mmengine's ``HistoryBuffer`` where mmengine is not installed; its content is not used."""

    def min(self) -> None:
        """Stand for a statistic, to which pickles refer, as do the other methods."""

    max = current = mean = min


def mmengine_globals(history_buffer: type) -> list[tuple[Any, str]]:
    """List what ``weights_only`` must allow to read mmengine's checkpoints, for torch's ``add_safe_globals``.

    mmengine saves its message hub: ``HistoryBuffer`` objects, the numpy arrays and scalars in them, and references to
    the four statistics of ``HistoryBuffer``. The names used by numpy 1 and by numpy 2 are both allowed, regardless of
    the installed version.

    Each entry is a pair of an object and the name that files refer to it by. While onedl-mmengine reads, it allows some
    of the same objects without names, and removes them afterwards; for torch, pairs are other entries than these.

    Args:
        history_buffer: mmengine's class, or a stand-in.
    """
    numbers = [type(np.dtype(name)) for name in ('bool', 'uint8', 'int32', 'int64', 'float32', 'float64')]
    # numpy has no public names for the two functions that rebuild arrays and scalars; their pickles refer to them.
    rebuild: dict[str, Any] = {'_reconstruct': np.zeros(0).__reduce__()[0], 'scalar': np.float64(0).__reduce__()[0]}
    return [
        (history_buffer, HISTORY_BUFFER),
        (_statistic, 'builtins.getattr'),
        *((one, _name(one)) for one in (np.ndarray, np.dtype, *numbers)),
        *((rebuild[name], f'numpy.{core}.multiarray.{name}') for name in rebuild for core in ('core', '_core')),
    ]


def _statistic(owner: Any, name: str) -> Callable[..., Any]:
    """Replace ``getattr``, which would give access from any allowed class to every object in the process."""
    is_history = isinstance(owner, type) and _name(owner) == HISTORY_BUFFER
    if not is_history or name not in STATISTICS:
        raise UnpicklingError(f'the checkpoint refers to attribute {name!r} of {owner!r}, which is not allowed')
    statistic: Callable[..., Any] = getattr(owner, name)
    return statistic


@contextmanager
def mmengine_files_readable() -> Iterator[None]:
    """Allow mmengine's types within the context; nothing else is allowed under their names, such as the real getattr.

    Where mmengine is not imported, its class is replaced by a stand-in.
    """
    mmengine = sys.modules.get(HISTORY_BUFFER.rpartition('.')[0])
    ours = mmengine_globals(mmengine.HistoryBuffer if mmengine else HistoryBufferStandIn)
    names = {name for _, name in ours}
    with _lock:
        allowed = torch.serialization.get_safe_globals()
        others = [one for one in allowed if one not in ours and _name(one) in names]
        with torch.serialization.safe_globals(others):
            pass  # leaving this context removes them
        try:
            with torch.serialization.safe_globals([one for one in ours if one not in allowed]):
                yield
        finally:
            torch.serialization.add_safe_globals(others)


def _name(allowed: Any) -> str:
    return allowed[1] if isinstance(allowed, tuple) else f'{allowed.__module__}.{allowed.__qualname__}'


HistoryBufferStandIn.__module__, _, HistoryBufferStandIn.__qualname__ = HISTORY_BUFFER.rpartition('.')
_lock = threading.Lock()
