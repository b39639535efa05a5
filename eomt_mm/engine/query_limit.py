"""Warn if training data have more targets in an image than the model has queries."""

import logging
from collections.abc import Iterator
from typing import Any

from mmdet.models import MaskFormerHead
from mmengine.hooks import Hook
from mmengine.logging import print_log

from eomt_mm.core.head import EoMTHead
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class QueryLimitHook(Hook):
    """Compare the largest number of targets per image, as counted by our data sets, with the head's ``num_queries``.

    Heads are ours and mmdet's MaskFormer and Mask2Former; other models are left out.

    Each query is matched to at most one target: of 256 targets, 200 queries learn only the 200 that the matching picks.
    """

    def before_train(self, runner: Any) -> None:
        """Log a warning with both numbers and the options to change them."""
        heads = [module for module in runner.model.modules() if isinstance(module, EoMTHead | MaskFormerHead)]
        if not heads:
            return
        num_queries = heads[0].num_queries
        counts = [getattr(dataset, 'most_targets', None) for dataset in datasets_in(runner.train_dataloader.dataset)]
        most, image = max(filter(None, counts), default=(0, ''))
        if most > num_queries:
            print_log(
                f'{image} has {most} targets and the model {num_queries} queries, each of which learns one target: '
                'raise num_queries and max_per_image of the head '
                f'(--cfg-options model.panoptic_head.num_queries={most}), or cut images into parts. A checkpoint with '
                'a different number of queries loads without its queries',
                logger='current',
                level=logging.WARNING,
            )


def datasets_in(dataset: Any) -> Iterator[Any]:
    """Yield a data set and all data sets that it wraps."""
    yield dataset
    inner = [*getattr(dataset, 'datasets', ())]
    if 'dataset' in vars(dataset):
        inner.append(dataset.dataset)
    for one in inner:
        yield from datasets_in(one)
