"""What an evaluation of one's own data says: absent classes, too few predictions, wrong sizes, names of files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import eomt_mm  # noqa: F401  first: makes the hosts importable
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.evaluation import CityscapesAP, InstanceAP, PanopticQuality, SemanticIoU
from eomt_mm.evaluation.ap_counting import encode_masks

SIZE = (20, 30)
META = dict(classes=('car', 'person', 'train'), thing_classes=('car', 'person', 'train'))
CAMS = [f'data/images/cam{k}/frame_0001.jpg' for k in range(4)]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.evaluation.image_metric.print_log', lambda text, **_: said.append(text))
    return said


def build(metric: Any, meta: dict[str, Any] = META) -> Any:
    metric.dataset_meta = meta
    return metric


def semantic(values: Any, path: str = 'a.jpg') -> dict[str, Any]:
    label_map = torch.as_tensor(values)[None]
    return dict(img_path=path, gt_sem_seg=dict(data=label_map), pred_sem_seg=dict(data=label_map % 255))


def boxes(count: int) -> np.ndarray:
    masks = np.zeros((count, *SIZE), bool)
    for k, mask in enumerate(masks):
        mask[:, 2 * k : 2 * k + 2] = True
    return masks


def instances(num_true: int, num_predicted: int, img_id: Any = 1, path: str = 'a.jpg') -> dict[str, Any]:
    """Cars of which the first are predicted; and the same as segments."""
    ids = np.zeros(SIZE, np.int64)
    for k, mask in enumerate(boxes(num_true), start=1):
        ids[mask] = k
    labels = torch.zeros(num_predicted, dtype=torch.int64)
    return dict(
        img_id=img_id,
        img_path=path,
        ori_shape=SIZE,
        gt_panoptic_seg=dict(segment_ids=torch.from_numpy(ids)[None]),
        gt_instances=dict(labels=torch.zeros(num_true, dtype=torch.int64)),
        ignored_instances=dict(labels=torch.zeros(0, dtype=torch.int64)),
        pred_instances=dict(
            masks=torch.from_numpy(boxes(num_predicted)), scores=torch.ones(num_predicted), labels=labels
        ),
        pred_panoptic_seg=dict(sem_seg=torch.from_numpy(np.where(ids > 0, 1000 * ids, 255))),
    )


# Classes without ground truth


def test_masks_of_0_and_255_are_noticed(warnings: list[str]) -> None:
    metric = build(SemanticIoU(), dict(classes=('background', 'object')))
    for _ in range(2):  # two validations
        metric.process({}, [semantic([[0, 0, 255]]), semantic([[0, 255, 255]], 'b.jpg')])
        assert metric.evaluate(2)['mIoU'] == 100
    (text,) = warnings
    assert text.startswith('1 of 2 classes do not occur in the ground truth of the 2 evaluated images')
    assert 'no score: object.' in text and 'label_ids=[0, 255]' in text


def test_all_classes_present_is_no_warning(warnings: list[str]) -> None:
    metric = build(SemanticIoU(), dict(classes=('background', 'object')))
    metric.process({}, [semantic([[0, 0]]), semantic([[1, 1]])])
    metric.evaluate(2)
    assert not warnings


def cityscapes(tmp_path: Path) -> dict[str, Any]:
    path = str(tmp_path / 'ids.png')
    cv2.imwrite(path, np.full(SIZE, 26001, np.uint16))
    return {**instances(1, 1), 'seg_map_path': path}


@pytest.mark.parametrize('kind', [InstanceAP, PanopticQuality, CityscapesAP])
def test_absent_classes_of_segments(kind: type, warnings: list[str], tmp_path: Path) -> None:
    metric = build(kind())
    for _ in range(2):
        metric.process(None, [cityscapes(tmp_path)])
        metric.evaluate(1)
    (text,) = warnings
    assert text.startswith('2 of 3 classes do not occur') and 'of the 1 evaluated image and' in text
    assert 'person, train. If they should occur, check metainfo.classes' in text


def test_many_absent_classes_are_counted(warnings: list[str]) -> None:
    metric = build(SemanticIoU(), dict(classes=[f'c{k}' for k in range(150)]))
    metric.process({}, [semantic([[3]])])
    metric.evaluate(1)
    assert warnings[0].startswith('149 of 150') and 'c10, ...' in warnings[0] and 'c11' not in warnings[0]


# Fewer predictions than instances


def test_max_per_image_below_the_number_of_instances(warnings: list[str]) -> None:
    metric = build(InstanceAP(), dict(classes=('car',)))
    metric.process(None, [instances(3, 5), instances(9, 5, 2, 'b.jpg'), instances(7, 5, 3)])
    metric.evaluate(3)
    (text,) = warnings
    assert text.startswith('image 2 (b.jpg) has 9 instances of ground truth, but no image more than 5 predictions')
    assert '2 of 3 images' in text and 'max_per_image' in text and 'num_queries' in text
    metric.process(None, [instances(3, 5)])
    metric.evaluate(1)
    assert len(warnings) == 1


def test_max_dets_below_the_number_of_instances(warnings: list[str]) -> None:
    ids = np.arange(1, 121).reshape(10, 12).repeat(2, axis=0).repeat(2, axis=1)
    masks = torch.from_numpy(np.stack([ids == k for k in range(1, 121)]))
    sample = instances(1, 1)
    sample['gt_panoptic_seg'] = dict(segment_ids=torch.from_numpy(ids)[None])
    sample['gt_instances'] = dict(labels=torch.zeros(120, dtype=torch.int64))
    sample['pred_instances'] = dict(masks=masks, scores=torch.ones(120), labels=torch.zeros(120, dtype=torch.int64))
    metric = build(InstanceAP(), dict(classes=('car',)))
    metric.process(None, [sample])
    metric.evaluate(1)
    (text,) = warnings
    assert '120 instances of one class' in text and 'at most 100' in text and 'max_dets=(1, 10, 100)' in text


# Sizes


def coco_json(path: Path, size: tuple[int, int], **more: Any) -> str:
    image = dict(id=1, height=size[0], width=size[1], file_name='cam0/frame_0001.jpg')
    categories = [dict(id=k, name=name, isthing=1) for k, name in enumerate(META['classes'], start=1)]
    path.write_text(json.dumps(dict(images=[image], categories=categories, annotations=[], **more)))
    return str(path)


@pytest.mark.parametrize('kind', [InstanceAP, PanopticQuality])
def test_size_in_the_json_is_that_of_the_image(kind: type, tmp_path: Path) -> None:
    arguments = dict(seg_prefix=str(tmp_path)) if kind is PanopticQuality else {}
    metric = build(kind(ann_file=coco_json(tmp_path / 'rotated.json', SIZE[::-1]), **arguments))
    message = r'rotated.json is \(30, 20\), its image a.jpg \(20, 30\) \(height, width\): resized, or rotated by EXIF\?'
    with pytest.raises(ValueError, match=message):
        metric.process(None, [instances(1, 1)])


# Names of result files


def test_label_maps_keep_the_path_below_the_prefix(tmp_path: Path) -> None:
    metric = build(SemanticIoU(output_dir=str(tmp_path), img_prefix='data/images'), dict(classes=('a', 'b')))
    metric.process({}, [semantic([[k % 2]], path) for k, path in enumerate(CAMS)])
    metric.evaluate(4)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.png')) == [
        f'cam{k}/frame_0001.png' for k in range(4)
    ]
    with pytest.raises(
        ValueError, match='cam0/frame_0001.jpg and .*cam0/frame_0001.png would both be named cam0/frame'
    ):
        metric.process({}, [semantic([[0]], 'data/images/cam0/frame_0001.png')])


def test_label_maps_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = build(SemanticIoU(output_dir=str(tmp_path)), dict(classes=('a', 'b')))
    metric.process({}, [semantic([[0]], CAMS[0])])
    with pytest.raises(
        ValueError, match='cam0/frame_0001.jpg and .*cam1/frame_0001.jpg would both be named frame_0001'
    ):
        metric.process({}, [semantic([[0]], CAMS[1])])
    other = build(SemanticIoU(output_dir=str(tmp_path)), dict(classes=('a', 'b')))
    other.process({}, [semantic([[0]], CAMS[1])])
    gathered: list[Any] = []  # of two processes
    monkeypatch.setattr(
        'eomt_mm.evaluation.semantic_iou.all_gather_object', lambda own: gathered.append(own) or gathered
    )
    metric.evaluate(1)
    with pytest.raises(ValueError, match='would both be named frame_0001'):
        other.evaluate(1)


def test_panoptic_results_keep_the_path_below_the_prefix(tmp_path: Path) -> None:
    metric = build(PanopticQuality(out_dir=str(tmp_path), img_prefix='data/images'))
    metric.process(None, [instances(k + 1, 1, k, path) for k, path in enumerate(CAMS)])
    metric.evaluate(4)
    names = [one['file_name'] for one in json.loads((tmp_path / 'panoptic_results.json').read_text())['annotations']]
    assert names == [f'cam{k}/frame_0001.png' for k in range(4)]
    assert [len(np.unique(read_panoptic_png(tmp_path / 'panoptic_results' / name))) for name in names] == [2, 3, 4, 5]


def test_panoptic_results_of_one_name_are_refused(tmp_path: Path) -> None:
    metric = build(PanopticQuality(out_dir=str(tmp_path)))
    with pytest.raises(
        ValueError, match=r'image 0 \(.*cam0/.*\) and image 1 \(.*cam1/.*\) would both be named frame_0001'
    ):
        metric.process(None, [instances(1, 1, k, path) for k, path in enumerate(CAMS)])


def test_panoptic_results_stay_in_their_folder(tmp_path: Path) -> None:
    data = json.loads(Path(coco_json(tmp_path / 'a.json', SIZE)).read_text())
    data['annotations'] = [dict(image_id=1, file_name='../../a.png', segments_info=[])]
    (tmp_path / 'a.json').write_text(json.dumps(data))
    metric = build(PanopticQuality(ann_file=str(tmp_path / 'a.json'), out_dir=str(tmp_path / 'out'), format_only=True))
    with pytest.raises(ValueError, match=r'named \.\./\.\./a.png, which is outside of the folder of results'):
        metric.process(None, [instances(1, 1)])


def test_instance_results_are_told_apart_by_id(tmp_path: Path) -> None:
    metric = build(InstanceAP(out_dir=str(tmp_path)))
    metric.process(None, [instances(1, 1, k, path) for k, path in enumerate(CAMS)])
    metric.evaluate(4)
    results = json.loads((tmp_path / 'instance_results.json').read_text())
    assert [one['image_id'] for one in results] == [0, 1, 2, 3]
    assert results[0]['segmentation']['counts'] == encode_masks(boxes(1))[0]['counts'].decode()
