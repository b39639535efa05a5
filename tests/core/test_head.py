"""Queries and predictors: shapes for every patch size, arguments that do not fit, state."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_state_dict
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core import head as eomt_head
from eomt_mm.core.backbone import Tokens
from eomt_mm.core.head import EoMTHead, ScaleBlock, default_num_blocks, num_scale_blocks


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


@pytest.mark.parametrize('rows', [1, 2, 3, 4])  # 4 is no divisor of 7; rows of the last block's input are 14
def test_strips_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny_head(patch_size=16).double()
    tokens = Tokens(torch.randn(2, 5 + 5 + 21, 8, dtype=torch.float64), (7, 3))
    leaves = list(head.parameters())

    def run(grad: bool) -> list[Tensor]:
        with torch.set_grad_enabled(grad):
            masks = head.predict_logits(tokens)[1]
        return [masks, *(torch.autograd.grad(masks.square().sum(), leaves, allow_unused=True) if grad else ())]

    monkeypatch.setattr(eomt_head, 'STRIP_BYTES', 10**9)
    whole = [*run(False), *run(True)]
    monkeypatch.setattr(eomt_head, 'STRIP_BYTES', rows * 4 * 6 * 8 * 8)
    calls: list[int] = []
    head.upscale[-1].up.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[2]))
    strips = [*run(False), *run(True)]
    assert len(calls) == 2 * -(-14 // rows) and max(calls) == rows
    for one, other in zip(strips, whole, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_strips_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [eomt_head._rows_per_strip(torch.empty(batch, 384, 80, 80)) for batch in (1, 8)]
    assert sizes[0] == sizes[1] and 1 < sizes[0] < 80
    assert eomt_head._rows_per_strip(torch.empty(1, 384, 8, 8)) is None
    assert eomt_head._rows_per_strip(torch.empty(1, 10**6, 8, 1000, device='meta')) is None
    assert eomt_head._rows_per_strip(torch.empty(1, 10**4, 8, 1000)) == 1


@pytest.mark.parametrize('recompute, maps', [(True, 1), (False, 4)])
def test_feature_maps_of_the_last_scale_block_that_backward_keeps(recompute: bool, maps: int) -> None:
    """As the default one, what the transposed convolution gave; else also what GELU, convolution and norm did."""
    head = tiny_head(embed_dim=16, recompute_masks=recompute)
    tokens = Tokens(torch.randn(1, 5 + 5 + 64, 16), (8, 8))
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        head.predict_logits(tokens)
    assert list(kept.values()).count(16 * 32 * 32) == maps


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


def test_blocks_are_masked_in_training_until_annealed() -> None:
    head = tiny_head().train()
    assert [head.masks_block(b) for b in range(3)] == [True] * 3
    head.set_attn_mask_probs([0.0, 0.25, 1.0])
    assert [head.masks_block(b) for b in range(3)] == [False, True, True]
    assert not any(head.eval().masks_block(b) for b in range(3))
    assert not any(tiny_head(masked_attention=False).train().masks_block(b) for b in range(3))


@pytest.mark.parametrize('assign', [False, True])
@pytest.mark.parametrize('load', ['torch', 'mmengine'])
def test_loaded_probabilities_are_noticed(load: str, assign: bool) -> None:
    parent = torch.nn.ModuleDict(dict(head=tiny_head())).train()
    head = parent['head']
    assert all(head.masks_block(b) for b in range(3))
    state = {**parent.state_dict(), 'head.attn_mask_probs': torch.tensor([0.0, 0.5, 0.0])}
    if load == 'torch':
        parent.load_state_dict(state, assign=assign)
    else:
        load_state_dict(parent, state)
    for found in (head, copy.deepcopy(head), copy.deepcopy(head).double(), copy.deepcopy(head).to('meta')):
        assert [found.masks_block(b) for b in range(3)] == [False, True, False]
    twin = copy.deepcopy(head)
    twin.load_state_dict(tiny_head().state_dict())
    assert all(twin.masks_block(b) for b in range(3)) and not head.masks_block(0)


def test_the_device_is_not_asked_for_the_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading waits for the device; what was set from the host is known."""
    reads: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, 'tolist', lambda self: reads.append(1) or tolist(self))
    head = tiny_head().train().double()
    head.set_attn_mask_probs([0.0, 0.5, 1.0])
    assert head.masks_block(1) and not head.masks_block(0) and reads == []


def test_tensors_without_content_can_be_trained() -> None:
    head = tiny_head().train().to('meta')
    assert head.masks_block(0)


def test_when_predictions_are_made_before_blocks() -> None:
    head = tiny_head()
    assert head.train().predicts_before_blocks and not head.eval().predicts_before_blocks
    assert tiny_head(predict_intermediate=True).eval().predicts_before_blocks
