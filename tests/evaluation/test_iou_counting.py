"""Mean IoU, counted by hand and against mmseg."""

import numpy as np
import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric

from eomt_mm.evaluation.iou_counting import average_iou, count_pixels


def test_by_hand() -> None:
    true = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 2]])
    counts = count_pixels(predicted, true, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [2, 1, 0, 0]]
    found = average_iou(counts)
    assert (found.iou[:2].tolist(), found.acc[:2].tolist()) == ([0.5, 0.5], [0.5, 1.0])
    assert np.isnan(found.iou[2:]).all() and np.isnan(found.acc[2:]).all()
    assert (found.miou, found.macc, found.aacc) == (0.5, 0.75, pytest.approx(2 / 3))


def test_a_class_that_is_only_predicted_counts() -> None:
    counts = count_pixels(np.array([[0, 1]]), np.array([[0, 0]]), 3)
    found = average_iou(counts)
    assert found.iou[:2].tolist() == [0.5, 0.0]
    assert (found.miou, found.macc) == (0.25, 0.5)


def test_nothing_is_nan() -> None:
    found = average_iou(count_pixels(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), 2))
    assert np.isnan([found.miou, found.macc, found.aacc]).all()


@pytest.mark.parametrize('seed', range(3))
def test_equals_mmseg(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.zeros((3, 6), np.int64)
    results = []
    for _ in range(4):
        true = rng.choice([0, 1, 2, 4, 255], (9, 11)).astype(np.uint8)
        predicted = np.where(rng.random((9, 11)) < 0.6, np.minimum(true, 5), rng.integers(0, 5, (9, 11)))
        counts += count_pixels(predicted, true, 6)
        results.append(
            IoUMetric.intersect_and_union(torch.from_numpy(predicted), torch.from_numpy(true).long(), 6, 255)
        )
    metric = IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=list('abcdef'))
    expected = metric.compute_metrics(results)
    found = average_iou(counts)
    names = dict(mIoU=found.miou, mAcc=found.macc, aAcc=found.aacc)
    assert {key: round(100 * value, 2) for key, value in names.items()} == pytest.approx(
        {key: expected[key] for key in names}, abs=0.0051
    )


@pytest.mark.parametrize(
    'predicted, true, message',
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r'prediction is \(2, 3\), ground truth \(3, 2\)'),
        (np.full((2, 2), 3), np.zeros((2, 2)), 'prediction has labels from 3 to 3, outside the 3 classes'),
        (np.zeros((2, 2)), np.full((2, 2), 7), 'ground truth has labels from 7 to 7, outside the 3 classes'),
    ],
)
def test_what_does_not_fit_is_refused(predicted: np.ndarray, true: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count_pixels(predicted, true, 3)
