"""Run metrics' work in other processes, so that this process can keep the device busy."""

import functools
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np

# Calls per worker that may be pending. More would not be faster, and each holds an image's predictions in memory.
CALLS_PER_WORKER = 4


class WorkQueue:
    """Queue of function calls in worker processes; results are returned in the order of the calls.

    All queues of a process share its workers, which start at the first call and end with this process. They are forked
    from a server process, which has none of this process's threads and devices (spawned, if there is no fork server).

    Args:
        num_workers: number of worker processes; 0 runs each call immediately in this process.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 0:
            raise ValueError(f'num_workers={num_workers}: give 0 (work in this process) or a number of processes')
        self.num_workers = num_workers
        self._waiting: deque[tuple[Any, str, Future]] = deque()

    def put(self, key: Any, image: str, function: Callable[..., Any], *args: Any) -> None:
        """Submit ``function(*args)``; function, arguments and result are pickled.

        Args:
            key: returned with the result.
            image: name of the image, for messages.
            function: function at module level.
            *args: its arguments.
        """
        if self.num_workers:
            future = _pool(self.num_workers).submit(_answer, function, args)
        else:
            future = Future()
            future.set_result((function(*args), None))
        self._waiting.append((key, image, future))

    def results(self, all_of_them: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield key and result of finished calls; wait only if too many are pending, or for all if ``all_of_them``.

        Raises:
            RuntimeError: a call raised an error, or a worker process died.
        """
        limit = 0 if all_of_them else CALLS_PER_WORKER * self.num_workers
        while self._waiting and (len(self._waiting) > limit or self._waiting[0][2].done()):
            key, image, future = self._waiting.popleft()
            yield key, self._result(image, future)

    def _result(self, image: str, future: Future) -> Any:
        try:
            answer, error = future.result()
        except BrokenExecutor as broken:
            end_workers()
            self._waiting.clear()
            raise RuntimeError(
                f'{image}: the worker process of the metric ended (killed for memory?): use fewer, or num_workers=0'
            ) from broken
        if error is not None:
            raise RuntimeError(f'{image}: error in a worker process of the metric\n{error}')
        return answer


@functools.cache
def _pool(number: int) -> ProcessPoolExecutor:
    method = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
    return ProcessPoolExecutor(number, multiprocessing.get_context(method), _start)


def end_workers() -> None:
    """End the worker processes of this process; the next call starts new ones."""
    _pool.cache_clear()


def _start() -> None:
    """Prepare a worker process."""
    # Terminals and clusters send these signals to all processes; only the parent handles them.
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1'):
        if name in signal.Signals.__members__:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    keep_freed_memory()


def _end_with_parent() -> None:
    """End this process when its parent dies: workers hold both ends of their pipe and would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _answer(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, str | None]:
    """Call the function; return its result, or its error as text, since not every error can be pickled."""
    try:
        return function(*args), None
    except Exception:
        return None, traceback.format_exc()


def keep_freed_memory() -> None:
    """Make this process reuse freed memory blocks of up to 16 MB instead of mapping new pages from the kernel.

    glibc maps blocks above a threshold, initially 128 kB, directly from the kernel. Freeing such a block raises the
    threshold to its size (mallopt(3), M_MMAP_THRESHOLD). Without this, page faults take half the time of counting a
    PNG. A process in which a network runs has already freed larger blocks.
    """
    np.empty(16 << 20, dtype=np.uint8)
