"""tools/demo.py: what it prints and writes, one line for every error, and exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from inferencer_models import saved_model
from input_files import write_cut_video
from paths import ROOT

from eomt_mm.apis import EoMTInferencer


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return saved_model('instance', tmp_path_factory.mktemp('model'))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for k in range(2):
        image = np.random.default_rng(k).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{k}.png'), image)
    return folder


def test_table_and_files(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'out'
    tool('demo.py', photos, *model, '--out-dir', out, '--batch-size', 2, '--device', 'cpu', '--task', 'instance')
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ['image', 'segments', 'found']
    assert [line.split()[0] for line in lines[1:3]] == ['0', '1'] and int(lines[1].split()[1]) > 0
    assert lines[3] == f'images segmented (instance): 2; written: {out}/vis and {out}/preds'
    assert shown.err == ''  # no progress bar where stderr is no terminal
    assert len(list((out / 'vis').glob('*.png'))) == 2
    assert (out / 'preds' / 'instance_results.json').is_file()


def test_less_is_written_and_less_is_found(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'out'
    tool('demo.py', photos / '0.png', *model, '--out-dir', out, '--no-pictures', '--score-thr', 1)
    assert capsys.readouterr().out.splitlines()[1].split() == ['0', '0', 'nothing']
    assert [path.name for path in out.iterdir()] == ['preds']
    tool('demo.py', photos / '0.png', *model, '--out-dir', out / 'b', '--no-results', '--cfg-options', 'img_size=32')
    assert [path.name for path in (out / 'b').iterdir()] == ['vis']


def test_long_tables_are_cut(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for k in range(2, 22):
        cv2.imwrite(str(photos / f'{k}.png'), np.zeros((8, 8, 3), np.uint8))
    tool('demo.py', photos, *model, '--out-dir', tmp_path / 'out', '--no-pictures', '--no-results')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 20 + 2
    assert lines[-2].startswith('... and 2 more images; in all 22: ')
    assert lines[-1] == 'images segmented (instance): 22; written: nothing'


def test_unreadable_files_are_named_and_left_out(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / 'bad.jpg').write_text('no image')
    with pytest.warns(UserWarning, match='bad.jpg'), pytest.raises(SystemExit) as stopped:
        tool('demo.py', photos, *model, '--out-dir', tmp_path / 'out')
    assert stopped.value.code == 'demo: files that could not be read: 1'
    assert 'images segmented (instance): 2;' in capsys.readouterr().out


def test_a_folder_of_good_and_bad_files(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / 'bad.jpg').write_text('no image')
    (photos / 'gone.png').symlink_to('nowhere.png')
    for name in ('a.heic', 'b.HEIC', 'c.gif', 'notes.txt'):
        (photos / name).touch()
    write_cut_video(photos / 'clip.avi', 0.5)
    arguments = [*model, '--out-dir', photos / 'out', '--device', 'cpu']
    for _ in range(2):  # the second time, results of the first are there
        with pytest.warns(UserWarning) as warned, pytest.raises(SystemExit) as stopped:
            tool('demo.py', photos, *arguments)
        assert stopped.value.code == 'demo: files that could not be read: 2'
        assert 'images segmented (instance): 2;' in capsys.readouterr().out
        texts = [str(one.message) for one in warned if one.category is UserWarning]
        assert len(texts) == 3 and len([text for text in texts if text.startswith('skipped: ')]) == 2
        listing = next(text for text in texts if not text.startswith('skipped: '))
        for part in (
            '4 files are read; ',
            'its 1 videos are read when given by their paths',
            '1 .heic, 1 .HEIC, 1 .gif',
        ):
            assert part in listing
        assert '\n' not in listing
    assert '2 files (2 .png), such as out/vis/0.png are results of earlier calls' in listing
    with pytest.warns(UserWarning, match='the file states 40'), pytest.raises(SystemExit, match='not be read: 1'):
        tool('demo.py', photos / 'clip.avi', *arguments)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['{photos}', 'eomt_tiny_shapes-panoptic-12', '{ckpt}'], 'did you mean eomt_tiny_shapes-panoptic-128'),
        (['{photos}', '{config}', 'missing.pth'], 'checkpoint missing.pth does not exist'),
        (['https://example.org/a.jpg', '{config}', '{ckpt}'], 'addresses are not read'),
        (['{photos}', '{config}', '{ckpt}', '--task', 'panoptic'], 'is trained for instance segmentation'),
        (['{photos}', '{config}', '{ckpt}', '--score-thr', '50'], r'pred_score_thr=50.0: in \[0, 1\]'),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    filled = [text.format(photos=photos, config=model[0], ckpt=model[1]) for text in arguments]
    with pytest.raises(SystemExit, match=message) as stopped:
        tool('demo.py', *filled, '--out-dir', tmp_path / 'out')
    assert str(stopped.value.code).startswith('demo: ') and '\n' not in str(stopped.value.code)
    assert not (tmp_path / 'out').exists()


def test_interrupt(
    tool: Callable, model: tuple[Path, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = EoMTInferencer.forward
    calls = []

    def interrupted(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(EoMTInferencer, 'forward', interrupted)
    with pytest.raises(SystemExit) as stopped:
        tool('demo.py', photos, *model, '--out-dir', tmp_path / 'out')
    assert stopped.value.code == 130
    assert [path.name for path in (tmp_path / 'out').rglob('*') if path.is_file()] == ['0.png']  # of vis


@pytest.mark.slow
def test_help_and_exit_code_of_the_command(tmp_path: Path) -> None:
    def demo(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / 'tools' / 'demo.py'), *arguments], capture_output=True, text=True
        )

    told = demo('--help')
    assert told.returncode == 0 and 'Examples:' in told.stdout and told.stderr == ''
    failed = demo('a.jpg', 'no-such-config', 'a.pth', '--out-dir', str(tmp_path / 'out'))
    assert failed.returncode == 1 and failed.stderr.count('\n') == 1
