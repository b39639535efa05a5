"""What pyproject.toml cannot state: the ``.mim`` folder that openmim reads, and the text of the package's page."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What `mim train`, `mim download`, mmengine's model look-up and eomt_mm.recipes.names read, as <package>/.mim/<name>.
MIM_CONTENT = ('configs', 'projects', 'tools', 'model-index.yml')
PICTURE = re.compile(r'^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+', re.MULTILINE)
LINK = re.compile(r'(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]*\)')


class BuildWithMim(build_py):
    """Puts configs, projects, tools and the model index into ``eomt_mm/.mim``.

    They are copies in a build, links in an editable install. setuptools makes an editable install through ``build_py``
    too (PEP 660), and marks it by ``editable_mode``.
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
            shutil.copytree(source, target, ignore=self._left_out)
        else:
            shutil.copyfile(source, target)

    def _left_out(self, folder: str, names: Iterable[str]) -> list[str]:
        """Caches, the projects' tests, and their packages, which are installed as such."""
        found = shutil.ignore_patterns('__pycache__', '*.pyc', 'tests')(folder, list(names))
        return [*found, *(name for name in names if name == Path(folder).name and name in self.packages)]


def package_page(readme: str) -> str:
    """Return the README without links to files and without its pictures, which a package's page does not have."""
    return LINK.sub(r'\1', PICTURE.sub('', readme))


setup(
    long_description=package_page((ROOT / 'README.md').read_text(encoding='utf-8')),
    long_description_content_type='text/markdown',
    cmdclass={'build_py': BuildWithMim},
)
