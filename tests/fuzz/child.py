"""A process that reads damaged files under limits of memory and time; its keeper starts another when it dies.

Processes come from a fork server, so that torch is imported once and a new one costs milliseconds.
"""

import gc
import hashlib
import multiprocessing
import os
import re
import resource
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:  # the keeper imports nothing heavy
    from readers import Reader

MEMORY = 3 << 29  # bytes of addresses beyond what the process has when it starts
GROWTH = 1 << 30  # bytes that reading one input may really take
SECONDS = 10  # of the processor for one input; of the clock three times that
# An allocation that failed is caught and named by some readers: the limit was reached all the same.
NO_MEMORY = re.compile(r'MemoryError|bad_alloc|[Uu]nable to allocate|allocate memory|Insufficient memory|OutOfMemory')


class Outcome(NamedTuple):
    """What became of an input.

    Attributes:
        kind: 'named' (an error that names the file), 'result', or how it failed.
        text: of the error or, of a result, its digest.
        growth: bytes that it took.
    """

    kind: str
    text: str
    growth: int = 0


class Keeper:
    """Reads inputs of a reader below a folder, each in the same process for as long as that lives."""

    def __init__(self, reader: str, folder: Path) -> None:
        self.reader, self.folder = reader, folder
        self._server = multiprocessing.get_context('forkserver')
        self._server.set_forkserver_preload(['canaries'])
        with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server does not take over where modules are
            patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
            forkserver.ensure_running()
        self._process: multiprocessing.process.BaseProcess | None = None

    def read(self, damaged: str) -> Outcome:
        """Reads once; ``damaged`` is the name of the file that is."""
        if self._process is None or not self._process.is_alive():
            self._start()
        self._connection.send(damaged)
        try:
            if self._connection.poll(3 * SECONDS):
                outcome: Outcome = self._connection.recv()
                return outcome
            self.stop()
            return Outcome('hang', f'no answer within {3 * SECONDS} s')
        except EOFError:
            assert self._process is not None
            self._process.join()
            number = -(self._process.exitcode or 0)
            return Outcome('died', signal.Signals(number).name if number > 0 else f'exit status {-number}')

    def _start(self) -> None:
        self._connection, theirs = self._server.Pipe()
        self._process = self._server.Process(target=work, args=(theirs, self.reader, str(self.folder)), daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def work(connection: Connection, name: str, folder: str) -> None:
    """Answers until the other end is closed."""
    import cv2
    import torch
    from canaries import CANARIES
    from readers import READERS

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    gc.freeze()  # data sets of the hosts collect garbage
    os.chdir(folder)  # where hostile files leave their marker
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.__stdout__.fileno())
    os.dup2(null, sys.__stderr__.fileno())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_memory('VmSize') + MEMORY,) * 2)
    while True:
        try:
            damaged = connection.recv()
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
        before = _memory('VmRSS')
        outcome = _outcome((READERS | CANARIES)[name], Path(folder), damaged)
        connection.send(outcome._replace(growth=_memory('VmHWM') - before))


def _outcome(reader: 'Reader', folder: Path, damaged: str) -> Outcome:
    from readers import leaves

    try:
        result = reader.read(folder)
    except (OSError, ValueError) as error:
        text = f'{type(error).__name__}: {error}'
        if NO_MEMORY.search(text):
            return Outcome('memory', text)
        return Outcome('named' if damaged in str(error) or str(folder) in str(error) else 'file not named', text)
    except MemoryError as error:
        return Outcome('memory', repr(error))
    except AssertionError as error:
        return Outcome('not well-formed', str(error))
    except Exception as error:
        return Outcome('other error', f'{type(error).__name__}: {error}')
    digest = hashlib.sha256()
    for leaf in leaves(result):
        digest.update(leaf)
    return Outcome('result', digest.hexdigest())


def _memory(name: str) -> int:
    found = re.search(rf'{name}:\s+(\d+) kB', Path('/proc/self/status').read_text())
    assert found is not None
    return int(found[1]) << 10
