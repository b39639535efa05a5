"""Inputs from images: black padding before normalisation, colour order, windows of a batch, records."""

from typing import Any

import pytest
import torch
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.geometry import Padding, Windows, as_size
from eomt_mm.models.preprocessors import EoMTDetDataPreprocessor, EoMTSegDataPreprocessor, complete_samples
from eomt_mm.registry import MODELS

# isort: split
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BLACK = torch.tensor([(0 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
Preprocessor = EoMTDetDataPreprocessor | EoMTSegDataPreprocessor
BOTH = [EoMTDetDataPreprocessor, EoMTSegDataPreprocessor]


def image(h: int, w: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def sample(cls: type, **metainfo: Any) -> Any:
    return (DetDataSample if cls is EoMTDetDataPreprocessor else SegDataSample)(metainfo=metainfo)


def normalised(bgr: Tensor) -> Tensor:
    rgb = bgr.flip(0).float()
    return (rgb - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('training', [True, False])
def test_padding_is_black_before_normalisation(cls: type[Preprocessor], training: bool) -> None:
    """The value of a padded pixel is (0 - mean) / std, that of a black pixel of the image."""
    inputs = cls(16)(dict(inputs=[torch.zeros(3, 10, 12, dtype=torch.uint8)]), training)['inputs']
    assert inputs.shape == (1, 3, 16, 16) and inputs.dtype == torch.float32
    for channel, value in zip(inputs[0], BLACK.tolist(), strict=True):
        assert channel.unique().tolist() == [pytest.approx(value, rel=1e-6)]


@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('as_batch', [True, False])
def test_bgr_becomes_rgb_once_and_is_normalised_once(cls: type[Preprocessor], training: bool, as_batch: bool) -> None:
    images = [image(16, 16, seed) for seed in range(3)]
    before = [x.clone() for x in images]
    inputs = cls(16)(dict(inputs=torch.stack(images) if as_batch else images), training)['inputs']
    torch.testing.assert_close(inputs, torch.stack([normalised(x) for x in images]), rtol=0, atol=1e-6)
    assert all(torch.equal(x, y) for x, y in zip(images, before, strict=True))  # the loader's images stay as they are
    rgb = cls(16, mean=(0, 0, 0), std=(1, 1, 1), bgr_to_rgb=False)(dict(inputs=images), training)['inputs']
    assert torch.equal(rgb, torch.stack(images).float())


def test_statistics_are_those_of_imagenet_in_rgb_order() -> None:
    for cls in BOTH:
        assert cls(img_size=64).mean.flatten().tolist() == pytest.approx(MEAN)
        assert cls(img_size=64).std.flatten().tolist() == pytest.approx(STD)
        assert cls(img_size=64).mean.shape == (3, 1, 1)


@pytest.mark.parametrize('cls', BOTH)
def test_training_batch_of_different_sizes(cls: type[Preprocessor]) -> None:
    images = [image(16, 24), image(9, 24, 1), image(16, 5, 2)]
    samples = [sample(cls, img_shape=x.shape[-2:], ori_shape=(99, 99)) for x in images]
    data = cls((16, 24))(dict(inputs=images, data_samples=samples), training=True)
    assert data['inputs'].shape == (3, 3, 16, 24)
    for one, x, padded in zip(data['data_samples'], images, data['inputs'], strict=True):
        h, w = x.shape[-2:]
        torch.testing.assert_close(padded[:, :h, :w], normalised(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(padded[:, h:], BLACK[:, None, None].expand(3, 16 - h, 24), rtol=0, atol=1e-6)
        assert one.batch_input_shape == (16, 24) and 'geometry' not in one
        assert tuple(one.img_shape) == (h, w)  # mmcv's Pad would have overwritten it


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('size', [(17, 16), (16, 17)])
def test_image_larger_than_the_input(training: bool, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf'{size[0]} x {size[1]} pixels does not fit the input of 16 x 16'):
        EoMTDetDataPreprocessor(16)(dict(inputs=[image(*size)]), training)


def test_image_larger_than_a_window_is_an_error_in_training_only() -> None:
    with pytest.raises(ValueError, match='does not fit'):
        EoMTSegDataPreprocessor(16)(dict(inputs=[image(16, 30)]), training=True)
    assert EoMTSegDataPreprocessor(16)(dict(inputs=[image(16, 30)]))['inputs'].shape == (2, 3, 16, 16)


def test_windows_of_several_images_of_different_sizes() -> None:
    images = [image(16, 40), image(16, 16, 1), image(30, 16, 2), image(8, 9, 3)]
    samples = [sample(EoMTSegDataPreprocessor, ori_shape=(2 * x.shape[1], 3 * x.shape[2])) for x in images]
    data = EoMTSegDataPreprocessor(16)(dict(inputs=images, data_samples=samples))
    geometries = [one.geometry for one in data['data_samples']]
    assert [geometry.num_inputs for geometry in geometries] == [3, 1, 2, 1]
    assert data['inputs'].shape == (7, 3, 16, 16)
    for x, geometry, windows in zip(images, geometries, data['inputs'].split([3, 1, 2, 1]), strict=True):
        assert isinstance(geometry, Windows) and geometry.input_size == (16, 16)
        assert geometry.resized_size == tuple(x.shape[-2:])
        assert geometry.ori_size == (2 * x.shape[1], 3 * x.shape[2])
        same = Windows(geometry.resized_size, geometry.resized_size, (16, 16))
        torch.testing.assert_close(same.invert(windows), normalised(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize('ori_shape', [(20, 33), (20, 33, 3), [20, 33]])
def test_original_size_comes_from_the_sample(ori_shape: Any) -> None:
    one = sample(EoMTDetDataPreprocessor, ori_shape=ori_shape)
    data = EoMTDetDataPreprocessor((16, 24))(dict(inputs=[image(10, 16)], data_samples=[one]))
    geometry = data['data_samples'][0].geometry
    assert geometry == Padding((20, 33), (10, 16), (16, 24))
    assert geometry.invert(torch.zeros(2, 4, 6)).shape == (2, 20, 33)


@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('given', [{}, dict(data_samples=None), dict(data_samples=[])])
def test_missing_samples_are_made(cls: type[Preprocessor], training: bool, given: dict[str, Any]) -> None:
    data = cls(16)(dict(inputs=[image(10, 12), image(16, 16)], **given), training)
    assert len(data['data_samples']) == 2
    assert all(one.batch_input_shape == (16, 16) for one in data['data_samples'])
    if not training:
        assert [one.geometry.ori_size for one in data['data_samples']] == [(10, 12), (16, 16)]


@pytest.mark.parametrize('cls', BOTH)
def test_number_of_samples_must_fit(cls: type[Preprocessor]) -> None:
    with pytest.raises(ValueError):
        cls(16)(dict(inputs=[image(16, 16)] * 2, data_samples=[sample(cls)]))


@pytest.mark.parametrize('cls', BOTH)
def test_inputs_made_elsewhere_are_images_of_their_own(cls: type[Preprocessor]) -> None:
    samples = complete_samples(torch.zeros(2, 3, 32, 48), None, cls.sample_class, cls.geometry_class)
    assert [one.geometry.ori_size for one in samples] == [(32, 48)] * 2
    assert all(one.geometry.num_inputs == 1 and one.batch_input_shape == (32, 48) for one in samples)


def test_size_of_the_input() -> None:
    assert as_size(640) == (640, 640) and as_size([512, 1024]) == (512, 1024) == as_size((512, 1024))
    for wrong in (0, (16, 0), (-1, 16), 16.0, (16.0, 16), '16', None):
        with pytest.raises(ValueError, match='img_size='):
            as_size(wrong)
    for wrong in ((16,), (3, 16, 16)):
        with pytest.raises(ValueError, match=r'img_size=.*\(height, width\)'):
            as_size(wrong)


@pytest.mark.parametrize('name', ['EoMTDetDataPreprocessor', 'EoMTSegDataPreprocessor'])
def test_built_from_a_config_and_without_state(name: str) -> None:
    built = MODELS.build(dict(type=f'eomt_mm.{name}', img_size=[16, 32]))
    assert built.img_size == (16, 32)
    assert built.state_dict() == {}  # statistics are settings, not weights
