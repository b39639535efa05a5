"""Mixed precision without an accelerator."""

from typing import Any

import pytest
import torch

import eomt_mm  # noqa: F401  before the hosts

# isort: split
from mmengine.optim import AmpOptimWrapper


class AmpOnCpu(AmpOptimWrapper):
    """mmengine's wrapper with torch's scaler of the CPU: mmengine's own asks for an accelerator."""

    def __init__(self, **kwargs: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            module = 'mmengine.optim.optimizer.amp_optimizer_wrapper'
            patch.setattr(f'{module}.is_cuda_available', lambda: True)
            patch.setattr(f'{module}.GradScaler', lambda **settings: torch.amp.GradScaler('cpu', **settings))
            super().__init__(**kwargs)
