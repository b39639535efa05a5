"""Mask AP beside mmdet's CocoMetric: time per image in turns, and growth of memory with each in a process of its own.

Both judge the same random masks against the same random truth of 80 classes.

Examples:
    python tools/analysis/compare_instance_ap.py                 # times, alternating image by image
    python tools/analysis/compare_instance_ap.py --only eomt_mm  # memory of one; then --only mmdet
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
import eomt_mm  # noqa: F401  isort: skip
import cv2
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from pycocotools import mask as mask_api

from benchmark.harness import resident
from eomt_mm.evaluation.instance_ap import InstanceAP

SIZE, NUM_CLASSES, TRUTHS_PER_IMAGE = (480, 640), 80, 7
CLASSES = CocoDataset.METAINFO['classes']


def random_masks(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, H, W) bool: blobs of several sizes."""
    noise = [rng.random(rng.integers(4, 12, 2)).astype(np.float32) for _ in range(count)]
    return np.stack([cv2.resize(grid, SIZE[::-1], interpolation=cv2.INTER_CUBIC) > 0.7 for grid in noise])


def write_truth(path: Path, pool: np.ndarray, num_images: int, rng: np.random.Generator) -> np.ndarray:
    """A COCO json of ``num_images``; returns (num_images, TRUTHS_PER_IMAGE, 2), mask in the pool and label of each."""
    outlines = mask_api.encode(np.asfortranarray(pool.transpose(1, 2, 0), np.uint8))
    chosen = np.stack([rng.integers(0, n, (num_images, TRUTHS_PER_IMAGE)) for n in (len(pool), NUM_CLASSES)], axis=2)
    annotations = [
        dict(
            id=len(chosen[0]) * image + k + 1, image_id=image, category_id=int(label) + 1, iscrowd=0,
            segmentation=dict(outlines[mask], counts=outlines[mask]['counts'].decode()),
            area=float(pool[mask].sum()), bbox=[0, 0, SIZE[1], SIZE[0]],
        )
        for image, pairs in enumerate(chosen)
        for k, (mask, label) in enumerate(pairs)
    ]  # fmt: skip
    images = [dict(id=k, height=SIZE[0], width=SIZE[1], file_name=f'{k}.jpg') for k in range(num_images)]
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return chosen


def predict(pool: np.ndarray, truth: np.ndarray, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Shifted masks of the truth with its labels, and random ones."""
    masks, labels = rng.integers(0, len(pool), count), rng.integers(0, NUM_CLASSES, count)
    masks[: len(truth)], labels[: len(truth)] = truth.T
    moved = np.roll(pool[masks], tuple(rng.integers(-9, 10, 2)), axis=(1, 2))
    return dict(
        masks=torch.from_numpy(moved), labels=torch.from_numpy(labels), bboxes=torch.zeros(count, 4),
        scores=torch.from_numpy(rng.random(count).astype(np.float32)),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--num-images', type=int, default=2000)
    parser.add_argument('--num-predictions', type=int, default=100, help='per image')
    parser.add_argument('--only', choices=['eomt_mm', 'mmdet'], help='one metric, for its memory')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pool = random_masks(rng, 60)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'truth.json'
        truth = write_truth(file, pool, args.num_images, rng)
        makers: dict[str, Any] = dict(
            eomt_mm=lambda: InstanceAP(str(file)),
            mmdet=lambda: CocoMetric(str(file), metric='segm', proposal_nums=(1, 10, 100)),
        )
        metrics = {name: make() for name, make in makers.items() if args.only in (None, name)}
    seconds = dict.fromkeys(metrics, 0.0)
    for metric in metrics.values():
        metric.dataset_meta = dict(classes=CLASSES)
    start = resident('VmRSS')
    for k in range(args.num_images):
        sample = dict(img_id=k, ori_shape=SIZE, pred_instances=predict(pool, truth[k], args.num_predictions, rng))
        for name, metric in list(metrics.items())[:: 1 if k % 2 else -1]:
            begun = time.perf_counter()
            metric.process(None, [sample])
            seconds[name] += time.perf_counter() - begun
    grown = (resident('VmRSS') - start) / 1e6
    for name, metric in metrics.items():
        begun = time.perf_counter()
        found = metric.evaluate(args.num_images)
        total = seconds[name] + time.perf_counter() - begun
        memory = f', memory grew by {grown:.0f} MB' if args.only else ''
        print(f'{name}: {1e3 * total / args.num_images:.1f} ms per image{memory}, mAP {found["coco/segm_mAP"]:.3f}')


if __name__ == '__main__':
    main()
