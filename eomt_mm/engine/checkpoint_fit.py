"""Refuses checkpoints that are not the model's, where mmengine would only warn."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop

from eomt_mm.checkpoints.fit import check_fit
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compares a loaded checkpoint with the model before its weights are copied.

    Weights of another shape are always refused. Missing ones are refused in testing and when resuming; a training that
    starts from ``load_from`` may lack some, which mmengine logs.
    """

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError; see :func:`~eomt_mm.checkpoints.fit.check_fit`."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmengine tells neither in public: a loop that is built means training, _resume that it goes on
        starts_training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        saved = checkpoint.get('state_dict', checkpoint)
        check_fit(model.state_dict(), saved, str(runner._load_from), allow_missing=starts_training)
