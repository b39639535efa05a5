"""Read class names from a config's data sets or its top-level ``metainfo``, and derive the head's class counts."""

import colorsys
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
META_KEYS = ('classes', 'palette', 'thing_classes', 'stuff_classes')
# Okabe and Ito, "Color Universal Design", 2008 (jfly.uni-koeln.de/color): safe for colour-blind readers.
FIRST_COLOURS = (
    (213, 94, 0),
    (0, 114, 178),
    (240, 228, 66),
    (204, 121, 167),
    (86, 180, 233),
    (0, 158, 115),
    (230, 159, 0),
)


def apply_metainfo(cfg: Config, fixed: Any = ()) -> None:
    """Copy the top-level ``metainfo`` to every data set, and set the head's class counts.

    ``metainfo`` states the class names once: ``classes`` or, for panoptic segmentation, ``thing_classes`` and
    ``stuff_classes`` (classes are things, then stuff). Without a ``palette``, a default one is added. Class counts that
    the head does not state are taken from the data set; with a ``metainfo``, all counts are.

    Args:
        cfg: changed in place.
        fixed: dotted keys that the user set and that are not changed, such as 'model.decode_head.num_classes'.

    Raises:
        ValueError: the metainfo lacks the classes that the task needs, or repeats a class name.
    """
    stated = cfg.get('metainfo')
    if stated is not None and task_of(cfg):
        meta = complete_metainfo(dict(stated), task_of(cfg))
        cfg.metainfo = meta
        for dataset in datasets_of(cfg):
            dataset['metainfo'] = meta
    for key, kind in _counts(cfg).items():
        _, head, name = key.split('.')
        names = config_meta(cfg).get(kind)
        if names is None and name not in cfg.model[head]:
            raise ValueError(
                f'{key} is not known, since the data set has no classes of its own: state them once at the top of the '
                "config, such as metainfo = dict(classes=('car', 'road'))"
            )
        if names is not None and key not in fixed and (stated is not None or name not in cfg.model[head]):
            cfg.model[head][name] = len(names)


def complete_metainfo(meta: dict[str, Any], task: str) -> dict[str, Any]:
    """Complete a user's ``metainfo`` for a task ('semantic', 'instance', 'panoptic') and check it.

    Raises:
        ValueError: classes are missing or repeated, or the palette has fewer colours than there are classes.
    """
    for key in META_KEYS[:1] + META_KEYS[2:]:
        names = meta.get(key, ())
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'metainfo.{key}={names!r}: a tuple of names; for a single class (name,) with its comma')
    if task == 'panoptic':
        things, stuff = (list(meta.get(kind, ())) for kind in ('thing_classes', 'stuff_classes'))
        if not things + stuff or list(meta.get('classes', things + stuff)) != things + stuff:
            raise ValueError(
                f'metainfo={_short(meta)}: panoptic segmentation needs thing_classes=(...) and stuff_classes=(...); '
                f'classes, where stated, are the things followed by the stuff'
            )
        meta.update(thing_classes=tuple(things), stuff_classes=tuple(stuff), classes=tuple(things + stuff))
    elif not meta.get('classes'):
        raise ValueError(f'metainfo={_short(meta)}: {task} segmentation needs classes=(...), the names of the classes')
    classes = meta['classes']
    if len(set(classes)) < len(classes):
        raise ValueError(f'metainfo: class names repeat: {sorted({n for n in classes if list(classes).count(n) > 1})}')
    palette = meta.setdefault('palette', default_palette(len(classes)))
    if len(palette) < len(classes):
        raise ValueError(f'metainfo.palette has {len(palette)} colours for {len(classes)} classes: leave it out')
    return meta


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """RGB colours of ``count`` classes: seven that colour-blind readers can distinguish, then well-separated hues."""
    more = []
    for k in range(count - len(FIRST_COLOURS)):
        hue, level = k * 0.618034 % 1, k // 8 % 3  # steps of the golden ratio never come near an earlier hue
        rgb = colorsys.hsv_to_rgb(hue, (0.75, 0.45, 1.0)[level], (0.9, 0.75, 0.55)[level])
        more.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return [*FIRST_COLOURS, *more][:count]


def _short(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != 'palette'}


def task_of(cfg: Config) -> str:
    """Task of a config's model: 'semantic', 'instance' or 'panoptic'; '' for other models."""
    model = cfg.get('model', {})
    if isinstance(model.get('decode_head'), dict):
        return 'semantic'
    task = model.get('panoptic_head', {}).get('task', '')
    return task if task in ('instance', 'panoptic') else ''


def datasets_of(cfg: Config) -> Iterator[dict[str, Any]]:
    """Yield the configs of all loaders' data sets, unwrapped."""
    waiting = [cfg[loader]['dataset'] for loader in LOADERS if cfg.get(loader)]
    while waiting:
        dataset = waiting.pop()
        inner = [dataset['dataset']] if 'dataset' in dataset else list(dataset.get('datasets', ()))
        waiting += inner
        if not inner:
            yield dataset


def _counts(cfg: Config) -> dict[str, str]:
    """Map the keys of the head's class counts to the kind of classes that each counts; empty for other models."""
    head = 'model.panoptic_head'
    return dict(
        semantic={'model.decode_head.num_classes': 'classes'},
        panoptic={f'{head}.num_things_classes': 'thing_classes', f'{head}.num_stuff_classes': 'stuff_classes'},
        instance={f'{head}.num_things_classes': 'classes'},
    ).get(task_of(cfg), {})


def dataset_meta(dataset: dict[str, Any], scope: str) -> dict[str, Any]:
    """Class names and palette of a data set config: those of its type, overridden by its own ``metainfo``.

    Returns:
        ``classes``, ``palette``, ``thing_classes`` and ``stuff_classes``, where stated.
    """
    while 'dataset' in dataset or 'datasets' in dataset:  # wrappers
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
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


def plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Keep the entries that checkpoints store, as tuples, which ``torch.load(weights_only=True)`` can read."""
    return {key: _plain(meta[key]) for key in META_KEYS if meta.get(key) is not None}


def _plain(values: Any) -> Any:
    return tuple(map(_plain, values)) if isinstance(values, list | tuple) else values


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
        for key, kind in _counts(cfg).items():
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
