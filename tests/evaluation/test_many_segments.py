"""300 segments in an image, more than a byte counts: every metric, with ground truth from files and from samples."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import read_panoptic_png, write_panoptic_png
from eomt_mm.evaluation import CityscapesAP, InstanceAP, PanopticQuality, SemanticIoU
from eomt_mm.evaluation.ap_counting import encode_masks

NUMBER = 300
IDS = np.arange(1, NUMBER + 1).reshape(15, 20).repeat(12, axis=0).repeat(12, axis=1)  # each segment has 144 pixels
MASKS = np.stack([id_ == IDS for id_ in range(1, NUMBER + 1)])
META = dict(classes=('car',), thing_classes=('car',))


def evaluate(metric: Any, sample: dict[str, Any], meta: dict[str, Any] = META) -> dict[str, float]:
    metric.dataset_meta = meta
    metric.process(None, [{'img_id': 1, 'img_path': 'images/1.jpg', 'ori_shape': IDS.shape, **sample}])
    found: dict[str, float] = metric.evaluate(1)
    return found


def in_sample() -> dict[str, Any]:
    return dict(
        gt_panoptic_seg=dict(segment_ids=torch.from_numpy(IDS)[None]),
        gt_instances=dict(labels=torch.zeros(NUMBER, dtype=torch.int64)),
        ignored_instances=dict(labels=torch.zeros(0, dtype=torch.int64)),
    )


def instances() -> dict[str, Any]:
    return dict(
        masks=torch.from_numpy(MASKS),
        scores=torch.linspace(0, 1, NUMBER),
        labels=torch.zeros(NUMBER, dtype=torch.int64),
    )


def coco_file(path: Path) -> str:
    rles = [{**rle, 'counts': rle['counts'].decode()} for rle in encode_masks(MASKS)]
    annotations = [dict(id=k, image_id=1, category_id=5, segmentation=rle) for k, rle in enumerate(rles)]
    images = [dict(id=1, height=IDS.shape[0], width=IDS.shape[1])]
    path.write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=5, name='car', isthing=1)]))
    )
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize('source', ['file', 'map', 'instances'])
def test_instance_ap(source: str, tmp_path: Path) -> None:
    metric = InstanceAP(
        ann_file=coco_file(tmp_path / 'a.json') if source == 'file' else None,
        max_dets=(1, 100, NUMBER),
        out_dir=str(tmp_path),
    )
    sample = dict(pred_instances=instances())
    if source == 'map':
        sample |= in_sample()
    if source == 'instances':
        sample['instances'] = [dict(bbox_label=0, mask=rle) for rle in encode_masks(MASKS)]
    found = evaluate(metric, sample)
    assert found['coco/segm_mAP_50'] == 1
    assert found['coco/segm_mAP'] == pytest.approx(34 / 101)  # pycocotools takes it at 100 predictions
    assert len(json.loads((tmp_path / 'instance_results.json').read_text())) == NUMBER


@pytest.mark.slow
def test_run_lengths_in_place_of_masks() -> None:
    found = evaluate(
        InstanceAP(max_dets=(1, 100, NUMBER)),
        dict(in_sample(), pred_instances={**instances(), 'masks': encode_masks(MASKS)}),
    )
    assert found['coco/segm_mAP_50'] == 1


def test_cityscapes_ap(tmp_path: Path) -> None:
    path = tmp_path / 'ids.png'
    cv2.imwrite(str(path), (26000 + IDS).astype(np.uint16))
    metric = CityscapesAP(out_dir=str(tmp_path / 'out'))
    assert evaluate(metric, dict(seg_map_path=str(path), pred_instances=instances()))[
        'cityscapes/mAP'
    ] == pytest.approx(1)
    assert len(list((tmp_path / 'out').rglob('*.png'))) == NUMBER


@pytest.mark.parametrize(('count', 'type_'), [(256, np.uint8), (NUMBER, np.uint16)])
def test_label_maps_of_many_classes(count: int, type_: type, tmp_path: Path) -> None:
    values = np.arange(count).reshape(-1, 4)
    metric = SemanticIoU(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = dict(classes=[f'c{k}' for k in range(count)])
    metric.process({}, [dict(img_path='a.jpg', pred_sem_seg=dict(data=torch.from_numpy(values)[None]))])
    written = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
    assert written.dtype == type_ and np.array_equal(written, values)


@pytest.mark.parametrize('source', ['file', 'map'])
def test_panoptic_quality(source: str, tmp_path: Path) -> None:
    sample = dict(pred_panoptic_seg=dict(sem_seg=torch.from_numpy(1000 * IDS)[None]))
    arguments: dict[str, Any] = dict(out_dir=str(tmp_path))
    if source == 'map':
        sample |= in_sample()
    else:
        write_panoptic_png(tmp_path / 'png' / '1.png', IDS)
        data = json.loads(Path(coco_file(tmp_path / 'a.json')).read_text())
        segments = [dict(id=k, category_id=5, iscrowd=0) for k in range(1, NUMBER + 1)]
        data['annotations'] = [dict(image_id=1, file_name='1.png', segments_info=segments)]
        data['images'][0]['file_name'] = '1.jpg'
        (tmp_path / 'a.json').write_text(json.dumps(data))
        arguments.update(ann_file=str(tmp_path / 'a.json'), seg_prefix=str(tmp_path / 'png'))
    assert evaluate(PanopticQuality(**arguments), sample)['coco_panoptic/PQ'] == 100
    assert len(np.unique(read_panoptic_png(tmp_path / 'panoptic_results' / '1.png'))) == NUMBER
