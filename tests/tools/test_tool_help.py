"""Every tool says what it does, with an example, and does nothing more when asked for help."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import ROOT, TOOLS


@pytest.fixture(params=TOOLS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(request.param.parent))  # as Python does for a script
    return request.param


def test_help_has_an_example(path: Path, tool: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool(path.relative_to(ROOT / 'tools'), '--help')
    assert not ended.value.code
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith('    python ')]
    assert any(path.name in line for line in lines), shown.out
    assert not shown.err


def test_an_unknown_option_is_a_usage_error(path: Path, tool: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool(path.relative_to(ROOT / 'tools'), '--no-such-option')
    assert ended.value.code == 2
    assert 'usage:' in capsys.readouterr().err


ANSWERED = """
import os, runpy, sys, time
for path in sys.argv[1:]:
    for argument in ('-h', '--no-such-option'):
        sys.argv, sys.path[0], start = [path, argument], os.path.dirname(path), time.process_time()
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit:
            heavy = {'torch', 'mmengine', 'mmcv', 'timm'} & set(sys.modules)
            assert not heavy, f'{path} {argument} imports {heavy}'
        spent = time.process_time() - start
        assert spent < 1, f'{path} {argument} takes {spent:.1f} CPU seconds'
"""


def test_help_and_mistakes_are_answered_before_torch_is_imported() -> None:
    tools = [*TOOLS, *ROOT.glob('projects/*/tools/*.py')]
    done = subprocess.run([sys.executable, '-c', ANSWERED, *tools], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_importing_warns_of_nothing() -> None:
    code = 'import eomt_mm, sys; assert not {"torch", "mmengine", "mmcv"} & set(sys.modules), "not cheap"'
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_tools_start_in_silence() -> None:
    done = subprocess.run([sys.executable, 'tools/train.py', '--help'], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, '')
