"""Where configs state values: all dicts by their dotted keys, and the root of all paths."""

from collections.abc import Iterator
from typing import Any

from eomt_mm.recipes.classes import LOADERS, Recipe


def walk(node: Any, prefix: str = '') -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all dicts in ``node``, itself included, with their dotted keys."""
    if isinstance(node, dict):
        yield prefix, node
        items: Any = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from walk(value, f'{prefix}.{key}' if prefix else str(key))


def places(cfg: Recipe, name: str) -> list[tuple[dict[str, Any], str]]:
    """List the dicts that contain ``name``, with its dotted key in each."""
    return [(part, f'{key}.{name}' if key else name) for key, part in walk(cfg) if name in part]


def stated_root(cfg: Recipe) -> str | None:
    """Root of the data sets' paths: the config's ``data_root`` or, if no path is below it, a data set's own."""
    root = cfg.get('data_root')
    if root is None:
        return None
    loaders = [cfg.get(name) for name in reversed(LOADERS)]
    stated = [value for _, part in walk(loaders) for value in part.values() if isinstance(value, str)]
    if any(is_below(value, root) for value in stated):
        return root
    return next((part['data_root'] for _, part in walk(loaders) if part.get('data_root')), root)


def is_below(path: str, root: str) -> bool:
    return f'{path}/'.startswith(f'{root.rstrip("/")}/')


def move_root(cfg: Recipe, old: str | None, new: str) -> None:
    """Replace the root ``old`` of every path; if ``old`` is None, replace every ``data_root``."""
    for _, part in walk(cfg):
        for key, value in part.items():
            if not isinstance(value, str):
                continue
            if old is None:
                if key == 'data_root':
                    part[key] = new
            elif is_below(value, old):
                part[key] = new + value.removeprefix(old.rstrip('/')).removeprefix('/')
