"""Panoptic quality of result files beside panopticapi: time and numbers, each in fresh processes of its own.

panopticapi's index package is panopticapi-lite, which needs numpy below 2, so it runs in an environment of its own
(``python -m venv E; E/bin/pip install panopticapi-lite``). Both judge the same random COCO-size maps, with crowds and
void, in one process: from files (two PNGs per image), and from maps in memory, where each counts maps that were decoded
before. What is timed is the work, reading both json files included, imports not. Processes take turns; a ratio is the
median of the paired ratios.

Examples:
    python tools/analysis/compare_pq.py --panopticapi-python E/bin/python
    python tools/analysis/compare_pq.py --panopticapi-python E/bin/python --num-images 50 --rounds 1
"""

# This file also runs in panopticapi's environment: hosts and torch are imported where they are used.
import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

THINGS, STUFF = 80, 53  # COCO
SIDES = ('eomt_mm', 'panopticapi')
QUALITIES = ('pq', 'sq', 'rq')
Numbers = dict[str, dict[str, float]]  # 'pq', 'sq', 'rq' of each category id


def random_ids(rng: np.random.Generator, size: tuple[int, int], num_segments: int) -> np.ndarray:
    """(H, W) int32 in [0, num_segments - 1]: regions with curved borders."""
    import cv2

    noise = [rng.random((7, 9)).astype(np.float32) for _ in range(num_segments)]
    fields = [cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) for grid in noise]
    return np.argmax(fields, axis=0).astype(np.int32)


def predicted_ids(rng: np.random.Generator, ids: np.ndarray, num_segments: int) -> np.ndarray:
    """The truth moved by up to a fortieth of its height, some of its segments merged."""
    reach = ids.shape[0] // 40
    moved = np.roll(ids, tuple(rng.integers(-reach, reach + 1, 2)), axis=(0, 1))
    table = np.arange(num_segments)
    table[rng.integers(0, num_segments, 3)] = rng.integers(0, num_segments, 3)
    return table[moved]


def write_data(folder: Path, num_images: int, size: tuple[int, int], num_segments: int) -> None:
    """Ground truth ``gt.json`` and ``gt/``, predictions ``pred.json`` and ``pred/``; segment 0 is void."""
    from PIL import Image

    rng = np.random.default_rng(0)
    annotations: dict[str, list[dict[str, Any]]] = dict(gt=[], pred=[])
    for side in annotations:
        (folder / side).mkdir()
    for image in range(num_images):
        ids = random_ids(rng, size, num_segments)
        categories = rng.integers(1, THINGS + STUFF + 1, num_segments)
        crowds = (rng.random(num_segments) < 0.1) & (categories <= THINGS)
        wrong = rng.random(num_segments) < 0.1
        for side, numbers in (('gt', ids), ('pred', predicted_ids(rng, ids, num_segments))):
            codes = np.append(0, rng.choice(1 << 24, num_segments - 1, replace=False))
            colours = codes[numbers, None].astype('<i4').view(np.uint8)[..., :3]
            Image.fromarray(colours).save(folder / side / f'{image}.png')  # as large as COCO's own
            segments = [
                dict(id=int(codes[k]), category_id=int(categories[k]), iscrowd=int(crowds[k]), area=int(area))
                for k, area in enumerate(np.bincount(numbers.ravel()))
                if k > 0 and area > 0
            ]
            annotations[side].append(dict(image_id=image, file_name=f'{image}.png', segments_info=segments))
            categories = np.where(wrong, rng.integers(1, THINGS + STUFF + 1, num_segments), categories)
    common = dict(
        images=[dict(id=k, file_name=f'{k}.jpg', height=size[0], width=size[1]) for k in range(num_images)],
        categories=[dict(id=k, name=f'{k}', isthing=int(k <= THINGS)) for k in range(1, THINGS + STUFF + 1)],
    )
    for side, listed in annotations.items():
        (folder / f'{side}.json').write_text(json.dumps(dict(common, annotations=listed)))


def with_eomt_mm(folder: Path, in_memory: bool) -> tuple[float, Numbers]:
    """Seconds and numbers of `pq_of_files`."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from eomt_mm.evaluation import panoptic_files, panoptic_image

    read: Any = panoptic_image.read_panoptic_png
    if in_memory:
        read = {str(path): read(path) for path in folder.glob('*/*.png')}.__getitem__
    with mock.patch.object(panoptic_image, 'read_panoptic_png', read):
        start = time.perf_counter()
        _, per_class = panoptic_files.pq_of_files(
            str(folder / 'gt.json'), str(folder / 'gt'), str(folder / 'pred.json'), str(folder / 'pred')
        )
        seconds = time.perf_counter() - start
    return seconds, {
        str(id_): {key: float(dict[str, Any](one)[key]) for key in QUALITIES} for id_, one in per_class.items()
    }


class DecodedMap:
    """Stands for an image file whose ids are known."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self.ids


def with_panopticapi(folder: Path, in_memory: bool) -> tuple[float, Numbers]:
    """Seconds and numbers of panopticapi's own function for one process."""
    evaluation: Any = importlib.import_module('panopticapi.evaluation')
    if in_memory:
        image, rgb2id = evaluation.Image, evaluation.rgb2id
        maps = {
            str(path): DecodedMap(rgb2id(np.array(image.open(path), dtype=np.uint32)))
            for path in folder.glob('*/*.png')
        }
        evaluation.Image = argparse.Namespace(open=maps.__getitem__)
        evaluation.rgb2id = lambda ids: ids
    start = time.perf_counter()
    data = {side: json.loads((folder / f'{side}.json').read_text()) for side in ('gt', 'pred')}
    categories = {category['id']: category for category in data['gt']['categories']}
    pairs = list(zip(data['gt']['annotations'], data['pred']['annotations']))  # noqa: B905 Python of any age
    folders = [str(folder / side) for side in ('gt', 'pred')]
    stat = evaluation.pq_compute_single_core(0, pairs, *folders, categories)
    per_class = stat.pq_average(categories, isthing=None)[1]
    seconds = time.perf_counter() - start
    return seconds, {str(id_): {key: float(one[key]) for key in QUALITIES} for id_, one in per_class.items()}


def run_side(python: str, side: str, folder: Path, in_memory: bool) -> tuple[float, Numbers]:
    """Seconds and numbers of a side in a fresh process."""
    command = [python, __file__, '--side', side, '--folder', str(folder), *(['--in-memory'] if in_memory else [])]
    # One thread each: OpenCV's and numpy's would run beside the Python that is timed.
    environment = dict(os.environ, OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{side} failed: {" ".join(command)}\n{done.stderr}')
    seconds, numbers = json.loads(done.stdout.splitlines()[-1])
    return seconds, numbers


def largest_difference(ours: Numbers, theirs: Numbers) -> float:
    """Over PQ, SQ and RQ of all categories, which we give as NaN and panopticapi as 0 where nothing was counted."""
    assert ours.keys() == theirs.keys()
    return max(abs(np.nan_to_num(ours[id_][key]) - theirs[id_][key]) for id_ in ours for key in QUALITIES)


def compare(args: argparse.Namespace, folder: Path, in_memory: bool) -> str:
    """One line: times of both sides, ratio and difference."""
    import eomt_mm  # noqa: F401
    from benchmark.harness import Spread, paired_ratio

    pythons = dict(zip(SIDES, (sys.executable, args.panopticapi_python), strict=True))
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    numbers: dict[str, Numbers] = {}
    for k in range(args.rounds):
        for side in SIDES[:: -1 if k % 2 else 1]:
            spent, numbers[side] = run_side(pythons[side], side, folder, in_memory)
            seconds[side].append(spent)
    ratio = paired_ratio(seconds['panopticapi'], seconds['eomt_mm'])
    per_image = {side: 1e3 * Spread.of(spent).median / args.num_images for side, spent in seconds.items()}
    mean_pq = np.nanmean([one['pq'] for one in numbers['eomt_mm'].values()])
    return (
        f'{"maps in memory" if in_memory else "from files"}: eomt_mm {per_image["eomt_mm"]:.2f} ms per image, '
        f'panopticapi {per_image["panopticapi"]:.2f} ms, {ratio.median:.2f} times as long '
        f'({ratio.low:.2f} to {ratio.high:.2f}); PQ {mean_pq:.4f}, with SQ and RQ of all classes it differs by '
        f'{largest_difference(*(numbers[side] for side in SIDES)):.1e} at most'
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--panopticapi-python', help='interpreter of the environment with panopticapi')
    parser.add_argument('--num-images', type=int, default=500)
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), help='height and width')
    parser.add_argument('--num-segments', type=int, default=20, help='per image, void among them')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--in-memory', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.side or args.panopticapi_python):
        parser.error('--panopticapi-python: name the interpreter of an environment with panopticapi-lite')
    return args


def main() -> None:
    args = parse_args()
    if args.side:
        count = with_eomt_mm if args.side == 'eomt_mm' else with_panopticapi
        print(json.dumps(count(args.folder, args.in_memory)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), args.num_images, tuple(args.size), args.num_segments)
        print(f'{args.num_images} images of {tuple(args.size)}, {args.num_segments} segments; one process each')
        for in_memory in (False, True):
            print(compare(args, Path(folder), in_memory), flush=True)


if __name__ == '__main__':
    main()
