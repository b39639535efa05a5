"""Write result files for benchmark servers; they get their final names only when all images are done."""

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
    """Path of a metric's result folder; raises ValueError for ``format_only`` without a folder."""
    if format_only and out_dir is None:
        raise ValueError(f'format_only=True writes results and nothing else: name a folder with {name}')
    return None if out_dir is None else Path(out_dir)


class ResultFolder:
    """A folder whose files are written to a temporary folder, which replaces an earlier one when complete.

    Args:
        path: of the folder; on shared storage if there are several nodes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(f'{path.name}.part')

    def finish(self, names: Iterable[str]) -> None:
        """Move the folder into place, with only the files ``names``: an interrupted evaluation may have left others."""
        current = {self.aside / name for name in names}
        self.aside.mkdir(parents=True, exist_ok=True)
        for path in self.aside.rglob('*'):
            if path.is_file() and path not in current:
                path.unlink()
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(self.aside, self.path)


class Place(NamedTuple):
    """Location of an image's results: bytes ``start`` to ``end`` of the part file of the process ``rank``."""

    rank: int
    start: int
    end: int


class ResultList:
    """A JSON in the COCO result format (https://cocodataset.org/#format-results) that is never held in memory.

    Every process appends the results of its images to its own part file beside the JSON. At the end, the main process
    copies the results that count from all parts into the JSON and removes the parts.

    Args:
        path: of the JSON; on shared storage if there are several nodes.
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
        """Write the JSON; it gets its final name when it is complete."""
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
