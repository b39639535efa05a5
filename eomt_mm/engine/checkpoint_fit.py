"""Refuses checkpoints that are not the model's, where mmengine would only warn."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop

from eomt_mm.checkpoints.fit import check_fit
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compares a loaded checkpoint with the model before its weights are copied.

    Weights of another shape are always refused. Missing ones are refused in testing and when resuming; a training that
    starts from ``load_from`` may lack some, which mmengine logs.

    Args:
        class_head: False: a training that starts from ``load_from`` leaves out the class predictor, since its classes
            are others. Resuming and testing always take everything.
    """

    def __init__(self, class_head: bool = True) -> None:
        self.class_head = class_head

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError; see :func:`~eomt_mm.checkpoints.fit.check_fit`."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmengine tells neither in public: a loop that is built means training, _resume that it goes on
        starts_training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        saved = checkpoint.get('state_dict', checkpoint)
        if starts_training and not self.class_head:
            for name in [name for name in saved if '.class_predictor.' in name]:
                del saved[name]
            print_log(f'class predictor of {runner._load_from} left out: class_head=False', logger='current')
        check_fit(model.state_dict(), saved, str(runner._load_from), allow_missing=starts_training)
