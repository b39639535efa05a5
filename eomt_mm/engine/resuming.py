"""Find the checkpoint to resume from: the newest one that is undamaged."""

import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

from eomt_mm.checkpoints.files import local_path
from eomt_mm.checkpoints.kinds import foreign_kind
from eomt_mm.checkpoints.torch_files import zip_damage

POINTER = 'last_checkpoint'  # mmengine's: a file in the work dir that names the newest checkpoint
CHECKPOINT_NAME = re.compile(r'(iter|epoch)_(\d+)\.(pth|dcp)')


def latest_whole_checkpoint(work_dir: str | Path) -> str | None:
    """Find the newest undamaged checkpoint in a work dir; damaged ones are logged and kept.

    Candidates are ``iter_*`` and ``epoch_*`` (``.pth``, ``.dcp``) and the checkpoint that ``last_checkpoint`` names, in
    ``work_dir`` or at the path written there. The checkpoint with the highest number is the newest. Files that have a
    higher number than the one ``last_checkpoint`` names but were written before it belong to an earlier run in the
    same folder; they are tried last.

    Args:
        work_dir: folder to search; may be missing.

    Returns:
        path, or None if there is no undamaged checkpoint.
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
    """Raise an error if a checkpoint that the user asked to resume is missing or damaged.

    Args:
        path: file, folder or ``http(s)://`` address.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged; the message names the newest undamaged checkpoint in its folder.
    """
    path = local_path(path)
    text = damage(path)
    if text is None:
        return
    other = latest_whole_checkpoint(Path(path).parent)
    hint = f'the last whole one there is {other}' if other else 'there is no whole one beside it'
    raise (ValueError if Path(path).exists() else FileNotFoundError)(f'checkpoint {path} {text}: {hint}')


def damage(path: str | Path) -> str | None:
    """Describe the damage of a checkpoint as a predicate to its name, such as 'is empty'; None if there is no damage.

    ``torch.save`` writes a zip file with checksums; verifying them reads the whole file. In a checkpoint folder, every
    ``.pth`` and ``.pt`` file is verified; in a ``.dcp`` folder also every tensor, and the index, which torch writes
    last.
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
        return (foreign_kind(path) or zip_damage(path)) if path.exists() else 'does not exist'
    except FileNotFoundError:
        return 'does not exist'
    except OSError as error:  # a disk error, or an offset outside the file
        return f'cannot be read ({error.strerror})'


def _tensor_damage(folder: Path) -> str | None:
    from eomt_mm.engine.sharding.reader import folder_damage  # only folders need it

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
    # Look in work_dir first: the folder may have been moved since the path was written.
    places = (work_dir / os.path.basename(text), Path(text))
    return next((place for place in places if place.exists()), None)
