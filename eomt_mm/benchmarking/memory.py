"""Peak memory of a side."""

from pathlib import Path

import torch

from eomt_mm.benchmarking.build import build_side
from eomt_mm.benchmarking.side_by_side import peak_growth
from eomt_mm.benchmarking.sides import Spec


def peak_memory(spec: Spec) -> int | None:
    """Bytes of a call at most: weights, optimiser's states, and what the call adds to them.

    Returns:
        on CUDA by the allocator; on the CPU by the resident set of an eager call (run it in a fresh process: what was
        freed before is not seen again), None outside Linux.
    """
    on_cuda = spec.device.startswith('cuda')
    if not on_cuda and not Path('/proc/self/clear_refs').exists():
        return None
    side = build_side(spec)
    side.forward_small()
    if spec.stage == 'train':
        side.model.train()
    if not on_cuda:
        return side.resident_bytes() + peak_growth(side.call)
    side.compile()
    side.call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side.call()
    return side.resident_bytes() + torch.cuda.max_memory_allocated() - before
