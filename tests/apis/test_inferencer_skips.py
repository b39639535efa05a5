"""One bad input never ends a call: it is named and skipped, the others are done; and results never replace inputs."""

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from inferencer_models import saved_model
from input_files import write_cut_video, write_video
from PIL import Image

from eomt_mm.apis import EoMTInferencer
from eomt_mm.apis.inputs import ImageInput, Video
from eomt_mm.apis.result_files import PictureFiles


def made(task: str, folder: Path) -> EoMTInferencer:
    return EoMTInferencer(*saved_model(task, folder), device='cpu', show_progress=False)


@pytest.fixture(scope='module')
def inferencer(tmp_path_factory: pytest.TempPathFactory) -> EoMTInferencer:
    return made('semantic', tmp_path_factory.mktemp('model'))


def write(path: Path, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = cv2.imencode('.png', np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))[1].tobytes()
    path.write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def run(inferencer: EoMTInferencer, inputs: object, out: Path, batch_size: int = 3) -> tuple[list[str], list[str]]:
    """Names of the results, and of the skipped inputs."""
    found = [result.name for result in inferencer.stream(inputs, batch_size, out_dir=out, on_error='skip')]
    return found, [path.name for path in inferencer.skipped]


def test_bad_files_of_a_folder(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    photos = tmp_path / 'photos'
    for name in ('a.png', f'{"n" * 245}.png', 'z.png'):
        write(photos / name)
    write(photos / 'strip.png', (1, 4000))  # which a semantic model refuses
    (photos / 'text.jpg').write_text('no image')
    (photos / 'empty.png').touch()
    (photos / 'gone.png').symlink_to('nowhere.png')
    whole = (photos / 'a.png').read_bytes()
    (photos / 'cut.png').write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match='skipped') as warned:
        found, skipped = run(inferencer, photos, tmp_path / 'out')
    assert found == ['a', 'n' * 245, 'z']
    assert sorted(skipped) == ['cut.png', 'empty.png', 'gone.png', 'strip.png', 'text.jpg']
    assert all(any(f'/{name}' in str(one.message) for one in warned) for name in skipped)
    assert names(tmp_path / 'out') == sorted(
        [f'{folder}/{name}.png' for name in found for folder in ('vis', 'preds/semantic_results')]
        + ['preds/image_info.json']
    )
    assert len(json.loads((tmp_path / 'out/preds/image_info.json').read_text())['images']) == 3
    with pytest.raises((OSError, ValueError)):
        list(inferencer.stream(photos))


def test_bad_items_of_a_list(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    good = write(tmp_path / 'a.png')
    cut = tmp_path / 'cut.png'
    cut.write_bytes(good.read_bytes()[:2000])
    image = Image.open(cut)
    inputs = [
        good,
        tmp_path / 'none.png',
        np.zeros((8, 8), np.float32),
        image,
        'http://x/y.png',
        {},
        '',
        good,
    ]
    with pytest.warns(UserWarning, match='skipped'):
        found, skipped = run(inferencer, inputs, tmp_path / 'out')
    image.close()
    assert (found[0], found[-1], len(found), len(skipped)) == ('a', 'a_2', 2, 6)
    with pytest.raises(FileNotFoundError, match='does not exist'):  # alone it is a mistake
        inferencer.stream(tmp_path / 'none.png', on_error='skip')


def test_names_that_cannot_be_written(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    long = write(tmp_path / 'x' / f'{"n" * 251}.png')  # of 255 characters
    again = write(tmp_path / 'y' / f'{"n" * 251}.png')  # _2 makes it too long
    taken = write(tmp_path / 'taken.png')
    (tmp_path / 'out' / 'vis' / 'taken.png').mkdir(parents=True)
    with pytest.warns(UserWarning, match='skipped') as warned:
        found, skipped = run(inferencer, [long, again, taken, write(tmp_path / 'z.png')], tmp_path / 'out')
    assert len(found) == 4 and skipped == [again.name, 'taken.png']
    assert [str(one.message).partition(':')[0] for one in warned] == ['skipped'] * 2
    assert {'vis/z.png', f'vis/{"n" * 251}.png'} <= set(names(tmp_path / 'out'))
    with pytest.raises(OSError, match='taken'):
        list(inferencer.stream(taken, out_dir=tmp_path / 'out'))


def test_a_folder_of_results_that_is_a_file(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    photo = write(tmp_path / 'photos' / 'a.png')
    for out in (photo, photo / 'below', photo.parent):
        (photo.parent / 'vis').touch()
        with pytest.raises(NotADirectoryError, match='results cannot be written to .* is a file'):
            inferencer.stream(photo, out_dir=out, on_error='skip')
    assert names(tmp_path) == ['photos/a.png', 'photos/vis']


def test_a_full_disk_ends_the_call(inferencer: EoMTInferencer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device', 'a.png')

    monkeypatch.setattr('eomt_mm.apis.result_files.write_whole', full)
    with pytest.raises(OSError, match='No space left'):
        run(inferencer, write(tmp_path / 'a.png'), tmp_path / 'out')


def test_strips(tmp_path: Path) -> None:
    panoptic, out = made('panoptic', tmp_path / 'model'), tmp_path / 'out'
    for k, size in enumerate([(1, 1200), (1200, 1), (8, 160), (5, 9)]):
        (result,) = panoptic.stream(write(tmp_path / f'{k}.png', size), out_dir=out, return_vis=True)
        assert result.prediction['segmentation'].shape == size
        assert result.picture is not None and max(result.picture.shape) <= 2048
        assert (out / 'vis' / f'{k}.png').is_file() and (out / 'preds' / 'panoptic_results' / f'{k}.png').is_file()


def test_videos(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    cut, empty = write_cut_video(tmp_path / 'cut.avi', 0.5), write_cut_video(tmp_path / 'empty.avi', 0)
    clip, photo = write_video(tmp_path / 'clip.mp4'), write(tmp_path / 'a.png')
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.warns(UserWarning, match='skipped') as warned:
        found, skipped = run(inferencer, [cut, empty, tmp_path / 'text.mp4', clip, photo], tmp_path / 'out')
    assert skipped == ['text.mp4', 'cut.avi', 'empty.avi']
    assert found[-6:] == [*(f'clip/{k:06d}' for k in range(5)), 'a']
    decoded = len(found) - 6
    assert 15 < decoded < 25
    text = ' '.join(str(one.message) for one in warned)
    assert f'cut.avi: {decoded} frames can be decoded, and the file states 40' in text
    assert 'empty.avi has no frame that can be decoded' in text
    assert [path.name for path in sorted((tmp_path / 'out/vis').iterdir())] == ['a.png', 'clip.mp4', 'cut.mp4']
    with pytest.warns(UserWarning, match='the file states 40'):  # no error: what was found is worth having
        assert len(list(inferencer.stream(cut))) == decoded
    with pytest.raises(ValueError, match='has no frame that can be decoded'):
        list(inferencer.stream(empty))


def test_estimated_numbers_of_frames_are_no_errors(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    cut = write_cut_video(tmp_path / 'cut.avi', 0.5).rename(tmp_path / 'cut.mkv')
    with pytest.warns(UserWarning, match='the file states 40'):
        found, skipped = run(inferencer, cut, tmp_path / 'out')
    assert len(found) > 15 and skipped == []


def test_a_video_of_strips_is_reported_once(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    path = tmp_path / 'strip.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 9, (1000, 8))
    for _ in range(3):
        writer.write(np.zeros((8, 1000, 3), np.uint8))
    writer.release()
    with pytest.warns(UserWarning, match='more than 20 to 1') as warned:
        assert run(inferencer, path, tmp_path / 'out') == ([], ['strip.mp4'])
    assert len(warned) == 1


def test_pictures_of_frames_of_other_sizes(tmp_path: Path) -> None:
    clip = Video('clip', None, 8, 3)
    with PictureFiles(tmp_path) as files:
        for k, height in enumerate((48, 24, 48)):
            files.add(ImageInput(f'clip/{k}', video=clip), np.full((height, 64, 3), 200, np.uint8))
    capture = cv2.VideoCapture(str(tmp_path / 'clip.mp4'))
    frames = [capture.read()[1] for _ in range(3)]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3 and min(frame.min() for frame in frames) > 180


def test_results_never_replace_inputs(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    own = {path: path.read_bytes() for path in (write(tmp_path / 'vis' / 'a.png'), write(tmp_path / 'vis' / 'b.png'))}
    write(tmp_path / 'a.jpg')
    (tmp_path / 'x').mkdir()
    maps = write(tmp_path / 'preds' / 'semantic_results' / 'c.png')
    elsewhere = write(tmp_path / 'c.png')
    (tmp_path / 'vis' / 'c.png').symlink_to(elsewhere)
    given = [
        tmp_path / 'vis' / 'a.png',
        tmp_path / 'vis',
        str(tmp_path / 'vis' / '*.png'),
        [tmp_path / 'a.jpg', tmp_path / 'x' / '..' / 'vis' / 'b.png'],
        elsewhere,  # through the link
        maps,
    ]
    for inputs in given:
        with pytest.raises(ValueError, match='would replace the input .*: write to another place'):
            inferencer.stream(inputs, out_dir=tmp_path)
    assert all(path.read_bytes() == content for path, content in own.items())
    # no result has the place of an input, so nothing is lost
    inferencer(tmp_path / 'vis' / 'a.png', out_dir=tmp_path, no_save_vis=True)
    inferencer(tmp_path / 'vis' / 'a.png', out_dir=tmp_path / 'other')
    assert all(path.read_bytes() == content for path, content in own.items())


def test_a_folder_with_results_may_be_segmented_again(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    write(tmp_path / 'a.png')
    inferencer(tmp_path, out_dir=tmp_path)
    written = names(tmp_path)
    with pytest.warns(UserWarning, match='results of earlier calls'):
        assert run(inferencer, tmp_path, tmp_path) == (['a'], [])
    assert names(tmp_path) == written


def test_a_good_folder_warns_of_nothing(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    write(tmp_path / 'photos' / 'a.png')
    write_video(tmp_path / 'clip.mp4')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert run(inferencer, [tmp_path / 'photos', tmp_path / 'clip.mp4'], tmp_path / 'out')[1] == []
