"""Names of files in the folders of a data set: match them by stem, describe what is left out, find missing ones."""

import os
import os.path as osp
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from urllib.parse import unquote

from eomt_mm.fileio.result_names import described

# Number of unlisted files that are checked one by one; if none of them exists, all unlisted files count as missing.
NUM_ASKED = 20
# Folders of resource forks and previews that macOS and Synology's file servers add.
SYSTEM_FOLDERS = ('__MACOSX', '@eaDir')
# Lists the files below a folder, relative to it; raises FileNotFoundError or NotADirectoryError if there is none.
ListFiles = Callable[[str], Iterable[str]]


def local_files_below(folder: str) -> list[str]:
    """Paths of the files below a local folder, relative to it, without hidden files and those in hidden folders.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        ValueError: a symbolic link leads nowhere.
    """
    return [osp.relpath(path, folder) for path in _walk(folder)]


def _walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(entry.path)
            elif entry.is_symlink() and not osp.exists(entry.path):
                raise ValueError(f'{entry.path} {dead_link(entry.path)}')
            else:
                yield entry.path


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of this name is none of a data set's."""
    return name.startswith('.') or name in SYSTEM_FOLDERS


def dead_link(path: str) -> str:
    """Describe a symbolic link that leads nowhere, as a predicate to its path."""
    return f'is a link to {os.readlink(path)}, which does not exist: restore that file, or remove the link'


def plain_name(name: str) -> str:
    """A file name without what often differs: suffix, case, blanks, composition of accented letters, "%20"."""
    return composed(osp.splitext(unquote(name).strip())[0]).casefold()


def composed(name: str) -> str:
    """A name with composed accented letters (Unicode's NFC); macOS stores them decomposed."""
    return unicodedata.normalize('NFC', name)


def sorted_files(folder: str, list_files: ListFiles, without: str | None = None) -> list[str]:
    """List the files below a folder in sorted order, except those below the folder ``without`` if it lies inside."""
    names = list_files(folder)
    inside = osp.relpath(without, folder) if without else '..'
    if inside.startswith(('..', '.')):
        return sorted(names)
    return sorted(name for name in names if not name.startswith(f'{inside}/'))


def by_stem(files: Iterable[str], suffix: str | None, usual: Sequence[str], argument: str) -> dict[str, str]:
    """Map file names without suffix, with composed accented letters, to file names.

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
        stem = composed(stem)
        if found.setdefault(stem, name) != name:
            raise ValueError(
                f'{found[stem]} and {name} differ only in their suffix: remove one, or choose with '
                f"{argument}='{osp.splitext(found[stem])[1]}'"
            )
    return found


def rest_text(whose: str, num_images: int, rest: Sequence[tuple[str, Sequence[str], str]]) -> str:
    """Describe the files in a data set's folders that it does not use; '' if there are none.

    Args:
        whose: name of the data set.
        num_images: number of images that it reads.
        rest: for each folder its path, the names of unused files, and the reason.
    """
    parts = [f'{described(names)} in {folder}, {why}' for folder, names, why in rest if names]
    images = f'{num_images} image{"" if num_images == 1 else "s"}'
    return f'{whose} reads {images} and leaves out {"; and ".join(parts)}' if parts else ''


def missing_among(
    paths: Iterable[str], names_in: Callable[[str], Collection[str] | None], exists: Callable[[str], bool]
) -> list[str]:
    """Return the files that do not exist, listing each folder once.

    Args:
        paths: of files, in any folders.
        names_in: names of the files in a folder, none if there is no such folder; None: listing it is not cheap, and
            its files are not checked.
        exists: whether a file exists.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_folder[osp.dirname(path)].append(path)
    missing: set[str] = set()
    for folder, group in by_folder.items():
        listed = names_in(folder)
        if listed is None:
            continue
        absent = [path for path in group if osp.basename(path) not in listed]
        # A file may exist without being listed: hidden files, and file systems that ignore case.
        if any(map(exists, absent[:NUM_ASKED])):
            absent = [path for path in absent if not exists(path)]
        missing.update(absent)
    return [path for group in by_folder.values() for path in group if path in missing]


def local_names_in(folder: str) -> set[str]:
    """Names of the files in a local folder; none if there is no such folder."""
    try:
        with os.scandir(folder or '.') as entries:
            return {entry.name for entry in entries if entry.is_file()}  # no links that lead nowhere
    except (FileNotFoundError, NotADirectoryError):
        return set()


def missing_text(paths: Sequence[str], missing: Sequence[str], what: str, ann_file: str, hint: str = '') -> str:
    """Describe which of the files that an annotation file lists do not exist; '' if all exist.

    Args:
        paths: of all files.
        missing: those that do not exist.
        what: kind of the files, such as 'images' or 'panoptic PNGs'.
        ann_file: annotation file that lists them.
        hint: what is there in place of the first missing one.
    """
    if not missing:
        return ''
    return (
        f'{ann_file}: {len(missing)} of {len(paths)} {what} do not exist, the first would be {missing[0]}{hint}: add '
        'them, correct data_root or data_prefix, or remove their entries from the file'
    )
