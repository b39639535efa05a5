"""Make the hosts importable, and check that the installed versions fit together.

Hosts are only imported inside functions, so that a bare ``import eomt_mm`` stays cheap.
"""

import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

EXTENSION = 'mmcv._ext'


@dataclass(frozen=True)
class Family:
    """Packages of one maintainer that fit together; those of two families install the same files.

    Args:
        modules: for each module of the hosts, the distributions that install it and the versions that the tests run
            with, or that the hosts' own assertions require (mmdet 3.3.0: mmcv < 2.2). Our commands install the first.
        compiled_ops: how to replace mmcv by a build with its compiled ops: a command, or the page that states it.
    """

    modules: dict[str, dict[str, str]]
    compiled_ops: str


NO_VERSION = '<0'
FAMILIES = (
    Family(
        {
            'mmengine': {'mmengine': '>=0.10.6,<1.0'},
            'mmcv': {'mmcv-lite': '==2.1.0', 'mmcv': '==2.1.0', 'mmcv-full': NO_VERSION},
            'mmdet': {'mmdet': '>=3.3.0,<3.4'},
            'mmseg': {'mmsegmentation': '>=1.2.1,<1.3'},
        },
        # It depends on torch: mmcv 2.1.0 does not compile with torch 2.13 or newer.
        'see "mmcv with compiled ops" in docs/installation.md',
    ),
    Family(
        {
            'mmengine': {'onedl-mmengine': '>=0.10.12,<0.11'},
            'mmcv': {'onedl-mmcv': '>=2.3.6,<2.4'},
            'mmdet': {'onedl-mmdetection': '>=3.5.1,<3.6'},
            'mmseg': {'onedl-mmsegmentation': '>=1.4.2,<1.5'},
        },
        # Their setup asks for C++17, which the headers of torch 2.13 and newer refuse.
        'pip install setuptools ninja && '
        'pip download --no-deps --no-build-isolation --no-binary onedl-mmcv onedl-mmcv==2.3.6 && '
        'tar xzf onedl_mmcv-2.3.6.tar.gz && sed -i s/c++17/c++20/ onedl_mmcv-2.3.6/setup.py && '
        'pip install --no-build-isolation --no-deps --force-reinstall ./onedl_mmcv-2.3.6',
    ),
)
# Versions that the tests run with. ftfy and regex: mmseg imports them (mmseg.utils.tokenizer), and mmseg 1.2.2 does not
# list them as requirements.
REQUIREMENTS = {
    'torch': '>=2.7',
    'timm': '>=1.0.26',
    'ftfy': '>=6.0',
    'regex': '>=2022.1.18',
}
OPENCV_DISTRIBUTIONS = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)


class CompiledOpMissingError(NotImplementedError):
    """A compiled op of mmcv was called, but the installed mmcv has none."""


class _ExtensionStandIn(ModuleType):
    """Stand-in for ``mmcv._ext``: has an op of every name, which raises an error when it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):  # attributes that Python looks up on any module: __path__, __file__, __all__, ...
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')

        def op(*args: Any, **kwargs: Any) -> Any:
            raise CompiledOpMissingError(
                f"mmcv's compiled op '{name}' was called, but the installed mmcv has no compiled ops. EoMT needs none "
                f'of them. For models that do, install mmcv with its ops: {installed_family().compiled_ops}'
            )

        op.__name__ = op.__qualname__ = name
        setattr(self, name, op)
        return op


class _ExtensionFinder(MetaPathFinder, Loader):
    """Finder and loader of the stand-in for ``mmcv._ext``, and of no other module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, origin=__name__) if fullname == EXTENSION else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _ExtensionStandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the ops are created on access."""


def make_hosts_importable() -> None:
    """Make mmdet and mmseg importable without mmcv's compiled ops; a second call changes nothing.

    Their import fails only because the extension module ``mmcv._ext`` is missing. The finder is the last in
    ``sys.meta_path``, so a compiled extension always takes precedence.
    """
    if not any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.append(_ExtensionFinder())
    if not hasattr(pkgutil, 'find_loader'):  # removed in Python 3.14; mmengine uses it to look for the extension
        setattr(pkgutil, 'find_loader', _find_loader)  # noqa: B010


def _find_loader(fullname: str) -> Any:
    """Reimplement ``pkgutil.find_loader``, which Python 3.14 removed."""
    spec = importlib.util.find_spec(fullname)
    return None if spec is None else spec.loader


def check_versions() -> None:
    """Check that the installed packages fit together.

    Raises:
        ImportError: one message for all conflicts: what is installed, what is needed, and the command to fix it.
    """
    rows: list[tuple[str, str, str]] = []
    remove: list[str] = []
    add: list[str] = []
    for check in (_check_requirements, _check_torchvision, _check_hosts, _check_opencv):
        check(rows, remove, add)
    if rows:
        raise ImportError(_clash_message(rows, remove, add))
    _check_cv2_loads()


def _check_requirements(rows: list[tuple[str, str, str]], remove: list[str], add: list[str]) -> None:
    for name, needed in REQUIREMENTS.items():
        version = _version(name)
        if version is None and _importable(name):
            continue  # a source checkout on the path
        if version is None or not _fits(version, needed):
            rows.append((name, version or 'missing', needed))
            add.append(f'{name}{needed}')


def _check_torchvision(rows: list[tuple[str, str, str]], remove: list[str], add: list[str]) -> None:
    """Check that torchvision is the release for the installed torch, which its metadata names."""
    from packaging.requirements import Requirement

    version, torch_version = _version('torchvision'), _version('torch')
    if version is None or torch_version is None:
        return
    for text in metadata.requires('torchvision') or []:
        requirement = Requirement(text)
        if requirement.name == 'torch' and not requirement.specifier.contains(torch_version, prereleases=True):
            rows.append(('torchvision', version, f'the release for torch {torch_version}'))
            add += [f'torch=={torch_version}', 'torchvision']


def _check_hosts(rows: list[tuple[str, str, str]], remove: list[str], add: list[str]) -> None:
    """Check that each module of the hosts comes from one distribution, and all from one family."""
    family = installed_family()
    for module, needed in family.modules.items():
        found = _installed(name for one in FAMILIES for name in one.modules[module])
        if not found and _importable(module):
            continue  # a source checkout on the path: the hosts' own assertions check its version
        if [_fits(version, needed.get(name, NO_VERSION)) for name, version in found.items()] == [True]:
            continue
        fitting = [name + versions for name, versions in needed.items() if versions != NO_VERSION]
        rows.append((module, _listed(found), ' or '.join(fitting) + (', only one' if len(found) > 1 else '')))
        remove += found
        add.append(fitting[0])


def installed_family() -> Family:
    """Return the family that most of the installed packages belong to; the first one if two have as many."""
    return max(
        FAMILIES, key=lambda family: len(_installed(name for names in family.modules.values() for name in names))
    )


def _check_opencv(rows: list[tuple[str, str, str]], remove: list[str], add: list[str]) -> None:
    """Check that all OpenCV distributions have one version; two are fine (albumentations needs the headless one)."""
    found = _installed(OPENCV_DISTRIBUTIONS)
    if not found and _importable('cv2'):
        return
    if len(set(found.values())) == 1:
        return
    rows.append(('opencv', _listed(found), 'its distributions in one version'))
    remove += found
    add.append(OPENCV_DISTRIBUTIONS[0])


def _check_cv2_loads() -> None:
    """Import cv2, as the hosts will do anyway, to explain a missing system library."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if '.so' not in str(error):
            raise
        raise ImportError(
            f'cv2 needs a system library that is missing ({error}). Either install it: '
            f'apt-get install -y libgl1 libglib2.0-0; or use the OpenCV that does not need it: '
            f'pip uninstall -y {" ".join(OPENCV_DISTRIBUTIONS)} && pip install opencv-python-headless'
        ) from error


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed(names: Iterable[str]) -> dict[str, str]:
    return {name: version for name in names if (version := _version(name)) is not None}


def _listed(found: dict[str, str]) -> str:
    return ' and '.join(f'{name} {version}' for name, version in found.items()) or 'missing'


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _fits(version: str, needed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(needed).contains(version, prereleases=True)


def _clash_message(rows: list[tuple[str, str, str]], remove: list[str], add: list[str]) -> str:
    table = [('package', 'installed', 'needed'), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    lines = [f'  {name:{widths[0]}}  {there:{widths[1]}}  {needed}' for name, there, needed in table]
    command = 'pip install ' + ' '.join(f'"{spec}"' for spec in dict.fromkeys(add))
    if remove:
        command = f'pip uninstall -y {" ".join(remove)} && {command}'
    return '\n'.join(['eomt_mm cannot run with the installed packages:', *lines, 'To fix this, run:', f'  {command}'])
