"""Half precision of the whole model: matching and losses stay in float32, extremes stay finite, bfloat16 trains."""

import copy
import math
from typing import Any

import pytest
import torch
from amp_on_cpu import AmpOnCpu
from torch import Tensor, nn

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core import criterion, matcher
from eomt_mm.registry import MODELS

# isort: split
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

BACKBONES = {
    'DINOv2': dict(model_name='vit_small_patch14_reg4_dinov2', patch_size=16),
    'DINOv3': dict(model_name='vit_small_patch16_dinov3_qkvb'),
}
K, Q, SIZE = 5, 8, 64
HALF = [torch.bfloat16, torch.float16]


def make_model(family: str, **head_kwargs: Any) -> Any:
    torch.manual_seed(0)
    head = dict(type='eomt_mm.EoMTDetHead', task='panoptic', num_things_classes=3, num_stuff_classes=2, num_queries=Q)
    model = MODELS.build(
        dict(
            type='EoMTDetector',
            data_preprocessor=dict(type='eomt_mm.EoMTDetDataPreprocessor', img_size=SIZE),
            backbone=dict(
                type='eomt_mm.TimmViT', img_size=SIZE, depth=4, embed_dim=48, num_heads=3, **BACKBONES[family]
            ),
            panoptic_head=dict(**head, num_blocks=2, criterion=dict(num_points=500), **head_kwargs),
        )
    )
    return model.train()


def make_batch() -> dict[str, Any]:
    """Two images of coloured stripes, each stripe a segment, and their ids as ground truth."""
    generator = torch.Generator().manual_seed(0)
    ids = (torch.arange(SIZE) // 16 + 1).expand(SIZE, SIZE)
    images, samples = [], []
    for segment_ids in (ids, ids.T):
        labels = torch.randperm(K, generator=generator)[:4]
        colours = torch.randint(256, (5, 3), generator=generator, dtype=torch.uint8)
        images.append(colours[segment_ids].permute(2, 0, 1))
        maps = PixelData(segment_ids=segment_ids[None].int())
        samples.append(DetDataSample(gt_instances=InstanceData(labels=labels), gt_panoptic_seg=maps))
    return dict(inputs=images, data_samples=samples)


def losses_of(model: Any, dtype: torch.dtype | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Losses with given randomness, and all gradients."""
    model.zero_grad()
    data = model.data_preprocessor(make_batch(), training=True)
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model(**data, mode='loss')
    sum(losses.values()).backward()
    return losses, [param.grad for param in model.parameters()]


@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('family', BACKBONES)
def test_losses_are_close_to_those_of_float32(family: str, dtype: torch.dtype) -> None:
    model = make_model(family)
    expected, gradients = losses_of(model, None)
    gradients = [gradient.clone() for gradient in gradients]
    losses, halved = losses_of(model, dtype)
    assert losses.keys() == expected.keys() and len(losses) == 9
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.005), name
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    error = torch.stack([(a - b).norm() for a, b in zip(gradients, halved, strict=True)]).norm()
    print(family, dtype, (error / norm).item(), max(abs(1 - losses[n].item() / expected[n].item()) for n in losses))
    assert error < 0.05 * norm


@pytest.mark.parametrize('dtype', HALF)
def test_network_is_in_half_precision_but_matching_and_losses_are_not(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = make_model('DINOv2'), {}

    def spy(module: Any, name: str) -> None:
        function = getattr(module, name)

        def recording(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, set()).add((x.dtype, torch.is_autocast_enabled('cpu')))
            return function(x, *args, **kwargs)

        monkeypatch.setattr(module, name, recording)

    for module, name in ((matcher, 'pairwise_bce'), (matcher, 'pairwise_dice'), (criterion, 'sample_at_points')):
        spy(module, name)
    predict = model.panoptic_head.predict_logits

    def recording_logits(tokens: Any) -> Any:
        logits = predict(tokens)
        seen.setdefault('logits', set()).update(x.dtype for x in logits)
        return logits

    monkeypatch.setattr(model.panoptic_head, 'predict_logits', recording_logits)
    losses_of(model, dtype)
    assert seen.pop('logits') == {dtype}
    assert seen.pop('sample_at_points') == {(torch.float32, False), (torch.bool, False)}
    assert seen == {'pairwise_bce': {(torch.float32, False)}, 'pairwise_dice': {(torch.float32, False)}}


def with_logits_up_to(model: Any, largest: float) -> Any:
    """Scales the last layers so that class and mask logits of the batch reach +-``largest``."""
    head = model.panoptic_head
    with torch.no_grad():
        class_logits, mask_logits = model(**model.data_preprocessor(make_batch(), training=True), mode='tensor')
        for layer, logits in ((head.class_predictor, class_logits), (head.mask_mlp[-1], mask_logits)):
            factor = largest / max(x.abs().max().item() for x in logits)
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
    return model


@pytest.mark.parametrize('dtype', [None, *HALF])
@pytest.mark.parametrize('family', BACKBONES)
def test_extreme_logits_of_the_model_give_finite_losses_and_gradients(family: str, dtype: torch.dtype | None) -> None:
    model = with_logits_up_to(make_model(family, masked_attention=False), 6e4)
    logits = model(**model.data_preprocessor(make_batch(), training=True), mode='tensor')
    assert all(5e4 < max(x.abs().max().item() for x in layers) < 6.5e4 for layers in logits)
    losses, gradients = losses_of(model, dtype)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert losses['loss_mask'] > 1e3  # far beyond what float16 could sum over points
    if dtype != torch.float16:  # whose backward pass needs a loss scale below 1 here, as a scaler finds it
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('scale', [pytest.param('dynamic', marks=pytest.mark.slow), dict(enabled=False)])
@pytest.mark.parametrize('family', BACKBONES)
def test_trains_under_mmengines_wrapper_in_bfloat16(family: str, scale: Any) -> None:
    """The step as ``--amp bfloat16`` runs it, weights and optimiser state in float32."""
    model: nn.Module = make_model(family)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    wrapper = AmpOnCpu(optimizer=optimizer, dtype='bfloat16', loss_scale=copy.copy(scale), clip_grad=dict(max_norm=1.0))
    found = [model.train_step(make_batch(), wrapper)['loss'].item() for _ in range(12)]
    assert all(math.isfinite(loss) for loss in found)
    assert sum(found[-3:]) < 0.85 * sum(found[:3])
    assert {param.dtype for param in model.parameters()} == {torch.float32}
    state = {value.dtype for one in optimizer.state.values() for value in one.values()}
    assert state == {torch.float32}
