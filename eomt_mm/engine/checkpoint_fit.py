"""Check that a checkpoint fits a run: same weights, same classes; settings come from the config."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import BaseLoop
from torch import Tensor

from eomt_mm.checkpoints.class_names import difference, placeholders
from eomt_mm.checkpoints.fit import check_fit, listed_names
from eomt_mm.checkpoints.importing import ClassHead
from eomt_mm.engine.checkpointing import VALIDATION_DUE
from eomt_mm.engine.resumed_settings import ConfigSettings
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a loaded checkpoint with model, data and config, and raise where mmengine only warns.

    - Weights of a different shape are always refused. Missing weights are refused when testing or resuming. With
      ``load_from`` up to half of the weights may be missing: they are logged and keep their initial values.
    - If class rows are loaded, the checkpoint's class names must match those of the data, in the same order
      (:func:`~eomt_mm.checkpoints.class_names.difference`).
    - A resumed run takes learning rates, weight decay and schedules from its config, with the config's ``max_iters``.

    Args:
        class_head: whether ``load_from`` loads the class predictor. False: no, to train on other classes; 'auto': only
            if the number of classes and their names match. Resuming and testing always load everything.
        same_classes: refuse different class names. False: treat different names as the same classes.

    Raises:
        ValueError: ``class_head`` is none of True, False and 'auto'.
    """

    def __init__(self, class_head: ClassHead = True, same_classes: bool = True) -> None:
        if class_head not in (True, False, 'auto'):
            raise ValueError(f"class_head={class_head!r}: True, False or 'auto'")
        self.class_head = class_head
        self.same_classes = same_classes
        self._settings: ConfigSettings | None = None

    def before_run(self, runner: Any) -> None:
        """Record the training settings before a checkpoint replaces them."""
        if isinstance(runner.optim_wrapper, BaseOptimWrapper):
            self._settings = ConfigSettings(runner)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint against the model and its classes; drop class rows as ``class_head`` says.

        Raises:
            ValueError: the classes differ, or the weights do not fit; see :func:`~eomt_mm.checkpoints.fit.check_fit`.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmengine has no public attributes for these: a built train loop means training, _resume means resuming
        starts_training = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        saved = checkpoint.get('state_dict', checkpoint)
        expected, source = model.state_dict(), str(runner._load_from)
        rows, other_names = _class_rows(saved), self._other_names(runner, checkpoint)
        if starts_training and rows and not self._takes_classes(saved, expected, other_names):
            for name in rows:
                del saved[name]
            print_log(f'class predictor of {source} left out: class_head={self.class_head}', logger='current')
        elif rows and other_names:
            raise ValueError(
                f'checkpoint {source} is for other classes: {other_names}. {self._way_out(starts_training)}'
            )
        missing = check_fit(expected, saved, source, allow_missing=starts_training)
        if missing:
            print_log(
                f'{source} lacks {len(missing)} of the {len(expected)} weights, which keep their initial values: '
                f'{listed_names(missing)}',
                logger='current',
            )
        if self._settings is not None and runner._resume:
            self._settings.check_fit(checkpoint.get('optimizer') or {}, source)

    def before_train(self, runner: Any) -> None:
        """Restore the config's settings in a resumed run.

        Raises:
            ValueError: there is no step left to train.
        """
        if not runner.iter:
            return
        if runner.iter >= runner.max_iters and not runner.message_hub.get_info(VALIDATION_DUE, False):
            raise ValueError(
                f'--resume: {runner._load_from} is after step {runner.iter}, and max_iters={runner.max_iters}: nothing '
                f'is left to train. Set train_cfg.max_iters above {runner.iter} to train further'
            )
        if self._settings is not None:
            self._settings.restore(runner)

    def _other_names(self, runner: Any, checkpoint: Mapping[str, Any]) -> str | None:
        """Describe how the checkpoint's class names differ from those of the data in the built loops."""
        saved = _names((checkpoint.get('meta') or {}).get('dataset_meta'))
        if not self.same_classes:
            return None
        for own in _names_of_data(runner):
            text = difference(saved, own)
            if text:
                return f'{text}. The checkpoint has {listed_names(saved)}; the data have {listed_names(own)}'
        return None

    def _way_out(self, starts_training: bool) -> str:
        start = "class_head='auto' to train a new class predictor, or " if starts_training else ''
        return (
            f'Use data with the same classes in the same order (metainfo), or set default_hooks.checkpoint_fit: {start}'
            f'same_classes=False if both lists mean the same classes'
        )

    def _takes_classes(
        self, saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], other_names: str | None
    ) -> bool:
        if self.class_head == 'auto':
            return not other_names and {saved[name].shape for name in _class_rows(saved)} == {
                expected[name].shape for name in _class_rows(expected)
            }
        return self.class_head


def _class_rows(state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in state if '.class_predictor.' in name]


def _names(meta: Any) -> Sequence[str]:
    names = meta.get('classes') if isinstance(meta, Mapping) else None
    names = tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    return () if names == placeholders(len(names)) else names


def _names_of_data(runner: Any) -> Iterator[Sequence[str]]:
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            yield _names(getattr(loop.dataloader.dataset, 'metainfo', None))
