"""Refuses checkpoints that are not the model's, where mmengine would only warn."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from torch import Tensor

from eomt_mm.checkpoints.fit import check_fit, listed_names
from eomt_mm.checkpoints.importing import ClassHead
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compares a loaded checkpoint with the model before its weights are copied.

    Weights of another shape are always refused. Missing ones are refused in testing and when resuming; a training that
    starts from ``load_from`` may lack some, which are logged and keep their initial values.

    Args:
        class_head: False: a training that starts from ``load_from`` leaves out the class predictor, since its classes
            are others; 'auto': where it is for another number of classes. Resuming and testing always take everything.

    Raises:
        ValueError: for another ``class_head``.
    """

    def __init__(self, class_head: ClassHead = True) -> None:
        if class_head not in (True, False, 'auto'):
            raise ValueError(f"class_head={class_head!r}: True, False or 'auto'")
        self.class_head = class_head

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError; see :func:`~eomt_mm.checkpoints.fit.check_fit`."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmengine tells neither in public: a loop that is built means training, _resume that it goes on
        starts_training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        saved = checkpoint.get('state_dict', checkpoint)
        expected, source = model.state_dict(), str(runner._load_from)
        rows = _class_rows(saved)
        if starts_training and rows and not self._takes_classes(saved, expected):
            for name in rows:
                del saved[name]
            print_log(f'class predictor of {source} left out: class_head={self.class_head}', logger='current')
        missing = check_fit(expected, saved, source, allow_missing=starts_training)
        if missing:
            print_log(
                f'{source} lacks {len(missing)} of the {len(expected)} weights, which keep their initial values: '
                f'{listed_names(missing)}',
                logger='current',
            )

    def _takes_classes(self, saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
        if self.class_head == 'auto':
            return {saved[name].shape for name in _class_rows(saved)} == {
                expected[name].shape for name in _class_rows(expected)
            }
        return self.class_head


def _class_rows(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in state if '.class_predictor.' in name]
