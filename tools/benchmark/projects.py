"""What projects add to the comparisons: the module ``benchmarking`` of a project's package registers it."""

import importlib
import sys

from eomt_mm.apis.config_names import PROJECTS


def import_adapters() -> None:
    """Import ``projects/NAME/PACKAGE/benchmarking.py`` of every project; an installed package has none."""
    for file in sorted(PROJECTS.glob('*/*/benchmarking.py')):
        folder, package = str(file.parents[1]), file.parent.name
        if folder not in sys.path:
            sys.path.append(folder)
        importlib.import_module(f'{package}.benchmarking')
