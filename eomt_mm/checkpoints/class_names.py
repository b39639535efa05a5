"""Compare the class names of a checkpoint with those of the data, allowing for different spellings."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST
from eomt_mm.checkpoints.importing import ImportReport

# Fraction of names that must agree. Hosts name the same class with different synonyms ('bed ', 'road, route') or with
# different words: 9 of ADE20K's 150 classes differ between mmseg and mmdet ('windowpane', 'window').
SAME_SHARE = 0.9
# Published weights exist with several spellings of their class names.
PUBLISHED_SHARE = 0.5
SHOWN = 4


def own_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of a Hugging Face ``config.json``; none if they are placeholders LABEL_0, LABEL_1, ..."""
    labels = config.get('id2label') or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return () if all(name.startswith('LABEL_') for name in names) else names


def stated_meta(report: ImportReport, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``dataset_meta`` of imported class rows.

    Args:
        report: report of the import. Class names come from ``meta.dataset_meta`` of our own files, or from ``id2label``
            of Hugging Face's ``config.json``, reordered like the rows.
        own: ``dataset_meta`` of the config, returned if the file has no class names, or the same names in another
            spelling.

    Raises:
        ValueError: the file has a different number of class names than of class rows.
    """
    count = report.description.num_classes
    stated: dict[str, Any] = report.meta.get('dataset_meta') or {}
    names, is_foreign = stated.get('classes'), False
    if not names and report.whole:
        names, is_foreign = own_labels(report.config), True
    if not names:
        return dict(own)
    if count is not None and len(names) != count:
        place = 'id2label of its config.json' if is_foreign else 'dataset_meta of its meta'
        raise ValueError(
            f'checkpoint {report.source} has names for {len(names)} classes and rows for {count}: use the config that '
            f'it was trained with, or correct {place}'
        )
    if not is_foreign:
        return stated
    if report.reordered:
        names = [names[row] for row in ADE20K_THINGS_FIRST]
    same = difference(names, own.get('classes') or (), PUBLISHED_SHARE) is None and own.get('classes')
    return dict(own) if same else dict(classes=tuple(names))


def check_names(report: ImportReport, own: Mapping[str, Any], config: object) -> dict[str, Any]:
    """Return :func:`stated_meta` after checking that its classes are those of the config.

    Raises:
        ValueError: the classes differ.
    """
    stated = stated_meta(report, own)
    text = difference(stated.get('classes') or (), own.get('classes') or ())
    if text:
        raise ValueError(
            f'{report.source} names other classes than {config}: {text}. Give a config with these classes (metainfo), '
            f'or --no-class-head to leave the class rows out'
        )
    return stated


def difference(saved: Sequence[str], own: Sequence[str], same_share: float = SAME_SHARE) -> str | None:
    """Describe how the class names of a checkpoint differ from those of the data.

    Two names agree if they share a synonym; case, blanks, ``_`` and ``-`` are ignored. Two lists of equal length agree
    if no name has a different position and at least the fraction ``same_share`` of the names agrees.

    Args:
        saved: names in the checkpoint, by row.
        own: names in the data, by label.
        same_share: fraction of the names that must agree, in [0, 1].

    Returns:
        one line; None if the lists agree or one of them is empty.
    """
    if not saved or not own or list(saved) == list(own):
        return None
    if len(saved) != len(own):
        return f'{len(saved)} classes in the checkpoint, {len(own)} in the data'
    theirs, ours = [_synonyms(name) for name in saved], [_synonyms(name) for name in own]
    apart = [i for i in range(len(saved)) if not theirs[i] & ours[i]]
    moved = [(i, j) for i in apart for j in apart if theirs[i] & ours[j]]
    if moved:
        i, j = moved[0]
        return (
            f"'{saved[i]}' is class {i} in the checkpoint and class {j} in the data; "
            f'{len({i for i, _ in moved})} of {len(saved)} names have another place'
        )
    if len(saved) - len(apart) >= same_share * len(saved):
        return None
    shown = ', '.join(f"'{saved[i]}' is '{own[i]}' in the data (class {i})" for i in apart[:SHOWN])
    return f'{len(apart)} of {len(saved)} names differ: {shown}{", ..." if len(apart) > SHOWN else ""}'


def _synonyms(name: str) -> set[str]:
    parts = re.split('[,;]', name.casefold())
    return {' '.join(re.split(r'[\s_-]+', part.strip())) for part in parts if part.strip()}
