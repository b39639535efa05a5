"""Exports of annotation tools, imitated, read as the tables of docs/custom_data.md say: a step of training, and AP 100.

What is imitated are the keys, ids and types of real files: of Roboflow (building facades, 2023), CVAT (datumaro),
Label Studio 1.8, labelme's labelme2coco.py and labelme2voc.py, FiftyOne, COCO Annotator and VIA 2.0.11.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from paths import ROOT
from PIL import Image

from eomt_mm.annotations.masks import decode
from eomt_mm.apis import load_config

PAGE = (ROOT / 'docs' / 'custom_data.md').read_text()
CONFIG = re.findall(r'`configs/own/facades\.py`:\n\n```python\n(.*?)```', PAGE, flags=re.S)[0]
SPLIT_SCRIPT = re.findall(r'### One json for everything\n.*?```python\n(.*?)```', PAGE, flags=re.S)[0]
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


def label_studio(root: Path) -> None:
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
    script = SPLIT_SCRIPT.replace('data/shapes/annotations', str(root)).replace('instances_train2017', 'result')
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
            ],
            licenses=[dict(id=0, name='Unknown License', url='')],
            categories=[dict(supercategory='type', id=k, name=name) for k, name in enumerate(CLASSES, start=1)],
        )


TOOLS: dict[str, Callable[[Path], None]] = {
    'Roboflow': roboflow,
    'CVAT': cvat,
    'Label Studio': label_studio,
    'labelme': labelme,
    'FiftyOne': fiftyone,
    'COCO Annotator': coco_annotator,
    'VGG (VIA 2)': via,
}


def rows(title: str) -> dict[str, list[str]]:
    """Cells by the tool, of the table whose first line has this title."""
    table = PAGE[PAGE.index(title) :].split('\n\n')[0]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]]
    return {cells[0]: cells[1:] for cells in lines}


EXPORTS = rows('| tool | export | in `data_root` |')


def config_of(tool: str, folder: Path) -> Path:
    """The page's config with the two lines of a tool."""
    text = CONFIG
    for split, cell in zip(('train', 'valid'), EXPORTS[tool][2:], strict=True):
        ann_file, images = re.findall(r'`([^`]+)`', cell)
        text = text.replace(f'{split}/_annotations.coco.json', ann_file).replace(f"img='{split}/'", f"img='{images}'")
    return own_config(folder, text)


def own_config(folder: Path, text: str) -> Path:
    path = folder / 'configs' / 'own' / 'mine.py'
    path.parent.mkdir(parents=True)
    (folder / 'configs' / 'eomt').symlink_to(ROOT / 'configs' / 'eomt')
    path.write_text(text)
    return path


@pytest.fixture(scope='module')
def models() -> dict[str, Any]:
    """One for all exports of a task."""
    return {}


def train_a_step(cfg: Config, models: dict[str, Any]) -> None:
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == len(IMAGES['train'])
    model = models.setdefault(cfg.default_scope, None) or MODELS.build(cfg.model)
    models[cfg.default_scope] = model.train()
    batch = model.data_preprocessor(pseudo_collate([dataset[k] for k in range(len(dataset))]), True)
    total, logged = model.parse_losses(model(**batch, mode='loss'))
    total.backward()
    assert total.isfinite() and logged['loss_mask'] > 0 and logged['loss_dice'] > 0


SMALL = {'img_size': 32, 'model.backbone.depth': 1}


@pytest.mark.parametrize('tool', TOOLS)
def test_instances(tool: str, models: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / 'export'
    TOOLS[tool](root)
    cfg = load_config(config_of(tool, tmp_path), SMALL, data_root=root)
    DefaultScope.get_instance('exports', scope_name=cfg.default_scope)
    train_a_step(cfg, models)

    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    assert len(dataset) == 1
    sample = dataset[0]['data_samples'].to_dict()
    (drawn,) = IMAGES['val']
    sample['pred_instances'] = dict(
        labels=torch.tensor([CLASSES.index(name) for name, _ in drawn.objects]),
        masks=torch.from_numpy(np.stack([decode([ring], SIZE) for _, ring in drawn.objects])).bool(),
        scores=torch.tensor([0.9, 0.8]),
    )
    metric.process(None, [sample])
    assert metric.evaluate(1)['coco/segm_mAP'] == 1


# Semantic: one function per tool, which returns the lines of the config

SEMANTIC_CONFIG = re.findall(r'`configs/own/streets_semantic\.py`:\n\n```python\n(.*?)```', PAGE, flags=re.S)[0]
SEMANTIC_EXPORTS = rows('| tool | export | `data_root`, `img_path` and `seg_map_path` |')
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


SEMANTIC_TOOLS = dict(Roboflow=roboflow_masks, labelme=labelme_voc, FiftyOne=fiftyone_masks)


def test_table_and_imitations_go_together() -> None:
    assert list(EXPORTS) == list(TOOLS) and list(SEMANTIC_EXPORTS) == list(SEMANTIC_TOOLS)


@pytest.mark.parametrize('tool', SEMANTIC_TOOLS)
def test_label_maps(tool: str, models: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / 'export'
    lines = SEMANTIC_TOOLS[tool](root)
    assert all(
        folder in ''.join(SEMANTIC_EXPORTS[tool]) for folder in re.findall(r"path='([^']+)'", lines.split('val_')[0])
    )
    head = SEMANTIC_CONFIG[: SEMANTIC_CONFIG.index('data_root')]
    text = f'{head}metainfo = dict(classes={CLASSES})\n{lines}\nmodel = dict(backbone=_base_.backbone)\n'
    cfg = load_config(own_config(tmp_path, text), SMALL, data_root=root)
    DefaultScope.get_instance('exports', scope_name=cfg.default_scope)
    train_a_step(cfg, models)

    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    expected = torch.from_numpy(VALUES.astype(np.int64))
    sample = dataset[0]['data_samples'].to_dict()
    assert torch.equal(sample['gt_sem_seg']['data'][0].long(), torch.where(expected == 0, 255, expected - 1))
    sample['pred_sem_seg'] = dict(data=(expected - 1).clamp(min=0)[None])
    metric.process(None, [sample])
    assert metric.evaluate(1)['mIoU'] == 100
