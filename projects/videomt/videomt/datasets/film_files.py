"""Write films as files: frames, annotations in YouTube-VIS's format, panoptic ids of VIPSeg; see :mod:`generate`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from eomt_mm.synthetic.shapes import NUM_THINGS
from videomt.datasets.classes import WILD_PALETTE, WILD_SCENES, WILD_THINGS
from videomt.datasets.film import Array, Film

Films = Iterator[tuple[int, Film]]

# Classes of the data sets that stand for the shapes circle, square, triangle, star ...
YTVIS_SHAPES = ('turtle', 'train', 'shark', 'frog')
OVIS_SHAPES = ('Turtle', 'Boat', 'Fish', 'Lizard')
# ... and, in VIPSeg and VSPW, for the stuff sky, grass, brick, tiles too.
WILD_SHAPES = ('ball', 'box', 'flag', 'sculpture', 'sky', 'grass', 'wall', 'floor')


def save(pixels: Array, path: Path) -> None:
    """Save a picture (H, W[, 3]), uint8; create missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)  # for JPEGs; PNGs ignore it


def instances_json(
    folder: Path,
    films: Films,
    names: Sequence[str],
    shapes: Sequence[str],
    pattern: str,
    encode: Callable[[Array], dict[str, Any]],
) -> dict[str, Any]:
    """Save the frames in ``folder`` and return the content of their annotation file.

    Args:
        folder: of the frames.
        films: films to save, with their numbers.
        names: of all categories, in the order of their ids from 1.
        shapes: names of the categories that stand for the shapes.
        pattern: format string of the frames' file names, for a number.
        encode: function that encodes a mask (H, W) as run lengths; things out of sight get None.
    """
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, film in films:
        length, height, width = film.ids.shape
        files = [f'{index:08x}/{pattern.format(5 * frame)}' for frame in range(length)]
        for file, image in zip(files, film.frames, strict=True):
            save(image, folder / file)
        shared = {'width': width, 'height': height, 'length': length}
        videos.append({'id': index + 1, 'file_names': files, **shared})
        for id_, label in film.labels.items():
            masks = film.ids == id_
            if label >= NUM_THINGS or not masks.any():
                continue
            runs = [encode(mask) if mask.any() else None for mask in masks]
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'video_id': index + 1,
                    'category_id': names.index(shapes[label]) + 1,
                    'segmentations': runs,
                    'areas': [int(mask.sum()) or None for mask in masks],
                    'bboxes': [_box(mask) for mask in masks],
                    'iscrowd': 0,
                    **shared,
                }
            )
    categories = [{'id': i, 'name': name, 'supercategory': 'object'} for i, name in enumerate(names, start=1)]
    info = {'description': 'Generated shapes (videomt)'}
    return {'info': info, 'videos': videos, 'categories': categories, 'annotations': annotations}


def _box(mask: Array) -> list[float] | None:
    """Bounding box [x, y, width, height] in pixels; None for an empty mask."""
    y, x = np.nonzero(mask)
    return [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1] if len(x) else None


def run_lengths(mask: Array) -> dict[str, Any]:
    """Encode a mask as COCO's uncompressed run lengths: column by column, background first."""
    edges = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    return {'counts': np.diff(edges, prepend=0, append=mask.size).tolist(), 'size': list(mask.shape)}


def compressed(mask: Array) -> dict[str, Any]:
    """Encode a mask as COCO's compressed run lengths."""
    runs = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'counts': runs['counts'].decode(), 'size': list(mask.shape)}


def panoptic_ids(film: Film) -> tuple[Array, dict[int, int]]:
    """Convert a film to segment ids (T, H, W) as in the PNGs, near the class colours, and the category id of each."""
    ids = np.zeros_like(film.ids)
    categories: dict[int, int] = {}
    for number, label in film.labels.items():
        category = WILD_SCENES.index(WILD_SHAPES[label])
        red, green, blue = WILD_PALETTE[category]
        segment = red + 256 * green + 65536 * blue
        while segment in categories:  # another thing of the same class: the next shade of green
            green = (green + 7) % 256
            segment = red + 256 * green + 65536 * blue
        categories[segment] = category
        ids[film.ids == number] = segment
    return ids, categories


def present(id_map: Array, segments: dict[int, int]) -> list[dict[str, int]]:
    """Build ``segments_info`` of a frame."""
    values, counts = np.unique(id_map[id_map > 0], return_counts=True)
    return [
        {'id': value, 'category_id': segments[value], 'iscrowd': 0, 'area': count}
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    ]


def wild_categories() -> list[dict[str, Any]]:
    """All 124 categories, as in ``panoVIPSeg_categories.json``."""
    return [
        {'id': index, 'name': name, 'isthing': int(index in WILD_THINGS), 'color': list(color)}
        for index, (name, color) in enumerate(zip(WILD_SCENES, WILD_PALETTE, strict=True))
    ]
