"""Public names: they exist, the documentation lists them, and projects use no others."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from copies import forget, in_copies
from detectron2_tree import missing_packages
from paths import ROOT

import eomt_mm  # noqa: F401  before the hosts

PACKAGES = sorted(
    path.parent.name
    for path in (ROOT / 'eomt_mm').glob('*/__init__.py')
    if ('PUBLIC' in path.read_text() or '__all__' in path.read_text())
    and not (path.parent.name == 'detectron2' and missing_packages())
)
MODULES = {
    'registry': {'DATASETS', 'HOOKS', 'LOOPS', 'METRICS', 'MODELS', 'RUNNERS', 'TRANSFORMS'},
    'options': {'ToolParser', 'add_cfg_options', 'read_options', 'whole_number'},
}


def homes(package: str) -> dict[str, tuple[str, ...]]:
    """Public names of a package by module; '' is the package itself."""
    module = importlib.import_module(f'eomt_mm.{package}')
    return {**getattr(module, 'PUBLIC', {}), '': tuple(module.__all__)}


# Gradio takes 5 seconds to import; tests of the page import its names.
@pytest.mark.parametrize('package', [pytest.param(p, marks=pytest.mark.slow) if p == 'web' else p for p in PACKAGES])
def test_names_exist(package: str) -> None:
    public = homes(package)
    module = importlib.import_module(f'eomt_mm.{package}')
    for home, names in public.items():
        found = importlib.import_module(f'eomt_mm.{package}.{home}') if home else module
        assert [name for name in names if not hasattr(found, name)] == []
    unknown = 'nothing'
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(module, unknown)


@pytest.mark.parametrize('package', PACKAGES)
def test_the_documentation_lists_them(package: str) -> None:
    text = (ROOT / 'docs' / 'api' / 'public.md').read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f'| `{package}` |')]
    stated = set(row.split('|')[2].replace('`', '').replace(',', ' ').split())
    assert stated == {name for names in homes(package).values() for name in names}


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Modules of eomt_mm that a file imports from, and the names."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'eomt_mm':
            yield from ((str(node.module), alias.name) for alias in node.names)


def is_public(module: str, name: str) -> bool:
    _, *parts = module.split('.')
    if not parts:
        return name in PACKAGES
    package, home = parts[0], '.'.join(parts[1:])
    if package in MODULES:
        return name in MODULES[package]
    return package in PACKAGES and (name in homes(package).get(home, ()) or (not home and name in homes(package)))


def test_projects_use_public_names_only() -> None:
    files = sorted((ROOT / 'projects').rglob('*.py'))
    files = [file for file in files if 'detectron2' not in file.parts or 'detectron2' in PACKAGES]
    assert len(files) > 50
    used = {(module, name) for file in files for module, name in imports(file)}
    others = {f'{module}: {name}' for module, name in used if not is_public(module, name)}
    assert others == set(), f'add to PUBLIC of the package and docs/api/public.md, or do without: {sorted(others)}'
    assert not [name for _, name in used if name.startswith('_')]


def test_a_package_costs_nothing_until_a_name_is_asked_for() -> None:
    in_copies(1, import_packages_then_names)


def import_packages_then_names(_: int) -> None:
    forget('eomt_mm')
    libraries = forget('torch', 'numpy', 'mmengine')
    for package in ('core', 'checkpoints', 'engine', 'evaluation', 'datasets', 'models'):
        importlib.import_module(f'eomt_mm.{package}')
    assert not {'torch', 'numpy', 'mmengine'} & set(sys.modules)
    sys.modules.update(libraries)
    from eomt_mm.core import criterion, two_stage_factor

    assert [criterion.__name__, two_stage_factor.__module__] == ['eomt_mm.core.criterion', 'eomt_mm.core.schedules']
