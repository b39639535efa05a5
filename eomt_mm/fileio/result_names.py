"""Names of files: of results, the path of the image below its folder, never one for two images; and descriptions."""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import PurePath


def name_below(img_path: str, folder: str | None = None) -> str:
    """Path of an image below ``folder`` without suffix, such as 'cam0/frame_0001'.

    Without ``folder``, and for an image that is not below it, the name of the file alone.
    """
    below = PurePath(img_path).name if folder is None else os.path.relpath(img_path, folder or '.')
    if below.startswith('..'):
        below = PurePath(img_path).name
    return PurePath(below).with_suffix('').as_posix()


def described(names: Sequence[str]) -> str:
    """Describe files by number, suffixes and an example: "3 files (2 .gif, 1 .txt), such as a.gif"."""
    counts = Counter(os.path.splitext(name)[1] or 'without suffix' for name in names)
    ends = ', '.join(f'{count} {end}' for end, count in counts.most_common(5))
    return f'{len(names)} file{"" if len(names) == 1 else "s"} ({ends}), such as {names[0]}'


class ResultNames:
    """Names that are taken, and by which image."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def claim(self, name: str, image: str) -> str:
        """Take ``name`` for the results of ``image`` (its path or id) and return it.

        Raises:
            ValueError: another image has it, or it leads out of the folder of results.
        """
        path = PurePath(name)
        if path.is_absolute() or '..' in path.parts:
            raise ValueError(
                f'results of {image} would be named {name}, which is outside of the folder of results: correct '
                '"file_name" in the annotation file'
            )
        owner = self._owners.setdefault(name, image)
        if owner != image:
            raise ValueError(
                f'results of {owner} and {image} would both be named {name}: rename one of the images or, where the '
                'metric has img_prefix, name the folder that both are below (tools/test.py does)'
            )
        return name

    def unique(self, name: str, image: str) -> str:
        """``name``, or where another image has it with ``_2``, ``_3``, ..."""
        names = (name if number == 1 else f'{name}_{number}' for number in count(1))
        return next(one for one in names if self._owners.setdefault(one, image) == image)

    def merge(self, others: list['ResultNames']) -> None:
        """Claim the names of other processes too; raises ValueError where two images share one."""
        for other in others:
            for name, image in other._owners.items():
                self.claim(name, image)
