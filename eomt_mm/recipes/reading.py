"""Read config files as mmengine reads them, without mmengine."""

import ast
import copy
import os.path as osp
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from eomt_mm.recipes.classes import apply_metainfo, stated_meta
from eomt_mm.recipes.label_files import LABEL_KEYS, apply_label_files
from eomt_mm.recipes.names import find_config
from eomt_mm.recipes.places import move_root, places, stated_root, walk

BASE, DELETE = '_base_', '_delete_'
# Stated at the top of a config, and used in many places.
SHARED_KEYS = ('data_root', 'img_size', 'mask_annealing', 'metainfo', *LABEL_KEYS)


class Attributes(dict[str, Any]):
    """A dict whose entries can also be read as attributes: ``_base_.backbone.type``."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f'the base configs have no {name!r}')
        return self[name]


def read_recipe(config: str | Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a config and apply what its top level states once: class names, input size, root of the data, label values.

    Args:
        config: path, or name of a config; see :func:`~eomt_mm.recipes.names.find_config`.
        options: values of `SHARED_KEYS` in place of the config's.

    Returns:
        nested plain dicts and lists, with ``backbone``, ``train_pipeline`` and other variables of the files as well.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the file is no config of this form, an option is not one of `SHARED_KEYS`, or values conflict.
    """
    path, options = find_config(config), dict(options or {})
    unknown = sorted(set(options) - set(SHARED_KEYS))
    if unknown:
        raise ValueError(f'{unknown[0]}: no value that a config states once; these are {", ".join(SHARED_KEYS)}')
    cfg = copy.deepcopy(read_file(path))  # one copy of each part: bases share theirs
    old_root = stated_root(cfg)
    cfg.update(options)
    if cfg.get('data_root') is not None:
        cfg['data_root'] = osp.expanduser(str(cfg['data_root'])).rstrip('/') + '/'
        move_root(cfg, old_root, cfg['data_root'])
    for part, _ in places(cfg, 'img_size') if 'img_size' in cfg else ():
        part['img_size'] = cfg['img_size']
    apply_metainfo(cfg)
    apply_label_files(cfg, list(walk(cfg)), options, stated_meta(cfg).get('classes', ()))
    return cfg


def read_file(path: Path) -> dict[str, Any]:
    """Read a config file on its own: execute it, and merge it into its bases.

    Raises:
        FileNotFoundError: a base does not exist.
        ValueError: the file has another form, two bases state the same key, or a value replaces a dict.
    """
    if path.suffix != '.py':
        raise ValueError(f'config {path}: only configs in Python can be read here')
    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    if any(isinstance(node, ast.With) for node in tree.body):
        raise ValueError(
            f"config {path} imports its bases (read_base); only bases as text can be read here: _base_ = ['...']"
        )
    bases: dict[str, Any] = {}
    for name in _stated_bases(tree):
        base = path.parent / name
        if not base.is_file():
            raise FileNotFoundError(f'config {path}: its base {base} does not exist')
        read = read_file(base)
        twice = sorted(bases.keys() & read.keys())
        if twice:
            raise ValueError(f'config {path}: two of its bases state {twice[0]!r}')
        bases.update(read)
    tree.body = [node for node in tree.body if not _is_base(node)]
    variables: dict[str, Any] = {BASE: _with_attributes(bases), '__file__': str(path)}
    exec(compile(tree, str(path), 'exec'), variables)
    own = {
        name: value
        for name, value in variables.items()
        if not name.startswith('__') and name != BASE and not isinstance(value, ModuleType | FunctionType)
    }
    return _merged(bases, own, str(path))


def _is_base(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == BASE


def _stated_bases(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if _is_base(node) and isinstance(node, ast.Assign):
            stated = ast.literal_eval(node.value)
            return [stated] if isinstance(stated, str) else list(stated)
    return []


def _with_attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return Attributes({key: _with_attributes(part) for key, part in value.items()})
    return type(value)(map(_with_attributes, value)) if isinstance(value, list | tuple) else value


def _merged(base: Any, own: dict[str, Any], where: str) -> dict[str, Any]:
    """Merge a dict into one of a base: dicts key by key, unless they have ``_delete_``; other values replace."""
    merged = dict(base)
    for key, value in own.items():
        if not isinstance(value, dict):
            merged[key] = value
            continue
        old = merged.get(key)
        if value.get(DELETE) or old is None:
            merged[key] = _merged({}, {name: part for name, part in value.items() if name != DELETE}, f'{where}: {key}')
        elif isinstance(old, dict):
            merged[key] = _merged(old, value, f'{where}: {key}')
        else:
            raise ValueError(f'{where}: {key} is a dict, but {old!r} in a base; {DELETE}=True in the dict replaces it')
    return merged
