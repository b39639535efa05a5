"""Warn if the number of images per step does not match the learning rate."""

import logging
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log

from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class TotalBatchHook(Hook):
    """Warn if the number of images per step differs from the config's ``auto_scale_lr.base_batch_size``.

    With ``auto_scale_lr.enable`` (``--auto-scale-lr``) mmengine scales the learning rate by the ratio of the two, and
    there is no warning.
    """

    def before_train(self, runner: Any) -> None:
        """Compare the two numbers, and log a warning with hints if they differ."""
        scaling = runner.cfg.get('auto_scale_lr') or {}
        expected, batch_size = scaling.get('base_batch_size'), runner.train_dataloader.batch_size
        if expected is None or batch_size is None or scaling.get('enable'):
            return
        accumulated = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
        total = get_world_size() * batch_size * accumulated
        if total == expected:
            return
        print_log(
            f'{total} images per step ({get_world_size()} processes x {batch_size}'
            f'{f" x {accumulated} accumulated" if accumulated > 1 else ""}), but the learning rate is for {expected}: '
            f'scale it with --auto-scale-lr, or set train_dataloader.batch_size={max(1, expected // get_world_size())}',
            logger='current',
            level=logging.WARNING,
        )
