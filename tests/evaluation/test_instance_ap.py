"""Mask AP: equal to pycocotools' on everything at once, from files and samples, in little memory; result files."""

import contextlib
import copy
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.datasets.coco_instance import CocoInstance
from eomt_mm.evaluation import result_files
from eomt_mm.evaluation.ap_counting import average_ap, encode_masks, encode_segments, match_by_class
from eomt_mm.evaluation.instance_ap import KEYS, InstanceAP
from eomt_mm.registry import METRICS
from eomt_mm.synthetic.shapes import CLASSES

# json order differs from label order, ids have gaps; 'fish' is nowhere, 'bird' not among the classes
CATEGORIES = [dict(id=id_, name=name) for id_, name in ((7, 'fish'), (3, 'dog'), (40, 'bird'), (11, 'cat'), (5, 'cow'))]
META = dict(classes=('cat', 'dog', 'fish', 'cow'))
IDS = [11, 3, 7, 5]  # of the classes
SHAPES = tuple(entry.name for entry in CLASSES if entry.is_thing)


def build(meta: dict[str, Any] = META, **arguments: Any) -> InstanceAP:
    metric = InstanceAP(**arguments)
    metric.dataset_meta = meta
    return metric


def prediction(masks: Any, labels: Any, scores: Any) -> dict[str, torch.Tensor]:
    return dict(
        masks=torch.as_tensor(np.asarray(masks, bool)), labels=torch.as_tensor(labels), scores=torch.as_tensor(scores)
    )


def random_mask(rng: np.random.Generator, size: tuple[int, int], near: np.ndarray | None = None) -> np.ndarray:
    """A rectangle or, often, ``near`` with a border that is a little off."""
    if near is not None:
        return np.roll(near, tuple(rng.integers(-2, 3, 2)), axis=(0, 1))
    mask = np.zeros(size, bool)
    top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
    mask[top : top + rng.integers(3, size[0]), left : left + rng.integers(3, size[1])] = True
    return mask


def random_data(seed: int, num_images: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO json as a dict, annotation ids from 0, and samples with predictions for its images.

    Overlapping masks, crowds, areas that are not those of masks, images without truth and without predictions,
    equal scores, more than 100 predictions of one class.
    """
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = dict(images=[], annotations=[], categories=CATEGORIES)
    samples = []
    for index, image_id in enumerate(rng.permutation(1000)[:num_images].tolist()):
        size = (int(rng.integers(20, 140)), int(rng.integers(20, 140)))
        data['images'].append(dict(id=image_id, height=size[0], width=size[1], file_name=f'{image_id}.jpg'))
        truth = []
        for _ in range(0 if index == 0 else rng.integers(0, 9)):
            mask, category = random_mask(rng, size), int(rng.choice([11, 3, 40]))
            truth.append((mask, category))
            rle = mask_api.encode(np.asfortranarray(mask))
            rle['counts'] = rle['counts'].decode()
            area = float(mask.sum() * rng.choice([1, 0.5]))
            data['annotations'].append(
                dict(image_id=image_id, category_id=category, area=area, iscrowd=int(rng.random() < 0.25))
                | dict(id=len(data['annotations']), segmentation=rle)
            )
        masks, labels = [], []
        for _ in range({1: 0, 2: 130}.get(index, int(rng.integers(1, 25)))):
            mask, category = truth[rng.integers(len(truth))] if truth else (None, 3)
            masks.append(random_mask(rng, size, mask if rng.random() < 0.8 else None))
            label = IDS.index(category) if category in IDS and rng.random() < 0.8 else rng.integers(2)
            labels.append(1 if index == 2 else int(label))
        scores = (rng.integers(1, 12, len(masks)) / 12).astype(np.float32)  # many are equal
        found = prediction(np.reshape(masks, (-1, *size)), np.array(labels, np.int64), scores)
        samples.append(dict(img_id=image_id, img_path=f'{image_id}.jpg', ori_shape=size, pred_instances=found))
    return data, samples


def write_json(folder: Path, data: dict[str, Any]) -> str:
    path = folder / 'instances.json'
    path.write_text(json.dumps(data))
    return str(path)


def plain_evaluation(
    data: dict[str, Any], results: list[dict[str, Any]], ids: list[int], max_dets: tuple[int, ...] = (1, 10, 100)
) -> COCOeval:
    """pycocotools on everything at once, annotations numbered from 1."""
    data, truth = copy.deepcopy(data), COCO()
    for number, annotation in enumerate(data['annotations'], start=1):
        annotation['id'] = number
    truth.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), 'segm')
        evaluation.params.catIds = ids
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def plain_results(samples: list[dict[str, Any]], ids: list[int]) -> list[dict[str, Any]]:
    """The result file once more, mask by mask."""
    results = []
    for sample in samples:
        found = sample['pred_instances']
        for mask, label, score in zip(*(found[key].numpy() for key in ('masks', 'labels', 'scores')), strict=True):
            rle = mask_api.encode(np.asfortranarray(mask))
            entry = dict(image_id=sample['img_id'], category_id=ids[label], score=float(score))
            results.append({**entry, 'segmentation': {**rle, 'counts': rle['counts'].decode()}})
    return results


def plain_numbers(evaluation: COCOeval) -> dict[str, float]:
    return {f'coco/segm_{key}': round(value, 12) for key, value in zip(KEYS, evaluation.stats, strict=False)}


# The same as pycocotools


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('max_dets', [(1, 10, 100), (100, 110, 300)])
def test_equals_pycocotools_on_all_images(seed: int, max_dets: tuple[int, ...], tmp_path: Path) -> None:
    data, samples = random_data(seed)
    metric = build(ann_file=write_json(tmp_path, data), max_dets=max_dets)
    metric.process(None, samples[:5])
    metric.process(None, samples[5:])
    expected = plain_evaluation(data, plain_results(samples, IDS), IDS, max_dets)
    assert metric.evaluate(len(samples)) == plain_numbers(expected)
    assert 0.02 < expected.stats[0] < expected.stats[1] < 0.9
    # What the data show.
    assert any(annotation['iscrowd'] for annotation in data['annotations'])
    assert {len(sample['pred_instances']['labels']) for sample in samples} >= {0, 130}
    assert data['images'][0]['id'] not in {annotation['image_id'] for annotation in data['annotations']}


def test_images_that_nobody_predicted_were_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.evaluation.instance_ap.print_log', lambda text, **_: said.append(text))
    data, samples = random_data(5)
    metric = build(ann_file=write_json(tmp_path, data))
    metric.process(None, samples[4:])
    found = metric.evaluate(len(samples) - 4)
    assert found == plain_numbers(plain_evaluation(data, plain_results(samples[4:], IDS), IDS))
    metric.process(None, samples)
    assert found != metric.evaluate(len(samples))
    assert [text[:9] for text in said if 'no prediction' in text] == ['4 images ']


def test_order_of_images_does_not_matter(tmp_path: Path) -> None:
    """Equal scores are ranked by image id, in whatever order images come, and one that comes twice counts once."""
    data, samples = random_data(6)
    metric = build(ann_file=write_json(tmp_path, data))
    numbers = []
    for order in (samples, samples[::-1], [*samples[3:], *samples[:5]]):
        metric.process(None, order)
        numbers.append(metric.compute_metrics(list(metric.results)))
        metric.results.clear()
    assert numbers[0] == numbers[1] == numbers[2]


def test_nothing_to_average_over_is_minus_one(tmp_path: Path) -> None:
    data, samples = random_data(7)
    metric = build(ann_file=write_json(tmp_path, {**data, 'annotations': []}))
    metric.process(None, samples)
    assert set(metric.evaluate(len(samples)).values()) == {-1}
    assert set(metric.compute_metrics([]).values()) == {-1}


def test_annotation_with_id_zero_can_be_found(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:9, 4:12] = True
    polygon = [[4, 3, 12, 3, 12, 9, 4, 9]]
    assert np.array_equal(mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygon, 20, 20))), mask)
    annotation = dict(id=0, image_id=1, category_id=3, segmentation=polygon)  # neither area nor iscrowd
    data = dict(images=[dict(id=1, height=20, width=20)], annotations=[annotation], categories=CATEGORIES)
    metric = build(ann_file=write_json(tmp_path, data))
    metric.process(None, [dict(img_id=1, pred_instances=prediction([mask], [1], [0.5]))])
    expected = dict(zip(KEYS, (1, 1, 1, 1, -1, -1), strict=True))
    assert metric.evaluate(1) == {f'coco/segm_{key}': value for key, value in expected.items()}


def test_agrees_with_mmdet_up_to_its_rounding(coco_root: Path) -> None:
    ann_file = str(coco_root / 'annotations' / 'instances_train2017.json')
    samples = shape_samples(coco_root, 'train')
    numbers = []
    for metric in (InstanceAP(ann_file=ann_file), CocoMetric(ann_file, metric='segm', proposal_nums=(1, 10, 100))):
        evaluator = Evaluator([metric])
        evaluator.dataset_meta = dict(classes=SHAPES)
        evaluator.process(copy.deepcopy(samples))
        numbers.append(evaluator.evaluate(len(samples)))
    ours, theirs = numbers
    assert ours.keys() == theirs.keys() and 0 < ours['coco/segm_mAP'] < 1
    assert ours == pytest.approx(theirs, abs=5.01e-4)


# Run lengths


def test_masks_and_segments_encode_alike() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 7), (5, 1), (8, 6), (33, 20)):
        ids = rng.integers(0, 4, size).astype(np.int32)  # 4 has no pixel; each of the others has the last pixel once
        for ids[-1, -1] in range(4):
            masks = np.stack([ids == k for k in range(1, 5)])
            expected = [mask_api.encode(np.asfortranarray(mask)) for mask in masks]
            assert encode_masks(masks) == expected
            assert encode_masks(np.asfortranarray(masks)) == expected
            assert encode_segments(ids, 4) == expected
    assert encode_masks(np.zeros((0, 4, 5), bool)) == []


# Ground truth in samples


def shape_samples(root: Path, split: str) -> list[DetDataSample]:
    """Samples of a COCO tree with ``instances`` and imperfect predictions, crowds among them predicted too."""
    dataset = CocoDataset(
        ann_file=str(root / 'annotations' / f'instances_{split}2017.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=SHAPES),
        test_mode=True,
        pipeline=[],
    )
    rng = np.random.default_rng(1)
    samples = []
    for item in dataset:
        size = (item['height'], item['width'])
        sample = DetDataSample(metainfo=dict(img_id=item['img_id'], ori_shape=size, instances=item['instances']))
        masks, labels = [], []
        for instance in item['instances'] * 2:
            rle = mask_api.frPyObjects(instance['mask'], *size)
            mask = mask_api.decode(rle if isinstance(rle, dict) else mask_api.merge(rle)).astype(bool)
            masks.append(random_mask(rng, size, mask))
            labels.append(instance['bbox_label'] if rng.random() < 0.8 else 0)
        sample.pred_instances = InstanceData(
            masks=torch.as_tensor(np.reshape(masks, (-1, *size))).bool(),
            labels=torch.tensor(labels, dtype=torch.int64),
            scores=torch.as_tensor(rng.random(len(masks), dtype=np.float32)),
            bboxes=torch.zeros(len(masks), 4),
        )
        samples.append(sample)
    return samples


def mapped(sample: dict[str, Any]) -> dict[str, Any]:
    """The same sample with an id map instead of instances; labels from 4 on are of classes that do not count."""
    size, instances = sample['ori_shape'], sorted(sample['instances'], key=lambda one: one['ignore_flag'])
    ids = np.zeros(size, np.int32)
    ids[-3:] = 1  # of another class
    for number, instance in enumerate(instances, start=2):
        rle = mask_api.frPyObjects(instance['mask'], *size)
        ids[mask_api.decode(rle if isinstance(rle, dict) else mask_api.merge(rle)) == 1] = number
    labels = [[one['bbox_label'] for one in instances if one['ignore_flag'] == flag] for flag in (0, 1)]
    return {
        **{key: value for key, value in sample.items() if key != 'instances'},
        'gt_panoptic_seg': {'segment_ids': torch.as_tensor(ids)[None]},
        'gt_instances': {'labels': torch.tensor([4, *labels[0]])},
        'ignored_instances': {'labels': torch.tensor(labels[1], dtype=torch.int64)},
    }


@pytest.mark.parametrize('split', ['train', 'val'])
def test_file_instances_and_id_map_give_the_same(coco_root: Path, split: str) -> None:
    samples = [sample.to_dict() for sample in shape_samples(coco_root, split)]
    path = coco_root / 'annotations' / f'instances_{split}2017.json'
    data = json.loads(path.read_text())
    numbers, matches = [], []
    for arguments, given in (
        (dict(ann_file=str(path)), samples),
        ({}, samples),
        ({}, [mapped(sample) for sample in samples]),
    ):
        metric = build(dict(classes=SHAPES), **arguments)
        metric.process(None, given)
        matches.append([vars(record['matches']) for record in metric.results])
        numbers.append(metric.evaluate(len(given)))
    np.testing.assert_equal(matches[1:], [matches[0]] * 2)
    ids = [entry['id'] for entry in data['categories']]
    assert numbers[0] == plain_numbers(plain_evaluation(data, plain_results(samples, ids), ids))
    assert numbers[1] == numbers[2] == numbers[0]
    assert 0 < numbers[0]['coco/segm_mAP'] < 1


def test_the_data_set_hands_over_its_file(coco_root: Path, tmp_path: Path) -> None:
    path = coco_root / 'annotations' / 'instances_val2017.json'
    prefix = dict(img=str(coco_root / 'val2017'))
    arguments = dict(data_prefix=prefix, metainfo=dict(classes=SHAPES), test_mode=True, pipeline=[])
    dataset = CocoInstance(ann_file=str(path), **arguments)
    samples = [sample.to_dict() for sample in shape_samples(coco_root, 'val')]
    numbers = []
    for meta, source in ((dataset.metainfo, {}), (dict(classes=SHAPES), dict(ann_file=str(path)))):
        metric = build(meta, **source)
        metric.process(None, samples[2:])  # the others were missed
        numbers.append(metric.evaluate(len(samples) - 2))
    assert numbers[0] == numbers[1]
    data = json.loads(path.read_text())
    del data['annotations']
    bare = CocoInstance(ann_file=write_json(tmp_path, data), **arguments)
    with pytest.raises(ValueError, match='instances.json has no annotations to evaluate against.*format_only'):
        build(bare.metainfo)
    metric = build(bare.metainfo, format_only=True, out_dir=str(tmp_path))
    metric.process(None, samples)
    assert metric.evaluate(len(samples)) == {}


def test_crowds_make_a_difference_there(coco_root: Path) -> None:
    """Without crowds the comparison above would prove little."""
    samples = [mapped(sample.to_dict()) for sample in shape_samples(coco_root, 'train')]
    assert sum(len(sample['ignored_instances']['labels']) for sample in samples) > 0
    numbers = []
    for crowds in (True, False):
        metric = build(dict(classes=SHAPES))
        for sample in samples:
            count = len(sample['gt_instances']['labels'])
            ids = sample['gt_panoptic_seg']['segment_ids']
            without = dict(ignored_instances=None, gt_panoptic_seg=dict(segment_ids=torch.where(ids > count, 0, ids)))
            metric.process(None, [sample if crowds else {**sample, **without}])
        numbers.append(metric.evaluate(len(samples)))
    assert numbers[0]['coco/segm_mAP'] > numbers[1]['coco/segm_mAP']


# Memory


def record_size(size: tuple[int, int], seed: int) -> int:
    """Pickled bytes of an image of 20 predictions, with results written."""
    rng = np.random.default_rng(seed)
    masks = [random_mask(rng, size) for _ in range(20)]
    id_map = np.zeros(size, np.int32)
    id_map[: size[0] // 2], id_map[size[0] // 2 :] = 1, 2
    metric = build()
    metric.process(
        None,
        [
            dict(
                img_id=seed,
                pred_instances=prediction(masks, rng.integers(0, 4, 20), rng.random(20)),
                gt_panoptic_seg=dict(segment_ids=torch.as_tensor(id_map)[None]),
                gt_instances=dict(labels=torch.tensor([0, 3])),
            )
        ],
    )
    return len(pickle.dumps(metric.results))


def test_what_is_kept_does_not_grow_with_masks() -> None:
    assert record_size((64, 64), 3) == record_size((512, 512), 3) < 2000


@pytest.mark.slow
def test_what_is_kept_of_2000_images_is_bounded() -> None:
    rng = np.random.default_rng(0)
    metric = build()
    for image_id in range(2000):
        masks = np.zeros((20, 64, 64), bool)
        masks[:, rng.integers(60) :, rng.integers(60) :] = True
        ids = torch.zeros((1, 64, 64), dtype=torch.int32)
        ids[:, :9] = 1
        truth = dict(gt_panoptic_seg=dict(segment_ids=ids), gt_instances=dict(labels=torch.tensor([2])))
        found = prediction(masks, rng.integers(0, 4, 20), rng.random(20))
        metric.process(None, [dict(img_id=image_id, pred_instances=found, **truth)])
    assert len(pickle.dumps(metric.results)) / 2000 < 1500


# Result files


def test_result_file_is_that_of_all_at_once(tmp_path: Path) -> None:
    data, samples = random_data(8)
    out_dir = tmp_path / 'results'
    metric = build(ann_file=write_json(tmp_path, data), out_dir=str(out_dir))
    metric.process(None, samples)
    file = out_dir / 'instance_results.json'
    assert not file.exists()
    found = metric.evaluate(len(samples))
    assert [path.name for path in out_dir.iterdir()] == [file.name]
    results = json.loads(file.read_text())
    assert results == plain_results(sorted(samples, key=lambda sample: sample['img_id']), IDS)
    assert plain_numbers(plain_evaluation(data, results, IDS)) == found


@pytest.mark.parametrize(('meta', 'ids'), [({}, [1, 2, 3, 4]), (dict(category_ids=[0, 9, 24, 7]), [0, 9, 24, 7])])
def test_format_only_needs_no_truth(meta: dict[str, Any], ids: list[int], tmp_path: Path) -> None:
    _, samples = random_data(9)
    for sample in samples:
        sample['img_id'] = f'frankfurt_{sample["img_id"]}'
    metric = build({**META, **meta}, out_dir=str(tmp_path), format_only=True)
    metric.process(None, samples)
    assert metric.evaluate(len(samples)) == {}
    results = json.loads((tmp_path / 'instance_results.json').read_text())
    assert results == plain_results(sorted(samples, key=lambda sample: sample['img_id']), ids)


def test_format_only_takes_a_json_without_annotations(tmp_path: Path) -> None:
    data, samples = random_data(9)
    del data['annotations']
    metric = build(ann_file=write_json(tmp_path, data), out_dir=str(tmp_path), format_only=True)
    metric.process(None, samples[1:2])  # no prediction
    assert metric.evaluate(1) == {}
    assert json.loads((tmp_path / 'instance_results.json').read_text()) == []
    with pytest.raises(ValueError, match='image 5000 is not among the 12 images'):
        metric.process(None, [{**samples[0], 'img_id': 5000}])


def test_parts_of_several_processes_make_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an image in two parts, and what an evaluation that was broken off has left in a third."""
    data, samples = random_data(10)
    ann_file, out_dir = write_json(tmp_path, data), tmp_path / 'results'
    collected: list[dict[str, Any]] = []
    for rank, own in ((2, samples[:3]), (0, samples[:7]), (1, samples[6:])):
        monkeypatch.setattr(result_files, 'get_rank', lambda rank=rank: rank)
        metric = build(ann_file=ann_file, out_dir=str(out_dir))
        metric.process(None, own)
        if rank < 2:
            collected += pickle.loads(pickle.dumps(metric.results))
    assert len(list(out_dir.iterdir())) == 3
    alone = build(ann_file=ann_file)
    alone.process(None, samples)
    found = metric.compute_metrics(collected)
    assert {f'coco/{key}': value for key, value in found.items()} == alone.evaluate(len(samples))
    assert [path.name for path in out_dir.iterdir()] == ['instance_results.json']
    results = json.loads((out_dir / 'instance_results.json').read_text())
    assert results == plain_results(sorted(samples, key=lambda sample: sample['img_id']), IDS)


def test_earlier_results_stay_until_new_ones_are_complete(tmp_path: Path) -> None:
    data, samples = random_data(11)
    metric = build(ann_file=write_json(tmp_path, data), out_dir=str(tmp_path / 'results'))
    metric.process(None, samples)
    metric.evaluate(len(samples))
    file = tmp_path / 'results' / 'instance_results.json'
    earlier = file.read_text()
    metric.process(None, samples[:6])
    (tmp_path / 'results' / '.instance_results.json.process_0.part').unlink()
    with pytest.raises(FileNotFoundError):
        metric.evaluate(6)
    assert file.read_text() == earlier and [path.name for path in file.parent.iterdir()] == [file.name]


# As a metric


def test_registry_tables_and_run_lengths_as_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.evaluation.instance_ap.print_log', lambda text, **_: said.append(text))
    data, samples = random_data(12)
    metric = METRICS.build(dict(type='InstanceAP', ann_file=write_json(tmp_path, data), classwise=True, prefix='x'))
    metric.dataset_meta = META
    encoded = copy.deepcopy(samples)
    for sample in encoded:
        sample['pred_instances']['masks'] = encode_masks(sample['pred_instances']['masks'].numpy())
    metric.process(None, samples)
    numbers = metric.evaluate(len(samples))
    assert list(numbers) == [f'x/segm_{key}' for key in KEYS]
    metric.process(None, encoded)
    assert metric.evaluate(len(samples)) == numbers
    summary, table = said[:2]
    assert f'maxDets=100 ] = {numbers["x/segm_mAP"]:0.3f}' in summary and 'Average Recall' in summary
    cells = [[cell.strip() for cell in row.split('|')[1:-1]] for row in table.split('\n') if '|' in row]
    rows = {first: rest for first, *rest in cells}
    assert list(rows) == ['class', *META['classes']] and set(rows['fish']) == {'-'}
    for name, id_ in zip(META['classes'][:2], IDS, strict=False):
        alone = plain_evaluation(data, plain_results(samples, IDS), [id_])
        assert rows[name] == ['-' if value < 0 else f'{value:.3f}' for value in alone.stats[:6]]


# What is refused


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not valid json'),
        ('[]', 'expected `object`, got `array`'),
        (dict(annotations=[dict(image_id=1, segments_info=[])]), 'panoptic json.*instances_val2017'),
        (
            dict(
                annotations=[dict(id=4, image_id=1, category_id=3, bbox=[0, 0, 2, 2])],
                categories=[dict(id=3, name='dog')],
            ),
            'annotation 4 of image 1 has no "segmentation".*not boxes',
        ),
        (dict(images=[dict(id=1, width=4)]), 'image .* needs .*"height"'),
        (dict(categories=[dict(id=1)]), 'category .* needs .*"name"'),
    ],
)
def test_annotation_files_are_checked(content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, dict):
        content = json.dumps(dict(images=[dict(id=1, height=4, width=4)], annotations=[], categories=[]) | content)
    path = tmp_path / 'some.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=f'some.json.*{message}'):
        build(dict(classes=('dog',)), ann_file=str(path))
    with pytest.raises(FileNotFoundError, match='other.json does not exist'):
        InstanceAP(ann_file=str(tmp_path / 'other.json'))


@pytest.mark.parametrize(
    ('outline', 'message'),
    [
        ([], 'no "segmentation"'),
        ([[1, 2, 3, 4, 5]], 'has 5 numbers'),
        (dict(size=[5, 4], counts=[20]), r'size \[5, 4\], the image \(4, 4\)'),
        (dict(size=[4, 4], counts=[3, 4]), 'do not add up to the 4 x 4'),
    ],
)
def test_bad_masks_are_named(outline: Any, message: str, tmp_path: Path) -> None:
    annotation = dict(id=8, image_id=1, category_id=3, segmentation=outline)
    data = dict(images=[dict(id=1, height=4, width=4)], annotations=[annotation], categories=CATEGORIES)
    with pytest.raises(ValueError, match=f'annotation 8 of image 1.*{message}'):
        build(ann_file=write_json(tmp_path, data))


def test_classes_and_arguments_are_checked(tmp_path: Path) -> None:
    images = [dict(id=1, height=4, width=4)]
    path = write_json(tmp_path, dict(images=images, annotations=[], categories=CATEGORIES))
    with pytest.raises(ValueError, match=r"1 of the 2 classes are not among the 5 categories.*Missing: \['horse'\]"):
        build(dict(classes=('dog', 'horse')), ann_file=path)
    with pytest.raises(ValueError, match='names of the 2 classes must be unique'):
        build(dict(classes=('dog', 'dog')), ann_file=path)
    with pytest.raises(ValueError, match=r'category_ids=\[1, 1\]'):
        build(dict(classes=('a', 'b'), category_ids=[1, 1]))
    with pytest.raises(ValueError, match='has no "classes"'):
        build({})
    with pytest.raises(ValueError, match='name a folder with out_dir'):
        InstanceAP(format_only=True)
    for max_dets in ((1, 100), (1, 10, 99), (100, 10, 1), (0, 1, 100)):
        with pytest.raises(ValueError, match='max_dets=.*100'):
            InstanceAP(max_dets=max_dets)


def test_samples_are_checked(tmp_path: Path) -> None:
    ids = torch.zeros((1, 6, 8), dtype=torch.int32)
    good = dict(
        img_id='a',
        pred_instances=prediction(np.zeros((1, 6, 8)), [3], [0.5]),
        gt_panoptic_seg=dict(segment_ids=ids),
        gt_instances=dict(labels=torch.tensor([], dtype=torch.int64)),
    )
    plain = dict(gt_panoptic_seg=None, ori_shape=(6, 8))
    box = dict(bbox=[0, 0, 1, 1], bbox_label=0)
    metric = build()
    metric.process(None, [good])
    for changes, message in (
        (dict(gt_panoptic_seg=None), "image a .* has no ground truth: .*PackSegments.*'instances'.*ann_file"),
        (dict(gt_instances=None), 'without gt_instances.labels'),
        (dict(gt_panoptic_seg=dict(segment_ids=ids + 2)), r'in \[2, 2\], but there are labels of 0'),
        (dict(plain, instances=[box]), 'instance 0 has no mask'),
        (dict(plain, instances=[dict(box, mask=[[1]])]), 'instance 0: a polygon has 1 numbers'),
        (dict(gt_panoptic_seg=None, instances=[]), 'no ori_shape'),
        (dict(plain, ori_shape=(8, 6), instances=[]), r'is \[\(6, 8\)\], ground truth in the sample \(8, 6\)'),
        (dict(pred_instances=prediction(np.zeros((1, 6, 8)), [4], [0.5])), r'in \[4, 4\].*4 classes'),
        (dict(pred_instances=prediction(np.zeros((1, 6, 8)), [1, 2], [0.5, 0.5])), '1 masks, 2 scores, 2 labels'),
        (dict(pred_instances=prediction(np.zeros((1, 8)), [1], [0.5])), r'shape \(1, 8\)'),
        (dict(pred_instances=dict(good['pred_instances'], masks=torch.zeros(1, 6, 8))), r'float32: give booleans'),
        (dict(pred_instances=dict(labels=[], scores=[])), 'has no pred_instances.masks'),
    ):
        with pytest.raises(ValueError, match=message):
            metric.process(None, [{**good, **changes}])
    assert len(metric.results) == 1
    metric.process(None, [{**good, 'img_path': 'b/a.jpg'}])
    with pytest.raises(ValueError, match='None and b/a.jpg are both img_id a'):
        metric.evaluate(2)


def test_size_must_be_that_of_the_file(tmp_path: Path) -> None:
    data, samples = random_data(13)
    metric = build(ann_file=write_json(tmp_path, data))
    samples[3]['pred_instances']['masks'] = samples[3]['pred_instances']['masks'][:, 1:]
    height, width = samples[3]['ori_shape']
    with pytest.raises(ValueError, match=rf'\({height - 1}, {width}\).*instances.json \({height}, {width}\)'):
        metric.process(None, samples)


def test_labels_of_other_classes_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdet's CocoDataset numbers labels by the json's order of categories, whatever that of the classes."""
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.evaluation.image_metric.print_log', lambda text, **_: said.append(text))
    data, samples = random_data(14)
    path = write_json(tmp_path, data)
    present = {annotation['image_id'] for annotation in data['annotations'] if annotation['category_id'] == 11}
    sample = next(sample for sample in samples if sample['img_id'] in present)
    count = sum(one['image_id'] == sample['img_id'] and one['category_id'] == 11 for one in data['annotations'])
    label = torch.full((count,), META['classes'].index('cat'))
    for meta, wrong in ((META, True), (dict(classes=('fish', 'dog', 'cat', 'cow')), False)):
        metric = build(meta, ann_file=path)
        right = torch.full_like(label, meta['classes'].index('cat'))
        metric.process(None, [{**sample, 'gt_instances': dict(labels=right)}])
        if wrong:
            with pytest.raises(ValueError, match='labels of other classes.*list metainfo.classes in that order'):
                metric.process(None, [{**sample, 'gt_instances': dict(labels=torch.full((count + 9,), 2))}])
        assert not said
        metric.process(None, [sample, sample])
        assert len(said) == wrong
        said.clear()


def test_whatever_has_an_iou_can_be_matched() -> None:
    """Two of class 0 and a crowd, one of class 2; IoU and areas are given, not those of masks."""
    iou = np.array([[0.9, 0.8, 0.0], [0.8, 0.0, 0.0], [0.0, 0.1, 0.95]])
    asked: list[tuple[list[int], list[int]]] = []

    def iou_of(rows: list[int], columns: list[int]) -> np.ndarray:
        asked.append((rows, columns))
        return iou[np.ix_(rows, columns)]

    true = [(0, 50.0, False), (0, 500.0, False), (0, 50.0, True), (2, 50.0, False)]
    predicted = [(0, 50.0, 0.3), (0, 50.0, 0.8), (0, 50.0, 0.5)]
    ranges = [[0, 1e10], [0, 100], [100, 1000], [1000, 1e10]]
    found = match_by_class(true, predicted, iou_of, (1, 10, 100), ranges)
    assert asked == [([1, 2, 0], [0, 1, 2]), ([], [3])]  # best first
    assert found.labels.tolist() == [0, 2] and found.scores.tolist() == [0.8, 0.5, 0.3]
    assert found.num_true.tolist() == [[2, 1], [1, 1], [1, 0], [0, 0]]
    matched = np.unpackbits(found.matched, count=4 * 10 * 3).reshape(4, 10, 3)
    # At 0.5 the best takes the first, so the last gets the second; at 0.85 only the last may have the first.
    assert matched[0, 0].tolist() == [1, 1, 1] and matched[0, 7].tolist() == [0, 1, 1]
    assert average_ap([found], 3, (1, 10, 100)).per_class[0, 1] == pytest.approx(1)
    one = match_by_class(true, predicted, iou_of, (1, 1, 1), ranges)
    assert asked[-2] == ([1], [0, 1, 2]) and one.num_predicted.tolist() == [1, 0]
