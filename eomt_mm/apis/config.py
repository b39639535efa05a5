"""Loading a configuration so that one override changes one thing and everything derived from it follows."""

import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

# Stated once at the top of a config, used in many places: overriding the top changes them all.
SHARED_KEYS = ('data_root', 'img_size')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
META_KEYS = ('classes', 'palette', 'thing_classes', 'stuff_classes')
# Top-level keys that are read while the file is parsed; overriding them later changes nothing.
PARSED_KEYS = dict(
    backbone='model.backbone',
    train_pipeline='train_dataloader.dataset.pipeline',
    test_pipeline='test_dataloader.dataset.pipeline',
)


def load_config(
    path: str | Path, cfg_options: dict[str, Any] | None = None, data_root: str | Path | None = None
) -> Config:
    """Reads a config file, applies overrides, lets derived values follow, and checks that the parts fit.

    Args:
        path: of the config.
        cfg_options: overrides, dotted keys to values, as after ``--cfg-options``. ``data_root`` and ``img_size``
            reach every place that uses them (``img_size`` also where a config file restates it).
        data_root: shorthand for ``cfg_options['data_root']``.

    Returns:
        complete config.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: ``img_size`` is stated in different ways, or the head's classes are not those of the data.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist: give one of configs/eomt/*/*.py or your own')
    cfg = Config.fromfile(path)
    options = dict(cfg_options or {})
    if data_root is not None:
        options['data_root'] = str(data_root)
    old_root = cfg.get('data_root')
    _warn_unread(cfg, options)
    cfg.merge_from_dict(options)
    if cfg.get('data_root') != old_root:
        cfg.data_root = str(cfg.data_root).rstrip('/') + '/'
        _move_root(cfg._cfg_dict, old_root, cfg.data_root)
    if 'img_size' in cfg:
        for part, key in _places(cfg._cfg_dict, 'img_size'):
            if key not in options:
                part['img_size'] = cfg.img_size
    _check_img_size(cfg)
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and loader.get('num_workers') == 0:
            loader.persistent_workers = False  # torch refuses it without workers
    check_classes(cfg)
    return cfg


def _walk(node: Any, prefix: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """All dicts below ``node`` with their dotted keys."""
    if isinstance(node, dict):
        yield prefix, node
        items: Any = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from _walk(value, f'{prefix}.{key}' if prefix else str(key))


def _places(cfg: ConfigDict, name: str) -> list[tuple[dict[str, Any], str]]:
    """Dicts that state ``name``, with its dotted key."""
    return [(part, f'{key}.{name}' if key else name) for key, part in _walk(cfg) if name in part]


def _move_root(cfg: ConfigDict, old: str | None, new: str) -> None:
    """Replaces the root ``old`` of every path; in a config without one, the data sets' roots."""
    for _, part in _walk(cfg):
        for key, value in part.items():
            if not isinstance(value, str):
                continue
            if old is None:
                if key == 'data_root':
                    part[key] = new
            elif f'{value}/'.startswith(f'{old.rstrip("/")}/'):
                part[key] = new + value.removeprefix(old.rstrip('/')).removeprefix('/')


def _check_img_size(cfg: Config) -> None:
    stated: dict[str, list[str]] = {}
    for part, key in _places(cfg._cfg_dict, 'img_size'):
        stated.setdefault(str(part['img_size']), []).append(key)
    # The ViT's own size only says for which size its positions are stored.
    differing = {size: [key for key in keys if 'backbone' not in key] for size, keys in stated.items()}
    differing = {size: keys for size, keys in differing.items() if keys}
    if len(differing) > 1:
        shown = '; '.join(f'{size} in {", ".join(keys[:3])}' for size, keys in differing.items())
        raise ValueError(f'img_size is stated in different ways: {shown}. Override it once: --cfg-options img_size=N')


def _warn_unread(cfg: Config, options: dict[str, Any]) -> None:
    """Warns for overrides that nothing reads: unknown keys, and those read while the file was parsed."""
    for option in options:
        top, *rest = option.split('.')
        if top in PARSED_KEYS:
            warnings.warn(f"override '{option}' changes nothing: use '{PARSED_KEYS[top]}'", stacklevel=3)
        elif top not in cfg and top not in SHARED_KEYS:
            close = difflib.get_close_matches(top, list(cfg.keys()), n=3)
            hint = f'; did you mean {" or ".join(close)}?' if close else ''
            warnings.warn(f"override '{option}': the config has no '{top}', nothing may read it{hint}", stacklevel=3)
        elif rest and _is_unknown(cfg[top], rest):
            warnings.warn(f"override '{option}': there is no such key in the config, nothing may read it", stacklevel=3)


def _is_unknown(node: Any, keys: list[str]) -> bool:
    """Whether keys lead to nothing, below a part whose type would refuse unknown arguments."""
    for key in keys:
        if isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return not (isinstance(node, dict) and 'type' in node)
    return False


def dataset_meta(dataset: dict[str, Any], scope: str) -> dict[str, Any]:
    """Class names and palette of a data set config: those of its type, then its own ``metainfo``.

    Returns:
        of ``classes``, ``palette``, ``thing_classes``, ``stuff_classes`` those that it states.
    """
    while 'dataset' in dataset:  # wrappers
        dataset = dataset['dataset']
    with DATASETS.switch_scope_and_registry(scope) as registry:
        meta = dict(getattr(registry.get(dataset['type']), 'METAINFO', {}))
    meta.update(dataset.get('metainfo') or {})
    return plain_meta(meta)


def config_meta(cfg: Config) -> dict[str, Any]:
    """:func:`dataset_meta` of the data set that a config tests on, or validates or trains on; empty without any."""
    for loader in reversed(LOADERS):
        if cfg.get(loader):
            return dataset_meta(cfg[loader]['dataset'], cfg.get('default_scope', 'mmengine'))
    return {}


def plain_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """The entries that checkpoints keep, as tuples, which ``torch.load(weights_only=True)`` reads."""
    return {key: _plain(meta[key]) for key in META_KEYS if meta.get(key)}


def _plain(values: Any) -> Any:
    return tuple(map(_plain, values)) if isinstance(values, list | tuple) else values


def check_classes(cfg: Config) -> None:
    """Checks the head's class counts against the data sets'.

    Raises:
        ValueError: with both numbers and the class names.
    """
    model = cfg.get('model', {})
    for loader in LOADERS:
        if not cfg.get(loader):
            continue
        meta = dataset_meta(cfg[loader]['dataset'], cfg.get('default_scope', 'mmengine'))
        if isinstance(model.get('decode_head'), dict):
            counts = {'model.decode_head.num_classes': 'classes'}
        else:
            head = 'model.panoptic_head'
            counts = dict(
                panoptic={f'{head}.num_things_classes': 'thing_classes', f'{head}.num_stuff_classes': 'stuff_classes'},
                instance={f'{head}.num_things_classes': 'classes'},
            ).get(model.get('panoptic_head', {}).get('task'), {})
        for key, kind in counts.items():
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
