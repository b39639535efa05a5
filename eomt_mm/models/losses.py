"""Criterion and matcher as configs name them: any registered class takes the place of the published ones."""

from collections.abc import Callable
from typing import Any

from torch import nn

from eomt_mm.core.criterion import Criterion
from eomt_mm.core.matcher import HungarianMatcher
from eomt_mm.registry import MODELS

Config = dict[str, Any]

MODELS.register_module(module=Criterion)
MODELS.register_module(module=HungarianMatcher)


def build_criterion(num_classes: int, config: Config | None, default: str = 'eomt_mm.Criterion') -> Any:
    """Builds the criterion that a config describes.

    Args:
        num_classes: number K of classes, without "no object".
        config: arguments that differ from the published ones; ``type`` is another class, and ``matcher`` the config of
            another matcher, which gets the criterion's weights and number of points unless it states its own.
        default: ``type`` where the config has none.
    """
    config = dict(config or {})
    if 'matcher' in config:
        config['make_matcher'] = matcher_maker(config.pop('matcher'))
    return MODELS.build(dict(type=default) | config, default_args=dict(num_classes=num_classes))


def matcher_maker(config: Config) -> Callable[..., nn.Module]:
    """What a criterion calls to make its matcher: ``make(class_weight=..., mask_weight=..., ...)``."""
    return lambda **weights: MODELS.build(dict(config), default_args=weights)
