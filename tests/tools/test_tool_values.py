"""Values of the command line: a wrong one is one line of text, before anything is loaded or written."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inferencer_models import saved_model
from input_files import write
from paths import ROOT
from tool_runs import CONFIGS

EMPTY, NUMBER = r"argument \d+, '.*'(, after \S+)?, is empty", 'a whole number '
OUT = ('--out', 'x.png')
ANALYSES = [('mask_evolution', 'ck'), ('confusion_matrix', 'r'), ('plot_classes', ''), ('plot_curves', '')]
REFUSED = [
    ('demo.py', ['', 'c', 'k', '--out-dir', 'o'], EMPTY),
    ('demo.py', [' ', 'c', 'k', '--out-dir', 'o'], EMPTY),
    ('demo.py', ['i', 'c', '', '--out-dir', 'o'], EMPTY),
    ('demo.py', ['i', 'c', 'k', '--out-dir', ''], EMPTY),
    ('demo.py', ['i', 'c', 'k', '--out-dir='], EMPTY),
    ('demo.py', ['i', 'c', 'k', '--out-dir', 'o', '--device', ''], EMPTY),
    ('demo.py', ['i', 'c', 'k', '--out-dir', 'o', '--batch-size', '0'], NUMBER),
    ('demo.py', ['i', 'c', 'k', '--out-dir', 'o', '--batch-size', '1.5'], NUMBER),
    ('train.py', ['c', '--work-dir', ''], EMPTY),
    ('train.py', ['c', '--data-root', ''], EMPTY),
    ('test.py', ['c', ''], EMPTY),
    ('test.py', ['c', 'k', '--show-dir', ''], EMPTY),
    ('browse_dataset.py', ['c', '--out-dir', ''], EMPTY),
    ('browse_dataset.py', ['c', '--out-dir', 'o', '--num', '0'], NUMBER),
    ('browse_dataset.py', ['c', '--out-dir', 'o', '--seed', '-1'], NUMBER),
    ('export.py', ['c', '', '--out', 'x.onnx'], EMPTY),
    ('export.py', ['c', 'k', '--out', 'x.onnx', '--size', '0', '640'], NUMBER),
    ('convert_checkpoint.py', ['', 'x.pth'], EMPTY),
    ('web_demo.py', ['c', 'k', '--port', '80000'], 'a whole number from 1 to 65535'),
    ('web_demo.py', ['c', 'k', '--port', '-1'], 'a whole number from 1 to 65535'),
    ('web_demo.py', ['c', 'k', '--samples', ''], EMPTY),
    ('web_demo.py', ['c', 'k', '--allow-host', 'http://here:80'], 'give NAME:PORT, such as localhost:8080'),
    ('make_demo.py', ['--max-iters', '0'], NUMBER),
    ('make_demo.py', ['--num-train', '-5'], NUMBER),
    ('analysis/memory.py', ['c', '--batch', '0'], NUMBER),
    ('analysis/memory.py', ['c', '--targets', '-1'], NUMBER),
    ('analysis/confusion_matrix.py', ['c', 'r', *OUT, '--pairs', '-1'], NUMBER),
    ('analysis/mask_evolution.py', ['i', 'c', 'k', *OUT, '--num-queries', '0'], NUMBER),
    ('analysis/mask_evolution.py', ['i', 'c', 'k', *OUT, '--queries', '-1'], NUMBER),
    ('analysis/mask_evolution.py', ['', 'c', 'k', *OUT], EMPTY),
    ('analysis/plot_classes.py', ['', *OUT], EMPTY),
    ('analysis/plot_curves.py', [''], EMPTY),
    ('benchmark.py', ['c', '--image', ''], EMPTY),
    ('benchmark.py', ['c', '--size', '0', '640'], NUMBER),
    ('benchmark.py', ['c', '--kept', '-1'], NUMBER),
    *((f'analysis/{name}.py', ['.', *more, '--out', '.'], "'.' is a folder: name a file") for name, more in ANALYSES),
    ('../projects/videomt/tools/convert_videomt.py', ['', 'x.pth'], EMPTY),
]


@pytest.mark.parametrize('name, arguments, message', REFUSED, ids=lambda value: str(value)[:40])
def test_refused_values(
    name: str, arguments: list[str], message: str, tool: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tool(name, *arguments)
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, last), last


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return saved_model('panoptic', tmp_path_factory.mktemp('model'))


@pytest.mark.parametrize('device', ['mps', 'meta', 'xpu', 'gpu'])
def test_devices(
    device: str, tool: Callable, model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write(tmp_path / 'a.png')
    with pytest.raises(SystemExit, match=f"demo: device='{device}': ") as ended:
        tool('demo.py', image, *model, '--out-dir', tmp_path / 'out', '--device', device)
    assert '\n' not in str(ended.value.code) and not (tmp_path / 'out').exists()
    with pytest.raises(SystemExit, match='2'):
        tool('analysis/mask_evolution.py', image, *model, '--out', tmp_path / 'x.png', '--device', device)
    assert f"device='{device}': " in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit, match='2'):
        tool('benchmark.py', model[0], '--rounds', 1, '--no-memory', '--device', device)
    assert f"device='{device}': " in capsys.readouterr().err.splitlines()[-1]


def test_a_palette_of_one_colour(tool: Callable, tmp_path: Path) -> None:
    names = [f'c{k}' for k in range(8)]
    config, checkpoint = saved_model('panoptic', tmp_path / 'model', classes=names, palette=[(1, 2, 3)])
    message = 'the palette has 1 colours for 8 classes: add colours or leave it out'
    with pytest.raises(SystemExit, match=message):
        tool('demo.py', write(tmp_path / 'a.png'), config, checkpoint, '--out-dir', tmp_path / 'out')
    with pytest.raises(SystemExit, match=message):
        tool('export.py', config, checkpoint, '--out', tmp_path / 'x.onnx')
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'x.onnx').exists()


def test_results_never_replace_inputs(
    tool: Callable, model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write(tmp_path / 'vis' / 'a.png')
    before = image.read_bytes()
    for inputs in (image, image.parent, image.parent / '*.png'):
        with pytest.raises(SystemExit, match='demo: .*vis/a.png would replace the input') as ended:
            tool('demo.py', inputs, *model, '--out-dir', tmp_path)
        assert '\n' not in str(ended.value.code)
    with pytest.raises(SystemExit, match='2'):
        tool('analysis/mask_evolution.py', image, *model, '--out', image)
    assert 'would replace the input' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        tool('benchmark.py', model[0], '--stage', 'full', '--image', image, '--plot', image)
    assert 'would replace the input' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='run_exported: .*a.png would replace the input'):
        tool('run_exported.py', tmp_path / 'x.onnx', image.parent, '--out-dir', image.parent)
    (tmp_path / 'link.pth').symlink_to(model[1])
    (tmp_path / 'pytorch_model.bin').symlink_to(model[1])  # what is read if the folder is given
    for source, target in ((model[1], 'link.pth'), (tmp_path, 'pytorch_model.bin')):
        with pytest.raises(SystemExit, match=f'{target} (would replace the input|is SRC)'):
            tool('convert_checkpoint.py', source, tmp_path / target)
        with pytest.raises(SystemExit, match=f'{target} would replace the input'):
            tool(ROOT / 'projects' / 'videomt' / 'tools' / 'convert_videomt.py', source, tmp_path / target)
    assert image.read_bytes() == before


def test_mistakes_end_a_tool_in_one_line(
    tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    config, nowhere = CONFIGS['panoptic'], tmp_path / 'nowhere'
    mistakes: list[tuple[str, list[object]]] = [
        ('train.py', [nowhere, '--work-dir', tmp_path]),
        ('train.py', [config, '--work-dir', tmp_path, '--resume', nowhere]),
        ('test.py', [config, nowhere, '--work-dir', tmp_path]),
        ('browse_dataset.py', [config, '--out-dir', tmp_path / 'out', '--data-root', nowhere]),
        ('analysis/plot_classes.py', [nowhere, '--out', tmp_path / 'x.png']),
        ('analysis/plot_curves.py', [nowhere]),
    ]
    for name, arguments in mistakes:
        with pytest.raises((OSError, ValueError)) as raised:
            tool(name, *arguments)
        capsys.readouterr()
        sys.excepthook(raised.type, raised.value, raised.tb)  # as Python does at its end
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f'{Path(name).stem}: ') and 'nowhere' in line, line


def test_other_errors_keep_their_traceback(
    tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    with pytest.raises((OSError, ValueError)):
        tool('analysis/plot_curves.py', tmp_path / 'nowhere')
    for broken in (lambda: int('x'), lambda: np.stack([]), lambda: {}['x']):
        capsys.readouterr()
        with pytest.raises((KeyError, ValueError)) as raised:
            broken()
        sys.excepthook(raised.type, raised.value, raised.tb)
        assert 'Traceback' in capsys.readouterr().err
