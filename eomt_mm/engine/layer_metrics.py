"""Validation metrics of the intermediate predictions, for every prediction layer."""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from eomt_mm.engine.mask_annealing import find_head
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class LayerMetricsHook(Hook):
    """Evaluate in validation the predictions before each joint block, in addition to the final prediction.

    ``layer0/coco_panoptic/PQ`` is the metric of the prediction before the first joint block, ``layer1/...`` that after
    one joint block, and so on. Metrics of the final prediction keep their names. Masks are off, as in every
    evaluation. With B joint blocks, a validation makes and evaluates B + 1 predictions. Use it only with metrics that
    write no files.
    """

    def before_val(self, runner: Any) -> None:
        """Turn intermediate predictions on; at the first call, add a metric for each layer."""
        head = find_head(runner.model)
        evaluator = runner.val_loop.evaluator
        evaluator.metrics = [
            metric if isinstance(metric, LayerMetric) else LayerMetric(metric, head.num_blocks)
            for metric in evaluator.metrics
        ]
        self._predicted = head.predict_intermediate
        head.predict_intermediate = True

    def after_val(self, runner: Any) -> None:
        """Restore the former setting of intermediate predictions."""
        find_head(runner.model).predict_intermediate = self._predicted


class LayerMetric:
    """Replacement of a metric of mmengine's evaluator: one copy of the metric for each prediction layer.

    Args:
        metric: metric of the final prediction; the other layers get copies of it.
        num_earlier: number of predictions before the final one.
    """

    def __init__(self, metric: BaseMetric, num_earlier: int) -> None:
        self.final = metric
        self.earlier = [copy.deepcopy(metric) for _ in range(num_earlier)]

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Process a batch of samples with ``layer_predictions``; see `HostHead.add_layer_predictions`."""
        self.final.process(data_batch, data_samples)
        for layer, metric in enumerate(self.earlier):
            metric.process(data_batch, [{**sample, **sample['layer_predictions'][layer]} for sample in data_samples])

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the metrics of all layers, those of the final prediction first."""
        found: dict[str, float] = dict(self.final.evaluate(size))
        for layer, metric in enumerate(self.earlier):
            found |= {f'layer{layer}/{name}': value for name, value in metric.evaluate(size).items()}
        return found
