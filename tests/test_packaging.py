"""Wheels, sdists and editable installs carry ``.mim``; requirement files, constraints, Makefile and CI fit together."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from builds import build, copy_source
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from paths import ROOT

import eomt_mm
from eomt_mm import compat
from eomt_mm.options import OURS
from eomt_mm.recipes.names import project_configs
from eomt_mm.recipes.reading import read_file

PACKAGES = {'eomt_mm', *(path.name for path in ROOT.glob('projects/*') if (path / path.name / '__init__.py').is_file())}
TEST_GROUPS = ('tests', 'detectron2', 'docs', 'export', 'openvino', 'web')


def files_below(folder: Path) -> set[str]:
    """Paths relative to ``folder`` of all files, caches left out."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and not {'__pycache__', '.mim'} & set(path.parts)
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what gets packaged, with things that must not be: caches, tests."""
    tree = copy_source(tmp_path_factory.mktemp('source') / 'tree')
    for stray in ('configs/__pycache__/a.pyc', 'tools/__pycache__/a.pyc', 'tests/__init__.py', 'tests/test_a.py'):
        (tree / stray).parent.mkdir(exist_ok=True)
        (tree / stray).touch()
    (tree / 'tools' / 'some_tool.sh').write_text('echo\n')
    return tree


@pytest.fixture(scope='module')
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = Path(shutil.copytree(source, tmp_path_factory.mktemp('wheel') / 'tree'))
    gone = tree / 'build' / 'lib' / 'eomt_mm' / '.mim' / 'configs' / 'gone.py'  # of an earlier build
    gone.parent.mkdir(parents=True)
    gone.touch()
    (wheel,) = build(tree, 'wheel')
    return wheel


@pytest.fixture(scope='module')
def sdist(source: Path) -> Path:
    """Built where an editable install has left links, which it must not follow."""
    (source / 'eomt_mm' / '.mim' / 'configs').mkdir(parents=True)  # left over from an install that had to copy
    return build(source, 'editable', 'editable', 'sdist')[-1]


@pytest.fixture(scope='module')
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip would unpack the wheel into."""
    folder = tmp_path_factory.mktemp('site-packages')
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def expected_wheel_content(tree: Path) -> set[str]:
    """The package, the projects' packages, and in ``.mim`` the rest of what is packaged, without tests."""
    content = {f'eomt_mm/{name}' for name in files_below(tree / 'eomt_mm')} | {'eomt_mm/.mim/model-index.yml'}
    for folder in ('configs', 'projects', 'tools'):
        for name in files_below(tree / folder):
            project, _, inner = name.partition('/')
            if inner.startswith(f'{project}/'):
                content.add(inner)
            elif not inner.startswith('tests/'):
                content.add(f'eomt_mm/.mim/{folder}/{name}')
    return content


def wheel_content(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}


def test_wheel_is_complete_and_forgets_removed_files(wheel: Path, source: Path) -> None:
    content = wheel_content(wheel)
    assert content == expected_wheel_content(source)
    assert {Path(name).suffix for name in content} <= {'.md', '.py', '.sh', '.typed', '.yml'}  # no data
    assert not [name for name in content if {'tests', 'test'} & set(Path(name).parts)]
    assert {name.partition('/')[0] for name in content} == PACKAGES
    assert {f'{package}/py.typed' for package in PACKAGES} <= content
    assert set(OURS) > PACKAGES, 'tools show the mistakes that a package reports in one line'


def test_wheel_of_an_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        assert not [name for name in names if '.mim' in name or name.endswith('.pyc')]
        assert not [name for name in names if 'tests' in Path(name).parts], 'some of the tests are of no use'
        archive.extractall(tmp_path, **({'filter': 'data'} if sys.version_info >= (3, 12) else {}))
    (again,) = build(tmp_path / sdist.name.removesuffix('.tar.gz'), 'wheel')
    assert wheel_content(again) == wheel_content(wheel)


def test_editable_install_links_to_the_sources(sdist: Path, source: Path) -> None:
    for name in ('configs', 'projects', 'tools', 'model-index.yml'):
        link = source / 'eomt_mm' / '.mim' / name
        assert link.is_symlink() and link.resolve() == (source / name).resolve()


def test_projects_configs_of_the_wheel_are_those_of_the_repository(installed: Path) -> None:
    home = installed / 'eomt_mm' / '.mim'
    for path in project_configs():  # whose bases are other folders' files
        assert read_file(home / path.relative_to(ROOT)) == read_file(path), path


@pytest.mark.parametrize('name', ['eomt_dinov2-l_12e_coco-panoptic-640', 'videomt_dinov2-s_40k_ytvis2019-448'])
def test_installed_package_finds_configs_by_name(name: str, installed: Path) -> None:
    code = (
        f'import sys; sys.path.insert(0, {str(installed)!r})\n'
        f'from eomt_mm.recipes import names; print(names.__file__, names.find_config({name!r}))'
    )
    done = subprocess.run([sys.executable, '-I', '-c', code], capture_output=True, text=True, check=True)
    module, config = map(Path, done.stdout.split())
    assert module.is_relative_to(installed) and config.is_relative_to(installed / 'eomt_mm' / '.mim')


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = f'eomt_mm-{eomt_mm.__version__}.dist-info'
        text = archive.read(f'{folder}/METADATA').decode()
        assert f'{folder}/licenses/LICENSE' in archive.namelist()
    assert wheel.name == f'eomt_mm-{eomt_mm.__version__}-py3-none-any.whl'
    fields = email.message_from_string(text)
    assert fields['License-Expression'] == 'Apache-2.0' and fields['Author'] and fields['Keywords']
    assert fields['Requires-Python'] == '>=3.10'
    extras = {'deepspeed', 'detectron2', 'docs', 'export', 'lite', 'mim', 'onedl', 'openvino', 'test', 'web'}
    assert set(fields.get_all('Provides-Extra', ())) == extras
    found: dict[str, set[str]] = {name: set() for name in (*extras, '')}
    for requirement in map(Requirement, fields.get_all('Requires-Dist', ())):
        extra = str(requirement.marker or '').partition('extra == ')[2].strip('"')
        found[extra].add(canonicalize_name(requirement.name))
    for extra in ('deepspeed', 'detectron2', 'docs', 'export', 'lite', 'mim', 'onedl', 'web'):
        assert found[extra] == set(requirements(extra)), extra
    assert found['openvino'] == {*requirements('export'), *requirements('openvino')}
    assert found[''] == set(requirements('runtime'))
    assert not [name for name in found[''] if 'mm' in name.replace('timm', '')]  # neutral: no OpenMMLab package
    assert found['test'] == set().union(*map(requirements, TEST_GROUPS))
    for url in fields.get_all('Project-URL', ()):
        assert url.split(', ')[1] in (ROOT / 'README.md').read_text() + (ROOT / 'CITATION.cff').read_text()


def test_the_packages_page_has_no_dead_links(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        page = archive.read(f'eomt_mm-{eomt_mm.__version__}.dist-info/METADATA').decode().partition('\n\n')[2]
    assert page.startswith('# eomt_mm') and 'make demo' in page
    assert [link for link in re.findall(r'\]\(([^)]*)\)', page) if not link.startswith('https://')] == []
    assert '[Installation]' in (ROOT / 'README.md').read_text() and 'Installation covers' in page  # the text stays


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / 'eomt_mm').rglob('*.py') if '.mim' not in path.parts}
    assert [folder for folder in sorted(folders) if not (folder / '__init__.py').is_file()] == []


# Requirements ---------------------------------------------------------------------------------------------------------


def requirements(name: str) -> dict[str, Requirement]:
    """Of a file in ``requirements/``, by canonical name."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith('#')]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_compat_and_requirement_files_demand_the_same() -> None:
    groups = [requirements(name) for name in ('runtime', 'lite', 'mminstall', 'onedl')]
    for name, needed in compat.REQUIREMENTS.items():
        stated = [str(group[name].specifier) for group in groups if name in group]
        assert stated and set(stated) == {str(Requirement(name + needed).specifier)}, name


def test_tests_need_the_setuptools_that_builds() -> None:
    text = (ROOT / 'pyproject.toml').read_text()
    assert f'requires = ["{requirements("tests")["setuptools"]}"]' in text


@pytest.mark.parametrize(('group', 'number'), [('lite', 0), ('mminstall', 0), ('onedl', 1)])
def test_each_group_holds_one_distribution_per_module_of_one_family(group: str, number: int) -> None:
    stated = requirements(group)
    found = [
        (family, module, name, versions)
        for family in compat.FAMILIES
        for module, names in family.modules.items()
        for name, versions in names.items()
        if name in stated
    ]
    assert [(family, module) for family, module, *_ in found] == [
        (compat.FAMILIES[number], module) for module in compat.FAMILIES[number].modules
    ]
    for *_, name, versions in found:
        assert stated[name].specifier == Requirement(name + versions).specifier


@pytest.mark.parametrize('group', ['runtime', 'lite', 'onedl', *TEST_GROUPS])
def test_constraints_pin_every_requirement_within_its_range(group: str) -> None:
    pins = requirements('constraints')
    for name, requirement in requirements(group).items():
        if name == 'setuptools':  # what Python or torch brings along
            continue
        (pin,) = pins[name].specifier
        assert pin.operator == '==' and requirement.specifier.contains(pin.version), name


def lower_bound(requirement: Requirement) -> Version | None:
    """Lowest version that a requirement allows."""
    found = [Version(part.version) for part in requirement.specifier if part.operator in ('>=', '==')]
    return found[0] if found else None


def lower_bounds(*groups: str) -> dict[str, Version]:
    """Of the requirements of some files, by name; a package in two files has one bound."""
    found: dict[str, Version] = {}
    for group in groups:
        for name, requirement in requirements(group).items():
            bound = lower_bound(requirement)
            assert bound or group == 'tests', f'{group}.txt: {name} has no lower bound'
            if bound:
                assert found.setdefault(name, bound) == bound, f'{group}.txt: {name}'
    return found


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    pins, bounds = requirements('oldest'), lower_bounds('runtime', 'lite', *TEST_GROUPS)
    assert set(pins) == set(bounds) and lower_bounds('runtime', 'lite', 'mminstall', 'onedl')
    needed = {canonicalize_name(r.name): r for r in map(Requirement, importlib.metadata.requires('transformers') or [])}
    for name, pin in pins.items():
        assert [part.operator for part in pin.specifier] == ['=='], name
        # Higher only where transformers, which the tests compare with, forbids our bound.
        assert lower_bound(pin) == bounds[name] or bounds[name] not in needed[name].specifier, name


def test_pages_name_the_lowest_python_and_torch() -> None:
    pages = {
        page.name: page.read_text()
        for page in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md'))
    }
    (python,) = {found for text in pages.values() for found in re.findall(r'Python (\d\.\d+) or newer', text)}
    assert SpecifierSet(f'>={python}') == SpecifierSet(importlib.metadata.metadata('eomt_mm')['Requires-Python'])
    assert f'torch {lower_bounds("runtime")["torch"]} or newer' in pages['installation.md']
    (pin,) = requirements('constraints')['torch'].specifier
    assert f'This installs torch {pin.version}' in pages['installation.md']


def test_constraints_hold_one_mmcv_per_family_and_one_version_of_opencv() -> None:
    pins = requirements('constraints')
    assert {name for name in pins if 'mmcv' in name} == {'mmcv-lite', 'onedl-mmcv'}
    assert len({str(pins[name].specifier) for name in compat.OPENCV_DISTRIBUTIONS if name in pins}) == 1


def test_every_import_is_declared() -> None:
    declared = {'eomt-mm', *requirements('runtime'), *requirements('lite'), *requirements('onedl')}
    distributions = importlib.metadata.packages_distributions()
    peers = declared.union(*map(requirements, TEST_GROUPS))  # comparisons with others are for developers
    by_file = {
        'eomt_mm/web/page.py': declared | set(requirements('web')),
        'eomt_mm/web/guard.py': declared | set(requirements('web')),
        'eomt_mm/export/onnx.py': declared | set(requirements('export')),
        'eomt_mm/export/openvino.py': declared | set(requirements('openvino')),
        'eomt_mm/export/sessions.py': declared | set(requirements('export')) | set(requirements('openvino')),
        'eomt_mm/export/quantise.py': declared | set(requirements('openvino')),
    }
    foreign = {'eomt_mm', 'benchmark', 'run_exported', 'detectron2'}  # the last is in no index
    # What `pip install .[detectron2]` must suffice for, without the packages of OpenMMLab.
    second_host = set(requirements('runtime')) | set(requirements('detectron2'))
    its_packages = {'annotations', 'checkpoints', 'core', 'detectron2', 'fileio', 'recipes'}
    undeclared = set()
    for path in [*(ROOT / 'eomt_mm').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for top in {module.partition('.')[0] for module in modules} - sys.stdlib_module_names - foreign:
                others = peers if {'analysis', 'benchmark'} & set(path.parts) else declared
                others = second_host if its_packages & set(path.parts) else others
                allowed = by_file.get(str(path.relative_to(ROOT)), others)
                if allowed.isdisjoint(map(canonicalize_name, distributions.get(top, [top]))):
                    undeclared.add(f'{path.relative_to(ROOT)}: {top}')
    assert undeclared == set()


# Makefile and CI ------------------------------------------------------------------------------------------------------


def script(path: Path, body: str) -> Path:
    path.write_text(f'#!/usr/bin/env bash\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make, without the variables of the make that may run the tests."""
    inherited = ('MAKEFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES', 'MFLAGS', 'HOSTS', 'PYTHON', 'VENV')
    env = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(['make', *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def test_make_alone_lists_the_targets() -> None:
    done = make()
    assert done.returncode == 0
    targets = [line.split()[1] for line in done.stdout.splitlines()]
    tests = 'test test-slow test-oldest test-newest test-onedl smoke-onedl'
    assert ' '.join(targets) == f'help setup detectron2 {tests} lint docs dist demo demo-video demo-detectron2 clean'


@pytest.mark.parametrize(
    ('target', 'extras'),
    [
        *((target, 'lite,test') for target in ('test', 'test-slow', 'lint')),
        *((target, 'lite') for target in ('demo', 'demo-video')),
        ('test-onedl', 'onedl,test'),
        ('smoke-onedl', 'onedl'),
    ],
)
def test_each_target_installs_first(target: str, extras: str, tmp_path: Path) -> None:
    done = make('-n', target, f'VENV={tmp_path / "venv"}')
    venv = f'{tmp_path}/venv{"-onedl" if "onedl" in target else ""}'
    assert f'{venv}/bin/python -m pip' in done.stdout
    assert f"-e '.[{extras}]'" in done.stdout


@pytest.mark.parametrize('target', ['setup', 'test', 'test-onedl', 'smoke-onedl'])
def test_the_forks_never_enter_the_environment_of_openmmlab(target: str) -> None:
    """Also where one of the environments is installed already."""
    done = make('-Bn', target, 'HOSTS=onedl')
    (install,) = [line for line in done.stdout.splitlines() if ' -e ' in line]
    assert install.startswith('.venv-onedl/bin/python ') and '.[onedl' in install


@pytest.mark.parametrize(
    ('target', 'constraints'),
    [('test', 'constraints.txt'), ('test-oldest', 'oldest.txt'), ('test-newest', '/dev/null')],
)
def test_each_suite_has_its_own_environment_and_versions(target: str, constraints: str, tmp_path: Path) -> None:
    venv = f'{tmp_path / "venv"}{target.removeprefix("test")}'
    lines = make('-n', target, f'VENV={tmp_path / "venv"}').stdout.splitlines()
    (install,) = [line for line in lines if ' -e ' in line]
    assert install.startswith(f'{venv}/bin/python ') and f'{constraints} -e' in install


@pytest.mark.parametrize(
    ('body', 'message'),
    [('exit 1', 'needs Python >= 3.10'), ('[[ $2 != *venv* ]]', 'apt-get install python3-venv')],
    ids=['old python', 'no venv module'],
)
def test_setup_refuses_an_unfit_python(tmp_path: Path, body: str, message: str) -> None:
    python = script(tmp_path / 'python', body)
    done = make('setup', f'PYTHON={python}', f'VENV={tmp_path / "venv"}')
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / 'venv').exists()


IMAGES = 'demo: PQ 61.3 on 4 held-out images, pictures in {folder}'
VIDEOS = 'demo: AP 36.1 on 2 held-out videos, tracks in {folder}/a.mp4'


@pytest.mark.parametrize(
    ('last_lines', 'passes'),
    [
        ((IMAGES, VIDEOS), True),
        (('demo: PQ nan on 4 held-out images, pictures in {folder}', VIDEOS), False),
        (('demo: PQ 61.3 on 4 held-out images, pictures in {folder}/missing', VIDEOS), False),
        (('Segmentation fault', VIDEOS), False),
        ((IMAGES, 'demo: AP nan on 2 held-out videos, tracks in {folder}/a.mp4'), False),
        ((IMAGES, 'demo: AP 36.1 on 2 held-out videos, tracks in {folder}/missing.mp4'), False),
    ],
)
def test_ci_checks_the_last_lines_of_the_demos(tmp_path: Path, last_lines: tuple[str, str], passes: bool) -> None:
    (tmp_path / 'a.png').touch()
    (tmp_path / 'a.mp4').write_text('not empty')
    lines = [line.format(folder=tmp_path) for line in last_lines]
    answers = ''.join(
        f'\n[[ $1 != {target} ]] || echo "{line}"' for target, line in zip(('demo', 'demo-video'), lines, strict=True)
    )
    script(tmp_path / 'make', f'echo "$1" >> {tmp_path}/calls{answers}')
    env = os.environ | {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    done = subprocess.run([ROOT / '.ci' / 'run'], env=env, capture_output=True, text=True)
    assert (done.returncode == 0) is passes, done.stderr
    calls = (tmp_path / 'calls').read_text().split()
    first_fails = last_lines[0] != IMAGES
    rest = [] if first_fails else ['demo-video', 'smoke-onedl'] if passes else ['demo-video']
    assert calls == ['lint', 'docs', 'test', 'demo', *rest]


def test_the_workflow_runs_targets_that_exist() -> None:
    jobs = yaml.safe_load((ROOT / '.github' / 'workflows' / 'ci.yml').read_text())['jobs']
    commands = [entry['command'] for entry in jobs['checks']['strategy']['matrix']['include']]
    targets = {line.split()[1] for line in make().stdout.splitlines()}
    assert '.ci/run' in commands and {'test-oldest', 'test-newest', 'test-onedl'} <= targets
    assert {command.removeprefix('make ') for command in commands} - {'.ci/run'} <= targets


def test_ci_stops_at_the_first_failure(tmp_path: Path) -> None:
    script(tmp_path / 'make', f'echo "$1" >> {tmp_path}/calls\n[[ $1 != test ]]')
    env = os.environ | {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    assert subprocess.run([ROOT / '.ci' / 'run'], env=env, capture_output=True).returncode != 0
    assert (tmp_path / 'calls').read_text().split() == ['lint', 'docs', 'test']
