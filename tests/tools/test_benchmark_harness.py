"""tools/benchmark/harness.py. Fresh processes start in no time: neither this file nor the harness imports torch."""

import pytest

from benchmark.harness import Spread, alternate, in_fresh_process, paired_ratio, peak_growth

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


def growth_of_64_megabytes() -> int:
    """After as much was freed in small pieces, which the C library would keep."""
    pieces = [bytearray(1024) for _ in range(64 * 1024)]
    del pieces
    return peak_growth(lambda: bytearray(64 * MEGABYTE).count(1))


def test_peak_growth_sees_what_is_freed_again() -> None:
    assert 60 * MEGABYTE < in_fresh_process(growth_of_64_megabytes) < 80 * MEGABYTE


def test_fresh_process_passes_arguments_and_errors() -> None:
    assert in_fresh_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_fresh_process(divmod, 7, 0)
