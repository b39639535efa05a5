"""Write the generated scenes of one split in the format of a data set; see ``generate``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST, CITYSCAPES_LABEL_IDS
from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS, Array, Scene

Scenes = Iterator[tuple[int, Scene, np.random.Generator]]

SPLITS = ('train', 'val')

# COCO category ids, in the order of CLASSES: ascending with gaps, things before stuff, not from 0, as in COCO.
COCO_CATEGORY_IDS = (2, 3, 7, 11, 92, 95, 101, 118)
# Values in raw label maps of COCO-Stuff's sports ball, book, kite, frisbee, sky-other, grass, wall-brick, floor-tile.
COCO_STUFF_LABELS = (36, 83, 37, 33, 156, 123, 170, 116)
# Pixel values (1 to 150; class index + 1) of ADE20K's ball, box, flag, plaything, sky, grass, wall, floor: see
# objectInfo150.txt of CSAILVision/sceneparsing.
ADE20K_LABELS = (120, 42, 150, 109, 3, 10, 1, 4)
# Ranks of the first four among ADE20K's 100 things, from 1.
ADE20K_RANKS = tuple(ADE20K_THINGS_FIRST.index(label - 1) + 1 for label in ADE20K_LABELS[:NUM_THINGS])
# CamVid as SegNet's tutorial has it: SignSymbol, Car, Pedestrian, Bicyclist, Sky, Tree, Building, Road; 11 is void.
CAMVID_LABELS = (6, 8, 9, 10, 0, 5, 1, 3)
CAMVID_VOID = 11
CITYSCAPES_NAMES = ('person', 'car', 'truck', 'bicycle', 'sky', 'vegetation', 'building', 'road')
CITYSCAPES_LABELS = tuple(CITYSCAPES_LABEL_IDS[name] for name in CITYSCAPES_NAMES)
CITYSCAPES_TRAIN_IDS = tuple(list(CITYSCAPES_LABEL_IDS).index(name) for name in CITYSCAPES_NAMES)
CITYSCAPES_VOID = (0, 4)  # unlabeled and static, in turn
CITYSCAPES_CITIES = dict(train=('aachen', 'bochum'), val=('frankfurt', 'lindau'))


def _save(pixels: Array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.jpg':
        Image.fromarray(pixels).save(path, quality=95)
    else:
        Image.fromarray(pixels).save(path)


def write_coco_split(folder: Path, split: str, scenes: Scenes) -> None:
    """Images, panoptic maps and both kinds of annotation files; see ``generate.write_coco``."""
    annotations = folder / 'annotations'
    pictures, pngs = folder / f'{split}2017', annotations / f'panoptic_{split}2017'
    for directory in (pictures, pngs):
        directory.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index, scene, rng in scenes:
        height, width = scene.ids.shape
        stem = _coco_stem(index, split)
        image_id = int(stem)
        _save(scene.image, pictures / f'{stem}.jpg')
        images.append(dict(id=image_id, file_name=f'{stem}.jpg', width=width, height=height, license=1))
        colours, segments_info = _coco_segments(scene, rng)
        _save(colours, pngs / f'{stem}.png')
        panoptic.append(dict(image_id=image_id, file_name=f'{stem}.png', segments_info=segments_info))
        for segment, info in zip(scene.segments, segments_info, strict=True):
            if segment.is_thing:
                outline = coco_outline(scene.ids == segment.id, segment.is_crowd)
                # From 1 on: pycocotools takes a match with annotation 0 for none.
                instances.append({**info, 'id': len(instances) + 1, 'image_id': image_id, 'segmentation': outline})
    shared = dict(info=dict(description='Generated shapes (eomt_mm)'), licenses=[dict(id=1, name='generated', url='')])
    categories = _coco_categories()
    things = [{key: entry[key] for key in ('id', 'name', 'supercategory')} for entry in categories[:NUM_THINGS]]
    for task, found, classes in (('instances', instances, things), ('panoptic', panoptic, categories)):
        content = dict(**shared, images=images, annotations=found, categories=classes)
        (annotations / f'{task}_{split}2017.json').write_text(json.dumps(content))


def _coco_stem(index: int, split: str) -> str:
    """12 digits that differ from the index and between splits."""
    return f'{100 * (index + 1) + SPLITS.index(split):012d}'


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
    """Return the panoptic picture (H, W, 3) uint8 and its ``segments_info``.

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


def coco_outline(mask: Array, is_crowd: bool) -> list[list[float]] | dict[str, Any]:
    """Encode a mask (H, W) as polygons [[x, y, x, y, ...], ...] or, if they cannot represent it, as run lengths."""
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


def write_coco_stuff_split(folder: Path, split: str, scenes: Scenes) -> None:
    """Images and raw label maps; see ``generate.write_coco_stuff``."""
    pictures, maps = (folder / kind / f'{split}2017' for kind in ('images', 'annotations'))
    for directory in (pictures, maps):
        directory.mkdir(parents=True)
    for index, scene, _ in scenes:
        stem = _coco_stem(index, split)
        _save(scene.image, pictures / f'{stem}.jpg')
        _save(_labels(scene, COCO_STUFF_LABELS, 255), maps / f'{stem}.png')


def write_camvid_split(folder: Path, split: str, scenes: Scenes) -> None:
    """Images and label maps; see ``generate.write_camvid``."""
    for index, scene, _ in scenes:
        name = f'0001TP_{index:06d}.png'
        _save(scene.image, folder / split / name)
        _save(_labels(scene, CAMVID_LABELS, CAMVID_VOID), folder / f'{split}annot' / name)


def write_ade20k_split(folder: Path, split: str, scenes: Scenes) -> None:
    """Images, label maps and instance maps; see ``generate.write_ade20k``."""
    long_name = dict(train='training', val='validation')[split]
    kinds = ('images', 'annotations', 'annotations_instance')
    pictures, maps, instance_maps = (folder / kind / long_name for kind in kinds)
    for directory in (pictures, maps, instance_maps):
        directory.mkdir(parents=True)
    for index, scene, _ in scenes:
        stem = f'ADE_{split}_{index + 1:08d}'
        _save(scene.image, pictures / f'{stem}.jpg')
        _save(_labels(scene, ADE20K_LABELS, 0), maps / f'{stem}.png')
        _save(_ade20k_instances(scene), instance_maps / f'{stem}.png')


def _ade20k_instances(scene: Scene) -> Array:
    """Return (H, W, 3) uint8: R is the rank of the thing, G 2, 5, 8, ... for its instances, 0 for crowds."""
    pixels = np.zeros_like(scene.image)
    things = [segment for segment in scene.segments if segment.is_thing]
    for place, thing in enumerate(things):
        number = 0 if thing.is_crowd else 3 * place + 2
        pixels[scene.ids == thing.id] = (ADE20K_RANKS[thing.label], number, 0)
    return pixels


def write_cityscapes_split(folder: Path, split: str, scenes: Scenes) -> None:
    """Images and three kinds of label maps; see ``generate.write_cityscapes``."""
    cities = CITYSCAPES_CITIES[split]
    for kind in ('leftImg8bit', 'gtFine'):
        (folder / kind / split).mkdir(parents=True)
    for index, scene, _ in scenes:
        city = cities[index % len(cities)]
        stem = f'{city}_{index // len(cities):06d}_000019'
        _save(scene.image, folder / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png')
        ground_truth = folder / 'gtFine' / split / city
        labels = _labels(scene, CITYSCAPES_LABELS, CITYSCAPES_VOID[index % 2])
        instances = labels.astype(np.uint16)
        numbers = dict.fromkeys(CITYSCAPES_LABELS, 0)
        for segment in scene.segments:
            if segment.is_thing and not segment.is_crowd:
                label = CITYSCAPES_LABELS[segment.label]
                instances[scene.ids == segment.id] = 1000 * label + numbers[label]
                numbers[label] += 1
        _save(labels, ground_truth / f'{stem}_gtFine_labelIds.png')
        _save(instances, ground_truth / f'{stem}_gtFine_instanceIds.png')
        _save(_labels(scene, CITYSCAPES_TRAIN_IDS, 255), ground_truth / f'{stem}_gtFine_labelTrainIds.png')


def _labels(scene: Scene, values: tuple[int, ...], void: int) -> Array:
    """Return the semantic map (H, W) uint8 with one of ``values`` per class."""
    labels = np.full(scene.ids.shape, void, np.uint8)
    for segment in scene.segments:
        labels[scene.ids == segment.id] = values[segment.label]
    return labels
