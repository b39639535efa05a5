"""How docstrings become entries of the reference. They mark other objects as Sphinx does: :func:`~eomt_mm.apis.x`."""

import re
from typing import Any

import griffe

ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`')
LITERAL_BLOCK = re.compile(r'::$', re.MULTILINE)


class Reference(griffe.Extension):
    """Turns roles into links, where the object has an entry, and into code otherwise."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Called when the package is loaded, with all of its modules."""
        _prepare(pkg)


def _prepare(obj: griffe.Object) -> None:
    if isinstance(obj, griffe.Module):
        obj.exports = None  # what a package exports has its one entry in the module that defines it
    if obj.docstring is not None:
        text = ROLE.sub(lambda match: _link(obj, match[2], bool(match[1])), obj.docstring.value)
        obj.docstring.value = LITERAL_BLOCK.sub(':', text)
    for member in obj.members.values():
        if isinstance(member, griffe.Object):  # not what a module imports from another
            _prepare(member)


def _link(obj: griffe.Object, name: str, short: bool) -> str:
    shown = name.rpartition('.')[2] if short else name
    return f'<autoref identifier="{_target(obj, name)}" optional><code>{shown}</code></autoref>'


def _target(obj: griffe.Object, name: str) -> str:
    """The path of what a name means in the scope of an object, as far as the package tells."""
    first, _, rest = name.partition('.')
    package = obj.package
    try:
        path = name if first == package.name else '.'.join(filter(None, [obj.resolve(first), rest]))
        return package[path.removeprefix(f'{package.name}.')].canonical_path
    except (KeyError, griffe.GriffeError):
        return name
