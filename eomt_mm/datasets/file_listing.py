"""List a data set's files once per folder at build time, through mmengine's file backends."""

import logging
import os.path as osp
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log

from eomt_mm.annotations.label_folders import names_of_list
from eomt_mm.fileio.listing import (
    ListFiles,
    dead_link,
    is_hidden,
    local_files_below,
    local_names_in,
    missing_among,
    missing_text,
    plain_name,
)
from eomt_mm.hosts.zip_backend import PREFIX, ZipBackend, missing_folder

Item = TypeVar('Item')


def can_list(path: str, backend_args: dict | None = None) -> bool:
    """Whether listing a folder is cheap, as on local disks and in zip files."""
    return isinstance(fileio.get_file_backend(path, backend_args=backend_args), LocalBackend | ZipBackend)


def list_files(backend_args: dict | None = None) -> ListFiles:
    """Return a function that lists files as `local_files_below`, through mmengine's file backend."""

    def files_below(folder: str) -> list[str]:
        local = folder.removeprefix(PREFIX)
        if can_list(folder, backend_args) and osp.isdir(local):
            return local_files_below(local)
        names = fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=backend_args)
        return [name for name in names if not any(map(is_hidden, name.split('/')))]

    return files_below


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
        lambda path: fileio.isfile(path, backend_args=backend_args),
    )


def _names_in(folder: str, backend_args: dict | None) -> set[str]:
    if '://' not in folder:  # unlike mmengine's listing, hidden files too
        return local_names_in(folder)
    try:
        return set(fileio.list_dir_or_file(folder, list_dir=False, backend_args=backend_args))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def check_files(
    items: Iterable[Mapping[str, Any]],
    key: str,
    what: str,
    ann_file: str,
    backend_args: dict | None = None,
    prefix: str = '',
) -> None:
    """Check that the files of items exist.

    Args:
        items: of a data set.
        key: of the path in an item; items without it need no file.
        what: kind of the files, such as 'images' or 'panoptic PNGs', for the message.
        ann_file: annotation file that lists them.
        backend_args: arguments of mmengine's file backend.
        prefix: folder of these files, in which the message looks for the first missing one.

    Raises:
        FileNotFoundError: files are missing; the message gives their number and the first one.
        ValueError: a file has an address for its name, below a folder.
    """
    paths = [item[key] for item in items if item.get(key)]
    if address := next(filter(_is_joined_address, paths), ''):
        raise ValueError(
            f'{ann_file} names {what} by addresses, which are joined to {address}: download them and give their names '
            'in data_prefix, or leave data_prefix empty'
        )
    if missing := missing_files(paths, backend_args):
        hint = why_missing(missing[0], backend_args, prefix)
        raise FileNotFoundError(missing_text(paths, missing, what, ann_file, hint))


def _is_joined_address(path: str) -> bool:
    return '://' in path and ('/' in path.partition('://')[0] or path.count('://') > 1)


def warn_of_repeated(items: Sequence[Mapping[str, Any]], key: str, what: str, ann_file: str) -> None:
    """Warn about files that several items share, each with a part of the annotations; arguments as of `check_files`."""
    counts = Counter(item[key] for item in items if item.get(key))
    repeated = [path for path, count in counts.items() if count > 1]
    if repeated:
        print_log(
            f'{ann_file}: {len(repeated)} {what} are listed several times, such as {repeated[0]}: what one entry '
            'annotates is missing in the other; join the entries',
            logger='current',
            level=logging.WARNING,
        )


def why_missing(path: str, backend_args: dict | None = None, prefix: str = '') -> str:
    """Hint at the reason why a file is missing, in brackets: a similar name, a wrong folder; '' if none is found."""
    folder, name = osp.dirname(path) or '.', osp.basename(path)
    if not can_list(folder, backend_args):
        return ''
    if osp.islink(path.removeprefix(PREFIX)):
        return f' (it {dead_link(path.removeprefix(PREFIX))})'
    if missing := missing_folder(folder, backend_args):
        while folder and missing_folder(folder, backend_args) and osp.dirname(folder) != folder:
            folder = osp.dirname(folder)
        others = [osp.join(place, name) for place in (folder, prefix) if place]
        there = [other for other in others if fileio.isfile(other, backend_args=backend_args)]
        return f' (there is {there[0]})' if there else f' ({missing})'
    similar = sorted(other for other in _names_in(folder, backend_args) if plain_name(other) == plain_name(name))
    return f' (there is {similar[0]!r} in that folder)' if similar else ''


def read_list(path: str, what: str, backend_args: dict | None = None) -> list[str]:
    """Read a text file of names, one per line; blank lines are dropped.

    Args:
        path: of the file, UTF-8 with or without a byte order mark.
        what: name of such a list, for messages.
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, or has no names.
    """
    try:
        text = fileio.get_text(path, encoding='utf-8-sig', backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{what} {path} does not exist: check data_root and ann_file') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{what} {path} is not UTF-8 text ({error}): save it as UTF-8') from error
    return names_of_list(text, path, what)


def check_prefix(given: Any, known: Sequence[str], whose: str, ann_file: Any = None) -> None:
    """Check ``data_prefix`` and ``ann_file`` of a data set before paths are joined.

    Args:
        given: the data set's ``data_prefix``.
        known: keys of the folders that the data set reads; those of mmdet's and mmseg's data sets differ.
        whose: name of the data set, for messages.
        ann_file: the data set's.

    Raises:
        ValueError: a folder has a key that the data set does not read, or is no text; or there are several files.
    """
    if not isinstance(given, Mapping) or not all(isinstance(value, str) for value in given.values()):
        raise ValueError(f'data_prefix={given}: {whose} needs dict({known[0]}=...), with folders only')
    unread = {key: value for key, value in given.items() if value and key not in known}
    if unread:
        raise ValueError(f'data_prefix: {whose} reads the folders {list(known)}, not {unread}: correct the keys')
    if not isinstance(ann_file, str | None):
        raise ValueError(f'ann_file={ann_file}: {whose} reads one file; join several data sets with ConcatDataset')


def picked(items: list[Item], indices: int | Sequence[int] | None) -> list[Item]:
    """Select the items that mmengine's ``indices`` choose."""
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[index] for index in indices]
