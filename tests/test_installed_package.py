"""The wheel in an environment without a clone: its projects, tools and configs, and what pip installs with it."""

import json
import os
import re
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from builds import build, copy_source
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from paths import ROOT
from PIL import Image

from eomt_mm import compat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TINY = 'videomt_tiny_500i_shapes-96'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (wheel,) = build(copy_source(tmp_path_factory.mktemp('source') / 'tree'), 'wheel')
    return wheel


@pytest.fixture(scope='module')
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of an environment with the wheel, and with the other packages of this one."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, symlinks=True)
    packages = in_environment('purelib', folder)
    zipfile.ZipFile(wheel).extractall(packages)
    # Packages of a folder that a .pth file names are found, but its own .pth files, with our editable install, are not.
    (packages / 'others.pth').write_text(sysconfig.get_path('purelib'))
    return in_environment('scripts', folder) / 'python'


@pytest.fixture(scope='module')
def tools(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the installed tools."""
    code = 'from eomt_mm.recipes.names import HOME; print(HOME)'
    return Path(run(python, tmp_path_factory.mktemp('empty'), '-c', code).strip()) / 'tools'


def in_environment(name: str, folder: Path) -> Path:
    """A folder of a virtual environment by its name in sysconfig."""
    return Path(sysconfig.get_path(name, 'posix_prefix', {'base': str(folder)}))


def run(python: Path, folder: Path, *words: str) -> str:
    """Runs Python in a folder that is no clone, and returns what it printed."""
    names = {'PYTHONPATH': '', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [python, *words],
        cwd=folder,
        env=os.environ | names,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert str(ROOT) not in re.sub(re.escape(sysconfig.get_path('purelib')), '', done.stdout), 'the clone was used'
    return done.stdout


def test_projects_are_used_without_a_clone(python: Path, tmp_path: Path) -> None:
    code = f"""
import eomt_mm, videomt, vit_mask2former
from eomt_mm.apis import init_model, load_config
print(eomt_mm.__file__, videomt.__file__, vit_mask2former.__file__)
print(load_config('videomt_dinov2-s_40k_ytvis2019-448').filename)
print(type(init_model('{TINY}')).__module__)
print(load_config('vit-m2f_dinov2-s_24e_coco-panoptic-640').model.type)
"""
    packages = str(python.parents[1])
    lines = run(python, tmp_path, '-c', code).splitlines()[-4:]
    assert all(path.startswith(packages) for path in (*lines[0].split(), lines[1]))
    assert lines[2] == 'videomt.detector' and lines[3] == 'mmdet.ViTMask2Former'


def test_tools_take_names_of_configs_without_a_clone(python: Path, tools: Path, tmp_path: Path) -> None:
    def call(name: str, *words: str) -> str:
        return run(python, tmp_path, str(tools / name), *words)

    config = 'eomt_tiny_shapes-panoptic-128'
    assert 'written: eomt.onnx' in call('export.py', config, 'none', '--out', 'eomt.onnx')
    Image.new('RGB', (90, 60)).save(tmp_path / 'image.png')
    assert 'image.png: ' in call('run_exported.py', 'eomt.onnx', 'image.png', '--out-dir', 'found', '--no-pictures')
    quick = ['--size', '64', '--rounds', '1', '--threads', '1', '--no-memory']
    assert '| timm | ' in call('benchmark/compare.py', 'forward', config, *quick)
    assert '| vit-m2f_' in call('benchmark.py', config, 'vit-m2f_dinov2-s_24e_coco-panoptic-640', '--size', '64', '64')


def test_the_video_demo_runs_without_a_clone(python: Path, tools: Path, tmp_path: Path) -> None:
    short = ['--max-iters', '6', '--num-train', '2', '--work-dir', 'demo']
    last = run(python, tmp_path, str(tools / 'make_demo.py'), '--video', *short).splitlines()[-1]
    assert re.fullmatch(r'demo: AP \d+\.\d on 1 held-out videos, tracks in demo/found/vis/\d+\.mp4', last)
    (film,) = (tmp_path / 'demo' / 'film' / 'valid' / 'JPEGImages').iterdir()
    demo = [str(tools / 'demo.py'), str(film), TINY, 'demo/train/iter_6.pth', '--out-dir', 'found']
    assert 'videos segmented (instance): 1' in run(python, tmp_path, *demo)
    convert = str(tools.parent / 'projects' / 'videomt' / 'tools' / 'convert_videomt.py')
    run(python, tmp_path, convert, 'demo/train/iter_6.pth', 'converted.pth', '--config', TINY)
    assert (tmp_path / 'converted.pth').is_file()


def test_pip_finds_versions_that_fit_without_our_constraints(wheel: Path, tmp_path: Path) -> None:
    """Needs the network: asks the package index, and installs nothing."""
    report = tmp_path / 'report.json'
    venv.create(tmp_path / 'venv', with_pip=True)
    python = in_environment('scripts', tmp_path / 'venv') / 'python'
    options = ['-q', '--dry-run', '--ignore-installed', '--report', str(report), f'{wheel}[lite]']
    subprocess.run([python, '-m', 'pip', 'install', *options], check=True)
    found = {
        canonicalize_name(item['metadata']['name']): item['metadata']['version']
        for item in json.loads(report.read_text())['install']
    }
    modules = compat.FAMILIES[0].modules
    for versions in (compat.REQUIREMENTS, *modules.values()):
        for name in (name for name in versions if name in found):
            assert SpecifierSet(versions[name]).contains(found[name]), (name, found[name])
    assert compat.REQUIREMENTS.keys() <= found.keys()
    for several in (compat.OPENCV_DISTRIBUTIONS, *modules.values()):
        assert len(found.keys() & set(several)) == 1, several
