"""Result files of instance segmentation, written image by image."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_rank

from eomt_mm.evaluation.ap_counting import RLE


class Place(NamedTuple):
    """Where results of an image lie: bytes ``start`` to ``end`` of the part that the process ``rank`` writes."""

    rank: int
    start: int
    end: int


class ResultFile:
    """A json in the COCO result format (https://cocodataset.org/#format-results) that is never held in memory.

    Every process appends its images to a part of its own beside the file. When all are done, the main process copies
    the images that count into the file, in whatever parts they are, and removes the parts. What an evaluation that
    was broken off has left in them is in nobody's place.

    Args:
        path: of the json; with several nodes on shared storage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, image_id: Any, category_ids: Iterable[int], scores: np.ndarray, rles: Iterable[RLE]) -> Place:
        """Writes the results of an image: one category id, score and mask per instance."""
        entries = [
            json.dumps({'image_id': image_id, 'category_id': id_, 'segmentation': _as_text(rle), 'score': score})
            for id_, score, rle in zip(category_ids, scores.tolist(), rles, strict=True)
        ]
        rank = get_rank()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._part(rank), 'ab') as file:
            start = file.tell()
            file.write(',\n'.join(entries).encode())
            return Place(rank, start, file.tell())

    def assemble(self, places: Iterable[Place]) -> None:
        """Writes the json; it appears under its name only when it is complete."""
        aside = self._part('all')
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, 'wb') as file:
                separator = b'[\n'
                for rank, start, end in places:
                    if end == start:  # an image without instances
                        continue
                    with open(self._part(rank), 'rb') as part:
                        part.seek(start)
                        file.write(separator + part.read(end - start))
                    separator = b',\n'
                file.write(b'[]\n' if separator == b'[\n' else b'\n]\n')
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)
        for done in self.path.parent.glob(self._part('*').name):
            done.unlink()

    def _part(self, name: Any) -> Path:
        return self.path.with_name(f'.{self.path.name}.{name}.part')


def _as_text(rle: RLE) -> RLE:
    counts = rle['counts']
    return {'size': list(rle['size']), 'counts': counts.decode() if isinstance(counts, bytes) else counts}
