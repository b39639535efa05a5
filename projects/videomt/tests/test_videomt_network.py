"""VidEoMT's forward pass: windows, batches, sizes, what is normalised, gradients through time."""

from typing import Any

import pytest
import torch
from torch import Tensor
from videomt.network import VidEoMTHead
from videomt_networks import BLOCKS, CLASSES, DEPTH, QUERIES, WIDTH, Network, clips, final, relative_difference

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.network import eomt_forward

WIDE = (48, 96)
SAME = 1e-6  # of the range of the outputs; what float32 gives when matrices are multiplied in other batches
DINOV2, DINOV3 = 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3_qkvb'


def in_windows(network: Network, frames: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Final class and mask logits of a video that comes in windows."""
    state, found = None, []
    for window in frames.split(lengths, dim=1):
        predictions, state = network(window, state)
        found.append(final(predictions))
    classes, masks = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return classes, masks


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = SAME) -> None:
    for one, other in zip(found, expected, strict=True):
        assert relative_difference(one, other) <= tolerance


@torch.no_grad()
@pytest.mark.parametrize('name', [DINOV2, DINOV3])
@pytest.mark.parametrize('norm_queries', [False, True])
def test_windows_do_not_matter(name: str, norm_queries: bool) -> None:
    network, frames = Network(name, norm_queries=norm_queries).eval(), clips(2, 4, WIDE)
    predictions, state = network(frames)
    for lengths in ([1, 1, 1, 1], [3, 1], [1, 3]):
        assert_same(in_windows(network, frames, lengths), final(predictions))
    _, before = network(frames[:, :3])
    assert_same((network(frames[:, 3:], before)[1],), (state,))


@torch.no_grad()
def test_state_matters_and_none_starts_anew() -> None:
    network, frames = Network().eval(), clips()
    whole, _ = network(frames)
    again, _ = network(frames)
    assert_same(final(again), final(whole), 0)
    alone, _ = network(frames[:, 1:])  # as if frame 1 were the first
    assert relative_difference(alone.mask_logits[-1], whole.mask_logits[-1][:, 1:]) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize('name', [DINOV2, DINOV3])
def test_batch_of_clips_is_clip_by_clip(name: str) -> None:
    network, frames = Network(name).eval(), clips(3, 2, WIDE)
    together, state = network(frames)
    for i in range(3):
        alone, own_state = network(frames[i : i + 1])
        assert_same((*final(alone), own_state), (*(part[i : i + 1] for part in final(together)), state[i : i + 1]))


@torch.no_grad()
@pytest.mark.parametrize('name', [DINOV2, DINOV3])
@pytest.mark.parametrize('size', [(64, 64), WIDE, (80, 32)])
def test_first_frame_is_eomt(name: str, size: tuple[int, int]) -> None:
    """Also shows that positions are made for the real grid: EoMT's forward pass has its own tests for that."""
    network, frames = Network(name).eval(), clips(2, 2, size)
    predictions, _ = network(frames)
    expected = eomt_forward(network.backbone, network.panoptic_head, frames[:, 0])
    assert_same(tuple(part[:, 0] for part in final(predictions)), (expected[0][-1], expected[1][-1]))
    assert predictions.mask_logits[-1].shape == (2, 2, QUERIES, size[0] // 4, size[1] // 4)


@torch.no_grad()
@pytest.mark.parametrize('norm_queries', [False, True])
def test_second_frame_is_eomt_with_updated_queries(norm_queries: bool) -> None:
    """Queries leave the last block, with or without the final norm, pass the updater and meet the learned ones."""
    network, frames = Network(norm_queries=norm_queries).eval(), clips(1, 2)
    predictions, _ = network(frames)
    head, backbone = network.panoptic_head, network.backbone
    tokens = backbone(frames[:, 0], num_blocks=DEPTH - BLOCKS).prepend(head.queries.weight)
    for i in range(DEPTH - BLOCKS, DEPTH):
        tokens = backbone.run_block(tokens, i)
    leaving = (backbone.final_norm(tokens) if norm_queries else tokens).x[0, :QUERIES]
    head.queries.weight.copy_(head.query_updater(leaving) + head.queries.weight)
    classes, masks = eomt_forward(backbone, head, frames[:, 1])
    assert_same(tuple(part[:, 1] for part in final(predictions)), (classes[-1], masks[-1]))


@pytest.mark.parametrize(
    ('training', 'options', 'count'),
    [
        (True, {}, 2),  # as published: none before the last block
        (True, dict(drop_last_auxiliary=False), 3),
        (True, dict(predict_intermediate=True), 2),
        (True, dict(num_blocks=1), 1),
        (True, dict(num_blocks=1, drop_last_auxiliary=False), 2),
        (False, {}, 1),
        (False, dict(drop_last_auxiliary=False), 1),
        (False, dict(predict_intermediate=True), 3),
    ],
)
def test_number_and_shape_of_predictions(training: bool, options: dict[str, Any], count: int) -> None:
    network = Network(**options).train(training)
    with torch.no_grad():
        predictions, state = network(clips(2, 3, WIDE))
    assert [tuple(classes.shape) for classes in predictions.class_logits] == [(2, 3, QUERIES, CLASSES + 1)] * count
    assert [tuple(masks.shape) for masks in predictions.mask_logits] == [(2, 3, QUERIES, 12, 24)] * count
    assert state.shape == (2, QUERIES, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize(
    ('norm_queries', 'norm_auxiliary', 'normed'),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_what_auxiliary_predictions_normalise(norm_queries: bool, norm_auxiliary: bool | None, normed: bool) -> None:
    network = Network(norm_queries=norm_queries, norm_auxiliary=norm_auxiliary).train()
    head = network.panoptic_head
    predictions, _ = network(clips(1, 1))
    queries = head.queries.weight
    expected = head.class_predictor(network.backbone.vit.norm(queries) if normed else queries)
    torch.testing.assert_close(predictions.class_logits[0][0, 0], expected)
    other = Network(norm_queries=norm_queries, norm_auxiliary=not normed).train()(clips(1, 1))[0]
    assert_same(final(other), final(predictions), 0)  # the final prediction is always normalised


@torch.no_grad()
def test_only_the_last_auxiliary_prediction_is_dropped() -> None:
    frames = clips(1, 2)
    kept, all_of_them = (Network(drop_last_auxiliary=drop).train()(frames)[0] for drop in (True, False))
    for some, every in ((kept.class_logits, all_of_them.class_logits), (kept.mask_logits, all_of_them.mask_logits)):
        assert_same(tuple(some), (*every[: BLOCKS - 1], every[-1]), 0)
        assert relative_difference(every[BLOCKS - 1], every[-1]) > 1e-2


@torch.no_grad()
def test_training_and_evaluation_agree_in_the_final_layer() -> None:
    """Attention is never masked, whatever the probabilities in a checkpoint say."""
    network, frames = Network(), clips()
    network.panoptic_head.set_attn_mask_probs([1.0] * BLOCKS)
    assert_same(final(network.train()(frames)[0]), final(network.eval()(frames)[0]), 0)


def gradients(network: Network, frames: Tensor, with_states: bool = False) -> dict[str, Tensor]:
    """Of a sum over all predictions; with_states: frame by frame, the state handed on by the caller."""
    state, total = None, torch.zeros(())
    for window in frames.split(1 if with_states else frames.shape[1], dim=1):
        predictions, state = network(window, state)
        for logits in predictions.class_logits + predictions.mask_logits:
            total = total + (logits * torch.linspace(-1, 1, logits[0, 0].numel()).view_as(logits[0, 0])).sum()
    network.zero_grad()
    total.backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == dict(network.named_parameters()).keys()
    return found


def test_last_frame_reaches_the_first_ones_pixels() -> None:
    network, frames = Network().train(), clips().requires_grad_()
    predictions, _ = network(frames)
    (found,) = torch.autograd.grad(predictions.class_logits[-1][:, -1].square().sum(), frames)
    assert all(found[:, t].abs().max() > 0 for t in range(4))
    (found,) = torch.autograd.grad(network(frames)[0].class_logits[-1][:, 1].square().sum(), frames)
    assert [bool(found[:, t].any()) for t in range(4)] == [True, True, False, False]  # no look ahead


def test_gradients_pass_from_window_to_window() -> None:
    network, frames = Network().train(), clips(1, 3)
    whole, parts = gradients(network, frames), gradients(network, frames, with_states=True)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize('name', [DINOV2, DINOV3])
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    frames = clips(1, 2)
    expected = gradients(Network(name).train(), frames)
    for key, found in gradients(Network(name, with_cp=True).train(), frames).items():
        torch.testing.assert_close(found, expected[key], rtol=1e-4, atol=1e-6 * float(expected[key].abs().max()))


def test_checkpointing_keeps_less() -> None:
    def kept(with_cp: bool) -> int:
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            Network(with_cp=with_cp).train()(clips(1, 2))
        return total

    assert kept(True) < kept(False) / 4


@torch.no_grad()
@pytest.mark.parametrize('shape', [(2, 3, 64, 64), (1, 0, 3, 64, 64)])
def test_frames_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'frames of shape .*\(B, T, 3, H, W\) is needed'):
        Network()(torch.zeros(shape))


@torch.no_grad()
@pytest.mark.parametrize('shape', [(1, QUERIES, WIDTH), (2, QUERIES + 1, WIDTH), (QUERIES, WIDTH)])
def test_state_of_other_clips(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'state of shape .* for 2 clips .* or None at the start of a video'):
        Network()(clips(2, 1), torch.zeros(shape))


@pytest.mark.parametrize(
    ('model_name', 'depth', 'width', 'first_joint', 'millions'),
    [
        ('vit_small_patch14_reg4_dinov2', 12, 384, 9, 24.1),
        ('vit_base_patch14_reg4_dinov2', 12, 768, 9, 94.2),
        ('vit_large_patch14_reg4_dinov2', 24, 1024, 20, 317.7),
        ('vit_large_patch16_dinov3_qkvb', 24, 1024, 20, None),
    ],
)
def test_published_sizes(model_name: str, depth: int, width: int, first_joint: int, millions: float | None) -> None:
    """Parameters as counted for YouTube-VIS 2019 (spec, section 1)."""
    with torch.device('meta'):
        backbone = PlainViT(model_name)
        head = VidEoMTHead(embed_dim=width, depth=depth, patch_size=backbone.patch_size, num_classes=40)
    assert (backbone.depth, backbone.embed_dim, depth - head.num_blocks) == (depth, width, first_joint)
    if millions is not None:
        total = sum(p.numel() for module in (backbone, head) for p in module.parameters())
        assert total / 1e6 == pytest.approx(millions, abs=0.06)
