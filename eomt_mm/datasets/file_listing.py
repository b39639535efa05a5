"""List a data set's files once per folder at build time, through mmengine's file backends."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log

from eomt_mm.fileio.listing import ListFiles, local_names_in, missing_among, missing_text
from eomt_mm.hosts.zip_backend import ZipBackend

Item = TypeVar('Item')


def can_list(path: str, backend_args: dict | None = None) -> bool:
    """Whether listing a folder is cheap, as on local disks and in zip files."""
    return isinstance(fileio.get_file_backend(path, backend_args=backend_args), LocalBackend | ZipBackend)


def list_files(backend_args: dict | None = None) -> ListFiles:
    """Return a function that lists the files below a folder through mmengine's file backend."""
    return partial(fileio.list_dir_or_file, list_dir=False, recursive=True, backend_args=backend_args)


def warn(text: str) -> None:
    """Log a warning, unless the text is empty."""
    if text:
        print_log(text, logger='current', level=logging.WARNING)


def missing_files(paths: Iterable[str], backend_args: dict | None = None) -> list[str]:
    """Return the files that do not exist; folders that are not cheap to list are skipped.

    Args:
        paths: of files, in any folders.
        backend_args: arguments of mmengine's file backend.
    """
    return missing_among(
        paths,
        lambda folder: _names_in(folder, backend_args) if can_list(folder, backend_args) else None,
        lambda path: fileio.exists(path, backend_args=backend_args),
    )


def _names_in(folder: str, backend_args: dict | None) -> set[str]:
    if '://' not in folder:  # unlike mmengine's listing, this does not query every file's type
        return local_names_in(folder)
    try:
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
    text = missing_text(paths, missing_files(paths, backend_args), what, ann_file)
    if text:
        raise FileNotFoundError(text)


def picked(items: list[Item], indices: int | Sequence[int] | None) -> list[Item]:
    """Select the items that mmengine's ``indices`` choose."""
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[index] for index in indices]
