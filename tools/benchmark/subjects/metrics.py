"""Subjects of metrics: panoptic quality of files, and mask AP of results in memory."""

import json
import logging
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from PIL import Image
from pycocotools import mask as mask_api

from benchmark.harness import Call
from benchmark.subject import SHAPE, SUBJECTS, Results, Subject, integer
from benchmark.subjects.head import STUFF, THINGS
from eomt_mm.evaluation import panoptic_files
from eomt_mm.evaluation.instance_ap import InstanceAP

CLASSES = CocoDataset.METAINFO['classes']  # things
PER_IMAGE, PERIOD = 7, 16  # annotated instances; images after which masks repeat


def smooth_noise(rng: np.random.Generator, cells: Any, size: tuple[int, int]) -> np.ndarray:
    """Interpolate random values on a grid of ``cells`` to a float map of ``size``, about 0 to 1."""
    return cv2.resize(rng.random(cells).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)


# Panoptic quality ------------------------------------------------------------------------------------------------


def pq_problem(args: Namespace) -> Namespace:
    """Write ground truth ``gt.json`` and ``gt/``, predictions ``pred.json`` and ``pred/``; segment 0 is void."""
    rng, size, count = np.random.default_rng(0), tuple(args.ori_size), args.num_segments
    folder = tempfile.TemporaryDirectory()  # lives as long as the problem
    path = Path(folder.name)
    annotations: dict[str, list[dict[str, Any]]] = dict(gt=[], pred=[])
    for side in annotations:
        (path / side).mkdir()
    for image in range(args.num_images):
        ids = np.argmax([smooth_noise(rng, (7, 9), size) for _ in range(count)], axis=0)
        categories = rng.integers(1, THINGS + STUFF + 1, count)
        changed = np.where(rng.random(count) < 0.1, rng.integers(1, THINGS + STUFF + 1, count), categories)
        crowds = (rng.random(count) < 0.1) & (categories <= THINGS)
        for side, numbers, labels in (('gt', ids, categories), ('pred', predicted_ids(rng, ids, count), changed)):
            codes = np.append(0, rng.choice(1 << 24, count - 1, replace=False))
            colours = codes[numbers, None].astype('<i4').view(np.uint8)[..., :3]
            Image.fromarray(colours).save(path / side / f'{image}.png')  # as large as COCO's own
            segments = [
                dict(id=int(codes[k]), category_id=int(labels[k]), iscrowd=int(crowds[k]), area=int(area))
                for k, area in enumerate(np.bincount(numbers.ravel()))
                if k > 0 and area > 0
            ]
            annotations[side].append(dict(image_id=image, file_name=f'{image}.png', segments_info=segments))
    common = dict(
        images=[dict(id=k, file_name=f'{k}.jpg', height=size[0], width=size[1]) for k in range(args.num_images)],
        categories=[dict(id=k, name=f'{k}', isthing=int(k <= THINGS)) for k in range(1, THINGS + STUFF + 1)],
    )
    for side, listed in annotations.items():
        (path / f'{side}.json').write_text(json.dumps(dict(common, annotations=listed)))
    return Namespace(path=path, folder=folder, in_memory=args.in_memory, python=args.panopticapi_python)


def predicted_ids(rng: np.random.Generator, ids: np.ndarray, count: int) -> np.ndarray:
    """Make a prediction: the ground truth shifted by up to a fortieth of its height, with some segments merged."""
    reach = ids.shape[0] // 40
    moved = np.roll(ids, tuple(rng.integers(-reach, reach + 1, 2)), axis=(0, 1))
    table = np.arange(count)
    table[rng.integers(0, count, 3)] = rng.integers(0, count, 3)
    return table[moved]


def check_qualities(results: Results) -> str:
    """Compare PQ, SQ and RQ of all categories; if nothing was counted, ours are NaN and panopticapi's are 0."""
    mine, other = (results[side] for side in ('eomt_mm', 'panopticapi'))
    if mine.keys() != other.keys():
        raise RuntimeError(f'{len(mine)} categories with eomt_mm, {len(other)} with panopticapi')
    worst = max(float(np.abs(np.nan_to_num(mine[id_]) - other[id_]).max()) for id_ in mine)
    mean = np.nanmean([qualities[0] for qualities in mine.values()])
    return f'PQ {mean:.4f}; with SQ and RQ of all classes it differs from panopticapi by {worst:.1e} at most'


PQ = SUBJECTS['pq'] = Subject(
    help='panoptic quality of files of random maps with crowds and void, beside panopticapi in a process of its own '
    "(python -m venv ENV; ENV/bin/pip install panopticapi-lite 'numpy<2')",
    problem=pq_problem,
    check=check_qualities,
    options={'--panopticapi-python': dict(required=True, help='interpreter of an environment with panopticapi-lite')}
    | SHAPE
    | {
        '--num-images': integer(500, 'images'),
        '--num-segments': integer(20, 'per image, void among them'),
        '--in-memory': dict(action='store_true', help='maps are decoded before the time is taken'),
    },
    rounds=3,
    threads=1,
)


@PQ.side('eomt_mm')
def pq(problem: Namespace) -> Call:
    """Our ``pq_of_files``; result: PQ, SQ and RQ of each category."""
    read: Any = panoptic_files.read_panoptic_png
    if problem.in_memory:
        read = {str(path): read(path) for path in problem.path.glob('*/*.png')}.__getitem__

    def call() -> dict[str, tuple[float, ...]]:
        gt_json, gt, pred_json, pred = (str(problem.path / name) for name in ('gt.json', 'gt', 'pred.json', 'pred'))
        cv2.setNumThreads(1)  # its threads would compete with the timed process
        with mock.patch.object(panoptic_files, 'read_panoptic_png', read):
            _, per_class = panoptic_files.pq_of_files(gt_json, gt, pred_json, pred)
        return {str(id_): (one['pq'], one['sq'], one['rq']) for id_, one in per_class.items()}

    return call


# Mask AP ---------------------------------------------------------------------------------------------------------


def instances_problem(args: Namespace) -> Namespace:
    """Generate random masks as ground truth, and shifted and other masks as predictions; both repeat after some images.

    Returns:
        ``file``: COCO json of the ground truth; ``predictions``: of ``PERIOD`` images; ``size`` and ``num_images``.
    """
    rng, size = np.random.default_rng(0), tuple(args.ori_size)
    pool = np.stack([smooth_noise(rng, rng.integers(4, 12, 2), size) > 0.7 for _ in range(60)])
    annotated = np.stack([rng.integers(0, n, (PERIOD, PER_IMAGE)) for n in (len(pool), len(CLASSES))], axis=2)
    predictions = []
    for masks_and_labels in annotated:
        masks, labels = (rng.integers(0, n, args.num_predictions) for n in (len(pool), len(CLASSES)))
        masks[:PER_IMAGE], labels[:PER_IMAGE] = masks_and_labels[: args.num_predictions].T
        moved = np.roll(pool[masks], tuple(rng.integers(-9, 10, 2)), axis=(1, 2))
        scores = rng.random(len(masks)).astype(np.float32)
        boxes = np.zeros((len(masks), 4), np.float32)
        found = dict(masks=moved, labels=labels, bboxes=boxes, scores=scores)
        predictions.append({key: torch.from_numpy(value) for key, value in found.items()})
    folder = tempfile.TemporaryDirectory()  # lives as long as the problem
    file = Path(folder.name) / 'gt.json'
    file.write_text(json.dumps(coco_file(pool, annotated, args.num_images)))
    return Namespace(file=file, folder=folder, predictions=predictions, size=size, num_images=args.num_images)


def coco_file(pool: np.ndarray, annotated: np.ndarray, num_images: int) -> dict[str, Any]:
    """Build COCO's JSON of masks (M, H, W), given mask numbers and labels (``PERIOD``, ``PER_IMAGE``, 2) of images."""
    height, width = pool.shape[1:]
    outlines = mask_api.encode(np.asfortranarray(pool.transpose(1, 2, 0), np.uint8))
    annotations = [
        dict(
            id=PER_IMAGE * image + k + 1, image_id=image, category_id=int(label) + 1, iscrowd=0,
            segmentation=dict(outlines[mask], counts=outlines[mask]['counts'].decode()),
            area=float(pool[mask].sum()), bbox=[0, 0, width, height],
        )
        for image in range(num_images)
        for k, (mask, label) in enumerate(annotated[image % PERIOD])
    ]  # fmt: skip
    images = [dict(id=k, height=height, width=width, file_name=f'{k}.jpg') for k in range(num_images)]
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def check_numbers(results: Results) -> str:
    """Compare the mAP of the sides; mmdet rounds it to three digits."""
    text = 'mAP: ' + ', '.join(f'{name} {value:.3f}' for name, value in results.items())
    if max(results.values()) - min(results.values()) > 1e-3:
        raise RuntimeError(f'{text}: they differ')
    return text


INSTANCE_AP = SUBJECTS['instance_ap'] = Subject(
    help="mask AP of random masks of 80 classes, beside mmdet's CocoMetric",
    problem=instances_problem,
    check=check_numbers,
    options=SHAPE | {'--num-images': integer(2000, 'images'), '--num-predictions': integer(100, 'per image')},
    rounds=1,
    threads=1,
    exact=dict(num_images=50),
    small=dict(num_images=2, num_predictions=3),
)


def scoring(problem: Namespace, make: Callable[[str], Any]) -> Call:
    """Make a call that passes all results to a new metric of the file and returns its mAP."""

    def call() -> float:
        metric = make(str(problem.file))
        metric.dataset_meta = dict(classes=CLASSES)
        for k in range(problem.num_images):
            found = dict(problem.predictions[k % PERIOD])
            found['scores'] = found['scores'] * (1 - k / 1e5)  # no two scores are equal
            metric.process(None, [dict(img_id=k, ori_shape=problem.size, pred_instances=found)])
        return float(metric.evaluate(problem.num_images)['coco/segm_mAP'])

    def silent_call() -> float:
        logging.disable(logging.INFO)  # and what pycocotools prints
        try:
            with redirect_stdout(None):
                return call()
        finally:
            logging.disable(logging.NOTSET)

    return silent_call


@INSTANCE_AP.side('eomt_mm')
def instance_ap(problem: Namespace) -> Call:
    return scoring(problem, InstanceAP)
