"""Calls of an inferencer at the same time: what belongs to one call changes no other."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import videomt.inferencer  # noqa: F401  it registers
from inferencer_models import saved_model, saved_video_model
from PIL import Image

from eomt_mm.apis import EoMTInferencer, init_inferencer
from eomt_mm.web.results import find_segments

T = TypeVar('T')
Make = Callable[[str], EoMTInferencer]
# A task, or one of a video model, and the arguments of two calls that differ.
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'panoptic': (dict(pred_score_thr=0.0, overlap_thr=0.0), dict(pred_score_thr=1.0)),
    'instance': (dict(pred_score_thr=0.0), dict(pred_score_thr=1.0)),
    'semantic': (dict(return_datasamples=True), {}),
    'video panoptic': (dict(pred_score_thr=0.0, overlap_thr=0.0), dict(pred_score_thr=1.0)),
    'video instance': (dict(pred_score_thr=0.0), dict(pred_score_thr=1.0)),
}


def noise(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Inferencers of small models, each built once."""
    folder = tmp_path_factory.mktemp('models')

    def build(kind: str) -> EoMTInferencer:
        *video, task = kind.split()
        save = saved_video_model if video else saved_model
        return init_inferencer(*save(task, folder / kind), device='cpu', show_progress=False)

    return cache(build)


@contextmanager
def all_in_the_network(inferencer: EoMTInferencer, number: int) -> Iterator[None]:
    """Let each of ``number`` calls enter the network only when all have, so that they overlap."""
    barrier = threading.Barrier(number, timeout=60)

    def wait(*_: Any) -> None:
        barrier.wait()

    handle = inferencer.model.backbone.register_forward_pre_hook(wait)
    try:
        yield
    finally:
        handle.remove()


def at_once(inferencer: EoMTInferencer, calls: list[Callable[[], T]]) -> list[T]:
    with all_in_the_network(inferencer, len(calls)), ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def told(predictions: list[Any]) -> list[Any]:
    """What a call found, comparable; of the host's samples, whether they have scores."""
    return [
        (one['segmentation'].tobytes(), str(one['segments_info'])) if isinstance(one, dict) else 'seg_logits' in one
        for one in predictions
    ]


@pytest.mark.parametrize('kind', CALLS)
def test_calls_keep_their_own_thresholds(kind: str, make: Make) -> None:
    inferencer, image = make(kind), noise(50, 70)
    before = inferencer.head.rules
    expected = [told(inferencer(image, **arguments)['predictions']) for arguments in CALLS[kind]]
    calls = [partial(inferencer, image, **arguments) for arguments in CALLS[kind]]
    for order in (1, -1):
        found = at_once(inferencer, calls[::order])[::order]
        assert [told(one['predictions']) for one in found] == expected
    assert expected[0] != expected[1] and inferencer.head.rules == before


def test_names_and_skipped_files_are_those_of_the_call(make: Make, tmp_path: Path) -> None:
    inferencer = make('panoptic')
    folders = [tmp_path / name for name in 'ab']
    for folder in folders:
        folder.mkdir()
        (folder / 'bad.jpg').write_text('no image')
        Image.fromarray(noise(20, 20)).save(folder / 'good.png')

    def segmented(inputs: list[Any]) -> tuple[list[str], list[Path], list[Path]]:
        stream = inferencer.stream(inputs, on_error='skip')
        names = [result.name for result in stream]
        return names, stream.skipped, inferencer(inputs[0] / 'bad.jpg', on_error='skip')['skipped']

    with pytest.warns(UserWarning, match='skipped: image .*bad.jpg'):
        found = at_once(inferencer, [partial(segmented, [folder, noise(20, 20)]) for folder in folders])
    for folder, (names, skipped, again) in zip(folders, found, strict=True):
        assert names[0] == 'good' and skipped == again == [folder / 'bad.jpg']
    assert len({names[1] for names, _, _ in found}) == 2  # running numbers, that no other call has


def test_tracks_of_each_call_have_colours_of_their_own(make: Make) -> None:
    inferencer = make('video instance')
    videos = [[noise(40, 64, seed=10 * k + frame) for frame in range(3)] for k in range(2)]
    calls = [partial(inferencer, video, return_vis=True, pred_score_thr=0.0) for video in videos]
    expected = [call()['visualization'] for call in calls]
    found = at_once(inferencer, calls)
    for pictures, one in zip(expected, found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(pictures, one['visualization'], strict=True))


@pytest.mark.parametrize('seconds', [0.0, 60.0])
def test_requests_of_the_page_at_once(seconds: float, make: Make, tmp_path: Path) -> None:
    """Other thresholds and another time limit: a request that is left early leaves only itself."""
    inferencer = make('panoptic')
    Image.fromarray(noise(50, 70)).save(tmp_path / 'x.png')
    find = partial(find_segments, inferencer, tmp_path / 'x.png')
    alone = [len(find(0.0, 0.0).segments), len(find(1.0, 0.0).segments)]
    assert alone[0] > alone[1] == 0

    def late() -> int | str:
        try:
            return len(find(1.0, 0.0, time_limit=seconds).segments)
        except TimeoutError as error:
            return str(error)

    calls: list[Callable[[], int | str]] = [lambda: len(find(0.0, 0.0).segments), late]
    if seconds:
        assert at_once(inferencer, calls) == alone
        return
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(call) for call in calls]]
    assert found[0] == alone[0] and 'longer than 0 seconds' in str(found[1])
    assert not any(module._forward_pre_hooks for module in inferencer.model.modules())


@pytest.mark.slow
def test_many_calls_from_four_threads(make: Make) -> None:
    inferencer, image = make('panoptic'), noise(50, 70)
    thresholds = (0.0, 0.3, 0.6, 1.0)
    expected = [told(inferencer(image, pred_score_thr=thr)['predictions']) for thr in thresholds]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda k: told(inferencer(image, pred_score_thr=thresholds[k % 4])['predictions']), range(300))
    assert [k for k, one in enumerate(found) if one != expected[k % 4]] == []
