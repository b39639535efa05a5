"""Which files of folders and patterns are read, and that those left out are named."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from input_files import write_video

from eomt_mm.apis.inputs import ImageInput, find_sources, images_of
from eomt_mm.apis.result_files import PictureFiles, PredictionFiles

PICTURE = np.zeros((24, 32, 3), np.uint8)


def names_of(inputs: object, **kwargs: object) -> list[str]:
    return [source.name for source in find_sources(inputs, **kwargs)]


def warned_names_of(inputs: object, message: str, **kwargs: object) -> list[str]:
    with pytest.warns(UserWarning, match=message) as seen:
        names = names_of(inputs, **kwargs)
    assert len(seen) == 1
    return names


def touch(folder: Path, *names: str) -> None:
    """Make empty files: listing does not read them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_results(folder: Path) -> None:
    """Write what a call with ``out_dir=folder`` writes for an image a.jpg beside it."""
    image, files = ImageInput('a'), PredictionFiles(folder / 'preds', 'semantic', ['x'], 0)
    with files.opened(), PictureFiles(folder / 'vis') as pictures:
        files.add(image, dict(segmentation=PICTURE[..., 0], segments_info=[]))
        pictures.add(image, PICTURE)
    touch(folder.parent, 'a.jpg')


def test_files_of_other_suffixes_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, 'a.jpg', 'B.JPE', 'c.jfif', 'sub/d.WebP')
    touch(tmp_path, 'e.heic', 'sub/f.heic', 'g.avif', 'h.gif', 'i', '.hidden.heic', '.cache/j.heic')
    message = r'folder .*: 4 files are read; 5 files \(2 .heic, 1 .avif, 1 .gif, 1 without suffix\), such as e.heic'
    assert warned_names_of(tmp_path, message) == ['B', 'a', 'c', 'sub/d']


def test_a_folder_without_other_files_is_read_in_silence(tmp_path: Path) -> None:
    touch(tmp_path, 'a.jpg')
    (tmp_path / '.DS_Store').touch()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert names_of(tmp_path) == names_of(str(tmp_path / '*')) == ['a']


def test_videos_beside_images_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, 'a.jpg')
    write_video(tmp_path / 'b.mp4')
    assert warned_names_of(tmp_path, 'its 1 videos are read when given by their paths') == ['a']


def test_links(tmp_path: Path) -> None:
    touch(tmp_path, 'elsewhere/a.jpg')
    photos = tmp_path / 'photos'
    touch(photos, 'b.jpg')
    (photos / 'folder').symlink_to(tmp_path / 'elsewhere')
    (photos / 'file.jpg').symlink_to(tmp_path / 'elsewhere' / 'a.jpg')
    (photos / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')  # reading it says so
    assert warned_names_of(photos, 'its 1 links to folders, such as folder, are not followed') == ['b', 'file', 'gone']
    assert names_of(photos / 'gone.jpg') == ['gone']
    os.mkfifo(photos / 'pipe.png')
    (photos / 'folder').unlink()
    assert warned_names_of(photos, r'1 file \(1 .png\), such as pipe.png are not read') == ['b', 'file', 'gone']


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, 'a.jpg')
    (tmp_path / 'closed').mkdir()
    scandir = os.scandir

    def refusing(path):  # type: ignore[no-untyped-def]
        if Path(path).name == 'closed':
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refusing)
    with pytest.raises(OSError, match=r'folder .*closed cannot be listed \(Permission denied\)'):
        find_sources(tmp_path)
    unreadable: list[Path] = []
    assert warned_names_of(tmp_path, 'skipped: folder .*closed', unreadable=unreadable) == ['a']
    assert unreadable == [tmp_path / 'closed']


@pytest.mark.parametrize('given', ['', '  '])
def test_an_empty_path_is_not_the_working_directory(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, 'a.jpg')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"input '{given}' is empty: give an image"):
        find_sources(given)
    assert names_of('.') == ['a']


def test_an_unknown_home(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input '~no-such-user/a.jpg' does not exist"):
        find_sources('~no-such-user/a.jpg')


def test_patterns_name_the_folders_that_they_match(tmp_path: Path) -> None:
    touch(tmp_path, 'a.jpg', 'sub/b.jpg')
    assert warned_names_of(str(tmp_path / '*'), '1 folders match, and are not read') == ['a']
    assert names_of(str(tmp_path / '**' / '*')) == ['a', 'sub/b']
    with pytest.raises(FileNotFoundError, match=r"su\*' matches no file \(1 folders match, and are not read"):
        find_sources(str(tmp_path / 'su*'))


def test_results_of_earlier_calls_are_left_out(tmp_path: Path) -> None:
    write_results(tmp_path / 'out')
    touch(tmp_path, 'vis/own.png')  # a user's folder of that name
    touch(tmp_path, 'preds/own.png')
    expected = ['a', 'preds/own', 'vis/own']
    assert warned_names_of(tmp_path, r'2 files \(2 .png\), such as out/preds/.* are results of earlier') == expected
    assert warned_names_of(str(tmp_path / '**' / '*.*'), r'3 files') == expected  # and a json
    # what is given explicitly is read
    assert names_of(tmp_path / 'vis') == ['own']
    assert names_of(tmp_path / 'out' / 'vis') == names_of(str(tmp_path / 'out' / 'vis' / '*.png')) == ['a']
    with pytest.raises(FileNotFoundError, match=r'holds no images .*; 2 files .* are results of earlier calls'):
        find_sources(tmp_path / 'out')


def test_pictures_alone_are_recognised(tmp_path: Path) -> None:
    """By their mark, in a folder with a user's own, or by the results beside those of earlier versions."""
    write_results(tmp_path / 'out')
    (tmp_path / 'out' / 'preds').rename(tmp_path.parent / f'{tmp_path.name}-preds')
    touch(tmp_path, 'out/vis/own.png')
    assert warned_names_of(tmp_path, r'1 file \(1 .png\), such as out/vis/a.png are results') == ['a', 'out/vis/own']
    (tmp_path / 'out' / 'preds' / 'instance_results').mkdir(parents=True)
    assert warned_names_of(tmp_path, r'2 files \(2 .png\), such as out/vis/a.png are results') == ['a']


def test_videos_of_earlier_calls_are_recognised(tmp_path: Path) -> None:
    video = write_video(tmp_path / 'clip.mp4')
    with PictureFiles(tmp_path / 'vis') as pictures:
        for frame in images_of(find_sources(video)):
            pictures.add(frame, PICTURE)
    assert len(list(images_of(find_sources(tmp_path / 'vis' / 'clip.mp4')))) == 5  # the mark does no harm
    assert warned_names_of(tmp_path, r'1 file \(1 .mp4\), such as vis/clip.mp4', suffixes=('.mp4',)) == ['clip']
