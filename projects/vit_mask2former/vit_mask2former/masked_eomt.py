"""EoMT before its last simplification: masked attention in inference too."""

from typing import Any

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from eomt_mm.core.network import Predictions
from eomt_mm.models.heads import EoMTDetHead


@MODELS.register_module()
class MaskedEoMTHead(EoMTDetHead):
    """EoMT's head that stays in training mode, in which predictions are made before each joint block and mask it.

    It has neither dropout nor batch norm, so that this changes nothing else. Train it without mask annealing.
    """

    def train(self, mode: bool = True) -> 'MaskedEoMTHead':
        """Always training mode."""
        return super().train(True)

    def predict(self, predictions: Predictions, samples: list[DetDataSample]) -> list[DetDataSample]:
        """Adds the prediction of the final layer; the ones before it were for the masks."""
        class_logits, mask_logits = predictions
        found: Any = super().predict((class_logits[-1:], mask_logits[-1:]), samples)
        return found
