"""Measure time and peak memory of several sides, in turns, so that each ratio compares calls close in time."""

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


class LeftOut(Exception):
    """A side cannot take part; the message gives the reason."""


@dataclass(frozen=True)
class Spread:
    """Median of values, with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Compute the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method='inclusive')
        return cls(median, low, high)

    def text(self, scale: float, digits: int) -> str:
        """Format the median, with quartiles in brackets, each times ``scale``."""
        median, low, high = (f'{value * scale:.{digits}f}' for value in (self.median, self.low, self.high))
        return f'{median} [{low}, {high}]'


@dataclass
class Measured:
    """Measurements of a side: seconds of each round's call, and peak bytes or None."""

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
    """Time each call, round by round, in reversed order every second round; return seconds by name.

    Args:
        calls: calls by name.
        rounds: timed rounds, at least 1.
        warmup: rounds before them that are not timed.
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
    """Wait for the accelerator, if one is in use."""
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios within each round."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def resident(field: str) -> int:
    """Resident bytes of this process: 'VmRSS' now, 'VmHWM' peak (Linux; ``ru_maxrss`` is at least the parent's)."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def free_unused() -> None:
    """Return unused memory to the system."""
    gc.collect()
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory(make: Callable[[], Call]) -> int:
    """Measure how many bytes ``make`` and two calls of its result add to this process's peak resident set (Linux).

    Run it with :func:`in_fresh_process`, after a small problem has loaded libraries and started threads. In processes
    that had done other work (a test suite, on Linux 6.18), the measured growth was 0.
    """
    free_unused()
    before = resident('VmRSS')
    call = make()
    free_unused()
    CLEAR_REFS.write_text('5')  # reset the peak to what is resident now
    for _ in range(2):  # the first call makes an optimiser's states
        call()
    return resident('VmHWM') - before


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Run a module-level function in a new process, which shares no memory with this one; return its result."""
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, args)
