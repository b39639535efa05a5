"""Packaging of eomt_mm: requirements by purpose, and the ``.mim`` folder that openmim reads."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What `mim train`, `mim download` and mmengine's model look-up read, as <package>/.mim/<name>.
MIM_CONTENT = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Puts configs, tools and the model index into ``eomt_mm/.mim``: copies in a build, links in an editable install.

    setuptools makes an editable install through ``build_py`` too (PEP 660), and marks it by ``editable_mode``.
    """

    def run(self) -> None:
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        folder = package / 'eomt_mm' / '.mim'
        if folder.exists():
            shutil.rmtree(folder)  # a file that left the source tree must leave the package as well
        folder.mkdir(parents=True)
        for name in MIM_CONTENT:
            self._place(ROOT / name, folder / name)

    def _place(self, source: Path, target: Path) -> None:
        if self.editable_mode:
            try:
                target.symlink_to(Path('..', '..', source.name), target_is_directory=source.is_dir())
                return
            except OSError:  # Windows lets only privileged users make links
                pass
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        else:
            shutil.copyfile(source, target)


def requirements(name: str) -> list[str]:
    """The lines of ``requirements/<name>.txt`` without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    source = (ROOT / 'eomt_mm' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '([^']+)'$", source, re.MULTILINE)
    if found is None:
        raise RuntimeError("eomt_mm/__init__.py has no line __version__ = '...'; setup.py reads the version there")
    return found[1]


readme = ROOT / 'README.md'
setup(
    name='eomt_mm',
    version=version(),
    description='EoMT (a plain ViT as segmentation model, CVPR 2025) for mmdetection and mmsegmentation',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['eomt_mm', 'eomt_mm.*']),
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        'lite': requirements('lite'),
        'mim': requirements('mim'),
        'deepspeed': requirements('deepspeed'),
        'detectron2': requirements('detectron2'),
        'docs': requirements('docs'),
        'export': requirements('export'),
        'web': requirements('web'),
        'test': [line for name in ('tests', 'detectron2', 'docs', 'export', 'web') for line in requirements(name)],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False,
)
