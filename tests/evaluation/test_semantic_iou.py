"""Label maps in the values of the benchmark servers; numbers are mmseg's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric
from PIL import Image

from eomt_mm.evaluation.semantic_iou import SemanticIoU

CLASSES = ('a', 'b', 'c')


def samples(count: int = 3, **more: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(count):
        predicted, truth = torch.from_numpy(rng.integers(0, 3, (2, 1, 5, 7)))
        truth[0, 0, :2] = 255
        found.append(
            dict(pred_sem_seg=dict(data=predicted), gt_sem_seg=dict(data=truth), img_path=f'x/city_{k}.png', **more)
        )
    return found


def run(metric: Any, batch: list[dict[str, Any]]) -> dict[str, float]:
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, batch)
    return metric.evaluate(len(batch))


def test_numbers_are_those_of_mmseg(tmp_path: Path) -> None:
    batch = samples()
    assert run(SemanticIoU(label_ids=(7, 8, 33), output_dir=str(tmp_path)), batch) == run(IoUMetric(), batch)


@pytest.mark.parametrize(
    'label_ids, more, expected',
    [((7, 8, 33), {}, (7, 8, 33)), (None, {}, (0, 1, 2)), (None, dict(reduce_zero_label=True), (1, 2, 3))],
)
def test_files_hold_the_values_of_the_data_set(
    label_ids: Any, more: dict[str, Any], expected: tuple[int, ...], tmp_path: Path
) -> None:
    batch = samples(**more)
    assert run(SemanticIoU(label_ids=label_ids, output_dir=str(tmp_path), format_only=True), batch) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['city_0.png', 'city_1.png', 'city_2.png']
    for sample in batch:
        with Image.open(tmp_path / Path(sample['img_path']).name) as image:
            assert image.mode == 'L'
            assert (np.asarray(image) == np.array(expected)[sample['pred_sem_seg']['data'][0]]).all()


def test_test_sets_need_no_ground_truth(tmp_path: Path) -> None:
    batch = samples()
    for sample in batch:
        del sample['gt_sem_seg']
    run(SemanticIoU(output_dir=str(tmp_path), format_only=True), batch)
    assert len(list(tmp_path.iterdir())) == 3


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'label_ids=\[1, 256\]'):
        SemanticIoU(label_ids=(1, 256))
    with pytest.raises(ValueError, match='output_dir'):
        SemanticIoU(format_only=True)
    with pytest.raises(ValueError, match=r'city_0\.png has class 2, label_ids 2 entries'):
        run(SemanticIoU(label_ids=(7, 8), output_dir=str(tmp_path), format_only=True), samples())
    assert not list(tmp_path.iterdir())


def test_labels_beyond_the_classes_are_an_error_not_a_number() -> None:
    batch = samples(1)
    batch[0]['gt_sem_seg']['data'][0, 4, 4] = 9
    with pytest.raises(ValueError, match=r'city_0\.png holds label\(s\) \[9\], outside the 3 classes'):
        run(SemanticIoU(), batch)
