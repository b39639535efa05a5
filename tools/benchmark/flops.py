"""Count the operations of a call, including attention, and the attention kernels that it used."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
UNFUSED = 'bmm + softmax'


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad_out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


def _convolution_backward(grad_out: Any, x: Any, weight: Any, *args: Any, **_: Any) -> int:
    transposed, output_mask = args[4], args[7]
    forward = 2 * x[0] * math.prod(weight) * math.prod((x if transposed else grad_out)[2:])
    return forward * (output_mask[0] + output_mask[1])  # each gradient takes as many operations as the forward pass


# Corrections to the counts of torch (2.14), which counts attention on the CPU as zero, and the weight gradient of a
# grouped convolution as if it had one group (384 times too much for a depthwise convolution of 384 channels).
FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: _convolution_backward,
}


class AttentionKernels(TorchDispatchMode):
    """Count the operators that compute attention.

    Attributes:
        counts: calls of each of torch's fused kernels, by name, and of ``UNFUSED``: a softmax of all elements of the
            batched product before it. Backward kernels are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._product = 0  # elements of the last batched product

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if 'scaled_dot_product' in name and not name.endswith('backward'):
            self.counts[name.removeprefix('_scaled_dot_product_')] += 1
        elif name in ('bmm', 'baddbmm'):
            self._product = out.numel()
        elif name in ('_softmax', '_safe_softmax') and args[0].numel() == self._product:
            self.counts[UNFUSED] += 1
        return out


def observe(call: Callable[[], Any]) -> tuple[int, dict[str, int]]:
    """Run ``call`` once and count its operations and attention kernels.

    A multiply-add counts as two operations (matrix products, convolutions, attention); elementwise operations, sampling
    and sorting count as none; see :mod:`torch.utils.flop_counter`. Masked attention counts in full.

    Returns:
        floating point operations, and :attr:`AttentionKernels.counts`.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it fuses a whole layer into one operator that is not counted
    try:
        with FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops, AttentionKernels() as kernels:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return flops.get_total_flops(), dict(kernels.counts)
