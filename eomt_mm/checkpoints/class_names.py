"""Compare the class names of a checkpoint with those of the data, allowing for different spellings."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST
from eomt_mm.checkpoints.describe import PUBLISHED
from eomt_mm.checkpoints.importing import ImportReport, stored_names

# Fraction of names that must agree. Hosts name the same class with different synonyms ('bed ', 'road, route') or with
# different words: 9 of ADE20K's 150 classes differ between mmseg and mmdet ('windowpane', 'window').
SAME_SHARE = 0.9
# Published weights exist with several spellings of their class names; they are recognised by their number of classes.
PUBLISHED_SHARE = 0.5
PUBLISHED_COUNTS = {count for count, _ in PUBLISHED}
SHOWN = 4


def placeholders(count: int) -> tuple[str, ...]:
    """Names of classes whose names are not known."""
    return tuple(f'class {k}' for k in range(count))


def stated_meta(report: ImportReport, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``dataset_meta`` of imported class rows.

    Args:
        report: report of the import, whose class names (:func:`~eomt_mm.checkpoints.importing.stored_names`) are
            reordered like its rows.
        own: ``dataset_meta`` of the config. It is returned if the file has no class names. If a file of another program
            has the same classes, only the names that mean something else are replaced by the file's.

    Raises:
        ValueError: the file has a different number of class names than of class rows.
    """
    count, names = report.description.num_classes, stored_names(report.config, report.meta)
    stated: dict[str, Any] = report.meta.get('dataset_meta') or {}
    if not names or not report.whole:
        return dict(own)
    if count is not None and len(names) != count:
        place = 'dataset_meta of its meta' if stated.get('classes') else 'id2label of its config.json'
        raise ValueError(
            f'checkpoint {report.source} has names for {len(names)} classes and rows for {count}: use the config that '
            f'it was trained with, or correct {place}'
        )
    if report.reordered:
        names = [names[row] for row in ADE20K_THINGS_FIRST]
    elif stated.get('classes'):
        return stated
    ours = own.get('classes') or ()
    if not ours or difference(names, ours, PUBLISHED_SHARE):
        return dict(classes=tuple(names))
    merged = tuple(our if _synonyms(name) & _synonyms(our) else name for name, our in zip(names, ours, strict=True))
    things = len(own.get('thing_classes') or ())
    parts = dict(thing_classes=merged[:things], stuff_classes=merged[things:])
    return {**own, 'classes': merged, **{key: value for key, value in parts.items() if key in own}}


def meta_for_data(report: ImportReport, own: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`stated_meta` for a run on data: the config's own if both name the same classes."""
    stated = stated_meta(report, own)
    same = own.get('classes') and not difference(stated.get('classes') or (), own['classes'], _share(report))
    return dict(own) if same else stated


def _share(report: ImportReport) -> float:
    """Fraction of the names that must agree: published weights of other programs spell them in several ways."""
    is_published = report.description.num_classes in PUBLISHED_COUNTS and not report.meta.get('dataset_meta')
    return PUBLISHED_SHARE if is_published else SAME_SHARE


def check_names(report: ImportReport, own: Mapping[str, Any], config: object) -> dict[str, Any]:
    """Return :func:`stated_meta` after checking that its classes are those of the config.

    Raises:
        ValueError: the classes differ.
    """
    stated = stated_meta(report, own)
    text = difference(stated.get('classes') or (), own.get('classes') or (), _share(report))
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
