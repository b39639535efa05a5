"""Result files for benchmark servers: they appear under their names when all images are done, and not before."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_rank

from eomt_mm.annotations.masks import RLE, as_text
from eomt_mm.fileio.writing import written_aside


def folder_of_results(out_dir: str | None, format_only: bool, name: str = 'out_dir') -> Path | None:
    """The folder that a metric's arguments name; raises ValueError for ``format_only`` without one."""
    if format_only and out_dir is None:
        raise ValueError(f'format_only=True writes results and nothing else: name a folder with {name}')
    return None if out_dir is None else Path(out_dir)


class ResultFolder:
    """A folder whose files are written aside, and which replaces an earlier one when it is complete.

    Args:
        path: of the folder; with several nodes on shared storage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(f'{path.name}.part')

    def finish(self, names: Iterable[str]) -> None:
        """Put the folder in place, with the files ``names`` only: an interrupted evaluation may have left others."""
        current = {self.aside / name for name in names}
        self.aside.mkdir(parents=True, exist_ok=True)
        for path in self.aside.rglob('*'):
            if path.is_file() and path not in current:
                path.unlink()
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(self.aside, self.path)


class Place(NamedTuple):
    """Bytes ``start`` to ``end`` of the part that the process ``rank`` writes: results of an image."""

    rank: int
    start: int
    end: int


class ResultList:
    """A json in the COCO result format (https://cocodataset.org/#format-results) that is never held in memory.

    Every process appends its images to a part of its own beside the file. In the end the main process copies the images
    that count from all parts into the file, and removes the parts.

    Args:
        path: of the json; with several nodes on shared storage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, image_id: Any, category_ids: Iterable[int], scores: np.ndarray, rles: Iterable[RLE]) -> Place:
        """Write the results of an image: one category id, score and mask per instance."""
        entries = [
            json.dumps({'image_id': image_id, 'category_id': id_, 'segmentation': as_text(rle), 'score': score})
            for id_, score, rle in zip(category_ids, scores.tolist(), rles, strict=True)
        ]
        rank = get_rank()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._part(rank), 'ab') as file:
            start = file.tell()
            file.write(',\n'.join(entries).encode())
            return Place(rank, start, file.tell())

    def assemble(self, places: Iterable[Place]) -> None:
        """Write the json, which appears under its name when it is complete."""
        with written_aside(self.path) as aside, open(aside, 'wb') as file:
            separator = b'[\n'
            for rank, start, end in places:
                if end == start:  # an image without instances
                    continue
                with open(self._part(rank), 'rb') as part:
                    part.seek(start)
                    file.write(separator + part.read(end - start))
                separator = b',\n'
            file.write(b'[]\n' if separator == b'[\n' else b'\n]\n')
        for done in self.path.parent.glob(self._part('*').name):
            done.unlink()

    def _part(self, rank: Any) -> Path:
        return self.path.with_name(f'.{self.path.name}.process_{rank}.part')
