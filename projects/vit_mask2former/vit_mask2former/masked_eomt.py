"""EoMT before its last simplification, with masked attention also in inference."""

from typing import Any

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from eomt_mm.core.network import Predictions
from eomt_mm.models.heads import DetRules, EoMTDetHead


@MODELS.register_module()
class MaskedEoMTHead(EoMTDetHead):
    """EoMT's head, kept in training mode, where each joint block is masked by the prediction made before it.

    The head has neither dropout nor batch norm, so training mode changes nothing else. Train it without mask annealing.
    """

    def train(self, mode: bool = True) -> 'MaskedEoMTHead':
        """Stay in training mode, whatever ``mode`` is."""
        return super().train(True)

    def predict(
        self, predictions: Predictions, samples: list[DetDataSample], rules: DetRules | None = None
    ) -> list[DetDataSample]:
        """Add the prediction of the final layer; earlier ones only served as attention masks."""
        class_logits, mask_logits = predictions
        found: Any = super().predict((class_logits[-1:], mask_logits[-1:]), samples, rules)
        return found
