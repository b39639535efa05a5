"""tools/benchmark/flops.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.flops import UNFUSED, observe

BATCH, HEADS, QUERIES, KEYS, DIM = 2, 3, 5, 7, 16
PRODUCT = 2 * BATCH * HEADS * QUERIES * KEYS * DIM  # queries with keys, or weights with values


def heads(length: int) -> torch.Tensor:
    return torch.randn(BATCH, HEADS, length, DIM, requires_grad=True)


def test_linear_and_convolutions() -> None:
    assert observe(lambda: nn.Linear(8, 16)(torch.randn(4, 8))) == (2 * 4 * 8 * 16, {})
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert observe(lambda: depthwise(torch.randn(1, 6, 10, 10)))[0] == 2 * 100 * 9 * 6
    up = nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2)
    assert observe(lambda: up(torch.randn(1, 6, 10, 10)))[0] == 2 * 100 * 4 * 6 * 4


@pytest.mark.parametrize(
    'layer',
    [
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2),
    ],
    ids=['strided', 'depthwise', 'transposed'],
)
@pytest.mark.parametrize('input_gradient', [False, True])
def test_each_gradient_of_a_convolution_takes_what_its_forward_pass_does(
    layer: nn.Module, input_gradient: bool
) -> None:
    images = torch.randn(2, 6, 10, 8, requires_grad=input_gradient)
    forward = observe(lambda: layer(images))[0]
    assert observe(lambda: layer(images).sum().backward())[0] == forward * (3 if input_gradient else 2)


@pytest.mark.parametrize('mask', [None, torch.ones(QUERIES, KEYS, dtype=torch.bool)], ids=['open', 'masked'])
@pytest.mark.parametrize('backend', [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_attention_counts_the_same_in_every_kernel(backend: SDPBackend, mask: torch.Tensor | None) -> None:
    query, key, value = (heads(n).detach() for n in (QUERIES, KEYS, KEYS))
    with sdpa_kernel(backend):
        flops, kernels = observe(lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
    assert flops == 2 * PRODUCT
    assert kernels == {UNFUSED if backend is SDPBackend.MATH else 'flash_attention_for_cpu': 1}


def test_backward_of_attention_makes_the_weights_again() -> None:
    query, key, value = heads(QUERIES), heads(KEYS), heads(KEYS)
    flops, kernels = observe(lambda: F.scaled_dot_product_attention(query, key, value).sum().backward())
    assert flops == (2 + 5) * PRODUCT and kernels == {'flash_attention_for_cpu': 1}


@torch.no_grad()
def test_torchs_own_attention_layer_is_counted_in_evaluation_too() -> None:
    layer = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 10, 32)
    flops, kernels = observe(lambda: layer(x, x, x))
    assert flops == 2 * 2 * 10 * 32 * 4 * 32 + 2 * 2 * 2 * 10 * 10 * 32
    assert kernels == {UNFUSED: 1}
    assert torch.backends.mha.get_fastpath_enabled()


def test_other_softmaxes_are_no_attention() -> None:
    def call() -> None:
        torch.bmm(torch.ones(1, 3, 4), torch.ones(1, 4, 5)).relu()
        torch.ones(1, 3, 4).softmax(-1)

    assert observe(call) == (2 * 3 * 4 * 5, {})
