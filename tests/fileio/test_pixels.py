"""The pixels of an image are the same however it is given, and deep or float values are refused by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from export_runs import tool
from mmengine.dataset import Compose
from PIL import Image

from eomt_mm.apis.inputs import find_sources
from eomt_mm.datasets.loading import LoadImage
from eomt_mm.datasets.transforms import ResizeToInput
from eomt_mm.engine.pictures import image_loader
from eomt_mm.fileio.image_headers import bits_per_channel
from eomt_mm.fileio.pixels import BITS_VARIABLE, file_pixels

SIZE = H, W = 40, 60
RGB = (np.linspace(0, 200, W)[None, :, None] + np.linspace(0, 50, H)[:, None, None] + [0, 3, 5]).clip(0, 255)
RGB = RGB.astype(np.uint8)
ALPHA = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))
AVIF = ['AVIF'] if cv2.haveImageWriter('a.avif') else []  # OpenCV 4.12 and newer
DEEP = 16 * RGB.astype(np.uint16)  # 12 bits


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(RGB), kind, exif=exif, **options)


def of_opencv(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def files() -> dict[str, bytes]:
    image = Image.fromarray(RGB)
    grey, mask = image.convert('L'), Image.fromarray(ALPHA)
    rgba, la, palette = Image.fromarray(np.dstack([RGB, ALPHA])), Image.merge('LA', (grey, mask)), image.quantize(32)
    made = {f'{kind}_{name}': encoded(one, kind) for kind in ('PNG', 'TIFF') for name, one in dict(
        rgb=image, rgba=rgba, la=la, grey=grey, palette=palette, one=image.convert('1')).items()}  # fmt: skip
    made |= {kind: encoded(image, kind) for kind in AVIF}
    made |= {f'{kind}_turned': turned(kind) for kind in ('JPEG', 'PNG', 'TIFF', *AVIF)}
    made |= dict(
        PNG_palette_alpha=encoded(palette, 'PNG', transparency=bytes(range(0, 256, 8))),
        PNG_transparent=encoded(image, 'PNG', transparency=(3, 3, 3)),
        TIFF_cmyk=encoded(image.convert('CMYK'), 'TIFF'),
        JPEG_cmyk=encoded(image.convert('CMYK'), 'JPEG'),
        JPEG_grey=encoded(grey, 'JPEG'),
        GIF=encoded(palette, 'GIF'),
        GIF_transparent=encoded(palette, 'GIF', transparency=3),
        GIF_animated=encoded(palette, 'GIF', save_all=True, append_images=[image.rotate(180).quantize(32)]),
        WEBP_turned=turned('WEBP', lossless=True),
        WEBP_rgba=encoded(rgba, 'WEBP', lossless=True),
        BMP_rgba=encoded(rgba, 'BMP'),
        PGM_4_bits=b'P5\n60 40\n15\n' + (RGB[..., 0] >> 4).tobytes(),
        PPM_7_bits=b'P6 # a comment\n60 40\n100\n' + (RGB * (100 / 255)).astype(np.uint8).tobytes(),
        PBM=encoded(image.convert('1'), 'PPM'),
        JPEG2000_rgba=encoded(rgba, 'JPEG2000'),
    )
    return made


FILES = files()
DEEP_FILES = dict(
    PNG_grey=of_opencv('.png', DEEP[..., 0]),
    PNG=of_opencv('.png', DEEP),
    TIFF_grey=of_opencv('.tif', DEEP[..., 0]),
    TIFF=of_opencv('.tif', DEEP),
    PGM=of_opencv('.pgm', DEEP[..., 0]),
    PPM=of_opencv('.ppm', DEEP),
    JPEG2000=of_opencv('.jp2', DEEP, cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000),
    **{kind: of_opencv('.avif', DEEP, cv2.IMWRITE_AVIF_DEPTH, 12, cv2.IMWRITE_AVIF_QUALITY, 100) for kind in AVIF},
)


def given(one: Any, **options: Any) -> np.ndarray:
    (source,) = find_sources(one, **options)
    assert source.pixels is not None
    pixels: np.ndarray = source.pixels()
    return pixels


def by_path(path: Path) -> np.ndarray:
    pixels: np.ndarray = LoadImage()(dict(img_path=str(path)))['img']
    return pixels


def by_runner(path: Path) -> np.ndarray:
    return np.asarray(tool('run_exported').read_image(path))[..., ::-1]


WAYS: dict[str, Callable[[Path], np.ndarray]] = {
    'path': by_path,
    'PIL image': lambda path: given(Image.open(path)),
    'PIL image of bytes': lambda path: given(Image.open(io.BytesIO(path.read_bytes()))),
    'runner of exported files': by_runner,
    'picture of a test': lambda path: image_loader(None)(dict(img_path=str(path)))['img'],
}


def in_pipeline_of_hosts(image: np.ndarray) -> np.ndarray:
    """As the hosts' inferencers load an array and give it to our test pipelines."""
    (found, *others) = [
        Compose([dict(type=f'{host}.LoadImageFromNDArray'), ResizeToInput(64, 'inside')])(dict(img=image))['img']
        for host in ('mmdet', 'mmseg')
    ]
    assert all(np.array_equal(found, other) for other in others) and found.shape[2] == 3
    pixels: np.ndarray = found
    return pixels


@pytest.mark.parametrize('name', FILES)
def test_pixels_of_a_file_do_not_depend_on_the_way_in(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'a'
    path.write_bytes(FILES[name])
    found = {way: read(path) for way, read in WAYS.items()}
    size = (W, H) if name.endswith('turned') else (H, W)
    for way, pixels in found.items():
        assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8, way
        assert np.array_equal(pixels, found['path']), way
    if name == 'PNG_rgba':
        assert np.array_equal(found['path'], RGB[..., ::-1])
    assert abs(found['path'].mean() - RGB.mean()) < 6  # nothing is darkened


@pytest.mark.parametrize('name', DEEP_FILES)
def test_deep_files_are_refused_whatever_the_way_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'a'
    path.write_bytes(DEEP_FILES[name])
    assert bits_per_channel(path.read_bytes()) in (12, 16)
    for way, read in WAYS.items():
        with pytest.raises(ValueError, match='bits') as error:
            read(path)
        assert '\n' not in str(error.value), way
    for bits in (12, 16):
        monkeypatch.setenv(BITS_VARIABLE, str(bits))
        expected = (file_pixels(path.read_bytes()) >> (bits - 8)).astype(np.uint8)
        assert (expected.max() > 200) == (bits == 12)
        assert np.array_equal(by_path(path), expected)
        for read in WAYS.values():  # the same pixels, or refused: Pillow does not pass on all bits of colours
            try:
                assert np.array_equal(read(path), expected)
            except ValueError as error:
                assert 'bits' in str(error)
                assert not name.endswith('_grey')


@pytest.mark.parametrize(
    'image',
    [
        RGB / 255,
        RGB.astype(np.float32),
        RGB > 100,
        torch.from_numpy(RGB / 255),
        torch.zeros(3, H, W, dtype=torch.bfloat16),
        Image.fromarray(RGB[..., 0] / np.float32(255)),
    ],
    ids=['float', 'float in 0..255', 'bool', 'tensor', 'bfloat16', 'PIL image of mode F'],
)
def test_floats_and_booleans_are_refused(image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BITS_VARIABLE, '16')
    with pytest.raises(ValueError, match=r'type .*(float|bool).*: give (torch\.)?uint8 in \[0, 255\]'):
        given(image)
    if isinstance(image, np.ndarray):
        with pytest.raises(ValueError, match='give uint8'):
            in_pipeline_of_hosts(image)


@pytest.mark.parametrize('dtype', [np.float32, np.int32])
def test_files_of_floats_and_long_numbers_are_refused_by_their_type(dtype: Any, tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0].astype(dtype) * 300).save(tmp_path / 'deep.tiff')
    for read in (by_path, *WAYS.values()):
        with pytest.raises(ValueError, match=f'type {np.dtype(dtype)}|more than 8 bits per channel'):
            read(tmp_path / 'deep.tiff')


def test_arrays_and_tensors_of_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    bgr, four = RGB[..., ::-1], np.dstack([RGB, ALPHA])
    for one in (RGB, four, torch.from_numpy(RGB), torch.from_numpy(four), torch.from_numpy(RGB).permute(2, 0, 1)):
        assert np.array_equal(given(one, channel_order='rgb'), bgr)
    grey = np.repeat(RGB[..., :1], 3, axis=2)
    for one in (RGB[..., 0], RGB[..., :1], torch.from_numpy(RGB[..., 0]), torch.from_numpy(RGB[None, ..., 0])):
        assert np.array_equal(given(one), grey)
    for one in (RGB[..., :2], np.dstack([four, ALPHA]), RGB.transpose(2, 0, 1), torch.from_numpy(RGB[..., :2].copy())):
        with pytest.raises(ValueError, match=r'image (array|tensor) of shape .*give \(H, W\)'):
            given(one)
    with pytest.raises(ValueError, match='the first or the last side'):
        given(torch.zeros(3, H, 3, dtype=torch.uint8))
    for one in (DEEP, DEEP.astype(np.int64), torch.from_numpy(DEEP.astype(np.int32))):
        with pytest.raises(ValueError, match=BITS_VARIABLE):
            given(one)
        assert np.array_equal(given(one, channel_order='rgb', bits=12), bgr)
    with pytest.raises(ValueError, match='from -1 to'):
        given(RGB.astype(np.int16) - 1, bits=12)
    with pytest.raises(TypeError, match=r'type bytes: give paths.*BytesIO'):
        find_sources(b'content')


def test_arrays_given_to_the_hosts_inferencers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BITS_VARIABLE, '12')
    expected = in_pipeline_of_hosts(RGB)
    for image in (DEEP, np.dstack([RGB, ALPHA])):
        assert np.array_equal(in_pipeline_of_hosts(image), expected)
    assert np.array_equal(in_pipeline_of_hosts(RGB[..., 0])[..., 1], in_pipeline_of_hosts(RGB[..., :1])[..., 2])
    for image in (RGB[..., :2], RGB.transpose(2, 0, 1)):
        with pytest.raises(ValueError, match=r'image array of shape .*: give'):
            in_pipeline_of_hosts(image)


def test_pictures_are_read_as_the_pipeline_reads(tmp_path: Path) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(DEEP_FILES['PNG'])

    class Pipeline:
        transforms = (LoadImage(bits=12),)

    class Dataset:
        pipeline = Pipeline()

    class Wrapper:
        dataset = Dataset()

    assert np.array_equal(image_loader(Wrapper())(dict(img_path=str(path)))['img'], RGB)
