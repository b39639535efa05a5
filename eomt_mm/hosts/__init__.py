"""Changes to mmengine and the hosts made by :func:`~eomt_mm.hosts.install.install`: file backends, checkpoint reading,
image loading."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'install': ('install',),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
