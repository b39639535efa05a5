"""Parameter groups against the published factors (spec, section 6)."""

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from eomt_mm.core.schedules import lr_factor
from eomt_mm.registry import MODELS

DEPTH, BLOCKS, DECAY = 6, 2, 0.8


def make_model() -> nn.Module:
    return MODELS.build(
        dict(
            type='eomt_mm.EoMTDetector',
            backbone=dict(
                type='eomt_mm.TimmViT',
                model_name='vit_small_patch14_reg4_dinov2',
                img_size=64,
                depth=DEPTH,
                embed_dim=32,
                num_heads=2,
            ),
            panoptic_head=dict(
                type='eomt_mm.EoMTDetHead', task='instance', num_things_classes=2, num_queries=4, num_blocks=BLOCKS
            ),
        )
    )


def make_optimizer(model: nn.Module, **paramwise: Any) -> Any:
    return build_optim_wrapper(
        model,
        dict(
            constructor='eomt_mm.LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=paramwise,
        ),
    )


def expected_factor(name: str, decay_joint: bool) -> float:
    if 'blocks.' in name and name.startswith('backbone'):
        block = int(name.split('blocks.')[1].split('.')[0])
        if block >= DEPTH - BLOCKS and not decay_joint:
            return 1.0
        return DECAY ** (DEPTH - 1 - block)
    if any(part in name for part in ('cls_token', 'reg_token', 'pos_embed', 'patch_embed')):
        return DECAY ** (DEPTH - 1)
    return 1.0


@pytest.mark.parametrize('decay_joint', [True, False])
def test_every_parameter_has_its_factor_and_weight_decay(decay_joint: bool) -> None:
    model = make_model()
    optimizer = make_optimizer(model, layer_decay=DECAY, decay_joint_blocks=decay_joint)
    seen = {}
    for group in optimizer.optimizer.param_groups:
        assert group['weight_decay'] == 0.05
        for name, param in zip(group['param_names'], group['params'], strict=True):
            assert dict(model.named_parameters())[name] is param
            assert group['is_backbone'] == name.startswith('backbone.')
            seen[name] = group['lr'] / 1e-4
    assert seen.keys() == {name for name, _ in model.named_parameters()}
    for name, factor in seen.items():
        assert factor == pytest.approx(expected_factor(name, decay_joint)), name


def test_frozen_parameters_belong_to_no_group() -> None:
    model = make_model()
    model.backbone.vit.patch_embed.requires_grad_(False)
    names = [n for g in make_optimizer(model, layer_decay=DECAY).optimizer.param_groups for n in g['param_names']]
    assert not [name for name in names if 'patch_embed' in name]
    assert len(names) == sum(param.requires_grad for param in model.parameters())


def test_works_on_a_wrapped_model() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    from mmengine.registry import MODEL_WRAPPERS

    MODEL_WRAPPERS.register_module(module=Wrapper, name='TestWrapper', force=True)
    model = make_model()
    groups = make_optimizer(Wrapper(model), layer_decay=DECAY).optimizer.param_groups
    assert {n for g in groups for n in g['param_names']} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize('wrong', [dict(layer_decay=0), dict(layer_decay=1.2), dict(layer_decy=0.8)])
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_optimizer(make_model(), **wrong)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match='Linear'):
        make_optimizer(nn.Linear(2, 2), layer_decay=0.8)


def test_embeddings_share_the_factor_of_block_0() -> None:
    assert lr_factor(0, 12, 0.8, 3, True) == pytest.approx(0.8**11)
    assert lr_factor(None, 12, 0.8, 3, True) == 1
    assert torch.tensor(lr_factor(11, 12, 0.8, 3, True)) == 1
