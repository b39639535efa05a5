"""Activation checkpointing and frozen stages: the same numbers, with less kept."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from copies import in_new_processes
from mmengine.optim import build_optim_wrapper
from paths import ROOT
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from eomt_mm.apis import load_config
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import eomt_forward
from eomt_mm.registry import MODELS

DINOV2, DINOV3 = 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3_qkvb'
FAMILIES = [DINOV2, DINOV3]
SHAPE: dict[str, Any] = dict(depth=4, embed_dim=32, num_heads=2)
PHASES = {'masks on': [1.0, 1.0, 1.0], 'annealing': [0.0, 0.4, 0.8], 'masks off': [0.0, 0.0, 0.0]}
Q, K = 7, 4


class Network(nn.Module):
    """A tiny EoMT with values of order 1, so that nothing is too small to show; called, it gives the loss."""

    def __init__(self, family: str = DINOV2, blocks: bool = False, predictions: bool = False, **backbone: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = PlainViT(family, 64, with_cp=blocks, **SHAPE, **backbone)
            self.head = EoMTHead(32, 4, 16, K, Q, num_blocks=3, with_cp=predictions)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.add_(0.25 * torch.randn(parameter.shape))
        self.criterion = Criterion(K, num_points=32)

    def forward(self, images: Tensor) -> Tensor:
        masks = images[:, :2] > 0.5  # two targets per image
        targets = [dict(labels=torch.tensor([0, 3]), masks=image_masks) for image_masks in masks]
        return sum(self.criterion(*eomt_forward(self.backbone, self.head, images), targets).values())


def pictures(batch: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(batch, 3, 64, 48, generator=torch.Generator().manual_seed(seed))


def gradients(network: nn.Module, images: Tensor | None = None, amp: bool = False) -> dict[str, Tensor]:
    """Gradient of every parameter after one step from the same random state; that state afterwards, too."""
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        loss = network(pictures() if images is None else images)
    loss.backward()
    found = {name.removeprefix('module.'): p.grad for name, p in network.named_parameters() if p.grad is not None}
    return dict(found, random_state=torch.get_rng_state())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def count_calls(modules: list[nn.Module]) -> list[int]:
    """Number of times that each module has run, kept up to date."""
    calls = [0] * len(modules)

    def counter(i: int) -> Callable[..., None]:
        def add(*_: Any) -> None:
            calls[i] += 1

        return add

    for i, module in enumerate(modules):
        module.register_forward_pre_hook(counter(i))
    return calls


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# Activation checkpointing


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(('blocks', 'predictions'), [(True, False), (False, True), (True, True)])
def test_checkpointing_changes_no_gradient(family: str, phase: str, blocks: bool, predictions: bool) -> None:
    """Bit for bit, with paths dropped and masks drawn at random, and no random number more or less."""
    plain = Network(family, drop_path_rate=0.5).train()
    saving = Network(family, blocks, predictions, drop_path_rate=0.5).train()
    for network in (plain, saving):
        network.head.set_attn_mask_probs(PHASES[phase])
    assert_same(gradients(saving), gradients(plain))


def test_random_masks_and_dropped_paths_matter_to_these_gradients() -> None:
    """Otherwise the test above could not see them drawn anew."""
    found = []
    for rate, probs in [(0.5, [0.4] * 3), (0.0, [0.4] * 3), (0.5, [1.0] * 3), (0.5, [0.0] * 3)]:
        network = Network(drop_path_rate=rate).train()
        network.head.set_attn_mask_probs(probs)
        found.append(gradients(network)['backbone.vit.blocks.3.attn.qkv.weight'])
    assert not any(torch.allclose(found[i], found[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize('family', FAMILIES)
def test_checkpointing_changes_no_gradient_in_mixed_precision(family: str) -> None:
    found = [gradients(Network(family, on, on).train(), amp=True) for on in (True, False)]
    assert_same(*found)
    full = gradients(Network(family).train())
    assert not torch.equal(full['head.queries.weight'], found[0]['head.queries.weight'])  # it was bfloat16


@pytest.mark.parametrize(('blocks', 'predictions'), [(True, False), (False, True)])
def test_each_switch_recomputes_its_own_part(blocks: bool, predictions: bool) -> None:
    network = Network(blocks=blocks, predictions=predictions).train()
    calls = count_calls([*network.backbone.vit.blocks, network.head.upscale])
    loss = network(pictures())
    assert calls == [1, 1, 1, 1, 4]
    loss.backward()
    assert calls == [1 + blocks] * 4 + [4 + 4 * predictions]


def test_nothing_is_recomputed_without_gradients() -> None:
    network = Network(blocks=True, predictions=True).eval()
    with torch.no_grad():
        found = eomt_forward(network.backbone, network.head, pictures())
        expected = eomt_forward(Network().eval().backbone, network.head, pictures())
    assert torch.equal(found[0][0], expected[0][0]) and torch.equal(found[1][0], expected[1][0])
    assert not found[1][0].requires_grad


@pytest.mark.parametrize('frozen', [-1, 2])
def test_checkpointing_under_ddp_without_unused_parameters(frozen: int, one_process: None) -> None:
    wrapped = DistributedDataParallel(Network(blocks=True, predictions=True, frozen_stages=frozen).train())
    assert_same(gradients(wrapped), gradients(Network(frozen_stages=frozen).train()))


@pytest.mark.parametrize('frozen', [-1, 2])
@pytest.mark.parametrize('family', FAMILIES)
def test_checkpointing_of_sharded_blocks(family: str, frozen: int, one_process: None) -> None:
    network = Network(family, True, True, frozen_stages=frozen).train()
    mesh = init_device_mesh('cpu', (1,))
    for module in [*network.backbone.vit.blocks, network]:
        fully_shard(module, mesh=mesh)
    found = {
        name: grad.full_tensor() if hasattr(grad, 'full_tensor') else grad for name, grad in gradients(network).items()
    }
    assert_same(found, gradients(Network(family, frozen_stages=frozen).train()))


def _ddp_rank(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    network = DistributedDataParallel(Network(blocks=True, predictions=True, frozen_stages=2).train())
    found = gradients(network, pictures(seed=rank))
    if rank == 0:
        torch.save(found, results)
    dist.destroy_process_group()


@pytest.mark.slow
def test_checkpointing_and_frozen_stages_in_two_processes(tmp_path: Path) -> None:
    in_new_processes(2, _ddp_rank, str(tmp_path / 'store'), str(tmp_path / 'gradients.pth'))
    found = torch.load(tmp_path / 'gradients.pth')
    alone = [gradients(Network(frozen_stages=2).train(), pictures(seed=rank)) for rank in range(2)]
    assert found.keys() == alone[0].keys()
    for name in found.keys() - {'random_state'}:
        torch.testing.assert_close(found[name], (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-6)


# Frozen stages


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('stages', [-1, 0, 1, 3, 4])
def test_frozen_stages_freeze_embeddings_then_blocks_then_the_norm(family: str, stages: int) -> None:
    def expected(name: str) -> bool:
        if name.startswith('vit.blocks.'):
            return int(name.split('.')[2]) < stages
        return stages == 4 if name.startswith('vit.norm.') else stages >= 0

    backbone = PlainViT(family, 64, frozen_stages=stages, **SHAPE)
    assert {n: not p.requires_grad for n, p in backbone.named_parameters()} == {
        name: expected(name) for name, _ in backbone.named_parameters()
    }


@pytest.mark.parametrize('stages', [-2, 5])
def test_frozen_stages_out_of_range_are_refused(stages: int) -> None:
    with pytest.raises(ValueError, match=rf'frozen_stages={stages}: -1 .* to 4'):
        PlainViT(DINOV2, 64, frozen_stages=stages, **SHAPE)


@pytest.mark.parametrize('stages', [0, 2, 4])
@pytest.mark.parametrize('family', FAMILIES)
def test_what_is_not_frozen_learns_as_before(family: str, stages: int) -> None:
    """Frozen joint blocks included: the queries' gradients pass through them; with checkpointing as without."""
    free, frozen = gradients(Network(family).train()), gradients(Network(family, frozen_stages=stages).train())
    assert_same(gradients(Network(family, True, True, frozen_stages=stages).train()), frozen)
    assert_same(frozen, {name: free[name] for name in frozen})
    assert {'head.queries.weight', 'head.class_predictor.weight', 'head.upscale.0.up.weight'} <= frozen.keys()
    assert len(frozen) < len(free)


@pytest.mark.parametrize('with_cp', [False, True])
def test_frozen_blocks_keep_nothing_for_the_backward_pass(with_cp: bool) -> None:
    kept: list[Tensor] = []
    backbone = PlainViT(DINOV2, 64, frozen_stages=2, with_cp=with_cp, **SHAPE).train()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        tokens = backbone(pictures(), num_blocks=2)
        assert kept == [] and not tokens.x.requires_grad
        assert backbone.run_block(tokens, 2).x.requires_grad


@pytest.mark.parametrize('family', FAMILIES)
def test_frozen_stages_drop_nothing_in_training(family: str) -> None:
    torch.manual_seed(0)
    backbone = Network(family, frozen_stages=3, drop_path_rate=0.5, proj_drop_rate=0.5, pos_drop_rate=0.5).backbone
    for _ in range(2):
        backbone.train()
        modes = [module.training for module in (backbone, backbone.vit.pos_drop, *backbone.vit.blocks)]
        assert modes == [True, False, False, False, False, True]
        trained = backbone(pictures(), num_blocks=3)
        assert not torch.equal(backbone.run_block(trained, 3).x, backbone.run_block(trained, 3).x)
        backbone.eval()
        assert torch.equal(trained.x, backbone(pictures(), num_blocks=3).x)
        assert torch.equal(backbone.run_block(trained, 3).x, backbone.run_block(trained, 3).x)


def detector(**backbone: Any) -> nn.Module:
    return MODELS.build(
        dict(
            type='eomt_mm.EoMTDetector',
            backbone=dict(type='eomt_mm.TimmViT', model_name=DINOV2, img_size=64, **SHAPE, **backbone),
            panoptic_head=dict(type='eomt_mm.EoMTDetHead', task='instance', num_things_classes=K, num_queries=Q),
        )
    )


def test_frozen_parameters_have_no_optimiser_state_and_do_not_decay() -> None:
    model = detector(frozen_stages=2).train()
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='eomt_mm.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5),
            paramwise_cfg=dict(layer_decay=0.8),
        ),
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    class_logits, mask_logits = model(pictures(), mode='tensor')
    wrapper.update_params(sum(x.square().mean() for x in [*class_logits, *mask_logits]))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(frozen) == 4 + 1 + 2 * 14  # patch kernel and bias, class token, registers, positions; 14 per block
    assert frozen == {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert len(wrapper.optimizer.state) == len(before) - len(frozen)


def test_frozen_backbone_loads_its_weights_and_stays_frozen(tmp_path: Path) -> None:
    source = PlainViT(DINOV2, 64, **SHAPE)
    torch.save(source.vit.state_dict(), tmp_path / 'vit.pth')
    model = detector(frozen_stages=4, weights=str(tmp_path / 'vit.pth'))
    model.init_weights()
    loaded = dict(model.backbone.named_parameters())
    assert all(torch.equal(loaded[name], parameter) for name, parameter in source.named_parameters())
    assert not any(parameter.requires_grad for parameter in loaded.values())


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
    ('leaf', 'head'), [('coco-panoptic-640', 'panoptic_head'), ('coco-semantic-512', 'decode_head')]
)
def test_the_options_are_overrides_of_any_config(leaf: str, head: str) -> None:
    path = next(ROOT.glob(f'configs/eomt/coco/eomt_dinov2-l_12e_{leaf}.py'))
    options = {'model.backbone.with_cp': True, 'model.backbone.frozen_stages': 20, f'model.{head}.with_cp': True}
    with torch.device('meta'):
        model = MODELS.build(load_config(path, options).model)
    assert model.backbone.with_cp and getattr(model, head).with_cp
    assert not model.backbone.vit.blocks[19].norm1.weight.requires_grad
    assert model.backbone.vit.blocks[20].norm1.weight.requires_grad
