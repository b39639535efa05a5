"""Generate small data sets in the formats of YouTube-VIS, OVIS, VIPSeg and VSPW, for tests and the demo.

They consist of films of :mod:`videomt.datasets.film`. A film depends only on the seed, its split and its number. Every
tree has ``num_videos`` training films and half as many (at least one) for validation. Unlike the official ones,
generated validation sets of YouTube-VIS and OVIS have annotations.

    python -m videomt.datasets.generate youtube_vis data/ytvis_2019
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.options import ToolParser, whole_number
from videomt.datasets.classes import INSTANCE_CLASSES, WILD_SCENES
from videomt.datasets.film import draw_film
from videomt.datasets.film_files import (
    OVIS_SHAPES,
    WILD_SHAPES,
    YTVIS_SHAPES,
    Films,
    compressed,
    instances_json,
    panoptic_ids,
    present,
    run_lengths,
    save,
    wild_categories,
)

PathLike = str | os.PathLike[str]
SPLITS = ('train', 'val')
VSPW_VOID = (0, 255)  # "others" and void, in turn


def write_youtube_vis(
    root: PathLike,
    num_videos: int = 4,
    num_frames: int = 6,
    size: tuple[int, int] = (64, 96),
    seed: int = 0,
    version: str = '2019',
) -> Path:
    """Write a tree like YouTube-VIS: ``{train,valid}/JPEGImages/<video>/<5 digits>.jpg``, ``{train,valid}.json``.

    The JSON has all 40 categories; ``YTVIS_SHAPES`` occur. Masks are uncompressed run lengths, None where a thing is
    out of sight. Format: codalab competition 20128, "get data".

    Args:
        root: folder to write; missing or empty.
        num_videos: number of training films, at least 1.
        num_frames: number of frames of every film, at least 1.
        size: (height, width) in pixels, each 32 or more.
        seed: 0 or more.
        version: '2019', '2021' or '2022'; they differ in the categories.

    Returns:
        ``root``.

    Raises:
        ValueError: a count, the size, the seed or the version is out of range.
        FileExistsError: ``root`` is not empty.
    """
    if f'ytvis{version}' not in INSTANCE_CLASSES:
        raise ValueError(f"version='{version}': one of '2019', '2021', '2022'")
    names = INSTANCE_CLASSES[f'ytvis{version}']

    def write_split(folder: Path, split: str, films: Films) -> None:
        split = {'val': 'valid'}.get(split, split)
        images = folder / split / 'JPEGImages'
        content = instances_json(images, films, names, YTVIS_SHAPES, '{:05d}.jpg', run_lengths)
        (folder / f'{split}.json').write_text(json.dumps(content))

    return _write(write_split, root, num_videos, num_frames, size, seed)


def write_ovis(
    root: PathLike, num_videos: int = 4, num_frames: int = 6, size: tuple[int, int] = (64, 96), seed: int = 0
) -> Path:
    """Write a tree like OVIS.

    Files are ``{train,valid}/<video>/img_<7 digits>.jpg`` and ``annotations/annotations_{train,valid}.json``. The
    format is YouTube-VIS's, with 25 categories, of which ``OVIS_SHAPES`` occur, and compressed run lengths.

    Arguments, return value and errors: as for :func:`write_youtube_vis`.
    """

    def write_split(folder: Path, split: str, films: Films) -> None:
        split = {'val': 'valid'}.get(split, split)
        names = INSTANCE_CLASSES['ovis']
        content = instances_json(folder / split, films, names, OVIS_SHAPES, 'img_{:07d}.jpg', compressed)
        (folder / 'annotations').mkdir(exist_ok=True)
        (folder / 'annotations' / f'annotations_{split}.json').write_text(json.dumps(content))

    return _write(write_split, root, num_videos, num_frames, size, seed)


def write_vipseg(
    root: PathLike, num_videos: int = 4, num_frames: int = 6, size: tuple[int, int] = (64, 96), seed: int = 0
) -> Path:
    """Write a tree like VIPSeg_720P (at any size), as the official ``create_panoptic_video_labels.py`` makes it.

    Files are ``images/<video>/<8 digits>.jpg``, ``panomasksRGB/<video>/<8 digits>.png`` (R + 256 G + 65536 B is the
    segment id, constant throughout the film, 0 is void), ``panoptic_gt_VIPSeg_{train,val}.json`` and
    ``{train,val}.txt``. The JSON has all 124 categories; ``WILD_SHAPES`` occur. Format: VIPSeg-Dataset/VIPSeg-Dataset.

    Arguments, return value and errors: as for :func:`write_youtube_vis`.
    """

    def write_split(folder: Path, split: str, films: Films) -> None:
        videos, annotations = [], []
        for index, film in films:
            name = f'{100 * SPLITS.index(split) + index}_generated'
            ids, segments = panoptic_ids(film)
            entries: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
            for frame, (image, id_map) in enumerate(zip(film.frames, ids, strict=True)):
                stem = f'{5 * frame + 30:08d}'
                save(image, folder / 'images' / name / f'{stem}.jpg')
                write_panoptic_png(folder / 'panomasksRGB' / name / f'{stem}.png', id_map)
                size = {'width': image.shape[1], 'height': image.shape[0]}
                entries[0].append({'id': stem, **size, 'file_name': f'{stem}.png'})
                entries[1].append(
                    {'image_id': stem, 'file_name': f'{stem}.png', 'segments_info': present(id_map, segments)}
                )
            videos.append({'video_id': name, 'images': entries[0]})
            annotations.append({'video_id': name, 'annotations': entries[1]})
        content = {'videos': videos, 'annotations': annotations, 'categories': wild_categories()}
        (folder / f'panoptic_gt_VIPSeg_{split}.json').write_text(json.dumps(content))
        (folder / f'{split}.txt').write_text(''.join(f'{video["video_id"]}\n' for video in videos))

    return _write(write_split, root, num_videos, num_frames, size, seed)


def write_vspw(
    root: PathLike, num_videos: int = 4, num_frames: int = 6, size: tuple[int, int] = (64, 96), seed: int = 0
) -> Path:
    """Write a tree like VSPW_480p (at any size).

    Files are ``data/<video>/{origin/<8 digits>.jpg,mask/<8 digits>.png}``, ``{train,val}.txt`` with a video per line,
    and ``label_num_dic_final.json``. Values of the grey masks: 1 .. 124 are the classes; void is 0 or, in every other
    film, 255. ``WILD_SHAPES`` occur. Format: the "Instruction" of the VSPW download page.

    Arguments, return value and errors: as for :func:`write_youtube_vis`.
    """

    def write_split(folder: Path, split: str, films: Films) -> None:
        names = []
        for index, film in films:
            names.append(f'{100 * SPLITS.index(split) + index}_generated')
            values = np.full(max(film.labels) + 1, VSPW_VOID[index % 2], np.uint8)
            for id_, label in film.labels.items():
                values[id_] = WILD_SCENES.index(WILD_SHAPES[label]) + 1
            for frame, (image, ids) in enumerate(zip(film.frames, film.ids, strict=True)):
                save(image, folder / 'data' / names[-1] / 'origin' / f'{frame:08d}.jpg')
                save(values[ids], folder / 'data' / names[-1] / 'mask' / f'{frame:08d}.png')
        (folder / f'{split}.txt').write_text(''.join(f'{name}\n' for name in names))
        labels = {'others': '0'} | {name: str(value) for value, name in enumerate(WILD_SCENES, start=1)}
        (folder / 'label_num_dic_final.json').write_text(json.dumps(labels))

    return _write(write_split, root, num_videos, num_frames, size, seed)


def _write(
    write_split: Callable[[Path, str, Films], None],
    root: PathLike,
    num_videos: int,
    num_frames: int,
    size: tuple[int, int],
    seed: int,
) -> Path:
    if num_videos < 1 or seed < 0:
        raise ValueError(f'num_videos={num_videos}, seed={seed}: at least 1 film, and a seed from 0 on')
    with _fresh_tree(Path(root)) as folder:
        for number, (split, count) in enumerate(zip(SPLITS, (num_videos, max(1, num_videos // 2)), strict=True)):
            rngs = (np.random.default_rng((seed, number, index)) for index in range(count))
            write_split(folder, split, ((index, draw_film(rng, num_frames, size)) for index, rng in enumerate(rngs)))
    return Path(root)


@contextmanager
def _fresh_tree(root: Path) -> Iterator[Path]:
    """Create an empty folder beside ``root``, which replaces it if no error occurs."""
    target = root.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f'{root} exists and is not an empty folder: give another, or remove it')
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f'.{target.name}.', dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it accessible to its owner only
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


WRITERS: dict[str, Callable[..., Path]] = {
    'youtube_vis': write_youtube_vis,
    'ovis': write_ovis,
    'vipseg': write_vipseg,
    'vspw': write_vspw,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = ToolParser('Write a small generated video data set.')
    parser.add_argument('format', choices=WRITERS)
    parser.add_argument('root', type=Path)
    parser.add_argument('--num-videos', type=whole_number(1), default=4)
    parser.add_argument('--num-frames', type=whole_number(1), default=6)
    parser.add_argument('--size', type=whole_number(1), nargs=2, default=(64, 96), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--seed', type=whole_number(0), default=0)
    given = vars(parser.parse_args(arguments))
    given['size'] = tuple(given['size'])
    try:
        print(WRITERS[given.pop('format')](**given))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
