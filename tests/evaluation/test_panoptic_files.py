"""PQ of result files."""

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.subjects.metrics import pq_problem
from eomt_mm.annotations.panoptic_png import read_panoptic_png, write_panoptic_png
from eomt_mm.evaluation import workers
from eomt_mm.evaluation.panoptic_files import pq_of_files
from eomt_mm.evaluation.panoptic_quality import PanopticQuality


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = dict(num_images=5, ori_size=(48, 64), num_segments=12)
    problem = pq_problem(Namespace(**sizes, in_memory=False, panopticapi_python=None))
    return Path(shutil.copytree(problem.path, tmp_path_factory.mktemp('pq') / 'data'))


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(written, tmp_path / 'data'))


def evaluate(folder: Path, **options: Any) -> Any:
    return pq_of_files(*(str(folder / name) for name in ('gt.json', 'gt', 'pred.json', 'pred')), **options)


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_truth_as_result_is_perfect_but_for_crowds(data: Path) -> None:
    averages, _ = pq_of_files(*(str(data / name) for name in ('gt.json', 'gt', 'gt.json', 'gt')))
    assert averages['All'] == dict(pq=1.0, sq=1.0, rq=1.0, n=averages['All']['n']) and averages['All']['n'] > 20


def test_equals_the_metric_on_the_same_maps(data: Path) -> None:
    truth, result = (json.loads((data / name).read_text()) for name in ('gt.json', 'pred.json'))
    metric = PanopticQuality(str(data / 'gt.json'), str(data / 'gt'))
    metric.dataset_meta = dict(classes=[category['name'] for category in truth['categories']])
    for one in result['annotations']:
        ids, codes = read_panoptic_png(data / 'pred' / one['file_name']), np.full((48, 64), 133)
        for number, segment in enumerate(one['segments_info']):
            codes[ids == segment['id']] = segment['category_id'] - 1 + 1000 * number
        metric.process(None, [dict(img_id=one['image_id'], pred_panoptic_seg=dict(sem_seg=torch.from_numpy(codes)))])
    expected = metric.evaluate(5)
    averages, per_class = evaluate(data)
    assert 0.1 < averages['All']['pq'] < 0.99
    assert 100 * averages['All']['pq'] == pytest.approx(expected['coco_panoptic/PQ'], abs=1e-9)
    assert 100 * averages['Stuff']['sq'] == pytest.approx(expected['coco_panoptic/SQ_st'], abs=1e-9)
    assert per_class.keys() == set(range(1, 134))


def test_workers_make_no_difference(data: Path) -> None:
    assert repr(evaluate(data, num_workers=1)) == repr(evaluate(data))  # NaN is not equal to itself
    workers.end_workers()


def test_nothing_annotated_is_no_number(data: Path) -> None:
    for name in ('gt.json', 'pred.json'):
        change(data / name, lambda content: content.update(annotations=[]))
    averages, _ = evaluate(data)
    assert averages['All']['n'] == 0 and math.isnan(averages['All']['pq'])


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda content: content['annotations'].pop(3), r'no results of 1 annotated images .*\[3\]'),
        (lambda content: content['annotations'].append(content['annotations'][0]), '6 annotations of 5 images'),
        (lambda content: content.pop('annotations'), 'missing required field `annotations`'),
        (lambda content: content['annotations'][2]['segments_info'].pop(), r'2.png: predicted ids \[\d+\] are not'),
        (lambda content: content['annotations'][2]['segments_info'][0].update(category_id=99999), r'\[99999\]'),
        (lambda content: content['annotations'][1]['segments_info'][0].update(id=5), '1.png: .*have no pixel'),
    ],
)
def test_results_are_checked(edit: Callable[[dict[str, Any]], Any], message: str, data: Path) -> None:
    change(data / 'pred.json', edit)
    with pytest.raises(ValueError, match=message):
        evaluate(data)


def test_files_are_checked(data: Path) -> None:
    write_panoptic_png(data / 'pred' / '2.png', np.zeros((48, 60), np.int32))
    with pytest.raises(ValueError, match=r'2.png: prediction is \(48, 60\)'):
        evaluate(data)
    (data / 'pred' / '1.png').unlink()
    with pytest.raises(FileNotFoundError, match='1.png does not exist'):
        evaluate(data)
    (data / 'pred.json').write_text('[')
    with pytest.raises(ValueError, match='pred.json: the document: .*tools/test.py --out'):
        evaluate(data)


def test_crowds_and_void_are_among_the_files(data: Path) -> None:
    truth = json.loads((data / 'gt.json').read_text())
    assert any(segment['iscrowd'] for one in truth['annotations'] for segment in one['segments_info'])
    assert all((read_panoptic_png(file) == 0).any() for file in data.glob('gt/*.png'))
