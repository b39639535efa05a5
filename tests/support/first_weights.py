"""The weights that a training starts from."""

from typing import Any

import pytest
from torch import Tensor


def first_weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Filled with the model's weights when a training begins its first step."""
    found: dict[str, Tensor] = {}

    def before_iter(self: Any, runner: Any, *_: Any, **__: Any) -> None:
        if not found:
            found.update({name: value.clone() for name, value in runner.model.state_dict().items()})

    monkeypatch.setattr('mmengine.hooks.IterTimerHook._before_iter', before_iter)
    return found
