"""Panoptic quality: counting against an independent count, the metric on files."""

import json
import math
import pickle
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, PixelData

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import read_panoptic_png, write_panoptic_png
from eomt_mm.evaluation.panoptic_quality import PanopticQuality
from eomt_mm.evaluation.pq_counting import average_pq, count_overlap, count_panoptic, count_segments
from eomt_mm.registry import METRICS

# json order differs from label order, ids have gaps
CATEGORIES = [
    {'id': 7, 'name': 'sky', 'isthing': 0},
    {'id': 3, 'name': 'dog', 'isthing': 1},
    {'id': 40, 'name': 'grass', 'isthing': 0},
    {'id': 11, 'name': 'cat', 'isthing': 1},
]
META = dict(classes=('cat', 'dog', 'grass', 'sky'))
LABELS = {11: 0, 3: 1, 40: 2, 7: 3}
NUM_CLASSES = 4


def segments(*rows, width):
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def as_dict(rows):
    return {int(row[0]): tuple(row[1:]) for row in rows}


def gt_and_pred(gt, gt_rows, pred, pred_rows):
    """Counts of one-line maps."""
    gt, pred = np.array([gt]), np.array([pred])
    return as_dict(count_panoptic(gt, segments(*gt_rows, width=3), pred, segments(*pred_rows, width=2)))


# Counted by hand


def test_common_pixels_of_pairs():
    gt, pred = np.array([[1, 1, 8], [4, 4, 8]]), np.array([[7, 2, 2], [7, 5, 5]])
    found = count_overlap(gt, np.array([4, 1]), pred, np.array([2, 7, 9]))
    assert found.tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0]]  # 8 and 5 are void
    assert count_overlap(gt, np.array([]), pred, np.array([])).tolist() == [[6]]


def test_segments_are_counted_from_common_pixels_alone():
    overlap = np.array([[0, 0, 3], [1, 5, 0], [0, 0, 4]])
    crowd = np.array([False, True])
    # 5 pixels of 6; the second prediction lies on void and on the crowd of its category
    assert as_dict(count_segments(overlap, np.array([3, 7]), crowd, np.array([3, 7]))) == {3: (5 / 6, 1, 0, 0)}
    assert as_dict(count_segments(overlap, np.array([3, 7]), ~crowd, np.array([7, 7]))) == {7: (1, 1, 1, 0)}


def test_iou_of_one_half_is_no_match():
    # 3 common pixels of 6
    counts = gt_and_pred([1] * 5 + [9] * 1, [(1, 3, 0), (9, 7, 0)], [0] * 2 + [5] * 4, [(5, 3)])
    assert counts == {3: (0, 0, 1, 1), 7: (0, 0, 0, 1)}
    # one pixel more makes it 4 of 6
    counts = gt_and_pred([1] * 5 + [9] * 1, [(1, 3, 0), (9, 7, 0)], [0] * 1 + [5] * 5, [(5, 3)])
    assert counts == {3: (4 / 6, 1, 0, 0), 7: (0, 0, 0, 1)}


def test_union_leaves_out_void_of_the_truth_only():
    # prediction: 2 pixels on the segment, 3 on void; union is the segment's 3 pixels
    assert gt_and_pred([1] * 3 + [0] * 3, [(1, 3, 0)], [0] + [5] * 5, [(5, 3)]) == {3: (2 / 3, 1, 0, 0)}
    # ids that are not listed are void as well
    assert gt_and_pred([1] * 3 + [8] * 3, [(1, 3, 0)], [4] + [5] * 5, [(5, 3)]) == {3: (2 / 3, 1, 0, 0)}


def test_prediction_on_void_is_wrong_up_to_one_half():
    truth = [1] * 4 + [0] * 4
    assert gt_and_pred(truth, [(1, 7, 0)], [0, 0, 0, 5, 5, 5, 0, 0], [(5, 3)]) == {7: (0, 0, 0, 1)}
    half = gt_and_pred(truth, [(1, 7, 0)], [0, 0, 5, 5, 5, 5, 0, 0], [(5, 3)])
    assert half == {7: (0, 0, 0, 1), 3: (0, 0, 1, 0)}


def test_prediction_on_crowd_of_its_category_is_not_wrong():
    truth, crowd = [1] * 3 + [2] * 5, [(1, 7, 0), (2, 3, 1)]
    predicted = [0, 0, 5, 5, 5, 0, 0, 0]
    assert gt_and_pred(truth, crowd, predicted, [(5, 3)]) == {7: (0, 0, 0, 1)}
    # of another category it is
    assert gt_and_pred(truth, crowd, predicted, [(5, 40)]) == {7: (0, 0, 0, 1), 40: (0, 0, 1, 0)}
    # a crowd is neither matched nor missed
    assert gt_and_pred(truth, crowd, [0] * 3 + [5] * 5, [(5, 3)]) == {7: (0, 0, 0, 1)}


def test_void_and_crowd_add_up():
    truth, rows = [1, 1, 0, 2, 2, 2], [(1, 7, 0), (2, 3, 1)]
    assert gt_and_pred(truth, rows, [5, 5, 5, 5, 5, 0], [(5, 3)])[7] == (0, 0, 0, 1)
    assert 3 not in gt_and_pred(truth, rows, [5, 5, 5, 5, 5, 0], [(5, 3)])
    assert gt_and_pred(truth, rows, [5, 5, 5, 5, 0, 0], [(5, 3)])[3] == (0, 0, 1, 0)


def test_of_several_crowds_the_last_listed_counts():
    truth, predicted = [1, 1, 1, 2, 2, 2], [5, 5, 5, 0, 0, 0]
    assert gt_and_pred(truth, [(2, 3, 1), (1, 3, 1)], predicted, [(5, 3)]) == {}
    assert gt_and_pred(truth, [(1, 3, 1), (2, 3, 1)], predicted, [(5, 3)]) == {3: (0, 0, 1, 0)}


def test_category_must_agree():
    assert gt_and_pred([1] * 4, [(1, 3, 0)], [5] * 4, [(5, 7)]) == {3: (0, 0, 0, 1), 7: (0, 0, 1, 0)}


def test_empty_images():
    assert gt_and_pred([0] * 4, [], [0] * 4, []) == {}
    assert gt_and_pred([0] * 4, [], [5] * 4, [(5, 3)]) == {}  # all of it is on void
    assert gt_and_pred([1] * 4, [(1, 3, 0)], [0] * 4, []) == {3: (0, 0, 0, 1)}
    # nothing but a crowd: whatever else is predicted there is wrong
    assert gt_and_pred([1] * 4, [(1, 3, 1)], [5, 5, 6, 6], [(5, 7), (6, 7)]) == {7: (0, 0, 2, 0)}
    # listed, but without a pixel
    assert gt_and_pred([0] * 4, [(1, 3, 0)], [0] * 4, []) == {3: (0, 0, 0, 1)}


def test_counting_refuses():
    with pytest.raises(ValueError, match=r'\(1, 3\).*\(1, 4\)'):
        gt_and_pred([1] * 4, [], [1] * 3, [])
    with pytest.raises(ValueError, match=r'\[6\] have no pixel'):
        gt_and_pred([1] * 4, [], [5] * 4, [(5, 3), (6, 3)])
    with pytest.raises(ValueError, match='gt_segments lists an id twice'):
        gt_and_pred([1] * 4, [(1, 3, 0), (1, 7, 0)], [5] * 4, [(5, 3)])


# Counted naively


def naive_count(gt, gt_rows, pred, pred_rows):
    """The rules once more, segment by segment on masks."""
    void = np.ones(gt.shape, bool)
    for id_, _, _ in gt_rows:
        void &= gt != id_
    counts = {}

    def add(category, column, value=1.0):
        counts.setdefault(int(category), [0.0, 0.0, 0.0, 0.0])[column] += value

    found, used = set(), set()
    for g, (gt_id, gt_category, crowd) in enumerate(gt_rows):
        for p, (pred_id, pred_category) in enumerate(pred_rows):
            if crowd or gt_category != pred_category:
                continue
            inside = (gt == gt_id) & (pred == pred_id)
            either = ((gt == gt_id) | (pred == pred_id)) & ~(void & (pred == pred_id))
            if inside.any() and inside.sum() / either.sum() > 0.5:
                add(gt_category, 0, inside.sum() / either.sum())
                add(gt_category, 1)
                found.add(g)
                used.add(p)
    for g, (_, gt_category, crowd) in enumerate(gt_rows):
        if g not in found and not crowd:
            add(gt_category, 3)
    for p, (pred_id, pred_category) in enumerate(pred_rows):
        free = void.copy()
        crowds = [gt_id for gt_id, gt_category, crowd in gt_rows if crowd and gt_category == pred_category]
        for gt_id in crowds[-1:]:
            free |= gt == gt_id
        mask = pred == pred_id
        if p not in used and not (mask & free).sum() / mask.sum() > 0.5:
            add(pred_category, 2)
    return counts


def random_truth(rng, shape):
    """A map of rectangles with void, crowds (several of a category), and segments that end up without a pixel."""
    ids = np.unique(rng.integers(1, 1 << 24, 8))
    rng.shuffle(ids)
    gt = np.zeros(shape, np.int32)
    rows = []
    for id_ in ids[: rng.integers(0, 9)]:
        top, left = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        gt[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = id_
        rows.append((id_, rng.choice([3, 7, 40]), int(rng.random() < 0.35)))
    if rows and rng.random() < 0.3:
        rows.pop(rng.integers(len(rows)))  # on the map, not listed
    return gt, segments(*rows, width=3)


def random_prediction(rng, gt, gt_rows):
    """The truth with other ids, shifted, partly overwritten, with categories exchanged."""
    pred = np.roll(gt, rng.integers(-1, 2), axis=rng.integers(0, 2)) % 997
    for _ in range(rng.integers(0, 4)):
        top, left = rng.integers(0, gt.shape[0]), rng.integers(0, gt.shape[1])
        pred[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = rng.integers(0, 5)
    categories = {int(id_) % 997: category for id_, category, _ in gt_rows}
    rows = []
    for id_ in np.unique(pred):
        if rng.random() < 0.85:
            swap = rng.random() < 0.2
            rows.append((id_, rng.choice([3, 7, 40]) if swap else categories.get(int(id_), 3)))
    return pred, segments(*rows, width=2)


def test_equals_the_naive_count_on_random_maps():
    rng = np.random.default_rng(0)
    seen = np.zeros(4)
    several_crowds = 0
    everything, expected_totals = [], {}
    for _ in range(300):
        gt, gt_rows = random_truth(rng, (rng.integers(1, 14), rng.integers(1, 14)))
        pred, pred_rows = random_prediction(rng, gt, gt_rows)
        rows = count_panoptic(gt, gt_rows, pred, pred_rows)
        assert rows.dtype == np.float64 and rows.shape[1] == 5
        assert (np.diff(rows[:, 0]) > 0).all() and (rows[:, 1:].sum(axis=1) > 0).all()
        counts, expected = as_dict(rows), naive_count(gt, gt_rows, pred, pred_rows)
        assert counts.keys() == expected.keys()
        for category, values in expected.items():
            np.testing.assert_allclose(counts[category], values, rtol=0, atol=1e-12)
            expected_totals[category] = np.array(values) + expected_totals.get(category, 0)
        everything.append(rows)
        seen += rows[:, 1:].sum(axis=0)
        crowds = gt_rows[gt_rows[:, 2] == 1, 1]
        several_crowds += len(np.unique(crowds)) < len(crowds)
    # the maps must show every case, or agreement says little
    assert (seen > 100).all() and several_crowds > 20

    averages, per_class = average_pq(np.concatenate(everything), {3: True, 7: False, 40: True, 99: False})
    pq = {c: v[0] / (v[1] + v[2] / 2 + v[3] / 2) for c, v in expected_totals.items()}
    assert averages['All']['pq'] == pytest.approx((pq[3] + pq[7] + pq[40]) / 3, abs=1e-12)
    assert averages['Things']['pq'] == pytest.approx((pq[3] + pq[40]) / 2, abs=1e-12)
    assert averages['Stuff']['pq'] == pytest.approx(pq[7], abs=1e-12)
    assert [averages[name]['n'] for name in ('All', 'Things', 'Stuff')] == [3, 2, 1]
    assert per_class[40]['pq'] == pytest.approx(pq[40], abs=1e-12)
    assert per_class[99]['n'] == 0 and math.isnan(per_class[99]['pq'])


def test_summarise_by_hand():
    rows = np.array([[3, 1.5, 2, 1, 0], [7, 0, 0, 1, 1], [3, 0.6, 1, 0, 3], [50, 9, 9, 0, 0]])
    averages, per_class = average_pq(rows, {3: True, 7: False, 11: True})
    assert per_class[3] == {'pq': 2.1 / 5, 'sq': 2.1 / 3, 'rq': 3 / 5, 'n': 1}
    assert per_class[7] == {'pq': 0, 'sq': 0, 'rq': 0, 'n': 1}  # counted, never matched: a zero in averages
    assert averages['All']['pq'] == 2.1 / 5 / 2
    assert averages['Things'] == per_class[3]
    nothing, _ = average_pq(np.zeros((0, 5)), {3: True})
    assert nothing['All']['n'] == 0 and math.isnan(nothing['All']['pq'])


# The metric on files


def encode(ids, rows, offset=1):
    """A true map in mmdet's encoding; crowds and void become void."""
    panoptic = np.full(ids.shape, NUM_CLASSES, np.int64)
    for number, (id_, category, crowd) in enumerate(rows, start=offset):
        if not crowd:
            panoptic[ids == id_] = LABELS[int(category)] + 1000 * number
    return torch.from_numpy(panoptic)


@pytest.fixture
def files(tmp_path):
    """Five images, one of them without annotation, one with a crowd; arguments of the metric and the truth."""
    rng = np.random.default_rng(1)
    shape, truth = (24, 32), {}
    for image_id in (10, 11, 12, 13):
        ids = np.zeros(shape, np.int32)
        ids[4:], ids[:, 20:], ids[8:16, 4:12], ids[18:, 16:28] = 70000, 255, 256, 1 + image_id
        rows = [(70000, 40, 0), (255, 7, 0), (256, rng.choice([3, 11]), 0), (1 + image_id, 3, int(image_id == 12))]
        write_panoptic_png(tmp_path / 'png' / f'{image_id}_pan.png', ids)
        truth[image_id] = ids, segments(*rows, width=3)
    annotations = [
        {
            'image_id': image_id,
            'file_name': f'{image_id}_pan.png',
            'segments_info': [
                {'id': int(id_), 'category_id': int(category), 'iscrowd': int(crowd)} for id_, category, crowd in rows
            ],
        }
        for image_id, (_, rows) in truth.items()
    ]
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': shape[0], 'width': shape[1]} for i in (*truth, 14)]
    data = {'images': images, 'categories': CATEGORIES, 'annotations': annotations}
    (tmp_path / 'panoptic.json').write_text(json.dumps(data))
    return dict(ann_file=str(tmp_path / 'panoptic.json'), seg_prefix=str(tmp_path / 'png')), truth


def sample(image_id, panoptic):
    return {'img_id': image_id, 'pred_panoptic_seg': {'sem_seg': panoptic[None]}}


def imperfect(truth):
    """Predictions with every kind of count, including two wrong segments in the image without annotation."""
    samples = []
    for image_id, (ids, rows) in truth.items():
        panoptic = encode(ids, rows)
        panoptic[:, 24:] = 3
        panoptic[:3, :2] = 1 + 9000
        samples.append(sample(image_id, torch.roll(panoptic, image_id % 3, 1)))
    samples.append(sample(14, torch.zeros(24, 32, dtype=torch.int64)))
    return samples


def build(**arguments):
    metric = METRICS.build(dict(type='PanopticQuality', **arguments))
    metric.dataset_meta = META
    return metric


def evaluate(metric, samples):
    metric.process(None, samples)
    return metric.evaluate(len(metric.results))


def test_truth_as_prediction_is_exactly_100(files):
    arguments, truth = files
    metric = build(**arguments)
    assert type(metric) is PanopticQuality
    metrics = evaluate(metric, [sample(image_id, encode(*one)) for image_id, one in truth.items()])
    names = [f'coco_panoptic/{name}{suffix}' for suffix in ('', '_th', '_st') for name in ('PQ', 'SQ', 'RQ')]
    assert metrics == dict.fromkeys(names, 100.0)


def test_metric_equals_the_naive_count(files):
    arguments, truth = files
    samples = imperfect(truth)
    metrics = evaluate(build(**arguments, prefix='val'), samples)
    totals = {}
    for one in samples[:-1]:
        panoptic = one['pred_panoptic_seg']['sem_seg'][0].numpy()
        values = [value for value in np.unique(panoptic) if value % 1000 < NUM_CLASSES]
        pred_rows = [(value, {v: k for k, v in LABELS.items()}[value % 1000]) for value in values]
        for category, counts in naive_count(*truth[one['img_id']], panoptic, pred_rows).items():
            totals[category] = np.array(counts) + totals.get(category, 0)
    pq = {c: 100 * v[0] / (v[1] + v[2] / 2 + v[3] / 2) for c, v in totals.items()}
    assert metrics['val/PQ'] == pytest.approx(sum(pq.values()) / len(pq), abs=1e-9)
    assert metrics['val/PQ_th'] == pytest.approx((pq[3] + pq[11]) / 2, abs=1e-9)
    assert metrics['val/PQ_st'] == pytest.approx((pq[40] + pq[7]) / 2, abs=1e-9)
    assert 0 < metrics['val/PQ'] < 100


def test_encodings_of_a_prediction(files):
    arguments, truth = files
    ids, rows = truth[10]
    panoptic = encode(ids, rows)
    void = panoptic == NUM_CLASSES
    expected = evaluate(build(**arguments), [sample(10, panoptic)])
    for void_value in (255, 5, 999, 7000 + NUM_CLASSES, -1, -1000):
        assert evaluate(build(**arguments), [sample(10, torch.where(void, void_value, panoptic))]) == expected
    for one in (
        {'sem_seg': panoptic},
        {'sem_seg': panoptic[None].int()},
        {'sem_seg': panoptic.numpy()},
        PixelData(sem_seg=panoptic[None]),
    ):
        assert evaluate(build(**arguments), [{'img_id': 10, 'pred_panoptic_seg': one}]) == expected


def test_value_0_is_a_segment_of_the_first_class(files):
    arguments, _ = files
    metric = build(**arguments)
    metric.process(None, [sample(10, torch.zeros(24, 32, dtype=torch.int64))])
    _, matches, wrong, _ = as_dict(metric.results[0]['rows'])[11]
    assert (matches, wrong) == (0, 1)


def test_through_the_evaluator_with_host_samples(files):
    arguments, truth = files
    evaluator = Evaluator(dict(type='eomt_mm.PanopticQuality', **arguments))
    evaluator.dataset_meta = META
    elements = []
    for image_id, one in truth.items():
        element = BaseDataElement(metainfo=dict(img_id=image_id))
        element.pred_panoptic_seg = PixelData(sem_seg=encode(*one)[None])
        elements.append(element)
    evaluator.process(elements)
    assert evaluator.evaluate(len(elements))['coco_panoptic/PQ'] == 100


def test_parts_of_several_processes_add_up_and_repeats_count_once(files):
    arguments, truth = files
    samples = imperfect(truth)
    whole = build(**arguments)
    whole.process(None, samples)
    first, second = build(**arguments), build(**arguments)
    first.process(None, samples[:3])
    second.process(None, samples[3:])
    second.process(None, samples[:2])  # what a padding sampler adds
    together = pickle.loads(pickle.dumps(first.results + second.results))
    assert whole.compute_metrics(together) == whole.compute_metrics(whole.results)


def test_a_second_evaluation_starts_anew(files):
    arguments, truth = files
    metric = build(**arguments)
    worse = evaluate(metric, imperfect(truth))
    perfect = evaluate(metric, [sample(image_id, encode(*one)) for image_id, one in truth.items()])
    assert worse['coco_panoptic/PQ'] < perfect['coco_panoptic/PQ'] == 100


def test_records_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    hundred = rng.permutation(100).reshape(10, 10) * 160_000 + 5
    ids = np.kron(hundred, np.ones((48, 64), np.int64))
    rows = [{'id': int(id_), 'category_id': int(rng.choice([3, 11]))} for id_ in np.unique(ids)]
    write_panoptic_png(tmp_path / '1.png', ids)
    images = [{'id': 1, 'file_name': '1.jpg', 'height': 480, 'width': 640}]
    annotations = [{'image_id': 1, 'file_name': '1.png', 'segments_info': rows}]
    (tmp_path / 'a.json').write_text(
        json.dumps({'images': images, 'categories': CATEGORIES, 'annotations': annotations})
    )
    metric = build(ann_file=str(tmp_path / 'a.json'), seg_prefix=str(tmp_path), out_dir=str(tmp_path / 'out'))
    truth = segments(*((row['id'], row['category_id'], 0) for row in rows), width=3)
    metric.process(None, [sample(1, encode(ids, truth))])
    assert len(pickle.dumps(metric.results)) < 10_000
    assert metric.compute_metrics(metric.results)['PQ'] == 100


def test_nan_where_there_is_no_class(files, capsys):
    arguments, truth = files
    metric = build(**arguments)
    metric.dataset_meta = dict(classes=('cat', 'dog'))  # of the four in the json
    metrics = evaluate(metric, [sample(i, torch.full((24, 32), 2)) for i in truth])
    assert metrics['coco_panoptic/PQ'] == metrics['coco_panoptic/PQ_th'] == 0
    assert math.isnan(metrics['coco_panoptic/PQ_st'])


def test_truth_of_unknown_classes_is_not_void(files):
    arguments, _ = files
    metric = build(**arguments)
    metric.dataset_meta = dict(classes=('cat',))
    everywhere = torch.zeros(24, 32, dtype=torch.int64)
    metrics = evaluate(metric, [sample(10, everywhere)])
    assert metrics['coco_panoptic/PQ'] == 0 and metrics['coco_panoptic/RQ'] == 0


# What is logged


def test_tables(files, monkeypatch):
    arguments, truth = files
    said = []
    monkeypatch.setattr('eomt_mm.evaluation.panoptic_quality.print_log', lambda message, **others: said.append(message))
    evaluate(build(**arguments, classwise=True), [sample(10, encode(*truth[10])), sample(11, encode(*truth[11]))])
    absent, summary, per_class = said
    assert absent.startswith('2 annotated images')
    lines = [line.replace(' ', '') for line in summary.splitlines()]
    assert '|All|100.000|100.000|100.000|' in ''.join(lines)
    assert '|Stuff|100.000|100.000|100.000|2|' in lines
    names = [line.split('|')[1].strip() for line in per_class.splitlines() if line.startswith('|')]
    assert names == ['', 'cat', 'dog', 'grass', 'sky']


# Result files


def test_result_files_give_the_same_pq(files, tmp_path):
    arguments, truth = files
    out = tmp_path / 'out'
    stale = out / 'panoptic_results.part' / 'stale.png'  # of an evaluation that was broken off
    write_panoptic_png(stale, np.ones((2, 2), np.int32))
    samples = imperfect(truth)
    for _ in range(2):  # the second replaces the first
        metrics = evaluate(build(**arguments, out_dir=str(out)), samples)
        assert sorted(path.name for path in out.iterdir()) == ['panoptic_results', 'panoptic_results.json']
        annotations = json.loads((out / 'panoptic_results.json').read_text())['annotations']
        assert {path.name for path in (out / 'panoptic_results').iterdir()} == {one['file_name'] for one in annotations}
    assert [one['image_id'] for one in annotations] == [10, 11, 12, 13, 14]

    counts = []
    for one in annotations:
        ids = read_panoptic_png(out / 'panoptic_results' / one['file_name'])
        listed = [info['id'] for info in one['segments_info']]
        assert set(np.unique(ids)) - {0} == set(listed) and 0 not in listed  # as the server demands
        if one['image_id'] in truth:
            rows = segments(*((info['id'], info['category_id']) for info in one['segments_info']), width=2)
            counts.append(count_panoptic(*truth[one['image_id']], ids, rows))
    averages, _ = average_pq(np.concatenate(counts), {c['id']: bool(c['isthing']) for c in CATEGORIES})
    assert 100 * averages['All']['pq'] == metrics['coco_panoptic/PQ']
    assert 100 * averages['Things']['sq'] == metrics['coco_panoptic/SQ_th']


class PeerCounts:
    """What the peer below adds its counts to."""

    def __init__(self):
        self.of = defaultdict(lambda: SimpleNamespace(iou=0.0, tp=0, fp=0, fn=0))

    def __getitem__(self, category):
        return self.of[category]


def test_equals_the_reference_evaluation_that_mmdet_carries(tmp_path, monkeypatch):
    """Files written by the metric, evaluated by mmdet's edition of panopticapi's evaluation."""
    from mmdet.evaluation.functional import panoptic_utils

    monkeypatch.setattr(panoptic_utils, 'PQStat', PeerCounts)
    monkeypatch.setattr(panoptic_utils, 'rgb2id', lambda rgb: rgb.astype(np.int64) @ [1, 256, 65536])
    rng = np.random.default_rng(2)
    images, annotations, samples = [], [], []
    for image_id in range(40):
        ids, rows = random_truth(rng, (20, 24))
        rows = rows[np.isin(rows[:, 0], ids)]
        ids[~np.isin(ids, rows[:, 0])] = 0  # the reference knows no void but 0
        info = [
            {'id': int(id_), 'category_id': int(category), 'iscrowd': int(crowd), 'area': int((ids == id_).sum())}
            for id_, category, crowd in rows
        ]
        name = f'{image_id}.png'
        write_panoptic_png(tmp_path / 'png' / name, ids)
        images.append({'id': image_id, 'file_name': f'{image_id}.jpg', 'height': 20, 'width': 24})
        annotations.append({'image_id': image_id, 'file_name': name, 'segments_info': info})
        panoptic = torch.roll(encode(ids, rows), (1, -1), (0, 1))
        panoptic[:, :6] = torch.from_numpy(rng.choice([0, 1, 2, 3, NUM_CLASSES, 1000, 2001], (20, 1)))
        samples.append(sample(image_id, panoptic))
    data = {'images': images, 'categories': CATEGORIES, 'annotations': annotations}
    (tmp_path / 'a.json').write_text(json.dumps(data))
    metric = build(ann_file=str(tmp_path / 'a.json'), seg_prefix=str(tmp_path / 'png'), out_dir=str(tmp_path / 'out'))
    metric.process(None, samples)
    ours = np.zeros((41, 4))
    for record in metric.results:
        ours[record['rows'][:, 0].astype(int)] += record['rows'][:, 1:]
    metric.compute_metrics(metric.results)

    predicted = json.loads((tmp_path / 'out' / 'panoptic_results.json').read_text())['annotations']
    pairs = list(zip(annotations, predicted, strict=True))
    folders = str(tmp_path / 'png'), str(tmp_path / 'out' / 'panoptic_results')
    peer = panoptic_utils.pq_compute_single_core(0, pairs, *folders, {c['id']: c for c in CATEGORIES})
    assert set(np.flatnonzero(ours.any(axis=1))) == peer.of.keys() == {3, 7, 11, 40}
    for category, one in peer.of.items():
        np.testing.assert_allclose(ours[category], [one.iou, one.tp, one.fp, one.fn], rtol=0, atol=1e-12)
    assert (ours[3] > 0).all()


def test_format_only_needs_no_truth(files, tmp_path):
    _, truth = files
    data = json.loads((tmp_path / 'panoptic.json').read_text())
    del data['annotations']
    (tmp_path / 'test.json').write_text(json.dumps(data))
    out = tmp_path / 'out'
    metric = build(ann_file=str(tmp_path / 'test.json'), out_dir=str(out), format_only=True)
    assert evaluate(metric, imperfect(truth)) == {}
    assert (out / 'panoptic_results' / '10.png').exists()
    assert len(json.loads((out / 'panoptic_results.json').read_text())['annotations']) == 5


def test_no_results_before_all_images_are_done(files, tmp_path):
    arguments, truth = files
    out = tmp_path / 'out'
    metric = build(**arguments, out_dir=str(out))
    metric.process(None, imperfect(truth)[:2])
    assert [path.name for path in out.iterdir()] == ['panoptic_results.part']


# Errors


def test_arguments(files, tmp_path):
    arguments, _ = files
    with pytest.raises(ValueError, match='out_dir'):
        PanopticQuality(**arguments, format_only=True)
    with pytest.raises(ValueError, match='seg_prefix'):
        PanopticQuality(arguments['ann_file'])
    with pytest.raises(FileNotFoundError, match='nowhere'):
        PanopticQuality(arguments['ann_file'], str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match='other.json does not exist'):
        PanopticQuality(str(tmp_path / 'other.json'), arguments['seg_prefix'])


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (None, '"classes"'),
        (dict(classes=('cat', 'wolf')), r"1 of the 2 classes .* 4 categories.*\['wolf'\]"),
        (dict(classes=tuple(map(str, range(1000)))), 'room for 999'),
    ],
)
def test_classes_must_be_in_the_json(files, meta, message):
    arguments, _ = files
    metric = PanopticQuality(**arguments)
    with pytest.raises(ValueError, match=message):
        metric.dataset_meta = meta


def test_faulty_predictions(files):
    arguments, truth = files
    metric = build(**arguments)
    panoptic = encode(*truth[10])
    with pytest.raises(ValueError, match='image 99 is not among the 5 images'):
        metric.process(None, [sample(99, panoptic)])
    with pytest.raises(ValueError, match=r'image 10 is \(24, 31\).*10_pan.png \(24, 32\)'):
        metric.process(None, [sample(10, panoptic[:, 1:])])
    with pytest.raises(ValueError, match='float32'):
        metric.process(None, [sample(10, panoptic.float())])
    with pytest.raises(ValueError, match=r'\(2, 24, 32\)'):
        metric.process(None, [{'img_id': 10, 'pred_panoptic_seg': {'sem_seg': torch.stack([panoptic] * 2)}}])
    assert metric.results == []


def test_missing_png_of_the_truth(files, tmp_path):
    arguments, truth = files
    (tmp_path / 'png' / '10_pan.png').unlink()
    with pytest.raises(FileNotFoundError, match='10_pan.png.*seg_prefix'):
        build(**arguments).process(None, [sample(10, encode(*truth[10]))])
