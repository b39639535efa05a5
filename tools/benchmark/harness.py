"""Time and peak memory of several sides in one run: they take turns, and ratios are of neighbours in time."""

import ctypes
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
CLEAR_REFS = Path('/proc/self/clear_refs')


@dataclass(frozen=True)
class Spread:
    """Median of values, with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(median, low, high)

    def text(self, scale: float, digits: int) -> str:
        """Median and quartiles in brackets, each times ``scale``."""
        median, low, high = (f'{value * scale:.{digits}f}' for value in (self.median, self.low, self.high))
        return f'{median} [{low}, {high}]'


@dataclass
class Measured:
    """What was measured of a side: seconds of each round's call, and bytes at most or None."""

    name: str
    seconds: list[float] = field(default_factory=list)
    memory: int | None = None

    @property
    def time(self) -> Spread:
        """Seconds of a call."""
        return Spread.of(self.seconds)

    def time_over(self, other: 'Measured') -> Spread:
        """Ratio of the times, paired by rounds."""
        return paired_ratio(self.seconds, other.seconds)


def alternate(calls: Mapping[str, Call], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, round by round, in reversed order every second round.

    Args:
        calls: by name.
        rounds: that count, at least 1.
        warmup: rounds before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(-warmup, rounds):
        for name in list(calls)[:: -1 if k % 2 else 1]:
            synchronize()
            start = time.perf_counter()
            calls[name]()
            synchronize()
            if k >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    """Wait for the accelerator, where one is in use."""
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios within each round."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def resident(field: str) -> int:
    """Bytes of this process: 'VmRSS' now, 'VmHWM' at most (Linux; ``ru_maxrss`` is no less than the parent's)."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def free_unused() -> None:
    """Give the memory of what is no longer used back to the system."""
    gc.collect()
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory(make: Callable[[], Call]) -> int:
    """Bytes that what ``make`` builds and two of its calls add to the resident set of this process at most (Linux).

    Run it by :func:`in_fresh_process`, after a small problem has loaded libraries and started threads: in processes
    that had done other work (a test suite, on Linux 6.18) growths of 0 were read.
    """
    free_unused()
    before = resident('VmRSS')
    call = make()
    free_unused()
    CLEAR_REFS.write_text('5')  # the peak starts anew from what is resident now
    for _ in range(2):  # the first call makes an optimiser's states
        call()
    return resident('VmHWM') - before


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Result of a module-level function in a new process, which shares no memory with this one."""
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, args)
