"""Public names of packages, imported when they are first asked for.

A package states them once: ``PUBLIC``, modules to names. What is not in it may change without notice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

Homes = Mapping[str, Sequence[str]]


def names_of(public: Homes) -> list[str]:
    """What a package itself offers: all names but those of two modules, and those that are modules, too."""
    counts = Counter(name for names in public.values() for name in names)
    return sorted(name for name, count in counts.items() if count == 1 and name not in public)


def load(package: str, public: Homes, name: str) -> Any:
    """A public name of a package.

    Raises:
        AttributeError: it has no such name.
    """
    if name in names_of(public):
        home = next(module for module, names in public.items() if name in names)
        return getattr(import_module(f'{package}.{home}'), name)
    raise AttributeError(f'module {package!r} has no attribute {name!r}')
