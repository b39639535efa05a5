"""compile=True and bfloat16 of the inferencer: equal results, few compilations, and what is refused."""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import videomt.inferencer  # noqa: F401  it registers
from inferencer_models import saved_model, small_config, video_config
from torch._dynamo.utils import counters

from eomt_mm.apis import EoMTInferencer, inferencer_parts, init_inferencer

SIZES = [(50, 60), (64, 64), (30, 64), (80, 48), (20, 20), (64, 40), (50, 60)]
IMAGES = [np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8) for k, size in enumerate(SIZES)]


@pytest.fixture(autouse=True)
def no_graph_left() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile trace without generating code."""
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='eager'))


def maps(inferencer: EoMTInferencer, batch_size: int, images: list[np.ndarray] = IMAGES) -> list[np.ndarray]:
    return [found['segmentation'] for found in inferencer(images, batch_size=batch_size)['predictions']]


def check_batch_and_image_sizes(task: str, folder: Path, **options: Any) -> None:
    """Two compilations in all: of single images, and of batches of any size."""
    files = saved_model(task, folder)
    expected = maps(EoMTInferencer(*files, device='cpu', **options), 1)
    inferencer = EoMTInferencer(*files, device='cpu', compile=True, **options)
    before = counters['stats']['unique_graphs']
    for batch_size in (3, 5, 1, 2):
        for found, wanted in zip(maps(inferencer, batch_size), expected, strict=True):
            assert (found == wanted).mean() > (0.9 if 'amp_dtype' in options else 0.999)
    assert counters['stats']['unique_graphs'] - before == 2
    assert not counters['graph_break']


@pytest.mark.slow
@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_batch_and_image_sizes(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_code(monkeypatch)
    check_batch_and_image_sizes(task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, dict(amp_dtype='bfloat16')])
@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_compiled_code(task: str, options: dict[str, str], tmp_path: Path) -> None:
    check_batch_and_image_sizes(task, tmp_path, **options)


@pytest.mark.slow
def test_without_a_compiler() -> None:
    with (
        torch._inductor.config.patch({'cpp.cxx': ('no-such-compiler',)}),
        pytest.raises(ValueError, match=r'^compile=True: torch.compile does not work here \(.*install a C\+\+'),
    ):
        EoMTInferencer(small_config('panoptic'), device='cpu', compile=True)


def test_video_models_are_not_compiled() -> None:
    with pytest.raises(ValueError, match='compile=True: VideoInferencer does not compile its network; leave it out'):
        init_inferencer(video_config('instance'), device='cpu', compile=True)


@pytest.mark.parametrize(('flags', 'lacking'), [('avx2 fma', True), ('avx2 amx_bf16 fma', False), (None, False)])
def test_bfloat16_without_its_instructions_warns(
    flags: str | None, lacking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if flags is not None:
        (tmp_path / 'cpuinfo').write_text(f'flags\t\t: {flags}\n')
    monkeypatch.setattr(inferencer_parts, 'CPUINFO', tmp_path / 'cpuinfo')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        inferencer_parts.amp_dtype_of('bfloat16', torch.device('cpu'))
    assert [str(one.message).startswith("amp_dtype='bfloat16': this CPU has no") for one in caught] == [True] * lacking
