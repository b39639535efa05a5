"""The browser page of tools/web_demo.py: layout (page), results, and the checks of requests (guard); extra [web]."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {'page': ('build_page', 'launch'), 'results': ('find_segments', 'load_models')}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
