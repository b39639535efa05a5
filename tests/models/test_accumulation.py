"""Micro-batches give the gradient of the whole batch, given equal points; in two processes: test_processes.py."""

import pytest
import torch
from criterion_samples import NUMS, gradient

import eomt_mm  # noqa: F401  before the hosts

# with a micro-batch without targets, more targets than queries, one target in all, none in all


@pytest.mark.parametrize('nums', NUMS)
@pytest.mark.parametrize('parts', [(2, 2), (1, 1, 1, 1), (1, 3)])
@pytest.mark.parametrize('sync', [True, False])
def test_parts_give_the_gradient_of_the_batch(nums: tuple[int, ...], parts: tuple[int, ...], sync: bool) -> None:
    whole = gradient(nums, [4], sync)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(gradient(nums, parts, sync), whole, rtol=0, atol=1e-12)
