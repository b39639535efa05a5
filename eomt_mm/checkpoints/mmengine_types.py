"""The types that mmengine's checkpoints hold besides tensors; exactly these are allowed when they are read."""

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


def mmengine_globals(history_buffer: type) -> list[Any]:
    """List what ``weights_only`` must allow to read mmengine's checkpoints, for torch's ``add_safe_globals``.

    mmengine saves its message hub: ``HistoryBuffer`` objects, the numpy arrays and scalars in them, and references to
    the four statistics of ``HistoryBuffer``. The names used by numpy 1 and by numpy 2 are both allowed, regardless of
    the installed version.

    torch looks up an allowed global by its module and name. The replacement functions below therefore carry the module
    and name of the functions that they replace.

    Args:
        history_buffer: mmengine's class, or a stand-in under its module and name.
    """

    def statistic(owner: Any, name: str) -> Callable[..., Any]:
        """Replace ``getattr``, which would give access from any allowed class to every object in the process."""
        if owner is not history_buffer or name not in STATISTICS:
            raise UnpicklingError(f'the checkpoint refers to attribute {name!r} of {owner!r}, which is not allowed')
        return getattr(history_buffer, name)

    numbers = [type(np.dtype(name)) for name in ('bool', 'uint8', 'int32', 'int64', 'float32', 'float64')]
    # numpy has no public names for the two functions that rebuild arrays and scalars; their pickles refer to them.
    rebuild: dict[str, Any] = {'_reconstruct': np.zeros(0).__reduce__()[0], 'scalar': np.float64(0).__reduce__()[0]}
    renamed = [
        _renamed(rebuild[name], f'numpy.{core}.multiarray', name) for name in rebuild for core in ('core', '_core')
    ]
    return [history_buffer, np.ndarray, np.dtype, *numbers, *renamed, _renamed(statistic, 'builtins', 'getattr')]


def _renamed(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


@contextmanager
def mmengine_files_readable() -> Iterator[None]:
    """Allow mmengine's types within the context, unless our ``hosts.install()`` has allowed them for the process."""
    with _lock:
        known = {f'{one.__module__}.{one.__qualname__}' for one in _allowed_objects()}
        if HISTORY_BUFFER in known:
            yield
            return
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals(STAND_INS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _allowed_objects() -> list[Any]:
    return [one[0] if isinstance(one, tuple) else one for one in torch.serialization.get_safe_globals()]


HistoryBufferStandIn.__module__, _, HistoryBufferStandIn.__qualname__ = HISTORY_BUFFER.rpartition('.')
HistoryBufferStandIn.__name__ = HistoryBufferStandIn.__qualname__
STAND_INS = mmengine_globals(HistoryBufferStandIn)
_lock = threading.Lock()
