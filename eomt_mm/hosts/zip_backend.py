"""``zip://`` paths for ``mmengine.fileio``: data sets read out of the zip files that they were downloaded as.

``zip://PATH`` is what would be at PATH if every zip file were unpacked where it lies. With train2017.zip and
panoptic_annotations_trainval2017.zip in data/coco, there are zip://data/coco/train2017/000000000009.jpg and
zip://data/coco/annotations/panoptic_train2017/000000000009.png, the latter in a zip inside the zip. In detail, the
first of these counts:

1. a real file or folder (so what is already unpacked is used, and a real folder is listed without zips),
2. a path that leads through a zip file, as zip://data/coco/train2017.zip/train2017/000000000009.jpg,
3. what zips in the deepest existing folder on the path hold under the rest of it, then those in the two folders above
   (data/coco, where only some of data/coco/annotations is unpacked).

A single top folder named like its zip (or, in 3, like the folder that the zip lies in) may be left out: with
ADEChallengeData2016.zip in data/ade there is zip://data/ade/images/training too. Where nothing is found otherwise, the
only top folder may be left out whatever its name. Backslashes in names of members count as slashes.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import tee
from operator import attrgetter
from pathlib import Path
from typing import Any

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import BaseStorageBackend
from mmengine.logging import print_log

from eomt_mm.fileio.zip_archive import Archive, is_zip_name, open_archive

PREFIX = 'zip://'
# How many folders of a path are searched for zips, the deepest existing one first: unpacked folders of PNGs lie two
# below the root, and further up there are the zips of other data sets.
NUM_FOLDERS = 3
# Nanoseconds. A folder's time of change says that its listing is still valid only if it was this old when listed:
# clocks of file systems tick coarsely.
SETTLED = 2 * 10**9

PathLike = str | Path
Kind = Callable[[Archive], Container[str]]
FILES: Kind = attrgetter('members')
FOLDERS: Kind = attrgetter('folders')


def zip_root(root: str) -> str:
    """``data_root`` of a config for data that may still be zipped.

    Args:
        root: folder, zip file, or address of some file backend.

    Returns:
        ``zip://<root>/`` for a zip file and for a folder with at least one zip file directly in it, else ``root``.
    """
    if '://' in root:
        return root
    is_zip = is_zip_name(root.rstrip('/')) and os.path.isfile(root.rstrip('/'))
    if is_zip or (os.path.isdir(root) and _zips_in(root)):
        return f'{PREFIX}{root.rstrip("/")}/'
    return root


def is_missing_folder(path: str, backend_args: dict | None = None) -> bool:
    """Whether a local or ``zip://`` path is no folder; False for other backends, which have no cheap way to ask."""
    if '://' in path and not path.startswith(PREFIX):
        return False
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    return isinstance(backend, LocalBackend | ZipBackend) and not backend.isdir(path)


class ZipBackend(BaseStorageBackend):
    """Reads ``zip://`` paths, absolute or relative; see the module for what they name.

    Safe to use from several threads, and from forked and spawned processes: an index is parsed once per process (in
    forked ones not again), reads share no position, and a zip file that is replaced is noticed.

    All methods raise ValueError where a zip or member that they need is damaged, encrypted or compressed by a method
    other than deflate.
    """

    def get(self, filepath: PathLike) -> bytes:
        """Content of a file; raises FileNotFoundError, or IsADirectoryError."""
        path = _local(filepath)
        if os.path.isfile(path):
            return Path(path).read_bytes()
        archive, name = _member(path)
        return archive.read(name)

    def get_text(self, filepath: PathLike, encoding: str = 'utf-8') -> str:
        """Content of a text file; raises as `get`."""
        return self.get(filepath).decode(encoding)

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is such a file or folder."""
        path = _local(filepath)
        return os.path.exists(path) or any(_search(path, FILES, FOLDERS))

    def isfile(self, filepath: PathLike) -> bool:
        """Whether there is such a file."""
        path = _local(filepath)
        return os.path.isfile(path) or any(_search(path, FILES))

    def isdir(self, filepath: PathLike) -> bool:
        """Whether there is such a folder; a zip file is a file and, with what is in it, a folder."""
        path = _local(filepath)
        return os.path.isdir(path) or any(_search(path, FOLDERS))

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """Joins parts of a path; an absolute or ``zip://`` one drops those before it."""
        path = str(filepath)
        for part in map(str, filepaths):
            path = part if part.startswith(PREFIX) else os.path.join(path, part)
        return path

    @contextmanager
    def get_local_path(self, filepath: PathLike) -> Iterator[str]:
        """Path of a file on the disk: a real file's own, or that of a copy which is removed afterwards."""
        path = _local(filepath)
        if os.path.exists(path):
            yield path
            return
        archive, name = _member(path)
        with tempfile.TemporaryDirectory(prefix='eomt_mm_zip_') as folder:
            copy = os.path.join(folder, os.path.basename(name))
            with open(copy, 'wb') as file:
                file.writelines(archive.chunks(name))
            yield copy

    def list_dir_or_file(
        self,
        dir_path: PathLike,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """List a folder, sorted; several zips that hold a part of it are listed together.

        Args:
            dir_path: the folder.
            list_dir: whether to list folders.
            list_file: whether to list files; those whose name starts with '.' never are.
            suffix: ending or endings of the files to list; not together with ``list_dir``.
            recursive: whether to list folders in it, too (not zips nested in zips).

        Returns:
            paths relative to ``dir_path``.

        Raises:
            TypeError: ``suffix`` is given together with ``list_dir``, or is neither a string nor a tuple.
            FileNotFoundError: there is no such folder.
        """
        if list_dir and suffix is not None:
            raise TypeError('`suffix` should be None when `list_dir` is True')
        if suffix is not None and not isinstance(suffix, str | tuple):
            raise TypeError(f'`suffix` must be a string or tuple of strings, got {suffix!r}')
        path = _local(dir_path)
        if os.path.isdir(path):
            return iter(sorted(LocalBackend().list_dir_or_file(path, list_dir, list_file, suffix, recursive)))
        places = list(_search(path, FOLDERS))
        if not places:
            raise FileNotFoundError(f'folder {_not_found(path)}')
        entries = (entry for archive, name in places for entry in _entries(archive, name, recursive))
        ends = '' if suffix is None else suffix
        wanted = (name for name, is_dir in entries if (list_dir if is_dir else list_file and name.endswith(ends)))
        return iter(sorted(set(wanted)))

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise io.UnsupportedOperation(
            f'{", ".join(map(str, args[:2]))}: {PREFIX} paths can only be read (get, get_text, get_local_path), not '
            'written, copied or removed: give a path without it'
        )

    put = put_text = remove = rmtree = _refuse
    copyfile = copyfile_from_local = copyfile_to_local = copy_if_symlink_fails = _refuse
    copytree = copytree_from_local = copytree_to_local = _refuse


def _local(path: PathLike) -> str:
    """Absolute path without ``zip://``; of the slashes at its end none is left."""
    return os.path.abspath(str(path).removeprefix(PREFIX))


def _member(path: str) -> tuple[Archive, str]:
    """The file of a path that does not really exist."""
    found = next(_search(path, FILES), None)
    if found:
        return found
    if os.path.isdir(path) or any(_search(path, FOLDERS)):
        raise IsADirectoryError(f'{PREFIX}{path} is a folder, not a file')
    raise FileNotFoundError(_not_found(path))


def _search(path: str, *kinds: Kind) -> Iterator[tuple[Archive, str]]:
    """Finds a path in zips: at most one place in each of them, and in the zips nested there.

    A zip that cannot be read counts only where nothing is found in others: it may be of another data set.
    """
    broken = None
    # A top folder of another name may be left out only where nothing else fits.
    for any_top, candidates in zip((False, True), tee(_candidates(path)), strict=True):
        found = False
        for zip_path, names in candidates:
            try:
                archive = open_archive(zip_path, _report)
                places = (place for name in names for place in archive.places(name, any_top))
                place = next((place for place in places if any(place[1] in kind(place[0]) for kind in kinds)), None)
            except FileNotFoundError:  # removed since its folder was listed
                continue
            except (ValueError, PermissionError) as error:
                broken = broken or error
                continue
            if place:
                found = True
                yield place
        if found:
            return
    if broken:
        raise ValueError(f'{PREFIX}{path} was not found, and not every zip could be searched: {broken}') from broken


def _report(line: str) -> None:
    print_log(line, logger='current')


def _candidates(path: str) -> Iterator[tuple[str, list[str]]]:
    """Zips that may hold a path which does not really exist, each with the names that it may have there."""
    folder, rest = path, ''
    while not os.path.isdir(folder):
        if is_zip_name(folder) and os.path.isfile(folder):
            yield folder, [rest]
            return
        folder, last = os.path.split(folder)
        rest = f'{last}/{rest}' if rest else last
    for _ in range(NUM_FOLDERS):
        last = os.path.basename(folder)
        named = rest.split('/')
        # First those named like a folder on the path: the index of others is then not needed.
        for zip_path in sorted(_zips_in(folder), key=lambda zip_path: os.path.basename(zip_path)[:-4] not in named):
            yield zip_path, [rest, f'{last}/{rest}']
        if not last:  # the root of the file system
            return
        folder, rest = os.path.dirname(folder), f'{last}/{rest}'


def _zips_in(folder: str) -> list[str]:
    """Sorted paths of the zip files directly in a folder; none where it must not be listed."""
    try:
        changed = os.stat(folder).st_mtime_ns
        known = _listings.get(folder)
        if known and known[0] == changed:
            return known[1]
        with os.scandir(folder) as entries:
            zips = sorted(entry.path for entry in entries if is_zip_name(entry.name) and entry.is_file())
    except PermissionError:
        return []
    if time.time_ns() - changed > SETTLED:
        _listings[folder] = (changed, zips)
    return zips


def _not_found(path: str) -> str:
    zips = '; '.join(open_archive(zip_path, _report).summary() for zip_path, _ in _candidates(path)) or 'no zip there'
    return f'{PREFIX}{path} does not exist, neither unpacked nor in a zip file: check the path ({zips})'


def _entries(archive: Archive, folder: str, recursive: bool) -> Iterator[tuple[str, bool]]:
    """Paths below a folder of a zip and whether each is a folder, as mmengine's `LocalBackend` lists real ones."""
    start = f'{folder}/' if folder else ''
    for names, is_folder in ((archive.members, False), (archive.folders, True)):
        for name in (name[len(start) :] for name in names if name.startswith(start)):
            last = name.rpartition('/')[2]
            if (recursive or last == name) and last and (is_folder or not last.startswith('.')):
                yield name, is_folder


def register_zip_backend() -> None:
    """Make ``zip://`` paths known to ``mmengine.fileio``; a second call changes nothing."""
    fileio.register_backend('eomt_mm.zip', ZipBackend, force=True, prefixes='zip')


def read_file(path: str, backend_args: dict | None = None) -> bytes:
    """Content of a file by any of mmengine's backends; knows ``zip://`` in processes without the registry, too."""
    register_zip_backend()
    return fileio.get(path, backend_args=backend_args)


_listings: dict[str, tuple[int, list[str]]] = {}
