"""What users give for inference: files, folders, patterns, arrays, PIL images, videos; and names of the results."""

import io
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from input_files import IMAGE, write, write_video
from PIL import Image

from eomt_mm.apis.inputs import (
    DEFAULT_FPS,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    ImageInput,
    Names,
    Video,
    count_images,
    find_sources,
    images_of,
)
from eomt_mm.recipes.names import find_config, shipped_configs


def names_of(inputs: object, **kwargs: object) -> list[str]:
    return [source.name for source in find_sources(inputs, **kwargs)]


def pixels_of(image: object, channel_order: str = 'bgr') -> np.ndarray:
    (source,) = images_of(find_sources(image, channel_order))
    assert source.pixels is not None
    return source.pixels()


def test_folder_is_read_with_its_sub_folders_in_order(tmp_path: Path) -> None:
    for name in ('b.jpg', 'a.PNG', 'sub/a.png', '.hidden.jpg', '.cache/c.jpg'):
        write(tmp_path / name)
    assert names_of(tmp_path) == ['a', 'b', 'sub/a']
    assert isinstance(first := find_sources(str(tmp_path))[0], ImageInput) and first.path == tmp_path / 'a.PNG'


def test_numbers_in_names_are_numbers(tmp_path: Path) -> None:
    for name in ('f10.jpg', 'f9.jpg', 'f010.png', 'b2/1.jpg', 'b10/0.jpg', 'f.jpg'):
        write(tmp_path / name)
    assert names_of(tmp_path) == ['f', 'f9', 'f010', 'f10', 'b2/1', 'b10/0']  # folder by folder
    assert names_of(str(tmp_path / 'f?*.jpg')) == ['f9', 'f10']


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / name) for name in ('x/a.jpg', 'y/a.jpg', 'y/A.png', 'a_2.jpg')]
    assert names_of(files) == ['a', 'a_2', 'A_3', 'a_2_2']


def test_arrays_are_numbered_on(tmp_path: Path) -> None:
    numbers = count(3)
    names = Names(numbers)
    assert names_of([IMAGE, write(tmp_path / 'a.jpg'), IMAGE], names=names) == ['00000003', 'a', '00000004']
    assert next(numbers) == 5


def test_patterns(tmp_path: Path) -> None:
    for name in ('a1.jpg', 'a2.jpg', 'b1.jpg', 'a[1].jpg'):
        write(tmp_path / name)
    assert names_of(str(tmp_path / 'a?.jpg')) == ['a1', 'a2']
    for name in ('cam0/f.jpg', 'cam1/f.jpg'):
        write(tmp_path / name)
    assert names_of(str(tmp_path / 'cam*' / 'f.jpg')) == ['cam0/f', 'cam1/f']
    assert names_of(str(tmp_path / 'cam0' / '*.jpg')) == ['f']
    assert names_of(str(tmp_path / 'a[1].jpg')) == ['a[1]']  # a file of that name goes first


@pytest.mark.parametrize('inputs', ['missing.jpg', 'no/*.jpg'])
def test_missing_files(inputs: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='does not exist: give an image, a video, a folder or a pattern'):
        find_sources(str(tmp_path / inputs))


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='holds no images'):
        find_sources(tmp_path)
    write_video(tmp_path / 'a.mp4')
    with pytest.raises(FileNotFoundError, match='its 1 videos are read when given by their paths'):
        find_sources(tmp_path)
    assert names_of(tmp_path, suffixes=(*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) == ['a']


@pytest.mark.parametrize(
    'inputs, message',
    [
        ([], 'empty list'),
        ('https://example.org/a.jpg', 'addresses are not read; download'),
        (IMAGE.astype(np.float32), 'float32: give uint8'),
        (IMAGE[None], r'\(1, 8, 12, 3\): give a list of images'),
        (IMAGE[..., :2], r'\(8, 12, 2\): give \(H, W\)'),
        (IMAGE[:0], r'\(0, 12, 3\): .* not empty'),
    ],
)
def test_refused_values(inputs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_sources(inputs)


def test_refused_types_and_orders() -> None:
    with pytest.raises(TypeError, match='type dict: give paths'):
        find_sources([{}])
    with pytest.raises(ValueError, match="channel_order='hsv'"):
        find_sources(IMAGE, 'hsv')


def test_every_form_of_an_image_gives_the_same_pixels() -> None:
    rgb = np.ascontiguousarray(IMAGE[..., ::-1])
    alpha = np.full((8, 12, 1), 9, np.uint8)
    for given, order in ((IMAGE, 'bgr'), (rgb, 'rgb'), (np.concatenate([rgb, alpha], 2), 'rgb')):
        assert np.array_equal(pixels_of(given, order), IMAGE)
    for order in ('bgr', 'rgb'):  # PIL images know their own
        assert np.array_equal(pixels_of(Image.fromarray(rgb), order), IMAGE)
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    for given in (IMAGE[..., 0], IMAGE[..., :1]):
        assert np.array_equal(pixels_of(given), grey)


def test_pil_images_are_turned_and_checked_like_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(IMAGE)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / 'a.png', exif=exif)
    with Image.open(tmp_path / 'a.png') as turned:
        assert np.array_equal(pixels_of(turned), cv2.imread(str(tmp_path / 'a.png')))
    with monkeypatch.context() as limited, pytest.raises(ValueError, match='PIL image has .* pixels'):
        limited.setenv('EOMT_MM_MAX_PIXELS', '5')
        pixels_of(Image.new('RGB', (2, 3)))
    whole = (tmp_path / 'a.png').read_bytes()
    with pytest.raises(ValueError, match='PIL image .* cannot be decoded'):
        pixels_of(Image.open(io.BytesIO(whole[:-40])))
        assert pixels_of(turned).shape == (12, 8, 3)


def test_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / 'clip.mp4')
    sources = find_sources([path, IMAGE])
    assert isinstance(sources[0], Video) and (sources[0].fps, sources[0].num_frames) == (7, 5)
    assert count_images(sources) == 6
    images = list(images_of(sources))
    assert [image.name for image in images[:6]] == [*(f'clip/{k:06d}' for k in range(5)), '00000000']
    levels = [float(image.pixels().mean()) for image in images[:5] if image.pixels]
    assert np.allclose(levels, [0, 40, 80, 120, 160], atol=3)  # each keeps its own frame
    assert count_images([Video('a', path, DEFAULT_FPS, 0)]) is None


def test_unreadable_videos(tmp_path: Path) -> None:
    (tmp_path / 'a.mp4').write_text('no video')
    with pytest.raises(ValueError, match='a.mp4 cannot be read: convert it'):
        find_sources(tmp_path / 'a.mp4')
    with pytest.raises(ValueError, match='has no frame that can be decoded'):
        list(Video('a', tmp_path / 'a.mp4', DEFAULT_FPS, 0).frames())


def test_configs_are_found_by_name(tmp_path: Path) -> None:
    names = [file.stem for file in shipped_configs()]
    assert len(names) == len(set(names)) > 60
    found = find_config('eomt_dinov2-l_12e_coco-panoptic-640')
    assert found.is_file() and find_config(f'{found.stem}.py') == found == find_config(found)


@pytest.mark.parametrize(
    'name, hint',
    [
        ('eomt_dinov2-l_12e_coco-panoptic-650', 'did you mean eomt_dinov2-l_12e_coco-panoptic-640'),
        ('zzz', r'\d+ are in configs/eomt'),
        ('elsewhere/eomt_dinov2-l_12e_coco-panoptic-640.py', 'did you mean'),
    ],
)
def test_unknown_configs(name: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"config '{name}' is no file, nor the name of a config; {hint}"):
        find_config(name)


def test_tensors() -> None:
    """Channels are the dimension of 1, 3 or 4, first or last; types and channel order are those of arrays."""
    last = torch.from_numpy(IMAGE)
    first = last.permute(2, 0, 1)
    for tensor in (last, first, first.contiguous()):
        assert np.array_equal(pixels_of(tensor), IMAGE)
        assert np.array_equal(pixels_of(tensor, 'rgb'), IMAGE[..., ::-1])
    for grey in (last[..., 0], last[..., :1], first[:1]):
        assert np.array_equal(pixels_of(grey), np.repeat(IMAGE[..., :1], 3, axis=2))
    assert np.array_equal(pixels_of(torch.cat([first, first[:1]])), IMAGE)
    assert names_of([first, IMAGE]) == ['00000000', '00000001']
    refused = {
        'tensor of type torch.float32': first.float(),
        'tensor of type torch.bfloat16': first.bfloat16(),
        r'shape \(1, 3, .*list': first[None],
        r'shape \(3, 8, 4\).*give an array': torch.zeros(3, 8, 4, dtype=torch.uint8),
        'type bool': first > 0,
    }
    for message, tensor in refused.items():
        with pytest.raises(ValueError, match=message):
            find_sources(tensor)
