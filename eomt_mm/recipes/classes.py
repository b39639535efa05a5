"""Class names and class counts of configs, without the class tables of any host."""

import colorsys
from collections.abc import Callable, Container, Iterator, MutableMapping
from typing import Any

Recipe = MutableMapping[str, Any]  # a config: a plain dict, or mmengine's Config

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


def stated_meta(cfg: Recipe) -> dict[str, Any]:
    """Return the ``metainfo`` of a config's test, else validation, else training data; empty if none is stated."""
    datasets = list(datasets_of(cfg))
    return dict(datasets[0].get('metainfo') or {}) if datasets else {}


def apply_metainfo(
    cfg: Recipe, fixed: Container[str] = (), meta_of: Callable[[Recipe], dict[str, Any]] = stated_meta
) -> None:
    """Copy the top-level ``metainfo`` to every data set, and set the head's class counts.

    ``metainfo`` states the class names once: ``classes`` or, for panoptic segmentation, ``thing_classes`` and
    ``stuff_classes`` (classes are things, then stuff). Without a ``palette``, a default one is added. Class counts that
    the head does not state are taken from the data set; with a ``metainfo``, all counts are.

    Args:
        cfg: changed in place.
        fixed: dotted keys that the user set and that are not changed, such as 'model.decode_head.num_classes'.
        meta_of: returns ``classes``, ``thing_classes`` and ``stuff_classes`` of the config's data, where known.

    Raises:
        ValueError: the metainfo lacks the classes that the task needs, or repeats a class name.
    """
    stated = cfg.get('metainfo')
    if stated is not None and task_of(cfg):
        meta = complete_metainfo(dict(stated), task_of(cfg))
        cfg['metainfo'] = meta
        for dataset in datasets_of(cfg):
            dataset['metainfo'] = meta
    for key, kind in counts(cfg).items():
        _, head, name = key.split('.')
        names = meta_of(cfg).get(kind)
        if names is None and name not in cfg['model'][head]:
            raise ValueError(
                f'{key} is not known, since the data set has no classes of its own: state them once at the top of the '
                "config, such as metainfo = dict(classes=('car', 'road'))"
            )
        if names is not None and key not in fixed and (stated is not None or name not in cfg['model'][head]):
            cfg['model'][head][name] = len(names)


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


def task_of(cfg: Recipe) -> str:
    """Task of a config's model: 'semantic', 'instance' or 'panoptic'; '' for other models."""
    model = cfg.get('model', {})
    if isinstance(model.get('decode_head'), dict):
        return 'semantic'
    task = model.get('panoptic_head', {}).get('task', '')
    return task if task in ('instance', 'panoptic') else ''


def datasets_of(cfg: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the configs of all loaders' data sets, unwrapped; those of the test data come first."""
    for loader in reversed(LOADERS):
        if cfg.get(loader):
            yield from unwrapped(cfg[loader]['dataset'])


def unwrapped(dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configs of the data sets inside wrappers (RepeatDataset, ConcatDataset, ...), in order."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if not inner:
        yield dataset
    for one in inner or ():
        yield from unwrapped(one)


def counts(cfg: Recipe) -> dict[str, str]:
    """Map the keys of the head's class counts to the kind of classes that each counts; empty for other models."""
    head = 'model.panoptic_head'
    return dict(
        semantic={'model.decode_head.num_classes': 'classes'},
        panoptic={f'{head}.num_things_classes': 'thing_classes', f'{head}.num_stuff_classes': 'stuff_classes'},
        instance={f'{head}.num_things_classes': 'classes'},
    ).get(task_of(cfg), {})


def plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Keep the entries that checkpoints store, as tuples, which ``torch.load(weights_only=True)`` can read."""
    return {key: _plain(meta[key]) for key in META_KEYS if meta.get(key) is not None}


def _plain(values: Any) -> Any:
    return tuple(map(_plain, values)) if isinstance(values, list | tuple) else values
