"""Queries and predictors: shapes for every patch size, arguments that do not fit, state."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt_mm.models.backbone import Tokens
from eomt_mm.models.eomt_head import EoMTHead, ScaleBlock, default_num_blocks, num_scale_blocks


def tiny_head(**kwargs: Any) -> EoMTHead:
    return EoMTHead(**{**dict(embed_dim=8, depth=4, patch_size=16, num_classes=3, num_queries=5), **kwargs})


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(num_queries=0), r'num_queries=0: at least 1.*100.*200'),
        (dict(num_classes=0), r'num_classes=0: at least 1'),
        (dict(num_classes=-1), r'num_classes=-1: at least 1'),
        (dict(num_blocks=0), r'num_blocks=0: between 1 and the 4 blocks'),
        (dict(num_blocks=-1), r'num_blocks=-1: between 1'),
        (dict(num_blocks=5), r'num_blocks=5: between 1 and the 4 blocks'),
    ],
)
def test_argument_that_does_not_fit_is_named(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tiny_head(**kwargs)


@pytest.mark.parametrize('depth, expected', [(1, 1), (2, 2), (3, 3), (12, 3), (13, 4), (24, 4), (25, 5), (40, 5)])
def test_default_number_of_joint_blocks(depth: int, expected: int) -> None:
    assert default_num_blocks(depth) == expected
    assert tiny_head(depth=depth).num_blocks == expected


@pytest.mark.parametrize('patch_size, blocks', [(4, 1), (8, 1), (14, 1), (16, 2), (31, 2), (32, 3)])
def test_mask_resolution_follows_from_the_patch_size(patch_size: int, blocks: int) -> None:
    """n = max(1, floor(log2(patch)) - 2) doublings of the grid."""
    assert num_scale_blocks(patch_size) == blocks
    head = tiny_head(patch_size=patch_size)
    tokens = Tokens(torch.randn(2, 5 + 5 + 6, 8), (2, 3))
    class_logits, mask_logits = head.predict_logits(tokens)
    assert class_logits.shape == (2, 5, 4)
    assert mask_logits.shape == (2, 5, 2 * 2**blocks, 3 * 2**blocks)


def test_logits_by_hand() -> None:
    """Queries first, patches last, whatever lies between; masks are plain inner products."""
    head, x = tiny_head().double(), torch.randn(2, 5 + 3 + 6, 8, dtype=torch.float64)
    class_logits, mask_logits = head.predict_logits(Tokens(x, (2, 3)))
    changed = x.clone()
    changed[:, 5:8] += 1  # prefix tokens take no part
    classes_again, masks_again = head.predict_logits(Tokens(changed, (2, 3)))
    assert torch.equal(classes_again, class_logits) and torch.equal(masks_again, mask_logits)

    m1, m2, m3 = (layer for layer in head.mask_mlp if isinstance(layer, torch.nn.Linear))
    for b in range(2):
        grid = x[b, 8:].reshape(2, 3, 8).permute(2, 0, 1)[None]
        for block in head.upscale:
            grid = scale_block_by_hand(block, grid)
        for q in range(5):
            query = x[b, q]
            linear = head.class_predictor
            torch.testing.assert_close(class_logits[b, q], linear.weight @ query + linear.bias)
            embedding = m3(F.gelu(m2(F.gelu(m1(query)))))
            torch.testing.assert_close(mask_logits[b, q], (grid[0] * embedding[:, None, None]).sum(0))


def scale_block_by_hand(block: ScaleBlock, x: Tensor) -> Tensor:
    x = block.conv(F.gelu(block.up(x)))
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-6).sqrt() * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]


def test_scale_block_has_the_published_parameters() -> None:
    shapes = {name: tuple(value.shape) for name, value in ScaleBlock(8).named_parameters()}
    assert shapes == {
        'up.weight': (8, 8, 2, 2),
        'up.bias': (8,),
        'conv.weight': (8, 1, 3, 3),
        'norm.weight': (8,),
        'norm.bias': (8,),
    }


def test_queries_start_normal() -> None:
    torch.manual_seed(0)
    queries = tiny_head(num_queries=200, embed_dim=64).queries.weight
    assert abs(queries.mean().item()) < 0.05 and abs(queries.std().item() - 1) < 0.05


def test_keep_probabilities_persist() -> None:
    head, other = tiny_head(), tiny_head()
    assert torch.equal(head.attn_mask_probs, torch.ones(3))
    head.set_attn_mask_probs([0.0, 0.25, 1.0])
    assert head.attn_mask_probs.tolist() == [0.0, 0.25, 1.0]
    other.load_state_dict(head.state_dict())
    assert other.attn_mask_probs.tolist() == [0.0, 0.25, 1.0]
    assert not any(parameter is head.attn_mask_probs for parameter in head.parameters())


@pytest.mark.parametrize('probs', [[0.5], [1.0] * 4, [0.5, -0.1, 1.0], [0.5, 1.1, 1.0], [0.5, float('nan'), 1.0], []])
def test_keep_probabilities_that_do_not_fit_are_refused(probs: list[float]) -> None:
    head = tiny_head()
    with pytest.raises(ValueError, match=r'probs=.*3 .*\[0, 1\]'):
        head.set_attn_mask_probs(probs)
    assert torch.equal(head.attn_mask_probs, torch.ones(3))


def test_when_predictions_are_made_before_blocks() -> None:
    head = tiny_head()
    assert head.train().predicts_before_blocks and not head.eval().predicts_before_blocks
    assert tiny_head(predict_intermediate=True).eval().predicts_before_blocks
