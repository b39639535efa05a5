"""Work of metrics in processes of their own, so that this one can feed the device meanwhile.

A thread per worker process sends it a call and waits for the answer, so that the caller never waits for a pipe. The
pipe is all that holds a worker: it ends when the other end is closed, however this process came to its end.
"""

import atexit
import functools
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np

# Calls per worker that may wait or be under way. More would not be faster, and each holds an image's predictions.
CALLS_PER_WORKER = 4


class WorkQueue:
    """Calls whose results come back in the order in which they were put.

    All queues of a process share its workers. These are forked off a server process that never saw this one's threads
    and devices (spawned, where there is no such server), at the first call; they end with this process.

    Args:
        num_workers: number of worker processes; 0 makes each call in this process, at once.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 0:
            raise ValueError(f'num_workers={num_workers}: give 0 (work in this process) or a number of processes')
        self.num_workers = num_workers
        self._waiting: deque[tuple[Any, str, Future]] = deque()

    def put(self, key: Any, image: str, function: Callable[..., Any], *args: Any) -> None:
        """Asks for ``function(*args)``.

        Args:
            key: comes back beside the result.
            image: which one it is, for messages.
            function: of a module, as it is pickled; so are arguments and result.
            *args: of the function.
        """
        if self.num_workers:
            future = _workers(self.num_workers).call(function, args)
        else:
            future = Future()
            future.set_result(function(*args))
        self._waiting.append((key, image, future))

    def results(self, all_of_them: bool = False) -> Iterator[tuple[Any, Any]]:
        """Key and result of calls that are done; waits only where too many are not, or for all of them.

        Raises:
            RuntimeError: a call raised an error, or its worker process ended.
        """
        limit = 0 if all_of_them else CALLS_PER_WORKER * self.num_workers
        while self._waiting and (len(self._waiting) > limit or self._waiting[0][2].done()):
            key, image, future = self._waiting.popleft()
            yield key, self._result(image, future)

    def _result(self, image: str, future: Future) -> Any:
        try:
            return future.result()
        except (EOFError, OSError) as error:
            _workers.cache_clear()
            raise RuntimeError(
                f'{image}: the worker process of the metric ended (killed for memory?): use fewer, or num_workers=0'
            ) from error
        except WorkerError as error:
            raise RuntimeError(f'{image}: error in a worker process of the metric\n{error}') from error


class WorkerError(Exception):
    """What a call in a worker raised, as text."""


class _Workers:
    """Idle and busy worker processes."""

    def __init__(self, number: int) -> None:
        method = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
        context: Any = multiprocessing.get_context(method)
        self._threads = ThreadPoolExecutor(number, 'metric worker')
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for _ in range(number):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs,), daemon=True, name='metric worker').start()
            theirs.close()
            self._idle.put(ours)
            atexit.register(_dismiss, ours)  # data loaders may have forked off copies of our end, which keep it open

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future:
        return self._threads.submit(self._call, function, args)

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        connection = self._idle.get()
        try:
            connection.send((function, args))
            answer, error = connection.recv()
        finally:
            self._idle.put(connection)
        if error is not None:
            raise WorkerError(error)
        return answer


_workers = functools.cache(_Workers)


def _serve(connection: Connection) -> None:
    """A worker's life: calls and answers, until the other end says None or is gone."""
    # Terminals and clusters send these to all processes; what happens then is for the parent to say.
    for name in ('SIGINT', 'SIGTERM', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with suppress(EOFError, OSError):
        while (call := connection.recv()) is not None:
            function, args = call
            answer: tuple[Any, str | None]
            try:
                answer = function(*args), None
            except Exception:
                answer = None, traceback.format_exc()
            connection.send(answer)


def keep_freed_memory() -> None:
    """Lets this process reuse memory of up to 16 MB that it frees, instead of having the kernel clear new pages.

    glibc takes blocks above a threshold, at first 128 kB, from the kernel one by one, and raises it to the size of any
    that is freed (mallopt(3), M_MMAP_THRESHOLD). Without this, half of the time of counting a PNG are page faults;
    processes in which a network runs have long freed larger blocks.
    """
    np.empty(16 << 20, dtype=np.uint8)


def _dismiss(connection: Connection) -> None:
    with suppress(OSError):
        connection.send(None)
        connection.close()
