"""Ground truth of panoptic quality from samples: the same numbers as from files, and what is refused."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import RepeatDataset
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData, PixelData

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.evaluation.panoptic_quality import PanopticQuality
from eomt_mm.synthetic.shapes import CLASSES

NAMES = tuple(entry.name for entry in CLASSES)
THINGS = tuple(entry.name for entry in CLASSES if entry.is_thing)
META = dict(
    classes=('cat', 'dog', 'grass', 'sky'),
    thing_classes=('cat', 'dog'),
    stuff_classes=('grass', 'sky'),
    category_ids=[11, 3, 0, 7],  # 0 is a category like any other, as in ADE20K
)
CAT, DOG, GRASS, SKY = range(4)
VOID = 255


def panoptic_sample(
    predicted: Any, id_map: Any, labels: Any, crowds: Any = (), img_id: Any = 'b_000001_000019', **changes: Any
) -> dict[str, Any]:
    """A data sample as a metric gets it; maps are (H, W), and None leaves a part out."""
    sample = {
        'img_id': img_id,
        'img_path': f'data/images/{img_id}.jpg',
        'pred_panoptic_seg': {'sem_seg': torch.as_tensor(np.asarray(predicted))[None]},
        'gt_panoptic_seg': {'segment_ids': torch.as_tensor(np.asarray(id_map, np.int32))[None]},
        'gt_instances': {'labels': torch.as_tensor(np.asarray(labels, np.int64))},
        'ignored_instances': {'labels': torch.as_tensor(np.asarray(crowds, np.int64))},
        **changes,
    }
    return {key: value for key, value in sample.items() if value is not None}


def build(meta: dict[str, Any] = META, **arguments: Any) -> PanopticQuality:
    metric = PanopticQuality(**arguments)
    metric.dataset_meta = meta
    return metric


def count(*line_and_truth: Any, **others: Any) -> dict[int, tuple[float, ...]]:
    """Counts (IoU, matches, wrong, missed) per category of a one-line image."""
    predicted, id_map, *labels = line_and_truth
    metric = build()
    metric.process(None, [panoptic_sample([predicted], [id_map], *labels, **others)])
    return {int(row[0]): tuple(row[1:]) for row in metric.results[0]['rows']}


# The same as from files


def coco_truth(root: Path, split: str) -> list[tuple[dict[str, Any], np.ndarray, list[int], list[int]]]:
    """Per image of a COCO tree: its entry in the json, id map, labels of segments and of crowds, as the contract is."""
    data = json.loads((root / 'annotations' / f'panoptic_{split}2017.json').read_text())
    label_of = {entry['id']: NAMES.index(entry['name']) for entry in data['categories']}
    images = {image['id']: image for image in data['images']}
    found = []
    for annotation in data['annotations']:
        ids = read_panoptic_png(root / 'annotations' / f'panoptic_{split}2017' / annotation['file_name'])
        infos = sorted(annotation['segments_info'], key=lambda info: info['iscrowd'])  # stable: crowds last
        id_map = np.zeros(ids.shape, np.int32)
        for number, info in enumerate(infos, start=1):
            id_map[ids == info['id']] = number
        labels = [[label_of[info['category_id']] for info in infos if info['iscrowd'] == crowd] for crowd in (0, 1)]
        found.append((images[annotation['image_id']], id_map, *labels))
    return found


def coco_samples(root: Path, split: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Samples with imperfect predictions: shifted, with exchanged classes, void, and things upon crowds and void."""
    samples = []
    for image, id_map, labels, crowds in coco_truth(root, split):
        encoded = np.array([VOID, *(label + 1000 * k for k, label in enumerate([*labels, *crowds], start=1))])
        swapped = rng.random(len(encoded)) < 0.15
        encoded[swapped & (encoded != VOID)] += 1 - 2 * (encoded[swapped & (encoded != VOID)] % 2)
        predicted = np.roll(encoded[id_map], rng.integers(-3, 4), axis=rng.integers(0, 2))
        predicted[:9, :9], predicted[-4:] = 90_000, VOID
        samples.append(panoptic_sample(predicted, id_map, labels, crowds, image['id'], img_path=image['file_name']))
    return samples


@pytest.mark.parametrize('split', ['train', 'val'])
def test_samples_and_files_give_the_same(coco_root: Path, tmp_path: Path, split: str) -> None:
    folder = coco_root / 'annotations' / f'panoptic_{split}2017'
    categories = json.loads(folder.with_suffix('.json').read_text())['categories']
    meta = dict(classes=NAMES, thing_classes=THINGS, category_ids=[entry['id'] for entry in categories])
    assert [entry['name'] for entry in categories] == list(NAMES)
    samples = coco_samples(coco_root, split, np.random.default_rng(3))
    # What the split shows: crowds, and an image without annotation.
    assert any(len(sample['ignored_instances']['labels']) for sample in samples)
    assert any(not sample['gt_panoptic_seg']['segment_ids'].any() for sample in samples)

    in_files = dict(ann_file=f'{folder}.json', seg_prefix=str(folder))
    results = []
    for name, source in (('files', in_files), ('samples', {})):
        metric = build(meta, out_dir=str(tmp_path / name), **source)
        metric.process(None, samples)
        rows = {record['img_id']: record['rows'] for record in metric.results}
        results.append((rows, metric.evaluate(len(samples))))
    (file_rows, from_files), (sample_rows, from_samples) = results
    np.testing.assert_equal(sample_rows, file_rows)
    assert from_samples == from_files
    assert all(0 < value < 100 for value in from_files.values())
    files = [sorted(path for path in (tmp_path / name).rglob('*') if path.is_file()) for name in ('files', 'samples')]
    assert len(files[0]) == len(files[1]) == 1 + len(samples)
    for one, other in zip(*files, strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_crowds_make_a_difference_there(coco_root: Path) -> None:
    """Without crowds the comparison above would prove little."""
    samples = [one for split in ('train', 'val') for one in coco_samples(coco_root, split, np.random.default_rng(3))]
    changed = 0
    for sample in samples:
        id_map, labels = sample['gt_panoptic_seg']['segment_ids'], sample['gt_instances']['labels']
        without = {
            **sample,
            'gt_panoptic_seg': {'segment_ids': torch.where(id_map > len(labels), 0, id_map)},
            'ignored_instances': {'labels': labels[:0]},
        }
        metric = build(dict(classes=NAMES, thing_classes=THINGS))
        metric.process(None, [sample, without])
        changed += not np.array_equal(metric.results[0]['rows'], metric.results[1]['rows'])
    assert changed > 0


# Counted by hand


def test_prediction_on_crowd_of_its_category_is_not_wrong() -> None:
    id_map, truth = [1, 1, 1, 2, 2, 2, 2, 2], ([SKY], [DOG])
    dog = DOG + 5000
    assert count([VOID, VOID, dog, dog, dog, VOID, VOID, VOID], id_map, *truth) == {7: (0, 0, 0, 1)}
    cat = CAT + 5000
    wrong = count([VOID, VOID, cat, cat, cat, VOID, VOID, VOID], id_map, *truth)
    assert wrong == {7: (0, 0, 0, 1), 11: (0, 0, 1, 0)}
    # a crowd is neither matched nor missed
    assert count([VOID] * 3 + [dog] * 5, id_map, *truth) == {7: (0, 0, 0, 1)}


def test_of_several_crowds_of_a_category_the_last_counts() -> None:
    assert count([DOG] * 3 + [VOID] * 3, [2, 2, 2, 1, 1, 1], [], [DOG, DOG]) == {}
    assert count([DOG] * 3 + [VOID] * 3, [1, 1, 1, 2, 2, 2], [], [DOG, DOG]) == {3: (0, 0, 1, 0)}


def test_union_leaves_out_void_of_the_truth() -> None:
    assert count([VOID] + [GRASS] * 5, [1] * 3 + [0] * 3, [GRASS]) == {0: (2 / 3, 1, 0, 0)}


@pytest.mark.parametrize('labels', [[], [CAT]], ids=['nothing', 'crowd'])
def test_an_image_all_void_or_crowd_counts_nothing(labels: list[int]) -> None:
    assert count([CAT, CAT, CAT + 1000, VOID], [len(labels)] * 4, [], labels) == {}
    metric = build()
    metric.process(None, [panoptic_sample([[CAT, CAT, CAT]], [[len(labels)] * 3], [], labels)])
    assert all(np.isnan(value) for value in metric.evaluate(1).values())


def test_things_and_stuff_are_those_of_the_metainfo() -> None:
    samples = [panoptic_sample([[DOG, DOG, SKY, SKY, VOID]], [[1, 1, 2, 2, 3]], [DOG, SKY, SKY])]
    metric = build()
    metric.process(None, samples)
    found = metric.evaluate(1)
    assert (found['coco_panoptic/PQ_th'], found['coco_panoptic/RQ_st']) == (100, pytest.approx(100 / 1.5))
    metric = build({**META, 'thing_classes': ('sky',)})
    metric.process(None, samples)
    assert metric.evaluate(1)['coco_panoptic/PQ_st'] == 100


def test_missing_crowd_labels_are_no_crowds_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.evaluation.image_metric.print_log', lambda text, **_: said.append(text))
    truth = [[CAT, CAT]], [[1, 1]], [CAT]
    metric = build()
    metric.process(None, [panoptic_sample(*truth)])
    assert said == []
    without = [panoptic_sample(*truth, ignored_instances=changed) for changed in (None, {}, {'bboxes': torch.ones(0)})]
    metric.process(None, without)
    assert len(said) == 1 and 'with_crowds=True' in said[0]
    assert all(np.array_equal(record['rows'], [[11, 1, 1, 0, 0]]) for record in metric.results)


def test_through_the_evaluator_with_host_samples() -> None:
    sample = DetDataSample(metainfo=dict(img_id='a_1', img_path='images/a_1.jpg'))
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.tensor([[[CAT, CAT, CAT, VOID]]]))
    sample.gt_panoptic_seg = PixelData(segment_ids=torch.tensor([[[1, 1, 0, 2]]], dtype=torch.int32))
    sample.gt_instances = InstanceData(labels=torch.tensor([CAT]))
    sample.ignored_instances = InstanceData(labels=torch.tensor([CAT]))
    evaluator = Evaluator(dict(type='eomt_mm.PanopticQuality'))
    evaluator.dataset_meta = META
    evaluator.process([sample])
    assert evaluator.evaluate(1)['coco_panoptic/PQ'] == 100


def test_from_the_data_set_and_its_pipeline(coco_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set's own file, read once, and its samples with crowds give what files give."""
    read: list[str] = []
    get = mmengine.fileio.get
    monkeypatch.setattr('mmengine.fileio.get', lambda path, **others: (read.append(str(path)), get(path, **others))[1])
    folder = coco_root / 'annotations' / 'panoptic_val2017'
    dataset = CocoPanoptic(
        data_root=str(coco_root),
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
        metainfo=dict(classes=NAMES, thing_classes=THINGS, stuff_classes=NAMES[len(THINGS) :]),
        test_mode=True,
        pipeline=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='eomt_mm.ResizeToInput', img_size=64, fit='inside'),
            dict(type='eomt_mm.LoadPanopticSegments', with_crowds=True),
            dict(type='eomt_mm.PackSegments'),
        ],
    )
    predictions = {
        one['img_id']: one['pred_panoptic_seg'] for one in coco_samples(coco_root, 'val', np.random.default_rng(4))
    }
    samples = []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples'].to_dict()
        samples.append({**sample, 'pred_panoptic_seg': predictions[sample['img_id']]})
    assert sum(len(sample['ignored_instances']['labels']) for sample in samples) > 0
    found = []
    without = {key: value for key, value in dataset.metainfo.items() if key != 'annotation_file'}
    wrapped = RepeatDataset(dataset, 2).metainfo
    files = dict(ann_file=f'{folder}.json', seg_prefix=str(folder))
    for meta, source in ((without, {}), (without, files), (dataset.metainfo, {}), (wrapped, {})):
        metric = build(meta, **source)
        metric.process(None, samples)
        found.append(metric.evaluate(len(samples)))
    assert found == [found[0]] * 4
    assert read.count(f'{folder}.json') == 2  # by the data set, and where ann_file is given
    assert pickle.loads(pickle.dumps(dataset)).metainfo['annotation_file'].content is None  # workers need none


# Result files


def written(out: Path) -> list[dict[str, Any]]:
    content = json.loads((out / 'panoptic_results.json').read_text())
    assert content.keys() == {'annotations'}
    return content['annotations']


@pytest.mark.parametrize(('ids', 'expected'), [([11, 3, 0, 7], (11, 7)), (None, (1, 4)), (range(24, 28), (24, 27))])
def test_results_carry_category_ids_of_the_metainfo(tmp_path: Path, ids: Any, expected: tuple[int, int]) -> None:
    meta = {key: value for key, value in META.items() if key != 'category_ids'}
    metric = build(meta if ids is None else {**meta, 'category_ids': ids}, out_dir=str(tmp_path))
    metric.process(None, [panoptic_sample([[CAT, CAT, SKY + 1000, VOID]], [[1, 1, 2, 2]], [CAT, SKY])])
    assert metric.evaluate(1)['coco_panoptic/RQ_th'] == 100
    (annotation,) = written(tmp_path)
    assert annotation['image_id'] == 'b_000001_000019' and annotation['file_name'] == 'b_000001_000019.png'
    categories = {info['id']: info['category_id'] for info in annotation['segments_info']}
    ids_in_png = read_panoptic_png(tmp_path / 'panoptic_results' / annotation['file_name'])[0].tolist()
    assert [categories.get(id_) for id_ in ids_in_png] == [expected[0], expected[0], expected[1], None]


def test_png_is_named_after_the_image(tmp_path: Path) -> None:
    metric = build(out_dir=str(tmp_path))
    truth = [[CAT]], [[1]], [CAT]
    paths = 'zip://data/city.zip/val/a_1.jpg', 'C.v2.png'
    metric.process(None, [panoptic_sample(*truth, img_id=i, img_path=path) for i, path in enumerate(paths)])
    metric.evaluate(2)
    assert [one['file_name'] for one in written(tmp_path)] == ['a_1.png', 'C.v2.png']
    assert {path.name for path in (tmp_path / 'panoptic_results').iterdir()} == {'a_1.png', 'C.v2.png'}


def test_format_only_needs_no_truth(tmp_path: Path) -> None:
    metric = build(out_dir=str(tmp_path), format_only=True)
    bare = panoptic_sample([[CAT, DOG]], [[0, 0]], [], gt_panoptic_seg=None, gt_instances=None, ignored_instances=None)
    metric.process(None, [bare])
    assert metric.evaluate(1) == {}
    assert len(written(tmp_path)[0]['segments_info']) == 2


def test_parts_of_several_processes_add_up(tmp_path: Path) -> None:
    samples = [panoptic_sample([[label]], [[1]], [CAT], img_id=f'a_{i}') for i, label in enumerate([DOG, CAT, CAT])]
    first, second = build(out_dir=str(tmp_path)), build(out_dir=str(tmp_path))
    first.process(None, samples[:2])
    second.process(None, samples[2:] + samples[:1])  # what a padding sampler adds
    together = pickle.loads(pickle.dumps(first.results + second.results))
    assert first.compute_metrics(together)['RQ'] == pytest.approx(100 * (2 / 2.5 + 0) / 2)
    assert [one['image_id'] for one in written(tmp_path)] == ['a_0', 'a_1', 'a_2']


def test_images_that_cannot_be_told_apart(tmp_path: Path) -> None:
    first, second, other = (
        panoptic_sample([[CAT]], [[1]], [CAT], img_id=img_id, img_path=path)
        for img_id, path in ((1, 'x/1.jpg'), (1, 'y/1.jpg'), (2, 'z/1.jpg'))
    )
    metric = build()
    metric.process(None, [first, second])
    with pytest.raises(ValueError, match='x/1.jpg and y/1.jpg .* img_id 1'):
        metric.evaluate(2)
    metrics = build(out_dir=str(tmp_path)), build(out_dir=str(tmp_path))  # of two processes
    for one, sample in zip(metrics, (first, other), strict=True):
        one.process(None, [sample])
    with pytest.raises(ValueError, match=r'image 1 \(x/1.jpg\) and image 2 \(z/1.jpg\) would both be named 1.png'):
        metrics[0].compute_metrics(metrics[0].results + metrics[1].results)
    assert [path.name for path in tmp_path.iterdir()] == ['panoptic_results.part']


# Errors


@pytest.mark.parametrize(
    'changes',
    [
        dict(gt_panoptic_seg=None),
        dict(gt_instances=None),
        dict(gt_panoptic_seg={'sem_seg': torch.zeros(1, 1, 2)}),
        dict(gt_instances={'bboxes': torch.zeros(0, 4)}),
    ],
)
def test_a_sample_without_truth_is_named(changes: dict[str, Any]) -> None:
    sample = panoptic_sample([[CAT, CAT]], [[1, 1]], [CAT], **changes)
    metric = build()
    with pytest.raises(ValueError, match=r'b_000001_000019 \(data/.*jpg\) has no ground truth.*pipeline.*ann_file'):
        metric.process(None, [sample])
    assert metric.results == []


@pytest.mark.parametrize(
    ('id_map', 'labels', 'crowds', 'message'),
    [
        ([1, 3], [CAT], [DOG], r'b_000001_000019.*in \[1, 3\].*1 segments and 1 crowds'),
        ([-1, 1], [CAT], [], r'in \[-1, 1\]'),
        ([1, 1], [4], [], r'labels \[4\].* 4 classes'),
        ([1, 2], [CAT], [-1], r'labels \[0, -1\]'),
        ([1, 1, 1], [CAT], [], r'b_000001_000019 is \(1, 2\), ground truth in the sample \(1, 3\)'),
    ],
)
def test_truth_that_does_not_fit(id_map: list[int], labels: list[int], crowds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count([CAT, CAT], id_map, labels, crowds)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(thing_classes=None), 'no "thing_classes".*metainfo.*ann_file'),
        (dict(thing_classes=('cat', 'wolf')), r"not classes: \['wolf'\]"),
        (dict(classes=('cat', 'dog', 'cat', 'sky')), 'unique'),
        (dict(category_ids=[1, 2, 3]), r'category_ids=\[1, 2, 3\].* 4 classes'),
        (dict(category_ids=[1, 2, 2, 3]), r'category_ids=\[1, 2, 2, 3\]'),
        (dict(category_ids=[]), r'category_ids=\[\]'),
        (dict(classes=()), 'no "classes"'),
    ],
)
def test_metainfo_must_say_what_is_needed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build({**META, **changes})


def test_result_files_need_a_path(tmp_path: Path) -> None:
    sample = panoptic_sample([[CAT]], [[1]], [CAT], img_path=None)
    with pytest.raises(ValueError, match='b_000001_000019 has no img_path'):
        build(out_dir=str(tmp_path)).process(None, [sample])
    metric = build()
    metric.process(None, [sample])
    assert metric.evaluate(1)['coco_panoptic/PQ'] == 100


def test_seg_prefix_needs_ann_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='without ann_file'):
        PanopticQuality(seg_prefix=str(tmp_path))


def test_folder_of_pngs_is_looked_for_where_it_can_be(coco_root: Path, tmp_path: Path) -> None:
    ann_file = str(coco_root / 'annotations' / 'panoptic_val2017.json')
    shutil.make_archive(str(tmp_path / 'annotations'), 'zip', coco_root / 'annotations')
    zipped = f'zip://{tmp_path}/annotations.zip'
    for seg_prefix in (f'{zipped}/panoptic_val2017/', 's3://nobody/knows/'):
        assert PanopticQuality(ann_file, seg_prefix).seg_prefix == seg_prefix
    for seg_prefix in (f'{zipped}/val2017/', str(coco_root / 'nowhere')):
        with pytest.raises(FileNotFoundError, match=f'seg_prefix: folder {seg_prefix.rstrip("/")} does not exist'):
            PanopticQuality(ann_file, seg_prefix)
