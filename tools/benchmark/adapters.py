"""Import the modules that register subjects and sides: ours, the peers' and the projects'."""

import importlib
import pkgutil
import sys

from benchmark import peers, subjects
from eomt_mm.recipes.names import PROJECTS


def import_adapters() -> None:
    """Import all modules of ``subjects`` and ``peers``, and ``projects/NAME/PACKAGE/benchmarking.py`` of a checkout."""
    names = [
        f'{package.__name__}.{m.name}' for package in (subjects, peers) for m in pkgutil.iter_modules(package.__path__)
    ]
    for file in sorted(PROJECTS.glob('*/*/benchmarking.py')):
        folder, package = str(file.parents[1]), file.parent.name
        if folder not in sys.path:
            sys.path.append(folder)
        names.append(f'{package}.benchmarking')
    for name in names:
        importlib.import_module(name)
