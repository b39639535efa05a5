"""Find the files that a path, a folder or a pattern stands for; what is left out is reported."""

import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from eomt_mm.apis.earlier_results import is_earlier_result
from eomt_mm.fileio.images import IMAGE_SUFFIXES
from eomt_mm.fileio.result_names import described, name_below

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
Report = Callable[[Exception, Path | str], None]  # what to do about an error, and the file that it concerns


def files_of(given: str, suffixes: Sequence[str], report: Report) -> list[tuple[Path, str]]:
    """List files with their names: paths without suffix, below the folder or the leading folders of the pattern.

    Hidden files are not listed. Other files, and folders, that are left out are counted in a warning.

    Args:
        given: path of a file of any kind, of a folder, or a pattern.
        suffixes: of the files to find in folders, in lower case.
        report: called with folders that cannot be listed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is empty or a URL.
    """
    if not given.strip():
        raise ValueError(f"input '{given}' is empty: give an image, a video, a folder or a pattern")
    if '://' in given:
        raise ValueError(f"input '{given}': addresses are not read; download the file and give its path")
    path = Path(os.path.expanduser(given))
    if path.is_dir():
        return [(file, name_below(str(file), str(path))) for file in _in_folder(path, suffixes, report)]
    if path.exists():
        return [(path, name_below(str(path)))]
    # Names of a pattern's files are relative to its leading folders without wildcards.
    base = Path(*takewhile(lambda part: not glob.has_magic(part), path.parent.parts))
    return [(file, name_below(str(file), str(base))) for file in _matching(given, path, base)]


def _matching(given: str, path: Path, base: Path) -> list[Path]:
    """List the files that match a pattern, in order."""
    matches = sorted((Path(file) for file in glob.glob(str(path), recursive=True)), key=in_order)
    files = [file for file in matches if not file.is_dir()]
    found, earlier = _without_results(files, base)
    left_out = []
    if len(files) < len(matches) and '**' not in given:
        left_out.append(f'{len(matches) - len(files)} folders match, and are not read: give them one by one')
    if earlier:
        left_out.append(earlier)
    if not found:
        rest = f' ({"; ".join(left_out)})' if left_out else ''
        fix = 'give an image, a video, a folder or a pattern'
        raise FileNotFoundError(f"input '{given}' {f'matches no file{rest}' if rest else 'does not exist'}: {fix}")
    if left_out:
        warnings.warn(f"pattern '{given}': {len(found)} files are read; {'; '.join(left_out)}", stacklevel=2)
    return found


def _in_folder(folder: Path, suffixes: Sequence[str], report: Report) -> list[Path]:
    """List the files in a folder and its sub-folders, in order, without hidden ones."""

    def unreadable(error: OSError) -> None:
        report(OSError(f'folder {error.filename} cannot be listed ({error.strerror})'), error.filename)

    files: list[Path] = []
    links = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith('.')]
        links += [link for name in folders if (link := Path(parent, name)).is_symlink()]
        files += [Path(parent, name) for name in names if not name.startswith('.')]
    known = [file for file in files if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    regular = [file for file in known if file.is_file() or not file.exists()]  # broken links: reading them will say so
    wanted = [file for file in regular if file.suffix.lower() in suffixes]
    found, earlier = _without_results(wanted, folder)
    others = set(files).difference(regular)
    left_out = [earlier] if earlier else []
    if len(wanted) < len(regular):
        left_out.append(f'its {len(regular) - len(wanted)} videos are read when given by their paths')
    if others:
        ends = ', '.join(suffixes)
        left_out.append(f'{_described(others, folder)} are not read: convert images to {ends}, or give their paths')
    if links:
        left_out.append(f'its {len(links)} links to folders, such as {links[0].name}, are not followed')
    rest = '; '.join(left_out)
    if not found:
        raise FileNotFoundError(f'folder {folder} holds no images ({", ".join(suffixes)}){rest and f"; {rest}"}')
    if rest:
        warnings.warn(f'folder {folder}: {len(found)} files are read; {rest}', stacklevel=2)
    return sorted(found, key=in_order)


def _without_results(files: Sequence[Path], base: Path) -> tuple[list[Path], str]:
    """Files that no earlier call wrote, and a description of the others, or ''."""
    found = [file for file in files if not is_earlier_result(file, base)]
    rest = set(files).difference(found)
    return found, f'{_described(rest, base)} are results of earlier calls: give them by their paths' if rest else ''


def _described(files: Iterable[Path], base: Path) -> str:
    return described(sorted(file.relative_to(base).as_posix() for file in files))


def in_order(path: Path) -> tuple[Any, ...]:
    """Sort key: folder by folder, with numbers in names in numerical order (frame9 before frame10)."""
    folder, name = (
        [[(text, int(digits or 0)) for text, digits in re.findall('([^0-9]*)([0-9]*)', part)] for part in parts]
        for parts in (path.parent.parts, [path.stem])
    )
    return folder, path.parent, name, path
