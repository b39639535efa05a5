"""Import the modules that register subjects and sides: ours, the peers' and the projects'."""

import importlib.util
import pkgutil
import sys
from pathlib import Path

from benchmark import peers, subjects
from eomt_mm.recipes.names import PROJECTS


def import_adapters() -> None:
    """Import all modules of ``subjects`` and ``peers``, and ``NAME.benchmarking`` of the projects."""
    names = [
        f'{package.__name__}.{m.name}' for package in (subjects, peers) for m in pkgutil.iter_modules(package.__path__)
    ]
    for folder in sorted(PROJECTS.glob('*/')):
        if (folder / folder.name).is_dir() and str(folder) not in sys.path:
            sys.path.append(str(folder))  # of a checkout
        package = importlib.util.find_spec(folder.name)
        if package and package.origin and Path(package.origin).with_name('benchmarking.py').is_file():
            names.append(f'{folder.name}.benchmarking')
    for name in names:
        importlib.import_module(name)
