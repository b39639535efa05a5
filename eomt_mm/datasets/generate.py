"""Small generated data sets in the formats of COCO, ADE20K and Cityscapes, for tests and the demo.

What is written are the scenes of ``eomt_mm.datasets.shapes``. An image depends on the seed, its split and its index
alone: more images do not change the first ones. Four images of a split show every special case: the first has lines of
void between segments, the second shows none of the classes and has no annotation (in splits of four images or more),
the third has a crowd (and so has every tenth from there), the fourth a patch of void (lines and patches: every fifth).

    python -m eomt_mm.datasets.generate coco data/shapes --num-train 64 --num-val 16
"""

import argparse
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api
from tqdm import tqdm

from eomt_mm.datasets.shapes import CLASSES, NUM_THINGS, Array, Scene, draw_blank, draw_scene

Scenes = Iterator[tuple[int, Scene, np.random.Generator]]
PathLike = str | os.PathLike[str]

SPLITS = ('train', 'val')
MIN_SIDE = 32
MARKER = 'generated.json'  # at the root of every generated tree: how it was made

# COCO category ids, in the order of CLASSES: ascending with gaps, things before stuff, not from 0, as in COCO.
COCO_CATEGORY_IDS = (2, 3, 7, 11, 92, 95, 101, 118)
# Pixel values (1 to 150; class index + 1) of ADE20K's ball, box, flag, plaything, sky, grass, wall, floor: see
# objectInfo150.txt of CSAILVision/sceneparsing.
ADE20K_LABELS = (120, 42, 150, 109, 3, 10, 1, 4)
# Label ids and train ids of Cityscapes' person, car, truck, bicycle, sky, vegetation, building, road: see
# helpers/labels.py of mcordts/cityscapesScripts.
CITYSCAPES_LABELS = (24, 26, 27, 33, 23, 21, 11, 7)
CITYSCAPES_TRAIN_IDS = (11, 13, 14, 18, 10, 8, 2, 0)
CITYSCAPES_VOID = (0, 4)  # unlabeled and static, in turn
CITYSCAPES_CITIES = dict(train=('aachen', 'bochum'), val=('frankfurt', 'lindau'))


def write_coco(
    root: PathLike,
    num_train: int = 16,
    num_val: int = 8,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes a tree like COCO 2017 with instance and panoptic annotations.

    Below ``root``: ``{train,val}2017/*.jpg``, ``annotations/{instances,panoptic}_{train,val}2017.json`` and
    ``annotations/panoptic_{train,val}2017/*.png`` (R + 256 G + 65536 B is the segment's id, 0 is void). Instance
    masks are polygons whose rasterisation by pycocotools is the segment to the pixel, or run lengths where polygons
    cannot say it (holes) and for crowds; annotation ids count from 1. Format: cocodataset.org/#format-data.

    Args:
        root: The folder to write; missing or empty, unless ``overwrite``.
        num_train: Training images, 0 or more.
        num_val: Validation images, 0 or more.
        size: (height, width) in pixels, each 32 or more; the width varies from image to image: 0.8, 1 or 1.25 times.
        seed: 0 or more.
        overwrite: Whether to replace a tree at ``root`` that this module wrote.
        progress: Whether to show a progress bar.

    Returns:
        ``root``.

    Raises:
        ValueError: A count or the seed is negative, or a side is below 32.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or something else wrote it.
    """
    return _write(
        'coco', _write_coco_split, (0.8, 1.0, 1.25), root, num_train, num_val, size, seed, overwrite, progress
    )


def write_ade20k(
    root: PathLike,
    num_train: int = 16,
    num_val: int = 8,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes a tree like ``ADEChallengeData2016`` with semantic annotations.

    Below ``root``: ``images/{training,validation}/ADE_{train,val}_<8 digits, from 1>.jpg`` and, of the same names,
    ``annotations/{training,validation}/*.png``: grey values, 0 is unlabelled, others stand in ``ADE20K_LABELS``.
    Format: sceneparsing.csail.mit.edu.

    Arguments, return value and errors: as for ``write_coco``.
    """
    return _write(
        'ade20k', _write_ade20k_split, (0.8, 1.0, 1.25), root, num_train, num_val, size, seed, overwrite, progress
    )


def write_cityscapes(
    root: PathLike,
    num_train: int = 16,
    num_val: int = 8,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes a tree like Cityscapes with fine annotations, images in turn from two cities per split.

    Below ``root``: ``leftImg8bit/{train,val}/<city>/<city>_<6 digits>_000019_leftImg8bit.png`` and, in ``gtFine``,
    ``..._gtFine_labelIds.png`` (uint8, ``CITYSCAPES_LABELS``; void is 0 or, in every other image, 4),
    ``..._gtFine_instanceIds.png`` (uint16; things 1000 label + number from 0, stuff and crowds the bare label) and
    ``..._gtFine_labelTrainIds.png`` (uint8, ``CITYSCAPES_TRAIN_IDS``, void is 255), as cityscapesScripts makes them.

    Arguments, return value and errors: as for ``write_coco``, but that all images have ``size``, as in Cityscapes.
    """
    return _write(
        'cityscapes', _write_cityscapes_split, (1.0,), root, num_train, num_val, size, seed, overwrite, progress
    )


def _write(
    name: str,
    write_split: Callable[[Path, str, Scenes], None],
    width_factors: tuple[float, ...],
    root: PathLike,
    num_train: int,
    num_val: int,
    size: tuple[int, int],
    seed: int,
    overwrite: bool,
    progress: bool,
) -> Path:
    for argument, value in (('num_train', num_train), ('num_val', num_val), ('seed', seed)):
        if value < 0:
            raise ValueError(f'{argument} is {value}: give 0 or more.')
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise ValueError(f'size is {tuple(size)}: give (height, width), each {MIN_SIDE} pixels or more.')
    counts = dict(train=num_train, val=num_val)
    with _fresh_tree(Path(root), overwrite) as folder:
        for split, count in counts.items():
            write_split(folder, split, _scenes(split, count, size, seed, width_factors, progress))
        made = dict(program='eomt_mm.datasets.generate', format=name, size=list(size), seed=seed, **counts)
        (folder / MARKER).write_text(json.dumps(made) + '\n')
    return Path(root)


@contextmanager
def _fresh_tree(root: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder that takes the place of ``root`` when all went well and is removed when not."""
    target = root.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f'{root} exists and is not an empty folder: give another, or pass overwrite=True (--overwrite) to '
                'replace what an earlier run has generated there.'
            )
        if not (target / MARKER).is_file():
            raise FileExistsError(
                f'{root} was not generated (it holds no {MARKER}), so overwrite=True does not replace it: give another '
                'folder, or remove it yourself.'
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)  # two runs at a time do not meet
    partial, old = (target.with_name(f'.{target.name}.{what}-{token}') for what in ('partial', 'old'))
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _scenes(
    split: str, count: int, size: tuple[int, int], seed: int, width_factors: tuple[float, ...], progress: bool
) -> Scenes:
    """Draws a split: (index, scene, generator for whatever else the format draws at random)."""
    for index in tqdm(range(count), desc=f'draw {split}', unit='image', disable=not progress):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        height, width = size[0], round(size[1] * rng.choice(width_factors))
        if index == 1 and count >= 4:
            yield index, draw_blank(rng, height, width), rng
            continue
        special = dict(border=index % 5 == 0, crowd=index % 10 == 2, patch=index % 5 == 3)
        yield index, draw_scene(rng, height, width, first=index, **special), rng


def _save(pixels: Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.jpg':
        Image.fromarray(pixels).save(path, quality=95)
    else:
        Image.fromarray(pixels).save(path)


def _write_coco_split(folder: Path, split: str, scenes: Scenes) -> None:
    annotations = folder / 'annotations'
    pictures, pngs = folder / f'{split}2017', annotations / f'panoptic_{split}2017'
    for directory in (pictures, pngs):
        directory.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index, scene, rng in scenes:
        height, width = scene.ids.shape
        image_id = 100 * (index + 1) + SPLITS.index(split)  # not the index, and another one in each split
        stem = f'{image_id:012d}'
        _save(scene.image, pictures / f'{stem}.jpg')
        images.append(dict(id=image_id, file_name=f'{stem}.jpg', width=width, height=height, license=1))
        colours, segments_info = _coco_segments(scene, rng)
        _save(colours, pngs / f'{stem}.png')
        panoptic.append(dict(image_id=image_id, file_name=f'{stem}.png', segments_info=segments_info))
        for segment, info in zip(scene.segments, segments_info, strict=True):
            if segment.is_thing:
                outline = _coco_outline(scene.ids == segment.id, segment.is_crowd)
                # From 1 on: pycocotools takes a match with annotation 0 for none.
                instances.append({**info, 'id': len(instances) + 1, 'image_id': image_id, 'segmentation': outline})
    shared = dict(info=dict(description='Generated shapes (eomt_mm)'), licenses=[dict(id=1, name='generated', url='')])
    categories = _coco_categories()
    things = [{key: entry[key] for key in ('id', 'name', 'supercategory')} for entry in categories[:NUM_THINGS]]
    for task, found, classes in (('instances', instances, things), ('panoptic', panoptic, categories)):
        content = dict(**shared, images=images, annotations=found, categories=classes)
        (annotations / f'{task}_{split}2017.json').write_text(json.dumps(content))


def _coco_categories() -> list[dict[str, Any]]:
    return [
        dict(
            id=number,
            name=entry.name,
            supercategory='shape' if entry.is_thing else 'texture',
            isthing=int(entry.is_thing),
            color=list(entry.color),
        )
        for number, entry in zip(COCO_CATEGORY_IDS, CLASSES, strict=True)
    ]


def _coco_segments(scene: Scene, rng: np.random.Generator) -> tuple[Array, list[dict[str, Any]]]:
    """Returns the panoptic picture (H, W, 3) uint8 and its ``segments_info``.

    Colours, and so ids, scatter about the colour of the class, as in COCO: the pictures can be looked at, and ids use
    all three bytes.
    """
    colours = np.zeros_like(scene.image)
    infos: list[dict[str, Any]] = []
    taken = {0}
    for segment in scene.segments:
        number = 0
        while number in taken:
            colour = np.clip(CLASSES[segment.label].color + rng.integers(-25, 26, 3), 0, 255)
            number = int(colour @ (1, 256, 65536))
        taken.add(number)
        mask = scene.ids == segment.id
        colours[mask] = colour
        y, x = np.nonzero(mask)
        box = [int(x.min()), int(y.min()), int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1]
        category = COCO_CATEGORY_IDS[segment.label]
        infos.append(dict(id=number, category_id=category, area=len(x), bbox=box, iscrowd=int(segment.is_crowd)))
    return colours, infos


def _coco_outline(mask: Array, is_crowd: bool) -> list[list[float]] | dict[str, Any]:
    """Encodes a mask (H, W) as polygons [[x, y, x, y, ...], ...] or, if they cannot tell it, as run lengths."""
    height, width = mask.shape
    if not is_crowd:
        # OpenCV's contours run through pixel centres. On the mask at twice its size they run a quarter of a pixel
        # inside the edges of the original pixels, and rasterise to exactly these.
        double = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        contours = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        polygons = [((np.asarray(contour, float) + 0.5) / 2).ravel().tolist() for contour in contours]
        runs = mask_api.merge(mask_api.frPyObjects(polygons, height, width))
        if np.array_equal(mask_api.decode(runs), mask):
            return polygons
    # Run lengths go down the columns and start with the background.
    column_major = np.concatenate([[False], mask.ravel(order='F')])
    edges = np.flatnonzero(np.diff(column_major))
    return dict(counts=np.diff(np.concatenate([[0], edges, [mask.size]])).tolist(), size=[height, width])


def _write_ade20k_split(folder: Path, split: str, scenes: Scenes) -> None:
    long_name = dict(train='training', val='validation')[split]
    for kind in ('images', 'annotations'):
        (folder / kind / long_name).mkdir(parents=True)
    for index, scene, _ in scenes:
        stem = f'ADE_{split}_{index + 1:08d}'
        _save(scene.image, folder / 'images' / long_name / f'{stem}.jpg')
        _save(_labels(scene, ADE20K_LABELS, 0), folder / 'annotations' / long_name / f'{stem}.png')


def _write_cityscapes_split(folder: Path, split: str, scenes: Scenes) -> None:
    cities = CITYSCAPES_CITIES[split]
    for kind in ('leftImg8bit', 'gtFine'):
        (folder / kind / split).mkdir(parents=True)
    for index, scene, _ in scenes:
        city = cities[index % len(cities)]
        stem = f'{city}_{index // len(cities):06d}_000019'
        _save(scene.image, folder / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png')
        truth = folder / 'gtFine' / split / city
        labels = _labels(scene, CITYSCAPES_LABELS, CITYSCAPES_VOID[index % 2])
        instances = labels.astype(np.uint16)
        numbers = dict.fromkeys(CITYSCAPES_LABELS, 0)
        for segment in scene.segments:
            if segment.is_thing and not segment.is_crowd:
                label = CITYSCAPES_LABELS[segment.label]
                instances[scene.ids == segment.id] = 1000 * label + numbers[label]
                numbers[label] += 1
        _save(labels, truth / f'{stem}_gtFine_labelIds.png')
        _save(instances, truth / f'{stem}_gtFine_instanceIds.png')
        _save(_labels(scene, CITYSCAPES_TRAIN_IDS, 255), truth / f'{stem}_gtFine_labelTrainIds.png')


def _labels(scene: Scene, values: tuple[int, ...], void: int) -> Array:
    """Returns the semantic map (H, W) uint8 with one of ``values`` per class."""
    labels = np.full(scene.ids.shape, void, np.uint8)
    for segment in scene.segments:
        labels[scene.ids == segment.id] = values[segment.label]
    return labels


WRITERS: dict[str, Callable[..., Path]] = dict(coco=write_coco, ade20k=write_ade20k, cityscapes=write_cityscapes)


def main(argv: list[str] | None = None) -> None:
    """Command line; wrong arguments and folders in use end it with one line and exit status 2."""
    parser = argparse.ArgumentParser(prog='python -m eomt_mm.datasets.generate', description='Write a small data set.')
    parser.add_argument('format', choices=WRITERS)
    parser.add_argument('root', type=Path, help='folder to write')
    parser.add_argument('--num-train', type=int, default=16, help='training images')
    parser.add_argument('--num-val', type=int, default=8, help='validation images')
    parser.add_argument('--size', type=int, nargs=2, default=(128, 160), metavar=('H', 'W'), help='pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier run has generated')
    args = parser.parse_args(argv)
    try:
        root = WRITERS[args.format](
            args.root, args.num_train, args.num_val, tuple(args.size), args.seed, args.overwrite
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f'{args.format} written to {root}')


if __name__ == '__main__':
    main()
