"""Evaluate the panoptic quality of result files in the benchmark server's format, without a model or a host."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eomt_mm.annotations.categories import png_name
from eomt_mm.annotations.documents import Id, PanopticResult, PanopticResults, check_segments, parse, read_panoptic
from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.evaluation.panoptic_image import check_png
from eomt_mm.evaluation.pq_counting import Averages, average_pq, checked_overlap, count_segments, listed_segments
from eomt_mm.evaluation.workers import WorkQueue, keep_freed_memory


def pq_of_files(
    ann_file: str, seg_prefix: str, result_file: str, result_folder: str, num_workers: int = 0
) -> tuple[dict[str, Averages], dict[int, Averages]]:
    """Compute PQ, SQ and RQ of result files, over all annotated images.

    Args:
        ann_file: ground truth, a JSON in the COCO panoptic format.
        seg_prefix: folder of its PNGs.
        result_file: JSON with 'annotations' of predictions (https://cocodataset.org/#format-results), such as the
            ``panoptic_results.json`` of `PanopticQuality`.
        result_folder: folder of its PNGs.
        num_workers: number of worker processes; 0 counts in this process.

    Returns:
        see `average_pq`, over all categories of ``ann_file``.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: an image has no result, or files are damaged or inconsistent.
        RuntimeError: the same in a worker process.
    """
    data = read_panoptic(Path(ann_file).read_bytes(), ann_file)
    categories = {category['id']: bool(category['isthing']) for category in data['categories']}
    images = {image['id']: image for image in data['images']}
    for one in data['annotations']:
        one['file_name'] = png_name(one, images[one['image_id']])
    results = _read_results(result_file)
    missing = [one['image_id'] for one in data['annotations'] if one['image_id'] not in results]
    if missing:
        raise ValueError(
            f'{result_file} has no results of {len(missing)} annotated images of {ann_file}, such as {missing[:5]}: '
            'evaluate all images, also those in which nothing was found'
        )
    count = partial(_count_files, seg_prefix, result_folder, frozenset(categories))
    keep_freed_memory()
    queue, rows = WorkQueue(num_workers), [np.zeros((0, 5))]
    for annotation in data['annotations']:
        image_id = annotation['image_id']
        queue.put(None, f'image {image_id}', count, annotation, results[image_id])
        rows += [found for _, found in queue.results()]
    rows += [found for _, found in queue.results(all_of_them=True)]
    return average_pq(np.concatenate(rows), categories)


def _read_results(path: str) -> dict[Id, PanopticResult]:
    """Read the annotations of a result file, by image id."""
    try:
        annotations = parse(Path(path).read_bytes(), PanopticResults, path)['annotations']
    except ValueError as error:
        raise ValueError(f'{error}; give the panoptic_results.json that tools/test.py --out writes') from error
    results = {one['image_id']: one for one in annotations}
    if len(results) < len(annotations):
        raise ValueError(f'{path} has {len(annotations)} annotations of {len(results)} images: keep one of each')
    for image_id, one in results.items():
        check_segments(one['segments_info'], image_id, path)
    return results


def _count_files(
    seg_prefix: str,
    result_folder: str,
    category_ids: frozenset[int],
    true: Mapping[str, Any],
    result: Mapping[str, Any],
) -> np.ndarray:
    """Count an image from its entries in the two JSON files: rows of `count_panoptic`; errors name a PNG."""
    segments = listed_segments(result['segments_info'])[:, :2]
    gt_path = os.path.join(seg_prefix, true['file_name'])
    gt_ids = read_panoptic_png(gt_path)
    path = os.path.join(result_folder, result['file_name'])
    pred_ids = read_panoptic_png(path)
    unknown = set(segments[:, 1].tolist()) - category_ids
    if unknown:
        raise ValueError(f"{path}: categories {sorted(unknown)} are not in the ground truth's json: give its ids")
    gt_segments = listed_segments(true['segments_info'])
    try:
        overlap = checked_overlap(gt_ids, gt_segments, pred_ids, segments, only_listed=True)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    check_png(gt_path, gt_ids, gt_segments, overlap)
    return count_segments(overlap, gt_segments[:, 1], gt_segments[:, 2] != 0, segments[:, 1])
