"""Accuracy of a side: the test that its config describes."""

import tempfile
from typing import Any

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from eomt_mm.apis.model import local_checkpoint
from eomt_mm.benchmarking.configs import side_config
from eomt_mm.benchmarking.models import is_ours
from eomt_mm.benchmarking.sides import Spec


def accuracy(spec: Spec, data_root: str | None) -> dict[str, float]:
    """Metrics of the config's test, at the config's own size and batch.

    Args:
        spec: with a checkpoint.
        data_root: folder or zip file of the data set; None: the config's.
    """
    assert spec.checkpoint is not None
    cfg: Any = side_config(spec.config, options=spec.options, data_root=data_root)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.load_from = local_checkpoint(cfg, spec.checkpoint) if is_ours(cfg) else spec.checkpoint
        runner: Any = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        return {name: float(value) for name, value in runner.test().items()}
