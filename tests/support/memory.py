"""Measure the memory of work in a process of its own."""

import multiprocessing
from collections.abc import Callable

import cv2
from copies import in_copies

from benchmark.harness import CLEAR_REFS, free_unused, resident


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that ``work`` adds at most to the resident memory of a copy of this process (Linux).

    Do small work of the same kind first, which loads libraries.
    """
    found = multiprocessing.get_context('fork').Value('q')

    def measured(rank: int) -> None:
        cv2.setNumThreads(0)  # its threads are not in the copy
        free_unused()
        CLEAR_REFS.write_text('5')
        before = resident('VmRSS')
        work()
        found.value = resident('VmHWM') - before

    in_copies(1, measured)
    return int(found.value)
