"""The published learning-rate schedule: the head warms up first, then the backbone."""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from eomt_mm.core.schedules import fitting_warmup, two_stage_factor
from eomt_mm.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class TwoStagePolyLR(_ParamScheduler):
    """Two-stage warm-up and polynomial decay per iteration; see :func:`two_stage_factor`.

    Args:
        optimizer: optimiser whose groups have the key ``is_backbone``
            (:class:`~eomt_mm.engine.layer_decay.LayerDecayOptimWrapperConstructor`).
        warmup_steps: (w0, w1); published are (500, 1000) with DINOv2, (2000, 3000) with DINOv3. If their sum exceeds
            the fraction ``max_warmup`` of the schedule, both are shortened in proportion, and this is logged.
        end: length of the schedule; mmengine fills in the training loop's ``max_iters``.
        power: exponent of the decay.
        max_warmup: largest fraction of the schedule for warm-up, in (0, 1]; the largest published fraction is just
            below a quarter.
        last_step, verbose: as in mmengine.

    Raises:
        ValueError: ``warmup_steps`` are negative, ``max_warmup`` is outside (0, 1], or ``by_epoch`` is True.
    """

    def __init__(
        self,
        optimizer: Any,
        end: int,
        warmup_steps: tuple[int, int] = (500, 1000),
        power: float = 0.9,
        max_warmup: float = 0.25,
        by_epoch: bool = False,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        if by_epoch:
            raise ValueError('by_epoch=True: TwoStagePolyLR counts iterations; set by_epoch=False')
        self.total = end
        self.warmup_steps = fitting_warmup(warmup_steps, end, max_warmup)
        if self.warmup_steps != tuple(warmup_steps):
            print_log(
                f'warm-up of {tuple(warmup_steps)} steps shortened to {self.warmup_steps}: the schedule has {end} '
                f'(TwoStagePolyLR max_warmup={max_warmup})',
                logger='current',
            )
        self.power = power
        super().__init__(optimizer, 'lr', end=end, last_step=last_step, by_epoch=False, verbose=verbose)

    def _get_value(self) -> list[float]:
        # mmengine appends a group without parameters, which logs the undecayed rate as base_lr.
        return [
            base * two_stage_factor(self.last_step, self.total, self.warmup_steps, in_backbone, self.power)
            for base, in_backbone in zip(self.base_values, self._in_backbone, strict=True)
        ]

    def jump(self, step: int) -> None:
        """Set the learning rates of ``step``, as if all earlier steps had been made."""
        within = min(step, self.end - 1)
        self.last_step = self._global_step = within - 1
        self.step()
        self._global_step = step

    @property
    def _in_backbone(self) -> list[bool]:
        return [group.get('is_backbone', False) for group in self.optimizer.param_groups]
