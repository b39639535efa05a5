"""Evaluate the intermediate predictions: validation metrics of every prediction layer."""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from eomt_mm.engine.mask_annealing import find_head
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class LayerMetricsHook(Hook):
    """Add the metrics of the predictions before each joint block to those of the final one, in validation.

    ``layer0/coco_panoptic/PQ`` is that of the queries before the first joint block, ``layer1/...`` that after one joint
    block, and so on; metrics of the final prediction keep their names. Masks are off, as in every evaluation. A
    validation with B joint blocks makes B + 1 predictions and counts B + 1 times; for metrics that write no files.
    """

    def before_val(self, runner: Any) -> None:
        """Turn intermediate predictions on, and the first time add a metric per layer."""
        head = find_head(runner.model)
        evaluator = runner.val_loop.evaluator
        evaluator.metrics = [
            metric if isinstance(metric, LayerMetric) else LayerMetric(metric, head.num_blocks)
            for metric in evaluator.metrics
        ]
        self._predicted = head.predict_intermediate
        head.predict_intermediate = True

    def after_val(self, runner: Any) -> None:
        """Restore the setting of intermediate predictions."""
        find_head(runner.model).predict_intermediate = self._predicted


class LayerMetric:
    """One metric for each prediction layer, which replaces a metric of mmengine's evaluator.

    Args:
        metric: that of the final prediction; the others are copies of it.
        num_earlier: number of predictions before the final one.
    """

    def __init__(self, metric: BaseMetric, num_earlier: int) -> None:
        self.final = metric
        self.earlier = [copy.deepcopy(metric) for _ in range(num_earlier)]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count a batch of samples with ``layer_predictions``, see `HostHead.add_layer_predictions`."""
        self.final.process(data_batch, data_samples)
        for layer, metric in enumerate(self.earlier):
            metric.process(data_batch, [{**sample, **sample['layer_predictions'][layer]} for sample in data_samples])

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all layers; those of the final prediction come first."""
        found: dict[str, float] = dict(self.final.evaluate(size))
        for layer, metric in enumerate(self.earlier):
            found |= {f'layer{layer}/{name}': value for name, value in metric.evaluate(size).items()}
        return found
