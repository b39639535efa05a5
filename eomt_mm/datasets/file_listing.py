"""List a data set's files once per folder at build time: find missing files, report unused ones."""

import logging
import os
import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log

from eomt_mm.fileio.result_names import described
from eomt_mm.hosts.zip_backend import ZipBackend

Item = TypeVar('Item')
# Number of unlisted files that are checked one by one; if none of them exists, all unlisted files count as missing.
NUM_ASKED = 20


def can_list(path: str, backend_args: dict | None = None) -> bool:
    """Whether listing a folder is cheap, as on local disks and in zip files."""
    return isinstance(fileio.get_file_backend(path, backend_args=backend_args), LocalBackend | ZipBackend)


def files_below(folder: str, without: str | None = None, backend_args: dict | None = None) -> list[str]:
    """Paths of the files below a folder, relative to it and sorted; hidden files are not listed.

    Args:
        folder: where to look, sub-folders included.
        without: folder whose files are excluded if it lies inside ``folder``.
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """
    names = fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=backend_args)
    inside = osp.relpath(without, folder) if without else '..'
    if inside.startswith(('..', '.')):
        return sorted(names)
    return sorted(name for name in names if not name.startswith(f'{inside}/'))


def by_stem(files: Iterable[str], suffix: str | None, usual: Sequence[str], argument: str) -> dict[str, str]:
    """Map file names without suffix to file names.

    Args:
        files: names to choose from.
        suffix: exact end of the names; None: any of ``usual``, in upper or lower case.
        usual: suffixes in lower case.
        argument: name of the argument that states the suffix, for the message.

    Raises:
        ValueError: two names differ only in their suffix.
    """
    found: dict[str, str] = {}
    for name in files:
        stem, end = osp.splitext(name)
        if suffix is not None and name.endswith(suffix):
            stem = name.removesuffix(suffix)
        elif suffix is not None or end.lower() not in usual:
            continue
        if found.setdefault(stem, name) != name:
            raise ValueError(
                f'{found[stem]} and {name} differ only in their suffix: remove one, or choose with '
                f"{argument}='{osp.splitext(found[stem])[1]}'"
            )
    return found


def warn_of_rest(whose: str, num_images: int, rest: Sequence[tuple[str, Sequence[str], str]]) -> None:
    """Warn about files in a data set's folders that it does not use, if there are any.

    Args:
        whose: name of the data set.
        num_images: number of images that it reads.
        rest: for each folder its path, the names of unused files, and the reason.
    """
    parts = [f'{described(names)} in {folder}, {why}' for folder, names, why in rest if names]
    if parts:
        images = f'{num_images} image{"" if num_images == 1 else "s"}'
        text = f'{whose} reads {images} and leaves out {"; and ".join(parts)}'
        print_log(text, logger='current', level=logging.WARNING)


def missing_files(paths: Iterable[str], backend_args: dict | None = None) -> list[str]:
    """Return the files that do not exist, listing each folder once; folders that are not cheap to list are skipped.

    Args:
        paths: of files, in any folders.
        backend_args: arguments of mmengine's file backend.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[osp.dirname(path)].append(path)
    missing: set[str] = set()
    for folder, group in by_folder.items():
        if not can_list(folder, backend_args):
            continue
        listed = _names_in(folder, backend_args)
        absent = [path for path in group if osp.basename(path) not in listed]
        # A file may exist without being listed: hidden files, and file systems that ignore case.
        if any(fileio.exists(path, backend_args=backend_args) for path in absent[:NUM_ASKED]):
            absent = [path for path in absent if not fileio.exists(path, backend_args=backend_args)]
        missing.update(absent)
    return [path for group in by_folder.values() for path in group if path in missing]


def _names_in(folder: str, backend_args: dict | None) -> set[str]:
    try:
        if '://' not in folder:  # unlike mmengine's listing, os.listdir does not query every file's type
            return set(os.listdir(folder or '.'))
        return set(fileio.list_dir_or_file(folder, list_dir=False, backend_args=backend_args))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def check_files(
    items: Iterable[Mapping[str, Any]], key: str, what: str, ann_file: str, backend_args: dict | None = None
) -> None:
    """Check that the files of items exist.

    Args:
        items: of a data set.
        key: of the path in an item; items without it need no file.
        what: kind of the files, such as 'images' or 'panoptic PNGs', for the message.
        ann_file: annotation file that lists them.
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: files are missing; the message gives their number and the first one.
    """
    paths = [item[key] for item in items if item.get(key)]
    missing = missing_files(paths, backend_args)
    if missing:
        raise FileNotFoundError(
            f'{ann_file}: {len(missing)} of {len(paths)} {what} do not exist, the first would be {missing[0]}: add '
            'them, correct data_root or data_prefix, or remove their entries from the file'
        )


def picked(items: list[Item], indices: int | Sequence[int] | None) -> list[Item]:
    """Select the items that mmengine's ``indices`` choose."""
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[index] for index in indices]
