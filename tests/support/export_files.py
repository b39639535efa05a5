"""Exports of annotation tools, imitated: keys, ids and types of real files; two pictures to train on, one to test on.

Of Roboflow (building facades, 2023), CVAT (datumaro), Label Studio 1.8, labelme's labelme2coco.py and labelme2voc.py,
FiftyOne, COCO Annotator and VIA 2.0.11.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIZE = (40, 60)
CLASSES = ('facade', 'window')


class Drawn(NamedTuple):
    """An image and its instances: class and outline."""

    stem: str
    objects: list[tuple[str, list[float]]]


def box(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


IMAGES = {
    'train': [
        Drawn('a1', [('facade', box(4, 4, 40, 30)), ('window', box(10.5, 10.25, 8, 9))]),
        Drawn('a2', [('window', box(30, 5, 12, 20))]),
    ],
    'val': [Drawn('b1', [('facade', box(0, 0, 30, 40)), ('window', box(35, 8, 20, 12))])],
}


def extent(ring: list[float]) -> tuple[float, float, float, float]:
    x, y = min(ring[::2]), min(ring[1::2])
    return x, y, max(ring[::2]) - x, max(ring[1::2]) - y


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', SIZE[::-1], (90, 60, 30)).save(path)
    return path.name


def numbered(images: list[Drawn], first: int) -> Iterator[tuple[int, int, str, list[float]]]:
    """Number of the annotation from ``first``, index of the image, class and outline."""
    number = first
    for index, drawn in enumerate(images):
        for name, ring in drawn.objects:
            yield number, index, name, ring
            number += 1


def write_json(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# One function per tool: writes the export of both splits


def roboflow(root: Path) -> None:
    # The project is called like a class; the class of no picture of val is there too
    categories = [dict(id=0, name='facade', supercategory='none')]
    categories += [
        dict(id=k, name=name, supercategory='facade') for k, name in enumerate(('balcony', 'facade', 'window'), start=1)
    ]
    when = '2023-07-11T17:14:49+00:00'
    for split, images in dict(train=IMAGES['train'], valid=IMAGES['val']).items():
        write_json(
            root / split / '_annotations.coco.json',
            info=dict(year='2023', version='1', description='Exported from roboflow.ai', date_created=when),
            licenses=[dict(id=1, url='https://creativecommons.org/licenses/by/4.0/', name='CC BY 4.0')],
            categories=categories,
            images=[
                dict(
                    id=k,
                    license=1,
                    file_name=picture(root / split / f'{drawn.stem}_png_jpg.rf.005f2a1d7ef6a5abfbdd3a6c9e81608d.jpg'),
                    height=SIZE[0],
                    width=SIZE[1],
                    date_captured=when,
                )
                for k, drawn in enumerate(images)
            ],
            annotations=[
                dict(
                    id=number,
                    image_id=index,
                    category_id=dict(facade=2, window=3)[name],
                    bbox=list(extent(ring)),
                    area=extent(ring)[2] * extent(ring)[3],
                    segmentation=[ring],
                    iscrowd=0,
                )
                for number, index, name, ring in numbered(images, 0)
            ],
        )


def cvat(root: Path) -> None:
    for split, images in dict(Train=IMAGES['train'], Validation=IMAGES['val']).items():
        shapes = [
            dict(
                id=number,
                image_id=index + 1,
                category_id=CLASSES.index(name) + 1,
                segmentation=[ring],
                area=extent(ring)[2] * extent(ring)[3],
                bbox=list(extent(ring)),
                iscrowd=0,
                attributes=dict(occluded=False, track_id=number, keyframe=True),
            )
            for number, index, name, ring in numbered(images, 1)
        ]
        # A brush mask
        crowd = dict(shapes[0], id=len(shapes) + 1, category_id=2, iscrowd=1, attributes=dict(occluded=False))
        crowd['segmentation'] = dict(counts=[39, 1, SIZE[0] * SIZE[1] - 40], size=list(SIZE))
        write_json(
            root / 'annotations' / f'instances_{split}.json',
            licenses=[dict(name='', id=0, url='')],
            info=dict(contributor='', date_created='', description='', url='', version='', year=''),
            categories=[dict(id=k, name=name, supercategory='') for k, name in enumerate(CLASSES, start=1)],
            images=[
                dict(
                    id=k,
                    width=SIZE[1],
                    height=SIZE[0],
                    file_name=picture(root / 'images' / split / f'{drawn.stem}.png'),
                    license=0,
                    flickr_url='',
                    coco_url='',
                    date_captured=0,
                )
                for k, drawn in enumerate(images, start=1)
            ],
            annotations=[*shapes, crowd],
        )


def label_studio(root: Path, split_script: str) -> None:
    images = [*IMAGES['train'], *IMAGES['val'], Drawn('c', []), Drawn('d', [])]
    write_json(
        root / 'result.json',
        images=[
            dict(
                width=SIZE[1],
                height=SIZE[0],
                id=k,
                file_name='images/' + picture(root / 'images' / f'23082be9-{drawn.stem}.jpg'),
            )
            for k, drawn in enumerate(images)
        ],
        categories=[dict(id=k, name=name) for k, name in enumerate(CLASSES)],
        annotations=[
            dict(
                id=number,
                image_id=index,
                category_id=CLASSES.index(name),
                segmentation=[ring],
                bbox=list(extent(ring)),
                ignore=0,
                iscrowd=0,
                area=extent(ring)[2] * extent(ring)[3],
            )
            for number, index, name, ring in numbered(images, 0)
        ],
        info=dict(year=2023, version='1.0', description='', contributor='Label Studio', url=''),
    )
    # What goes into val is drawn: here b1
    script = split_script.replace('data/shapes/annotations', str(root)).replace('instances_train2017', 'result')
    seed = next(seed for seed in range(99) if first_drawn(seed) == 2)
    exec(script.replace('Random(0)', f'Random({seed})'), {})


def first_drawn(seed: int) -> int:
    """Which of five images the script draws first."""
    order = list(range(5))
    random.Random(seed).shuffle(order)
    return order[0]


def labelme(root: Path) -> None:
    for split, images in IMAGES.items():
        write_json(
            root / split / 'annotations.json',
            info=dict(description=None, url=None, version=None, year=2024, contributor=None),
            licenses=[dict(url=None, id=0, name=None)],
            type='instances',
            images=[
                dict(
                    license=0,
                    url=None,
                    file_name='JPEGImages/' + picture(root / split / 'JPEGImages' / f'{drawn.stem}.jpg'),
                    height=SIZE[0],
                    width=SIZE[1],
                    date_captured=None,
                    id=k,
                )
                for k, drawn in enumerate(images)
            ],
            categories=[dict(supercategory=None, id=k, name=name) for k, name in enumerate(('_background_', *CLASSES))],
            annotations=[
                dict(
                    id=number,
                    image_id=index,
                    category_id=CLASSES.index(name) + 1,
                    segmentation=[ring, [1.5, 2.5, 9.0, 9.0]],  # a line of the same group
                    area=extent(ring)[2] * extent(ring)[3],
                    bbox=list(extent(ring)),
                    iscrowd=0,
                )
                for number, index, name, ring in numbered(images, 0)
            ],
        )


def fiftyone(root: Path) -> None:
    for split, images in IMAGES.items():
        write_json(
            root / split / 'labels.json',
            info=dict(year='', version='', description='Exported from FiftyOne', contributor='', url=''),
            licenses=[],
            categories=[dict(id=k, name=name, supercategory=None) for k, name in enumerate(CLASSES)],
            images=[
                dict(
                    id=k,
                    file_name=picture(root / split / 'data' / f'{drawn.stem}.jpg'),
                    height=SIZE[0],
                    width=SIZE[1],
                    license=None,
                    coco_url=None,
                )
                for k, drawn in enumerate(images, start=1)
            ],
            annotations=[
                dict(
                    id=number,
                    image_id=index + 1,
                    category_id=CLASSES.index(name),
                    bbox=list(extent(ring)),
                    segmentation=[ring],
                    area=extent(ring)[2] * extent(ring)[3],
                    iscrowd=0,
                )
                for number, index, name, ring in numbered(images, 1)
            ],
        )


def coco_annotator(root: Path) -> None:
    for split, images in IMAGES.items():
        write_json(
            root / f'{split}.json',
            images=[
                dict(
                    id=k,
                    dataset_id=3,
                    category_ids=[],
                    path=f'/datasets/{split}/{drawn.stem}.jpg',
                    width=SIZE[1],
                    height=SIZE[0],
                    file_name=picture(root / split / f'{drawn.stem}.jpg'),
                    annotated=False,
                    annotating=[],
                    num_annotations=len(drawn.objects),
                    metadata={},
                    deleted=False,
                    milliseconds=0,
                    events=[],
                    regenerate_thumbnail=False,
                    is_modified=False,
                )
                for k, drawn in enumerate(images, start=11)
            ],
            categories=[
                dict(id=k, name=name, supercategory='', color='#4ccf24', metadata={}, keypoint_colors=[])
                for k, name in enumerate(CLASSES, start=5)
            ],
            annotations=[
                dict(
                    id=number,
                    image_id=index + 11,
                    category_id=CLASSES.index(name) + 5,
                    dataset_id=3,
                    segmentation=[ring],
                    area=int(extent(ring)[2] * extent(ring)[3]),
                    bbox=[float(round(value)) for value in extent(ring)],
                    iscrowd=False,
                    isbbox=False,
                    creator='system',
                    width=SIZE[1],
                    height=SIZE[0],
                    color='#d12c9d',
                    keypoints=[],
                    metadata={},
                    milliseconds=0,
                    events=[],
                )
                for number, index, name, ring in numbered(images, 40)
            ],
        )


def via(root: Path) -> None:
    for split, images in IMAGES.items():
        write_json(
            root / f'{split}.json',
            info=dict(year=2024, version='1.0', description='VIA project exported to COCO format', contributor=''),
            images=[
                dict(
                    id=k,
                    width=SIZE[1],
                    height=SIZE[0],
                    file_name=picture(root / split / f'{drawn.stem}.jpg'),
                    license=0,
                    flickr_url=drawn.stem,
                    coco_url=drawn.stem,
                    date_captured='',
                )
                for k, drawn in enumerate(images, start=1)
            ],
            annotations=[
                # Older versions: the outline is not in a list of its own
                dict(
                    segmentation=[ring] if number % 2 else ring,
                    area=extent(ring)[2] * extent(ring)[3],
                    bbox=list(extent(ring)),
                    iscrowd=0,
                    id=number,
                    image_id=index + 1,
                    category_id=CLASSES.index(name) + 1,
                )
                for number, index, name, ring in numbered(images, 1)
            ]
            + [dict(segmentation=[[]], area=[], bbox=[], iscrowd=0, id=99, image_id=1, category_id=1)],  # a point
            licenses=[dict(id=0, name='Unknown License', url='')],
            categories=[dict(supercategory='type', id=k, name=name) for k, name in enumerate(CLASSES, start=1)],
        )


# Label maps: one function per tool, which returns the lines of the config

VALUES = np.kron([[0, 1, 2], [2, 2, 1]], np.ones((20, 20), int)).astype(np.uint8)  # 0 is the background


def folders(train: tuple[str, str], val: tuple[str, str]) -> str:
    lines = [
        f'{split}_dataloader = dict(dataset=dict(data_prefix=dict(img_path={images!r}, seg_map_path={maps!r})))'
        for split, (images, maps) in (('train', train), ('val', val))
    ]
    return '\n'.join([*lines, 'test_dataloader = val_dataloader'])


def roboflow_masks(root: Path) -> str:
    for split, images in dict(train=IMAGES['train'], valid=IMAGES['val']).items():
        for drawn in images:
            stem = f'{drawn.stem}_png.rf.005f2a1d7ef6a5ab'
            picture(root / split / f'{stem}.jpg')
            Image.fromarray(VALUES).save(root / split / f'{stem}_mask.png')
        (root / split / '_classes.csv').write_text('Pixel Value, Class\n0, background\n1, facade\n2, window\n')
    return f"label_ids = (1, 2)\nseg_map_suffix = '_mask.png'\n{folders(('train', 'train'), ('valid', 'valid'))}"


def labelme_voc(root: Path) -> str:
    for split, images in IMAGES.items():
        (root / split / 'SegmentationClassPNG').mkdir(parents=True)
        for drawn in images:
            picture(root / split / 'JPEGImages' / f'{drawn.stem}.jpg')
            labels = Image.fromarray(VALUES).convert('P')
            labels.putpalette([value for k in range(256) for value in (k, 255 - k, 7)])
            labels.save(root / split / 'SegmentationClassPNG' / f'{drawn.stem}.png')
    train, val = ((f'{split}/JPEGImages', f'{split}/SegmentationClassPNG') for split in IMAGES)
    return f'label_ids = (1, 2)\n{folders(train, val)}'


def fiftyone_masks(root: Path) -> str:
    for split, images in IMAGES.items():
        (root / split / 'labels').mkdir(parents=True)
        for drawn in images:
            picture(root / split / 'data' / f'{drawn.stem}.jpg')
            Image.fromarray(VALUES).save(root / split / 'labels' / f'{drawn.stem}.png')
    train, val = ((f'{split}/data', f'{split}/labels') for split in IMAGES)
    return f'label_ids = (1, 2)\n{folders(train, val)}'
