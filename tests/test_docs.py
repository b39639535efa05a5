"""The documentation: its site builds without a warning, its links resolve, its commands and code blocks run.

Blocks in the languages ``bash`` and ``python`` run as they stand, in a folder like a clone after ``make demo``; what
needs a GPU, real data or the network is ``console`` or ``text``, of which the commands are checked: files, configs,
options.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import DOCS, PAGES, ROOT, TOOLS, accepts, blocks, call_of_a_tool, commands, links, named_files, parser_of
from markdown.extensions.toc import slugify

from eomt_mm import __version__
from eomt_mm.recipes.names import find_config

README = ROOT / 'README.md'
TOP = [ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md')]
NAMED = [*TOP, *PAGES, *sorted(ROOT.glob('projects/*/README.md'))]
BIN = Path(sys.executable).parent


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('page', NAMED, ids=name_of)
def test_blocks_can_be_parsed(page: Path) -> None:
    for block in blocks(page):
        assert block.language in ('bash', 'console', 'python', 'text') or page == README, block.text
        if block.language == 'python':
            ast.parse(block.text)
        elif block.language in ('bash', 'console'):
            done = subprocess.run(['bash', '-n'], input=block.text, text=True, capture_output=True)
            assert not done.stderr, f'{block.text}\n{done.stderr}'


@pytest.mark.parametrize('page', [*NAMED, *TOOLS], ids=name_of)
def test_commands_are_known(page: Path) -> None:
    targets = Path(ROOT / 'Makefile').read_text()
    for line in commands(page):
        for path in named_files(line):
            assert (ROOT / path).exists() or list(ROOT.glob(path)), f'{line}: there is no {path}'
        for name in re.findall(r'(?<![\w/-])eomt_(?:dinov\d|tiny)[\w-]*(?![\w./-])', line):
            find_config(name)
        for target in re.findall(r'^make ([a-z0-9-]+)', line):
            assert f'\n{target}:' in targets, line
        call = call_of_a_tool(line)
        if call is not None:
            target = call.target if call.target.startswith('eomt_mm.') or '/' in call.target else f'tools/{call.target}'
            assert not (complaint := accepts(parser_of(target), call.arguments)), f'{line}: {complaint}'


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    headings = re.findall(r'^#+ (.+)$', re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {slugify(heading.replace('`', ''), '-') for heading in headings}


@pytest.mark.parametrize('page', NAMED, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition('#')
        if path.startswith(('http:', 'https:')):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_guarantees_name_tests_that_exist() -> None:
    text = (DOCS / 'guarantees.md').read_text()
    paths = [*(ROOT / 'tests').rglob('test_*.py'), *ROOT.glob('projects/*/tests/test_*.py')]
    sources = {path.name: path.read_text() for path in paths}
    defined = set(re.findall(r'def (test_\w+)', '\n'.join(sources.values())))
    files, tests = re.findall(r'test_\w+\.py', text), re.findall(r'::(test_\w+)', text)
    assert len(files) > 60 and set(files) <= set(sources)
    assert len(tests) > 30 and set(tests) <= defined


def test_citation_states_the_version() -> None:
    assert f'\nversion: {__version__}\n' in (ROOT / 'CITATION.cff').read_text()


def test_every_package_has_a_page_of_reference() -> None:
    packages = {init.parent.name for init in (ROOT / 'eomt_mm').glob('*/__init__.py')}
    assert packages == {page.stem for page in (DOCS / 'api').glob('*.md')} - {'index', 'public'}


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--quiet', '--strict', '--site-dir', str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob('*.html'):
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="?(?:https?:)?//[^">]*', text), page
        assert not re.findall(r'<link[^>]*rel="?(?:stylesheet|preconnect|icon)"?[^>]*(?:https?:)?//[^">]*', text), page


@pytest.mark.slow
def test_site_shows_the_docstrings_references_as_links(site: Path) -> None:
    text = (site / 'api' / 'apis.html').read_text()
    assert not re.findall(r':(?:func|class|meth|mod|attr):', text)
    assert re.search(r'<a [^>]*href="#eomt_mm\.apis\.results\.prediction_of"[^>]*><code>prediction_of<', text)
    assert re.search(r'<a [^>]*href="checkpoints\.html#eomt_mm[^>]*><code>import_checkpoint<', text)


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make demo`` leaves in work_dirs/demo, of a shorter training."""
    folder = tmp_path_factory.mktemp('clone')
    tool = [sys.executable, str(ROOT / 'tools' / 'make_demo.py'), '--work-dir', 'work_dirs/demo']
    short = ['--max-iters', '6', '--num-train', '4', '--num-val', '4']
    done = subprocess.run([*tool, *short], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    train = folder / 'work_dirs' / 'demo' / 'train'
    (train / 'iter_6.pth').rename(train / 'iter_250.pth')
    return folder / 'work_dirs' / 'demo'


@pytest.fixture
def clone(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a user's clone, with the demo's results; the working directory."""
    for name in ('tools', 'projects', 'requirements'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'configs' / 'own').mkdir(parents=True)
    (tmp_path / 'configs' / 'eomt').symlink_to(ROOT / 'configs' / 'eomt')
    shutil.copytree(demo, tmp_path / 'work_dirs' / 'demo')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_bash(text: str) -> None:
    env = {**os.environ, 'PATH': f'{BIN}:{os.environ["PATH"]}', 'MPLBACKEND': 'Agg'}
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', text], text=True, capture_output=True, env=env)
    assert done.returncode == 0, f'{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    'page', [page for page in PAGES if {block.language for block in blocks(page)} & {'bash', 'python'}], ids=name_of
)
def test_blocks_run(page: Path, clone: Path) -> None:
    names: dict[str, object] = {}
    runners: dict[str, Callable[[str], None]] = dict(bash=run_bash, python=lambda text: exec(text, names))
    for block in blocks(page):
        if block.file is not None:
            (clone / block.file).write_text(block.text)
        elif block.language in runners:
            runners[block.language](block.text)
