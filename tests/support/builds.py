"""What gets packaged, copied from the repository, and built."""

import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

PACKAGED = ('eomt_mm', 'configs', 'projects', 'tools', 'requirements')
PACKAGED_FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'model-index.yml')


def copy_source(tree: Path) -> Path:
    """Copies what gets packaged into a new folder."""
    for name in PACKAGED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    for name in PACKAGED_FILES:
        shutil.copy(ROOT / name, tree / name)
    return tree


def build(tree: Path, *kinds: str) -> list[Path]:
    """Builds through setuptools' standard interface, as pip does; ``kinds``: wheel, sdist, editable."""
    out = tree / 'dist'
    out.mkdir(exist_ok=True)
    calls = ''.join(f'; print("built", build_meta.build_{kind}({str(out)!r}))' for kind in kinds)
    code = f'from setuptools import build_meta{calls}'
    done = subprocess.run([sys.executable, '-c', code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [out / line.removeprefix('built ') for line in done.stdout.splitlines() if line.startswith('built ')]
