"""Query-to-patch masks: what can be masked, how often, and how the probability falls."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import (
    Attention,
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
)  # fmt: skip
from torch import nn

from eomt_mm.core.masked_attention import QueryRowsMask, block_mask, full_attention_mask, query_patch_mask
from eomt_mm.core.schedules import annealed_keep_prob

GRID = (3, 5)


def random_logits(batch: int = 2, queries: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, queries, 12, 20, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('fill', [-1.0, 0.0, math.nan, -math.inf])
def test_no_row_is_ever_all_false(fill: float) -> None:
    """Zero is outside: a mask must be positive to attend. Not even NaN or a missing prefix empties a row."""
    mask = full_attention_mask(query_patch_mask(torch.full((2, 7, 12, 20), fill), GRID), num_tokens=7 + 15)
    assert not mask[:, :, :7, 7:].any()
    assert mask.any(-1).all()


def test_all_negative_logits_mask_every_query_patch_entry_and_no_other() -> None:
    mask = full_attention_mask(query_patch_mask(torch.full((2, 7, 12, 12), -3.0), (4, 4)), num_tokens=7 + 5 + 16)
    assert mask.shape == (2, 1, 28, 28) and mask.dtype == torch.bool
    assert (~mask).sum((1, 2, 3)).tolist() == [7 * 16, 7 * 16]
    assert not mask[:, 0, :7, 12:].any()


def test_only_query_to_patch_entries_are_masked() -> None:
    query_mask = torch.rand(3, 7, 15) > 0.5
    mask = full_attention_mask(query_mask, num_tokens=7 + 2 + 15)[:, 0]
    assert torch.equal(mask[:, :7, 9:], query_mask)
    assert mask[:, :7, :9].all()  # queries to queries and prefix tokens
    assert mask[:, 7:].all()  # prefix tokens and patches to everything


def test_softmax_over_a_fully_masked_query_is_finite() -> None:
    mask = full_attention_mask(torch.zeros(1, 4, 6, dtype=torch.bool), num_tokens=10)
    q = torch.randn(1, 2, 10, 8)
    assert F.scaled_dot_product_attention(q, q, q, attn_mask=mask).isfinite().all()


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_attention_by_rows_equals_attention_with_the_full_mask(share: float) -> None:
    """Values and gradients; also where a query sees no patch."""
    q, k, v = (torch.randn(2, 3, 7 + 2 + 15, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    query_mask = torch.rand(2, 7, 15) < share
    outputs, gradients = [], []
    for mask in (QueryRowsMask(query_mask), full_attention_mask(query_mask, 24)):
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), (q, k, v)))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    free = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    assert torch.allclose(outputs[0][:, :, 7:], free[:, :, 7:])
    assert torch.allclose(outputs[0], free) is (share == 1)


def test_only_fused_attention_of_timm_gets_the_query_rows_alone() -> None:
    """No full mask is made there; every other attention has one."""

    class Swapped(Attention):
        """As somebody puts in the place of timm's."""

    query_mask, block = torch.rand(2, 4, 6) > 0.5, Block(8, 2)
    rows = block_mask(block, query_mask, 11)
    assert isinstance(rows, QueryRowsMask) and isinstance(
        block_mask(ParallelScalingBlock(8, 2), query_mask, 11), QueryRowsMask
    )
    with pytest.raises(TypeError):
        torch.zeros_like(rows)
    full = full_attention_mask(query_mask, 11)
    block.attn.fused_attn = False
    assert torch.equal(block_mask(block, query_mask, 11), full)
    block.attn = Swapped(8, 2)
    for other in (block, ParallelThingsBlock(8, 2)):
        assert torch.equal(block_mask(other, query_mask, 11), full)


@pytest.mark.parametrize('kind', [Block, ParallelScalingBlock, ParallelThingsBlock, DiffParallelScalingBlock])
def test_every_kind_of_block_takes_its_mask(kind: type[nn.Module]) -> None:
    """A query that sees no patch does not depend on patches, and no other token's row is masked."""
    block, x, query_mask = kind(8, 2).eval(), torch.randn(2, 11, 8), torch.ones(2, 4, 6, dtype=torch.bool)
    query_mask[:, 0] = False
    other = torch.cat([x[:, :5], torch.randn(2, 6, 8)], dim=1)
    mask = block_mask(block, query_mask, 11)
    outputs = [block(tokens, attn_mask=mask)[:, :5] for tokens in (x, other)]
    changed = (outputs[0] - outputs[1]).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [False, True, True, True, True]


def test_mask_is_the_bilinear_prediction_above_zero() -> None:
    """Reference by hand: shrinking 4 x without antialiasing averages the 4 middle pixels of each 4 x 4 cell."""
    logits = random_logits()
    middle = (logits[..., 1::4, :] + logits[..., 2::4, :]) / 2
    middle = (middle[..., 1::4] + middle[..., 2::4]) / 2
    assert torch.equal(query_patch_mask(logits, GRID), (middle > 0).flatten(2))


@pytest.mark.parametrize('as_tensor', [False, True])
def test_keep_prob_zero_sees_all_and_one_keeps_all(as_tensor: bool) -> None:
    logits = torch.full((4, 50, 12, 20), -1.0)
    keep = [torch.tensor(value) if as_tensor else value for value in (0.0, 1.0)]
    assert query_patch_mask(logits, GRID, keep[0]).all()
    assert not query_patch_mask(logits, GRID, keep[1]).any()


def test_share_of_kept_masks() -> None:
    torch.manual_seed(0)
    seen = query_patch_mask(torch.full((100, 200, 4, 4), -1.0), (1, 1), 0.3)
    share = 1 - seen.float().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 20000)


def test_a_pair_is_kept_or_dropped_as_a_whole_and_on_its_own() -> None:
    torch.manual_seed(1)
    logits = random_logits(batch=40, queries=50)
    kept, mixed = query_patch_mask(logits, GRID), query_patch_mask(logits, GRID, 0.5)
    dropped = mixed.all(-1)
    assert torch.equal(mixed[~dropped], kept[~dropped])
    by_image, by_query = dropped.float().mean(1), dropped.float().mean(0)
    # 40 x 50 fair coins: shared draws over images or over queries would give shares of 0 and 1 only
    assert by_image.min() > 0.2 and by_image.max() < 0.8
    assert by_query.min() > 0.15 and by_query.max() < 0.85
    assert not torch.equal(dropped, query_patch_mask(logits, GRID, 0.5).all(-1))


def test_mask_has_no_gradient() -> None:
    logits = random_logits().requires_grad_()
    assert not query_patch_mask(logits, GRID, 0.5).requires_grad


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    logits = random_logits().to(dtype)
    assert torch.equal(query_patch_mask(logits * 100, GRID), query_patch_mask(logits, GRID))


def test_annealing_is_one_then_falls_then_zero() -> None:
    probs = [annealed_keep_prob(step, start=10, end=20) for step in range(30)]
    assert probs[:11] == [1.0] * 11 and probs[20:] == [0.0] * 10
    assert all(later < earlier for earlier, later in pairwise(probs[10:21]))
    assert probs[15] == pytest.approx(0.5**0.9)
    assert annealed_keep_prob(15, 10, 20, power=2) == pytest.approx(0.25)


def test_annealing_without_a_fall_and_with_fractional_steps() -> None:
    assert [annealed_keep_prob(step, 5, 5) for step in (4, 5, 6)] == [1.0, 0.0, 0.0]
    assert [annealed_keep_prob(step, 0, 0) for step in (0, 1)] == [0.0, 0.0]
    assert annealed_keep_prob(1, 0.5, 1.5) == pytest.approx(0.5**0.9)
