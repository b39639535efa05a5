"""Build criterion and matcher from configs; any registered class can replace the published ones."""

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
    """Build the criterion from its config.

    Args:
        num_classes: number K of classes, without "no object".
        config: arguments that differ from the published ones. ``type`` selects a different class. ``matcher`` is the
            config of a different matcher, which gets the criterion's weights and number of points unless it sets its
            own.
        default: value of ``type`` if the config has none.
    """
    config = dict(config or {})
    if 'matcher' in config:
        config['make_matcher'] = matcher_maker(config.pop('matcher'))
    return MODELS.build(dict(type=default) | config, default_args=dict(num_classes=num_classes))


def matcher_maker(config: Config) -> Callable[..., nn.Module]:
    """Return the function that builds the matcher of a criterion: ``make(class_weight=..., mask_weight=..., ...)``."""
    return lambda **weights: MODELS.build(dict(config), default_args=weights)
