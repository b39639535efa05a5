"""tools/benchmark/harness.py. Fresh processes start in no time: neither this file nor the harness imports torch."""

import pytest

from benchmark.harness import Call, Spread, alternate, in_fresh_process, paired_ratio, peak_memory

MEGABYTE = 2**20


def test_calls_take_turns_in_reversed_order_and_warm_up_rounds_are_left_out() -> None:
    order: list[str] = []
    seconds = alternate({name: lambda name=name: order.append(name) for name in 'ab'}, rounds=3, warmup=2)
    assert ''.join(order) == 'abbaabbaab'
    assert {name: len(values) for name, values in seconds.items()} == dict(a=3, b=3)


def test_ratios_are_of_pairs() -> None:
    assert paired_ratio([2, 9, 40], [1, 3, 10]) == Spread(3, 2.5, 3.5)
    assert paired_ratio([3], [2]) == Spread(1.5, 1.5, 1.5)
    with pytest.raises(ValueError):
        paired_ratio([1, 2], [1])


def memory_of_96_megabytes() -> int:
    """32 are built and kept, each call adds 64; as much was freed before in small pieces, which the C library keeps."""
    pieces = [bytearray(1024) for _ in range(64 * 1024)]
    del pieces

    def make() -> Call:
        kept = bytearray(32 * MEGABYTE)
        return lambda: bytearray(64 * MEGABYTE).count(1) + kept.count(1)

    return peak_memory(make)


def test_peak_memory_is_what_is_built_and_what_a_call_frees_again() -> None:
    assert 92 * MEGABYTE < in_fresh_process(memory_of_96_megabytes) < 112 * MEGABYTE


def test_fresh_process_passes_arguments_and_errors() -> None:
    assert in_fresh_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_fresh_process(divmod, 7, 0)
