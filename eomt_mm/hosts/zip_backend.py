"""``zip://`` paths for ``mmengine.fileio``: read data sets directly from the zip files that they are distributed in.

``zip://PATH`` is the file that would be at PATH if every zip file were unpacked in its own folder. With train2017.zip
and panoptic_annotations_trainval2017.zip in data/coco, there are zip://data/coco/train2017/000000000009.jpg and
zip://data/coco/annotations/panoptic_train2017/000000000009.png; the latter is in a zip inside the zip. A path is looked
up in this order:

1. a real file or folder. Unpacked files are therefore preferred, and a real folder is listed without zips;
2. a path through a zip file, such as zip://data/coco/train2017.zip/train2017/000000000009.jpg;
3. the rest of the path inside the zips of its deepest existing folder, then inside those of the two folders above
   (data/coco, if only a part of data/coco/annotations is unpacked).

If a zip has a single top folder with the name of the zip (or, in 3, of the folder that contains the zip), the path may
omit it: with ADEChallengeData2016.zip in data/ade there is also zip://data/ade/images/training. If nothing else is
found, the path may omit a single top folder of any name. Backslashes in member names count as slashes.
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
# Number of folders of a path that are searched for zips, starting with the deepest existing one. Unpacked folders of
# PNGs are two levels below the data root; folders above the root hold the zips of other data sets.
NUM_FOLDERS = 3
# Nanoseconds. File systems have coarse clocks: an unchanged modification time proves that a cached listing is valid
# only if the folder had not been modified for this long when it was listed.
SETTLED = 2 * 10**9

PathLike = str | Path
Kind = Callable[[Archive], Container[str]]
FILES: Kind = attrgetter('members')
FOLDERS: Kind = attrgetter('folders')


def zip_root(root: str) -> str:
    """Return the ``data_root`` of a config for data that may be zipped.

    Args:
        root: folder, zip file, or address of another file backend.

    Returns:
        ``zip://<root>/`` for a zip file and for a folder with at least one zip file directly in it, else ``root``.
    """
    if '://' in root:
        return root
    is_zip = is_zip_name(root.rstrip('/')) and os.path.isfile(root.rstrip('/'))
    if is_zip or (os.path.isdir(root) and _zips_in(root)):
        return f'{PREFIX}{root.rstrip("/")}/'
    return root


def missing_folder(path: str, backend_args: dict | None = None) -> str:
    """Error text if a local or ``zip://`` path is not a folder, with what the zips hold; '' if it is one.

    Other backends, where a check is costly, are not asked.
    """
    if '://' in path and not path.startswith(PREFIX):
        return ''
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    if not isinstance(backend, LocalBackend | ZipBackend) or backend.isdir(path):
        return ''
    return f'folder {_not_found(_local(path))}' if path.startswith(PREFIX) else f'folder {path} does not exist'


class ZipBackend(BaseStorageBackend):
    """Read-only file backend for ``zip://`` paths, absolute or relative; see the module's docstring for their meaning.

    It is safe in several threads and in forked and spawned processes. The index of a zip is parsed once per process,
    and not again in forked processes. Reads share no file position. A replaced zip file is detected.

    All methods raise ValueError if a zip or member that they need is damaged, encrypted, or compressed with a method
    other than deflate.
    """

    def get(self, filepath: PathLike) -> bytes:
        """Read a file; raise FileNotFoundError or IsADirectoryError if there is none."""
        path = _local(filepath)
        if os.path.isfile(path):
            return Path(path).read_bytes()
        archive, name = _member(path)
        return archive.read(name)

    def get_text(self, filepath: PathLike, encoding: str = 'utf-8') -> str:
        """Read a text file; for errors see `get`."""
        return self.get(filepath).decode(encoding)

    def exists(self, filepath: PathLike) -> bool:
        """Return whether a file or folder exists."""
        path = _local(filepath)
        return os.path.exists(path) or any(_search(path, FILES, FOLDERS))

    def isfile(self, filepath: PathLike) -> bool:
        """Return whether a path is an existing file."""
        path = _local(filepath)
        return os.path.isfile(path) or any(_search(path, FILES))

    def isdir(self, filepath: PathLike) -> bool:
        """Return whether a path is an existing folder; a zip file is both a file and a folder."""
        path = _local(filepath)
        return os.path.isdir(path) or any(_search(path, FOLDERS))

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """Join parts of a path; an absolute or ``zip://`` part discards all parts before it."""
        path = str(filepath)
        for part in map(str, filepaths):
            path = part if part.startswith(PREFIX) else os.path.join(path, part)
        return path

    @contextmanager
    def get_local_path(self, filepath: PathLike) -> Iterator[str]:
        """Provide a local path of a file: its own if the file is real, else that of a temporary copy."""
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
        """List a folder in sorted order; if several zips hold parts of it, their entries are merged.

        Args:
            dir_path: folder to list.
            list_dir: whether to list folders.
            list_file: whether to list files; files whose name starts with '.' are never listed.
            suffix: ending or endings of the files to list; cannot be combined with ``list_dir``.
            recursive: whether to list subfolders too, but not zips nested in zips.

        Returns:
            paths relative to ``dir_path``.

        Raises:
            TypeError: ``suffix`` is combined with ``list_dir``, or is neither a string nor a tuple.
            FileNotFoundError: the folder does not exist.
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
            f'written, copied or removed: give a path without {PREFIX}'
        )

    put = put_text = remove = rmtree = _refuse
    copyfile = copyfile_from_local = copyfile_to_local = copy_if_symlink_fails = _refuse
    copytree = copytree_from_local = copytree_to_local = _refuse


def _local(path: PathLike) -> str:
    """Return the absolute path without ``zip://`` and without trailing slashes."""
    return os.path.abspath(str(path).removeprefix(PREFIX))


def _member(path: str) -> tuple[Archive, str]:
    """Find the zip and the member name of a file that exists only in a zip."""
    found = next(_search(path, FILES), None)
    if found:
        return found
    if os.path.isdir(path) or any(_search(path, FOLDERS)):
        raise IsADirectoryError(f'{PREFIX}{path} is a folder, not a file')
    raise FileNotFoundError(_not_found(path))


def _search(path: str, *kinds: Kind) -> Iterator[tuple[Archive, str]]:
    """Find a path in zips and the zips nested in them; yield at most one place per zip.

    An unreadable zip raises an error only if no other zip has the path, because it may belong to another data set.
    """
    broken = None
    # A top folder of any name may be left out only if nothing else matches.
    for any_top, candidates in zip((False, True), tee(_candidates(path)), strict=True):
        found = False
        for zip_path, names in candidates:
            try:
                archive = open_archive(zip_path, _report)
                places = (place for name in names for place in archive.places(name, any_top))
                place = next((place for place in places if any(place[1] in kind(place[0]) for kind in kinds)), None)
            except FileNotFoundError:  # the zip was removed after its folder was listed
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
    """Yield zips that may hold a path that is not a real file, each with the possible names of the member."""
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
        # Zips named like a folder on the path come first: a hit there saves parsing the index of the others.
        for zip_path in sorted(_zips_in(folder), key=lambda zip_path: os.path.basename(zip_path)[:-4] not in named):
            yield zip_path, [rest, f'{last}/{rest}']
        if not last:  # the root of the file system
            return
        folder, rest = os.path.dirname(folder), f'{last}/{rest}'


def _zips_in(folder: str) -> list[str]:
    """Return the sorted paths of the zip files directly in a folder; none if listing it is not permitted."""
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
    """Yield (path, is_folder) for the entries below a folder of a zip, in the way of mmengine's `LocalBackend`."""
    start = f'{folder}/' if folder else ''
    for names, is_folder in ((archive.members, False), (archive.folders, True)):
        for name in (name[len(start) :] for name in names if name.startswith(start)):
            last = name.rpartition('/')[2]
            if (recursive or last == name) and last and (is_folder or not last.startswith('.')):
                yield name, is_folder


def register_zip_backend() -> None:
    """Register the backend for ``zip://`` paths in ``mmengine.fileio``; a second call has no effect."""
    fileio.register_backend('eomt_mm.zip', ZipBackend, force=True, prefixes='zip')


def read_file(path: str, backend_args: dict | None = None) -> bytes:
    """Read a file with any of mmengine's backends; supports ``zip://`` also in processes without our registry."""
    register_zip_backend()
    return fileio.get(path, backend_args=backend_args)


_listings: dict[str, tuple[int, list[str]]] = {}
