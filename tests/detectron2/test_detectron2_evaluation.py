"""Evaluators give the numbers of the mm metrics, and of detectron2's own evaluators where these mean the same."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copies import forget
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, Instances
from detectron2_sets import forget_test_sets, leaf_config, registered, shifted
from paths import ROOT
from torch import Tensor

from eomt_mm.annotations.masks import decode
from eomt_mm.detectron2.evaluation import build_evaluator
from eomt_mm.detectron2.ground_truth import read_label_map, read_segments
from eomt_mm.evaluation.instance_ap import InstanceAP
from eomt_mm.evaluation.panoptic_quality import PanopticQuality
from eomt_mm.evaluation.semantic_iou import SemanticIoU
from eomt_mm.registry import DATASETS
from eomt_mm.synthetic.generate import write_cityscapes

Sample = dict[str, Any]


@pytest.fixture(autouse=True)
def empty_catalogs() -> Iterator[None]:
    yield
    forget_test_sets()


@pytest.fixture(scope='module')
def roots(coco_root: Path, ade20k_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cities = write_cityscapes(tmp_path_factory.mktemp('cities') / 'root', 2, 4, (48, 80), progress=False)
    return dict(coco=coco_root, ade20k=ade20k_root, cityscapes=cities)


def sets(data: str, task: str, root: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The test data of a leaf, in mm and in detectron2."""
    cfg = leaf_config(f'{data}-{task}', root)
    return DATASETS.build(cfg.val_dataloader.dataset), registered(cfg.val_dataloader.dataset, task)


def ours(outputs: list[dict[str, Any]], items: list[dict[str, Any]], **kind: Any) -> dict[str, float]:
    evaluator = build_evaluator('test_data', **kind)
    evaluator.reset()
    for item, output in zip(items, outputs, strict=True):
        evaluator.process([item], [output])
    found = evaluator.evaluate()
    cityscapes = {f'cityscapes/{key}': value for key, value in found.pop('cityscapes', {}).items()}
    (rest,) = found.values()
    return {**rest, **cityscapes}


def theirs(metric: Any, samples: list[Sample], dataset: Any) -> dict[str, float]:
    metric.dataset_meta = dataset.metainfo
    metric.process({}, samples)
    found: dict[str, float] = metric.evaluate(len(samples))
    return found


def panoptic_prediction(item: dict[str, Any], num_classes: int, rng: np.random.Generator) -> tuple[Tensor, list[Any]]:
    """A map of segments near the ground truth; some have another class, some are void."""
    found = read_segments(item, None, with_crowds=True)
    ids = shifted(found.ids, rng)
    labels = np.concatenate([found.labels, found.crowd_labels])
    ids = np.where(np.isin(ids, rng.choice(len(labels) + 1, 1)), 0, ids)
    infos = [
        dict(
            id=id_, category_id=int(labels[id_ - 1] if rng.random() < 0.8 else rng.integers(num_classes)), isthing=True
        )
        for id_ in np.unique(ids).tolist()
        if id_
    ]
    return torch.from_numpy(ids.astype(np.int32)), infos


PANOPTIC = ('coco', 'ade20k', 'cityscapes')


def panoptic_case(data: str, root: Path) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]], list[Sample]]:
    """Data set, dicts, and the same predictions for both hosts; the first image has no segment."""
    dataset, items = sets(data, 'panoptic', root)
    rng, num_classes = np.random.default_rng(0), len(dataset.metainfo['classes'])
    outputs, samples = [], []
    for index, item in enumerate(items):
        segment_map, infos = panoptic_prediction(item, num_classes, rng)
        if index == 0:
            segment_map, infos = torch.zeros_like(segment_map), []
        outputs.append(dict(panoptic_seg=(segment_map, infos)))
        codes = torch.full((int(segment_map.max()) + 1,), num_classes)
        for one in infos:
            codes[one['id']] = one['category_id'] + 1000 * one['id']
        packed = dataset[index]['data_samples'].to_dict()
        samples.append(dict(packed, pred_panoptic_seg=dict(sem_seg=codes[segment_map.long()][None])))
    return dataset, items, outputs, samples


@pytest.mark.parametrize('data', PANOPTIC)
def test_panoptic_quality(data: str, roots: dict[str, Path]) -> None:
    dataset, items, outputs, samples = panoptic_case(data, roots[data])
    expected = theirs(PanopticQuality(), samples, dataset)
    found = ours(outputs, items)
    assert 5 < found['PQ'] < 95
    assert {f'coco_panoptic/{key}': value for key, value in found.items()} == pytest.approx(
        expected, abs=1e-9, nan_ok=True
    )


@pytest.fixture
def panopticapi(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """panopticapi for one test: mmdet behaves differently where it can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / 'build' / 'panopticapi'))
    yield
    forget('panopticapi')


def test_panoptic_quality_of_panopticapi(roots: dict[str, Path], tmp_path: Path, panopticapi: None) -> None:
    _, items, outputs, _ = panoptic_case('coco', roots['coco'])
    for output in outputs:
        for one in output['panoptic_seg'][1]:
            one['isthing'] = one['category_id'] < 4
    evaluators = DatasetEvaluators([build_evaluator('test_data'), Renamed('test_data', str(tmp_path))])
    evaluators.reset()
    evaluators.process(items, outputs)
    found = evaluators.evaluate()
    assert found['panoptic_seg'] == pytest.approx(found['theirs'], abs=1e-6, nan_ok=True)


def test_without_panopticapi_ours_is_named(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sets('coco', 'panoptic', roots['coco'])
    monkeypatch.setattr('eomt_mm.detectron2.evaluation.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'needs panopticapi: install it, or use ours \(own=True\)'):
        build_evaluator('test_data', own=False)


class Renamed(COCOPanopticEvaluator):
    """detectron2's evaluator under another key."""

    def evaluate(self) -> dict[str, Any]:
        return {'theirs': super().evaluate()['panoptic_seg']}


INSTANCE = ('coco', 'ade20k', 'cityscapes')


def instance_prediction(item: dict[str, Any], num_classes: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Masks near the ground truth, with classes and scores; some classes are wrong."""
    if 'annotations' in item:
        size = item['height'], item['width']
        pairs = [(decode(one['segmentation'], size), one['category_id']) for one in item['annotations']]
    else:
        found = read_segments(item, None, with_crowds=True)
        size = found.ids.shape
        labels = np.concatenate([found.labels, found.crowd_labels])
        pairs = [(found.ids == number, label) for number, label in enumerate(labels.tolist(), start=1)]
    masks = [shifted(mask, rng) for mask, _ in pairs for _ in range(2)]
    classes = [label if rng.random() < 0.9 else rng.integers(num_classes) for _, label in pairs for _ in range(2)]
    return dict(
        masks=torch.from_numpy(np.array(masks, bool).reshape(-1, *size)),
        labels=torch.tensor(classes, dtype=torch.int64),
        scores=torch.from_numpy(rng.integers(1, 9, len(masks)) / 8).float(),
    )


@pytest.mark.parametrize('data', INSTANCE)
def test_average_precision(data: str, roots: dict[str, Path], tmp_path: Path) -> None:
    dataset, items = sets(data, 'instance', roots[data])
    rng, num_classes = np.random.default_rng(1), len(dataset.metainfo['classes'])
    outputs, samples = [], []
    for index, item in enumerate(items):
        found = instance_prediction(item, num_classes, rng)
        boxes = Boxes(torch.zeros(len(found['labels']), 4))
        instances = Instances(tuple(found['masks'].shape[1:]), pred_boxes=boxes, pred_masks=found['masks'])
        instances.pred_classes, instances.scores = found['labels'], found['scores']
        outputs.append(dict(instances=instances))
        samples.append(dict(dataset[index]['data_samples'].to_dict(), pred_instances=found))
    expected = theirs(InstanceAP(), samples, dataset)
    result = ours(outputs, items)
    assert 0.05 < expected['coco/segm_mAP'] < 0.95
    keys = dict(AP='mAP', AP50='mAP_50', AP75='mAP_75', APs='mAP_s', APm='mAP_m', APl='mAP_l')
    for key, name in keys.items():
        value = expected[f'coco/segm_{name}']
        assert result[key] == pytest.approx(100 * value if value >= 0 else float('nan'), abs=1e-8, nan_ok=True)
    if data == 'coco':
        own_of_detectron2 = ours(outputs, items, own=False, output_dir=str(tmp_path))
        assert {key: result[key] for key in keys} == pytest.approx(
            {key: own_of_detectron2[key] for key in keys}, nan_ok=True
        )
    else:
        with pytest.raises(ValueError, match="is not in COCO's format"):
            build_evaluator('test_data', own=False)


def test_images_without_prediction_count(roots: dict[str, Path]) -> None:
    _, items = sets('coco', 'instance', roots['coco'])
    rng = np.random.default_rng(2)
    outputs = []
    for item in items:
        found = instance_prediction(item, 4, rng)
        instances = Instances(tuple(found['masks'].shape[1:]), pred_masks=found['masks'], scores=found['scores'])
        instances.pred_classes = found['labels']
        outputs.append(dict(instances=instances))
    crowded = max(range(len(items)), key=lambda index: len(items[index]['annotations']))
    kept = [index for index in range(len(items)) if index != crowded]
    some = ours([outputs[index] for index in kept], [items[index] for index in kept])
    assert some['AP'] < ours(outputs, items)['AP']


SEMANTIC = ('ade20k', 'cityscapes')


@pytest.mark.parametrize('data', SEMANTIC)
def test_mean_iou(data: str, roots: dict[str, Path], tmp_path: Path) -> None:
    dataset, items = sets(data, 'semantic', roots[data])
    rng, num_classes = np.random.default_rng(3), len(dataset.metainfo['classes'])
    present = np.unique(np.concatenate([np.unique(read_label_map(item)) for item in items]))
    present = present[present != 255]
    outputs, samples = [], []
    for index, item in enumerate(items):
        labels = shifted(read_label_map(item), rng)
        labels = torch.from_numpy(np.where(labels == 255, rng.choice(present, labels.shape), labels)).long()
        outputs.append(dict(sem_seg=torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1).float()))
        packed = dataset[index]['data_samples'].to_dict()
        samples.append(dict(packed, pred_sem_seg=dict(data=labels[None])))
    expected = theirs(SemanticIoU(), samples, dataset)
    found = ours(outputs, items)
    means = dict(mIoU=expected['mIoU'], mACC=expected['mAcc'], pACC=expected['aAcc'])
    assert {key: round(found[key], 2) for key in means} == pytest.approx(means, abs=0.0051)
    standard = ours(outputs, items, own=False)
    assert [found[key] for key in means] == pytest.approx([standard[key] for key in means])


def test_a_predicted_class_without_ground_truth_lowers_the_mean(
    roots: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, items = sets('ade20k', 'semantic', roots['ade20k'])
    ground_truth = [read_label_map(item) for item in items]
    absent = next(label for label in range(150) if not any((labels == label).any() for labels in ground_truth))
    perfect = [dict(sem_seg=torch.from_numpy(np.where(labels == 255, 0, labels))) for labels in ground_truth]
    assert ours(perfect, items)['mIoU'] == 100
    assert re.search(r'\d+ of 150 classes do not occur in the ground truth of the 4 evaluated images', caplog.text)
    wrong = [dict(sem_seg=one['sem_seg'].clone()) for one in perfect]
    wrong[0]['sem_seg'][0, 0] = absent
    assert ours(wrong, items)['mIoU'] < 99 or (ground_truth[0] == 255)[0, 0]


def test_processes_are_joined(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, items, outputs, _ = panoptic_case('coco', roots['coco'])
    whole = ours(outputs, items)
    parts = [build_evaluator('test_data') for _ in range(2)]
    for rank, part in enumerate(parts):
        part.process(items[rank::2], outputs[rank::2])
    gathered: list[Any] = []
    monkeypatch.setattr('detectron2.utils.comm.gather', lambda records: gathered.append(records) or gathered)
    monkeypatch.setattr('detectron2.utils.comm.is_main_process', lambda: len(gathered) == 2)
    assert parts[1].evaluate() is None
    assert parts[0].evaluate() == {'panoptic_seg': pytest.approx(whole, nan_ok=True)}


def test_what_does_not_fit_is_named(roots: dict[str, Path]) -> None:
    _, items = sets('coco', 'panoptic', roots['coco'])
    evaluator = build_evaluator('test_data')
    item = next(item for item in items if item['segments_info'])
    size = item['height'], item['width']
    small = dict(panoptic_seg=(torch.zeros(3, 3, dtype=torch.int32), []))
    with pytest.raises(ValueError, match=rf'prediction of image {item["file_name"]} is \(3, 3\), its ground truth'):
        evaluator.process([item], [small])
    other = dict(panoptic_seg=(torch.ones(size, dtype=torch.int32), [dict(id=1, category_id=8, isthing=False)]))
    with pytest.raises(ValueError, match='category_id 8, the data set 8 classes'):
        evaluator.process([item], [other])


def test_outputs_of_another_form_are_named(roots: dict[str, Path]) -> None:
    _, items = sets('coco', 'instance', roots['coco'])
    evaluator = build_evaluator('test_data')
    with pytest.raises(ValueError, match=r"has no 'instances', but \['sem_seg'\]: the model is of another task"):
        evaluator.process(items[:1], [dict(sem_seg=torch.zeros(2, 2))])
    size = items[0]['height'], items[0]['width']
    found = Instances(size, pred_masks=torch.zeros(1, *size), pred_classes=torch.zeros(1).long(), scores=torch.ones(1))
    with pytest.raises(ValueError, match='type float32: give booleans'):
        evaluator.process(items[:1], [dict(instances=found)])
    found.pred_masks, found.pred_classes = found.pred_masks.bool(), torch.tensor([4])
    with pytest.raises(ValueError, match=r'predicted classes are in \[4, 4\], the data set has 4'):
        evaluator.process(items[:1], [dict(instances=found)])
    found.pred_classes = torch.tensor([3])
    with pytest.raises(ValueError, match=r'\(other\) is not among the 4 images of .*json'):
        evaluator.process([dict(items[0], image_id='other')], [dict(instances=found)])


def test_a_segment_without_pixels_is_named(roots: dict[str, Path]) -> None:
    _, items = sets('coco', 'panoptic', roots['coco'])
    item = next(item for item in items if item['segments_info'])
    empty = torch.zeros(item['height'], item['width'], dtype=torch.int32), [dict(id=5, category_id=0, isthing=True)]
    with pytest.raises(ValueError, match=rf'prediction of image {item["file_name"]}: .*\[5\] have no pixel'):
        build_evaluator('test_data').process([item], [dict(panoptic_seg=empty)])


def test_unknown_data_sets_and_tasks() -> None:
    with pytest.raises(ValueError, match="data set 'coco_2017_value' is not registered: did you mean 'coco_2017_val"):
        build_evaluator('coco_2017_value')
    with pytest.raises(ValueError, match="'nothing' is not registered: register it with"):
        build_evaluator('nothing')
    DatasetCatalog.register('test_bare', list)
    with pytest.raises(ValueError, match="'test_bare' does not state its task: give task"):
        build_evaluator('test_bare')
    MetadataCatalog.get('test_bare').set(stuff_classes=['a'], ignore_label=255)
    assert type(build_evaluator('test_bare', task='semantic')).__name__ == 'SemanticIoUEvaluator'
