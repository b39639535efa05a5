"""tools/run_exported.py with a model that always finds the same: which files it reads, what it writes and refuses."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from export_runs import tool
from PIL import Image

META = dict(
    task='instance', input=dict(size=[8, 8]), geometry='padding', postprocess_in_graph=True, classes=['a'], palette=[],
    num_things=1,
)  # fmt: skip
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the tool in a folder of its own with inputs and options, return the number of files that failed."""
    monkeypatch.chdir(tmp_path)

    def network(images: np.ndarray) -> dict[str, np.ndarray]:
        masks = np.zeros((1, 2, 8, 8), bool)
        masks[:, 0, :4], masks[:, 1, 4:] = True, True
        return dict(labels=np.zeros((1, 2), int), scores=np.array([[0.9, 0.1]]), masks=masks)

    def call(*words: Any, out: Any = 'out', meta: dict[str, Any] = META, model: Any = network) -> int:
        runner = tool('run_exported')
        monkeypatch.setattr(runner, 'open_model', lambda *_: runner.Model(meta, model, {}))
        monkeypatch.setattr('sys.argv', ['run_exported.py', 'x.onnx', *map(str, words), '--out-dir', str(out)])
        try:
            runner.main()
        except SystemExit as ended:
            if ' files could not be segmented' not in str(ended):
                raise
            return int(str(ended).split()[1])
        return 0

    return call


def image(path: str, value: int = 0, size: tuple[int, int] = (12, 9)) -> bytes:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, (value, 0, 0)).save(path)
    return Path(path).read_bytes()


def film(path: str, count: int = 3) -> bytes:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'XVID'), 5, (32, 24))
    for frame in np.random.default_rng(0).integers(0, 255, (count, 24, 32, 3)).astype(np.uint8):
        writer.write(frame)
    writer.release()
    return Path(path).read_bytes()


def written(folder: str = 'out', suffix: str = '.json') -> set[str]:
    return {file.relative_to(folder).as_posix().removesuffix(suffix) for file in Path(folder).rglob(f'*{suffix}')}


def test_every_file_has_results_of_its_own(run: Run) -> None:
    """Also on a file system that takes upper and lower case for the same."""
    files = ['1/a.jpg', '2/a.jpg', '3/A.JPG', '4/a.jpg', '4/a.png']
    for value, path in enumerate(files):
        image(path, 50 * value)
    assert run(*files, './1/a.jpg', Path('2/a.jpg').absolute(), '2/../3/A.JPG') == 0
    assert written() == written(suffix='.png') == {'a', 'a.jpg', 'A.JPG_2', 'a.jpg_3', 'a.png'}


def test_many_files_of_one_name(run: Run) -> None:
    files = [f'{number}/image.jpg' for number in range(6)]
    for path in files:
        image(path)
    assert run(*files, '--no-pictures') == 0
    assert written() == {'image', 'image.jpg', *(f'image.jpg_{number}' for number in range(2, 6))}


def test_frames_replace_neither_inputs_nor_other_results(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    film('in/clip.avi')
    before = image('in/clip/000000.png')
    for _ in range(2):
        assert run('in') == 0
        assert written() == {'clip/000000', *(f'clip.avi/00000{number}' for number in range(3))}
    assert 'in/clip.avi: 6 segments; out/clip.avi/*.json' in capsys.readouterr().out
    assert run('in/clip.avi', out='in') == 0  # the folder cannot have the name of the video beside it
    assert written('in') == {f'clip.avi_2/00000{number}' for number in range(3)}
    (target := Path('other/clip.avi')).mkdir(parents=True)
    Path('in/clip/000000.png').rename(target / '000000.png')
    with pytest.raises(SystemExit, match='other/clip.avi/000000.png would replace the input'):
        run('in/clip.avi', target, out='other')
    assert (target / '000000.png').read_bytes() == before
    assert run('in/clip.avi', target, out='apart') == 0
    assert written('apart') == {'000000', *(f'clip.avi/00000{number}' for number in range(3))}


def test_folder_of_a_video_holds_its_frames_only(run: Run) -> None:
    film('1/clip.avi', 1)
    image('2/clip.avi/000000.png')
    assert run('1', '2') == 0
    assert written() == {'clip.avi_2/000000', 'clip.avi/000000'}


def test_inputs_are_compared_with_results_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file was once compared with each result of the call before."""
    for number in range(20):
        image(f'in/{number}.bmp', size=(1, 1))
    assert run('in') == 0
    calls, stat = [], os.stat
    monkeypatch.setattr(os, 'stat', lambda *args, **options: calls.append(args) or stat(*args, **options))
    tool('run_exported').find_files([Path('in')], Path('out'), ('.json', '.png'))
    assert len(calls) < 20 * 12


def test_frames_that_are_missing_are_a_failure(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    content = film('clip.avi', 20)
    Path('clip.avi').write_bytes(content[: len(content) // 2])
    Path('clip.mkv').write_bytes(content[: len(content) // 2])  # states an estimate: a line, no failure
    assert run('clip.avi', '--no-pictures') == 1
    number = len(written())
    assert 0 < number < 20
    assert f'clip.avi cannot be read whole, but {number} of 20 frames' in capsys.readouterr().err
    assert run('clip.mkv', '--no-pictures') == 0
    assert f'clip.mkv cannot be read whole, but {number} of 20 frames' in capsys.readouterr().err


def test_frames_have_a_limit_of_pixels(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film('clip.avi')
    monkeypatch.setenv('EOMT_MM_MAX_PIXELS', '700')
    assert run('clip.avi') == 1 and not written()
    assert 'clip.avi: 32 x 24 pixels; the limit is 700' in capsys.readouterr().err


def test_folders(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ('in/a.png', 'in/b.jpg/c.png', 'elsewhere/d.png', 'in/closed/e.png'):
        image(path)
    os.mkfifo('in/pipe.jpg')
    os.symlink('../elsewhere', 'in/link')
    os.symlink('nowhere', 'in/broken.jpg')
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refusing)
    assert run('in') == 2
    assert written() == {'a', 'b.jpg/c'}
    lines = capsys.readouterr().err.splitlines()
    for name in ('pipe.jpg is left out', 'link is left out', 'closed cannot be read', 'broken.jpg cannot be read'):
        assert sum(f'in/{name}' in line for line in lines) == 1, (name, lines)
    assert len(lines) == 4
    with pytest.raises(SystemExit, match=r'pipe\.jpg does not exist'):
        run('in/pipe.jpg')


def test_earlier_results_are_known_however_the_folders_are_spelt(run: Run) -> None:
    image('in/a.jpg')
    for given, out in (('in', Path('in/out').absolute()), (Path('in').absolute(), 'in/out'), ('in/../in', 'in/out')):
        assert run(given, out=out) == 0
        assert written('in') == {'out/a'}


def test_without_pictures_only_results_can_replace_inputs(run: Run) -> None:
    before = image('in/a.png')
    assert run('in', '--no-pictures', out='in') == 0 and Path('in/a.png').read_bytes() == before
    with pytest.raises(SystemExit, match=r'in/a\.png would replace the input'):
        run('in', out='in')


def test_formats_that_run_interpreters_are_not_read(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new('RGB', (4, 4)).save('a.eps')
    Path('a.eps').rename('a.png')
    assert run('a.png') == 1
    assert 'a.png cannot be read (cannot identify image file' in capsys.readouterr().err


def test_spaces_in_a_header_take_no_time(run: Run) -> None:
    Path('a.ppm').write_bytes(b'P6' + b' ' * 1010 + b'2 2 255\n' + bytes(12))
    assert run('a.ppm') == 0


def test_every_error_names_its_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(images: np.ndarray) -> Any:
        raise RuntimeError('of the runtime\nin two lines')

    image('in/strip.png', size=(61, 3))
    image('in/a.png')
    assert run('in', meta=dict(META, task='semantic', geometry='windows')) == 2
    assert 'run_exported: in/strip.png: the image has 61 x 3 pixels, more than 20 to 1' in capsys.readouterr().err
    assert run('in/a.png', model=failing) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('run_exported: in/a.png: ') and 'of the runtime' in line


@pytest.mark.parametrize(
    ('name', 'value'),
    [('EOMT_MM_MAX_PIXELS', value) for value in ('abc', '0', '-1', '1e6', '9' * 5000)]
    + [('EOMT_MM_IMAGE_BITS', value) for value in ('abc', '8', '17')],
)
def test_environment_variables(name: str, value: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    image('a.png')
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f'^run_exported: {name}={value}: a whole number from '):
        run('a.png')
    assert not Path('out').exists()


def test_a_closed_listing_does_not_end_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does
    for name in 'abc':
        image(f'{name}.png')
    with os.fdopen(writer, 'w') as closed:
        monkeypatch.setattr(sys, 'stdout', closed)
        assert run('a.png', 'b.png', 'c.png') == 0
    assert len(list(Path('out').glob('*.json'))) == 3


def test_names_that_are_not_utf8(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    image('a.png')
    name = os.fsdecode(b'in\xff.png')
    os.rename('a.png', name)
    assert run(name) == 0
    assert 'in\\udcff.png: 2 segments' in capsys.readouterr().out
    assert json.loads(Path(os.fsdecode(b'out/in\xff.json')).read_text())['image'] == name


def test_score_thr_is_of_instances(run: Run) -> None:
    """The second half of the picture is the second segment, whose score is low."""
    image('a.png', 100, (8, 8))

    def panoptic(images: np.ndarray) -> dict[str, np.ndarray]:
        halves = np.repeat([1, 2], 32).reshape(1, 8, 8)
        return dict(
            segment_map=halves,
            segment_ids=np.array([[1, 2]]),
            labels=np.zeros((1, 2), int),
            scores=np.array([[0.9, 0.1]]),
        )

    def drawn() -> list[bool]:
        picture = np.asarray(Image.open('out/a.png')) != np.asarray(Image.open('a.png'))
        return [bool(half.any()) for half in (picture[:4], picture[4:])]

    assert run('a.png') == 0 and drawn() == [True, False]
    assert run('a.png', '--score-thr', 0.1) == 0 and drawn() == [True, True]
    assert run('a.png', meta=dict(META, task='panoptic'), model=panoptic) == 0 and drawn() == [True, True]
