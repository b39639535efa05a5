"""Apply the label values and file suffixes stated at the top of a semantic config to all parts that use them."""

from collections.abc import Sequence
from typing import Any

from eomt_mm.recipes.classes import Recipe, datasets_of, task_of

SUFFIXES = ('img_suffix', 'seg_map_suffix')
LABEL_KEYS = ('label_ids', *SUFFIXES)
LOADER = 'eomt_mm.LoadSemanticMap'
METRIC = 'eomt_mm.SemanticIoU'


def apply_label_files(
    cfg: Recipe, parts: Sequence[tuple[str, dict[str, Any]]], options: dict[str, Any], names: Sequence[str]
) -> None:
    """Copy the top-level ``label_ids``, ``img_suffix`` and ``seg_map_suffix`` to all parts that read or write files.

    ``label_ids``, the value of each class in the label maps, is set in every ``eomt_mm.LoadSemanticMap``. If the values
    fit into 8 bits, it is also set in ``eomt_mm.SemanticIoU``, for its result files. The suffixes are set in every data
    set.

    Args:
        cfg: changed in place.
        parts: all dicts of the config, with their dotted keys.
        options: the user's overrides; a key that they set is not changed, and their top-level keys take precedence.
        names: class names that ``label_ids`` has values for; empty if they are not known.

    Raises:
        ValueError: a value has the wrong type, ``label_ids`` has not one value per class, values conflict, or the task
            is not semantic.
    """
    stated = {key: cfg[key] for key in LABEL_KEYS if cfg.get(key) is not None}
    task = task_of(cfg)
    if not stated or not task:
        return
    if task != 'semantic':
        key, value = next(iter(stated.items()))
        raise ValueError(
            f'{key}={value!r}: for label maps of semantic segmentation, this config is of {task}: remove it'
        )
    for key in stated.keys() & set(SUFFIXES):
        check_suffix(key, stated[key])
        for dataset in datasets_of(cfg):
            name = next(name for name, part in parts if part is dataset)
            _settle(dataset, name, key, stated[key], options)
    if 'label_ids' in stated:
        ids = stated['label_ids']
        check_ids(ids, names)
        for name, part in parts:
            free = part.get('label_ids') is None or 'label_ids' in options
            if part.get('type') == LOADER or (part.get('type') == METRIC and free and max(ids) < 256):
                _settle(part, name, 'label_ids', ids, options)


def _settle(part: dict[str, Any], name: str, key: str, value: Any, options: dict[str, Any]) -> None:
    """Set a key of a part of the config, unless the user has set it there."""
    place, there = f'{name}.{key}', part.get(key)
    if place in options:
        return
    if there is not None and key not in options and _plain(there) != _plain(value):
        raise ValueError(
            f'{key} is stated in different ways: {value!r} at the top, {there!r} in {place}. State it once, at the top'
        )
    part[key] = value


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)


def check_suffix(key: str, value: Any) -> None:
    """Check the end of file names that a config states under ``key``; raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}={value!r}: the end of the files' names, such as '.png' or '_mask.png'")


def check_ids(ids: Any, names: Sequence[str]) -> None:
    """Check the values of the classes ``names`` (empty: not known) in label maps; raises ValueError."""
    values = ids if isinstance(ids, list | tuple) else ()
    is_valid = all(type(id_) is int and 0 <= id_ < 1 << 16 for id_ in values)
    if not values or not is_valid or len(set(values)) < len(values):
        raise ValueError(
            f'label_ids={ids!r}: a tuple of different whole numbers in 0 .. 65535, the value of each class in the '
            'label maps; for a single class (value,) with its comma'
        )
    if names and len(ids) != len(names):
        shown = ', '.join(names[:12]) + (', ...' if len(names) > 12 else '')
        raise ValueError(
            f'label_ids={ids!r}: {len(ids)} values for {len(names)} classes ({shown}): give one per class, in their '
            'order; every other value is void'
        )
