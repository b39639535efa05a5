"""The checkpoint to resume from: the newest one that is whole."""

import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

from eomt_mm.checkpoints.files import local_path
from eomt_mm.checkpoints.torch_files import zip_damage

POINTER = 'last_checkpoint'  # mmengine's: a file in the work dir that names the newest checkpoint
CHECKPOINT_NAME = re.compile(r'(iter|epoch)_(\d+)\.(pth|dcp)')


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """The newest checkpoint of a work dir that is whole; damaged ones are named in the log, and left where they are.

    Candidates are ``iter_*`` and ``epoch_*`` (``.pth``, ``.dcp``) and what ``last_checkpoint`` names, looked for in
    ``work_dir`` and else where it says. The highest number is the newest; files with a higher number than that of
    ``last_checkpoint`` that were written before it are of an earlier run in the same folder, and come last.

    Args:
        work_dir: may be missing.

    Returns:
        path; None where there is no whole checkpoint.
    """
    damaged: list[str] = []
    for path in _newest_first(Path(work_dir)):
        text = damage(path)
        if text is None:
            for line in damaged:
                print_log(f'{line}; using {path}', logger='current', level=logging.WARNING)
            return str(path)
        damaged.append(f'checkpoint {path} {text}')
    for line in damaged:
        print_log(f'{line}, and there is no whole one in {work_dir}', logger='current', level=logging.WARNING)
    return None


def check_whole(path: str | Path) -> None:
    """Checks a checkpoint that is named to be resumed.

    Args:
        path: file, folder or ``http(s)://`` address.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; names the last whole one beside it.
    """
    path = local_path(path)
    text = damage(path)
    if text is None:
        return
    other = latest_whole_checkpoint(Path(path).parent)
    remedy = f'the last whole one there is {other}' if other else 'there is no whole one beside it'
    raise (ValueError if Path(path).exists() else FileNotFoundError)(f'checkpoint {path} {text}: {remedy}')


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint, in words that follow its name; None where nothing is.

    ``torch.save`` writes a zip file with checksums: they are compared, so the whole file is read. In a checkpoint
    folder that is done for each ``.pth`` and ``.pt``, in a ``.dcp`` also for each tensor, and it needs the index that
    torch writes last.
    """
    path = Path(path)
    if path.is_dir():
        if path.suffix == '.dcp' and not (path / '.metadata').is_file():
            return 'lacks its index (.metadata)'
        files = sorted(file for file in path.rglob('*') if file.suffix in ('.pth', '.pt'))
        found = next(((file, text) for file in files if (text := damage(file))), None)
        if found:
            return f'holds {found[0].relative_to(path)}, which {found[1]}'
        return _tensor_damage(path) if path.suffix == '.dcp' else None if files else 'is empty'
    try:
        return zip_damage(path)
    except FileNotFoundError:
        return 'does not exist'
    except OSError as error:  # of the disk, or a place outside the file
        return f'cannot be read ({error.strerror})'


def _tensor_damage(folder: Path) -> str | None:
    from eomt_mm.engine.sharding.reader import folder_damage  # needs torch >= 2.6, as writing such a folder does

    try:
        fault = folder_damage(folder)
    except (OSError, ValueError) as error:
        return f'cannot be read ({error})'
    return f'holds {fault}' if fault else None


def _newest_first(work_dir: Path) -> list[Path]:
    files = {path: int(found[2]) for path in work_dir.glob('*') if (found := CHECKPOINT_NAME.fullmatch(path.name))}
    named = _named_by_pointer(work_dir)
    if named is None:
        return sorted(files, key=lambda path: (files[path], path.stat().st_mtime), reverse=True)
    numbers = re.findall(r'\d+', named.name)
    files.setdefault(named, int(numbers[-1]) if numbers else 0)
    written = named.stat().st_mtime

    def age(path: Path) -> tuple[bool, int]:
        return files[path] <= files[named] or path.stat().st_mtime >= written, files[path]

    return sorted(files, key=age, reverse=True)


def _named_by_pointer(work_dir: Path) -> Path | None:
    try:
        text = (work_dir / POINTER).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not text:
        return None
    # Beside it first: the folder may have been moved since.
    places = (work_dir / os.path.basename(text), Path(text))
    return next((place for place in places if place.exists()), None)
