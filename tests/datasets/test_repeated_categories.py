"""Categories of one name: the one with annotations is meant, and only names that are asked for matter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.categories import categories_by_name
from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.datasets.coco_instance import CocoInstance
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.evaluation.instance_ap import InstanceAP
from eomt_mm.evaluation.panoptic_quality import PanopticQuality

# Roboflow's: a category for the whole project comes first, named like a class of it.
CATEGORIES = [
    dict(id=0, name='door', supercategory='none', isthing=1),
    dict(id=1, name='door', supercategory='door', isthing=1),
    dict(id=2, name='window', supercategory='door', isthing=1),
    # Nobody asks for these
    dict(id=3, name='roof', supercategory='door', isthing=1),
    dict(id=4, name='roof', supercategory='door', isthing=1),
]
CLASSES = ('window', 'door')
IMAGE = dict(id=7, file_name='a.jpg', height=20, width=30)
RING = [2, 3, 12, 3, 12, 9, 2, 9]
MASK = np.zeros((20, 30), bool)
MASK[3:9, 2:12] = True


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that the files list are nowhere."""
    for module in ('coco_json', 'coco_panoptic'):
        monkeypatch.setattr(f'eomt_mm.datasets.{module}.check_files', lambda *_: None)


def instances_file(folder: Path, used: tuple[int, ...], categories: list[dict[str, Any]] = CATEGORIES) -> str:
    annotations = [dict(id=k, image_id=7, category_id=id_, segmentation=[RING]) for k, id_ in enumerate(used)]
    path = folder / 'instances.json'
    path.write_text(json.dumps(dict(images=[IMAGE], annotations=annotations, categories=categories)))
    return str(path)


def panoptic_file(folder: Path, used: tuple[int, ...]) -> str:
    segments = [dict(id=k, category_id=id_, iscrowd=0) for k, id_ in enumerate(used, start=1)]
    annotations = [dict(image_id=7, file_name='a.png', segments_info=segments)]
    path = folder / 'panoptic.json'
    path.write_text(json.dumps(dict(images=[IMAGE], annotations=annotations, categories=CATEGORIES)))
    return str(path)


@pytest.mark.parametrize('used', [(1, 2), (2, 3, 4)])
def test_instances(used: tuple[int, ...], tmp_path: Path) -> None:
    path = instances_file(tmp_path, used)
    given = dict(ann_file=path, metainfo=dict(classes=CLASSES), data_prefix=dict(img=''))
    data = CocoInstance(**given)
    assert data.cat_ids == [2, 1]
    labels = [one['bbox_label'] for one in data.get_data_info(0)['instances']]
    assert labels == [[2, 1].index(id_) for id_ in used if id_ < 3]
    predictions = dict(
        masks=torch.from_numpy(np.stack(len(labels) * [MASK])), labels=labels, scores=[0.9] * len(labels)
    )
    for metric, meta in (
        (InstanceAP(ann_file=path), dict(classes=CLASSES)),
        (InstanceAP(), CocoInstance(test_mode=True, **given).metainfo),
    ):
        metric.dataset_meta = meta
        metric.process(None, [dict(img_id=7, pred_instances={k: torch.as_tensor(v) for k, v in predictions.items()})])
        assert metric.evaluate(1)['coco/segm_mAP'] == 1


def test_panoptic(tmp_path: Path) -> None:
    path = panoptic_file(tmp_path, (1, 2))
    write_panoptic_png(tmp_path / 'a.png', np.where(MASK, 2, 1))
    meta = dict(classes=CLASSES, thing_classes=CLASSES, stuff_classes=())
    prefix = dict(img='', seg=str(tmp_path))
    data = CocoPanoptic(ann_file=path, data_prefix=prefix, metainfo=meta, serialize_data=False)
    assert data.cat_ids == [2, 1]
    assert [one['category'] for one in data.get_data_info(0)['segments_info']] == [1, 0]
    metric = PanopticQuality(ann_file=path, seg_prefix=str(tmp_path))
    metric.dataset_meta = meta
    predicted = torch.from_numpy(np.where(MASK, 1000, 1001))[None]  # segment 1 of class 0, segment 1 of class 1
    metric.process(None, [dict(img_id=7, img_path='a.jpg', pred_panoptic_seg=dict(sem_seg=predicted))])
    assert metric.evaluate(1)['coco_panoptic/PQ'] == 100


def test_a_class_that_no_image_shows(tmp_path: Path) -> None:
    path = instances_file(tmp_path, ())
    assert CocoInstance(
        ann_file=path, data_prefix=dict(img=''), metainfo=dict(classes=CLASSES), test_mode=True
    ).cat_ids == [2, 1]


def test_names_that_stay_ambiguous_are_refused_with_their_ids(tmp_path: Path) -> None:
    path = instances_file(tmp_path, (1, 2, 3, 4))
    with pytest.raises(
        ValueError, match=r"instances.json: 2 categories are named 'roof', with the ids \[3, 4\], and 2"
    ):
        CocoInstance(ann_file=path, data_prefix=dict(img=''), metainfo=dict(classes=('roof',)))
    metric = InstanceAP(ann_file=path)
    with pytest.raises(ValueError, match=r"'roof', with the ids \[3, 4\]"):
        metric.dataset_meta = dict(classes=('roof',))
    flat = [dict(id=k, name='door') for k in (5, 6)]
    with pytest.raises(ValueError, match=r"'door', with the ids \[5, 6\], and none of them has annotations"):
        categories_by_name(dict(categories=flat), ['door'], 'x.json')
    assert categories_by_name(dict(categories=flat), ['door'], 'x.json', used={6}) == [flat[1]]


@pytest.mark.parametrize('supercategory', [None, 3, ['a'], {}])
def test_a_supercategory_may_have_any_type(supercategory: Any, tmp_path: Path) -> None:
    categories = [{**category, 'supercategory': supercategory} for category in CATEGORIES]
    path = instances_file(tmp_path, (1, 2), categories)
    assert CocoInstance(ann_file=path, data_prefix=dict(img=''), metainfo=dict(classes=CLASSES)).cat_ids == [2, 1]
