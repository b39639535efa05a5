"""Mean intersection over union on arrays: count per image, average over classes, as mmseg's IoUMetric does."""

from typing import NamedTuple

import numpy as np


class Averages(NamedTuple):
    """Averages over classes in [0, 1], NaN if there is nothing to average over.

    Attributes:
        miou: mean IoU over the classes that occur in the ground truth or the prediction.
        macc: mean accuracy (recall) over the classes that occur in the ground truth.
        aacc: fraction of all labelled pixels that are predicted right.
        iou: (K,), per class; NaN where a class occurs in neither.
        acc: (K,), per class; NaN where a class does not occur in the ground truth.
    """

    miou: float
    macc: float
    aacc: float
    iou: np.ndarray
    acc: np.ndarray


def count_pixels(predicted: np.ndarray, true: np.ndarray, num_classes: int, ignore_index: int = 255) -> np.ndarray:
    """Count the pixels of an image.

    Args:
        predicted: (H, W), labels in [0, num_classes).
        true: (H, W), labels in [0, num_classes), or ``ignore_index``, where nothing is counted.
        num_classes: number K of classes.
        ignore_index: label of void pixels.

    Returns:
        (3, K), int64: pixels of each class that are right, predicted, and true.

    Raises:
        ValueError: the maps differ in size, or a label is outside the classes.
    """
    if predicted.shape != true.shape:
        raise ValueError(
            f'prediction is {predicted.shape}, ground truth {true.shape} (height, width): give both at the size of '
            'the original image'
        )
    counted = true != ignore_index
    predicted, true = predicted[counted].astype(np.int64), true[counted].astype(np.int64)
    for name, labels in (('prediction', predicted), ('ground truth', true)):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(
                f'{name} has labels from {labels.min()} to {labels.max()}, outside the {num_classes} classes '
                f'0..{num_classes - 1}'
            )
    parts = (predicted[predicted == true], predicted, true)
    return np.stack([np.bincount(part, minlength=num_classes) for part in parts])


def average_iou(counts: np.ndarray) -> Averages:
    """Average the sum over images of the counts (3, K) of `count_pixels`."""
    right, predicted, true = counts.astype(np.float64)
    with np.errstate(invalid='ignore'):  # 0 / 0: a class that occurs nowhere
        iou, acc = right / (predicted + true - right), right / true
        aacc = right.sum() / true.sum()
    miou, macc = (float(np.nanmean(part)) if not np.isnan(part).all() else float('nan') for part in (iou, acc))
    return Averages(miou, macc, float(aacc), iou, acc)
