"""A config replaces criterion and matcher; the page's example does what it says."""

import re
from typing import Any

import pytest
import torch

import eomt_mm  # noqa: F401  before the hosts
from conftest import ROOT
from eomt_mm.apis.config import load_config
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.matcher import HungarianMatcher
from eomt_mm.models.losses import build_criterion
from eomt_mm.registry import MODELS

K, QUERIES = 3, 6


def losses(criterion: Any) -> dict[str, torch.Tensor]:
    """Of two layers and two images; the second has no target."""
    generator = torch.Generator().manual_seed(0)
    class_logits = [torch.randn(2, QUERIES, K + 1, generator=generator) for _ in range(2)]
    mask_logits = [torch.randn(2, QUERIES, 8, 8, generator=generator) for _ in range(2)]
    masks = torch.rand(2, 16, 16, generator=generator) > 0.5
    targets = [dict(labels=torch.tensor([0, 2]), masks=masks), dict(labels=torch.tensor([]).long(), masks=masks[:0])]
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = criterion(class_logits, mask_logits, targets)
    return found


class FirstQueries(HungarianMatcher):
    """Target i takes query i."""

    def assign(self, costs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(min(costs.shape))
        return index, index


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS.module_dict, 'FirstQueries', FirstQueries)


def test_published_criterion_is_the_default() -> None:
    built = build_criterion(K, dict(num_points=32))
    assert type(built) is Criterion and type(built.matcher) is HungarianMatcher
    assert losses(built) == losses(Criterion(K, num_points=32)) == losses(build_criterion(K, built_config()))


def built_config() -> dict[str, Any]:
    return dict(type='eomt_mm.Criterion', num_points=32, matcher=dict(type='eomt_mm.HungarianMatcher'))


def test_another_matcher_gets_the_weights_of_the_criterion(registered: None) -> None:
    config = dict(mask_weight=7.0, num_points=32, matcher=dict(type='eomt_mm.FirstQueries', num_points=9))
    built = build_criterion(K, config)
    assert type(built.matcher) is FirstQueries
    assert (built.matcher.mask_weight, built.matcher.class_weight, built.matcher.num_points) == (7, 2, 9)
    assert losses(built) != losses(build_criterion(K, dict(mask_weight=7.0, num_points=32)))
    assert config['matcher']  # is left for the next model


@pytest.mark.parametrize(
    'leaf', ['coco/eomt_dinov2-b_12e_coco-panoptic-640.py', 'ade20k/eomt_dinov2-b_31e_ade20k-semantic-512.py']
)
def test_example_of_the_page(leaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/custom_losses.md is run, and its config line given to a published leaf."""
    code, config = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'custom_losses.md').read_text(), re.DOTALL)[:2]
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    exec(code, {})
    scope: dict[str, Any] = {}
    exec(config, scope)
    criterion = scope['model']['panoptic_head']['criterion']
    head = 'panoptic_head' if 'panoptic' in leaf else 'decode_head'
    cfg = load_config(ROOT / 'configs' / 'eomt' / leaf, {f'model.{head}.criterion': criterion})
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(getattr(model, head).criterion).__name__ == 'BoundaryCriterion'
    built = build_criterion(K, dict(criterion, num_points=32))
    found, published = losses(built), losses(build_criterion(K, dict(num_points=32)))
    extra = set(found) - set(published)
    assert extra == {'loss_boundary', 'd0.loss_boundary'} and all(found[name] > 0 for name in extra)
    assert all(torch.equal(found[name], value) for name, value in published.items())
