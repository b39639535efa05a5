"""Class names of a config's data sets, and the check of the head's class counts against them."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from eomt_mm.recipes.classes import LOADERS, counts, datasets_of, plain_meta, unwrapped


def dataset_meta(dataset: dict[str, Any], scope: str) -> dict[str, Any]:
    """Class names and palette of a data set config: those of its type, overridden by its own ``metainfo``.

    Returns:
        ``classes``, ``palette``, ``thing_classes`` and ``stuff_classes``, where stated.
    """
    dataset = next(unwrapped(dataset))
    with DATASETS.switch_scope_and_registry(scope) as registry:
        meta = dict(getattr(registry.get(dataset['type']), 'METAINFO', {}))
    meta.update(dataset.get('metainfo') or {})
    return plain_meta(meta)


def config_meta(cfg: Config) -> dict[str, Any]:
    """:func:`dataset_meta` of a config's test, else validation, else training data; empty if it has none."""
    for loader in reversed(LOADERS):
        if cfg.get(loader):
            return dataset_meta(cfg[loader]['dataset'], cfg.get('default_scope', 'mmengine'))
    return {}


def check_classes(cfg: Config) -> None:
    """Check the head's class counts against the data sets'.

    Raises:
        ValueError: the counts differ; the message gives both and the class names.
    """
    model = cfg.get('model', {})
    for loader in LOADERS:
        if not cfg.get(loader):
            continue
        meta = dataset_meta(cfg[loader]['dataset'], cfg.get('default_scope', 'mmengine'))
        for key, kind in counts(cfg).items():
            _, head, name = key.split('.')
            _compare(loader, key, model[head].get(name), meta, kind)


def _compare(loader: str, key: str, count: int | None, meta: dict[str, Any], kind: str) -> None:
    names = meta.get(kind, ())
    if count is None or 'classes' not in meta or count == len(names):
        return
    shown = ', '.join(names[:12]) + (', ...' if len(names) > 12 else '')
    raise ValueError(
        f'{key}={count}, but the data set of {loader} has {len(names)} {kind}: {shown}. '
        f'Set {key}={len(names)}, or the metainfo of the data set to your classes'
    )


def label_names(cfg: Config) -> Sequence[str]:
    """Class names that ``label_ids`` has values for: those of the data set type or, if it has none, the config's."""
    types = [dict(type=dataset['type']) for dataset in datasets_of(cfg)]
    known = dataset_meta(types[0], cfg.get('default_scope', 'mmengine')) if types else {}
    names: Sequence[str] = known.get('classes') or config_meta(cfg).get('classes', ())
    return names
