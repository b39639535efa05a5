"""The model as mmdet's tools use it: from its config through training steps and evaluation, whole or online."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import TrackDataSample
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from videomt.datasets.film import draw_film
from videomt.metrics.vis_ap import VideoInstanceAP
from videomt_models import SIZE, Standstill, Video, batch, build, losses_of, of_frames, part, video
from videomt_samples import score, true_frame

from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS


@pytest.mark.parametrize(
    ('kwargs', 'text'),
    [
        (dict(window_size=0), 'window_size=0: at least 1 frame'),
        (dict(data_preprocessor=dict(size_divisor=24)), 'size_divisor=24: a multiple of the patch size, 16'),
        (dict(data_preprocessor=dict(size_divisor=0)), 'size_divisor=0: at least 1; published is 32'),
    ],
)
def test_argument_that_does_not_fit_is_named(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(**kwargs)


# ---- training


@pytest.mark.parametrize('empty', [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize('autocast', [False, True])
def test_a_step_trains_every_parameter(empty: tuple[bool, bool], autocast: bool) -> None:
    """Also where a clip has no target: a process that lacks the gradient of a parameter stops all others."""
    model = build()
    model.train()
    clips = [video(seed=i, empty=is_empty) for i, is_empty in enumerate(empty)]
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        log = model.train_step(batch(*clips), Standstill(model))
    assert log['loss'].isfinite() and log['loss'] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        without_masks = all(empty) and ('mask_mlp' in name or 'upscale' in name)
        assert bool(parameter.grad.any()) != without_masks, name


def test_frozen_parameters_have_no_gradient() -> None:
    """Frozen joint blocks pass the gradient of the queries on, through time."""
    model = build(backbone=dict(frozen_stages=4))
    model.train()
    model.train_step(batch(video()), Standstill(model))
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith('backbone.'), name


def test_a_step_lowers_the_loss() -> None:
    model, data = build(), batch(video())
    before = sum(losses_of(model, data).values())
    optimiser = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    torch.manual_seed(0)
    model.train_step(data, optimiser)
    assert sum(losses_of(model, data).values()) < before


def test_the_last_frame_trains_through_the_first() -> None:
    model = build()
    model.train()
    inputs = model.data_preprocessor(batch(video()), training=True)['inputs'].requires_grad_()
    model(inputs, mode='tensor').mask_logits[-1][:, -1].square().sum().backward()
    assert all(inputs.grad[0, t].any() for t in range(3))


# ---- evaluation


@pytest.fixture(scope='module')
def evaluated() -> Any:
    """In evaluation mode; masks as booleans, and all pairs of query and class."""
    return build(rle=False, max_per_video=100).eval()


def results(model: Any, *videos: Video) -> list[TrackDataSample]:
    with torch.no_grad():
        return model.test_step(batch(*videos))


def assert_same(found: Sequence[InstanceData], expected: Sequence[InstanceData]) -> None:
    for one, other in zip(found, expected, strict=True):
        by_id = {int(id_): i for i, id_ in enumerate(other.instances_id)}
        order = [by_id[int(id_)] for id_ in one.instances_id]
        torch.testing.assert_close(one.scores, other.scores[order], rtol=1e-4, atol=1e-5)
        assert (one.masks != other.masks[order]).float().mean() < 0.005  # float32 and half precision at the border


def test_whole_video(evaluated: Any) -> None:
    [sample] = results(evaluated, video())
    for frame, found in zip(sample.video_data_samples, of_frames(sample), strict=True):
        assert frame.class_scores == 'mean of all frames'
        assert found.masks.shape == (18, *SIZE) and found.masks.any() and not found.masks.all()
    first, *others = of_frames(sample)
    assert all(torch.equal(first.scores, other.scores) for other in others)


@pytest.mark.parametrize('length', [1, 4])
def test_videos_of_a_batch_do_not_matter_to_each_other(evaluated: Any, length: int) -> None:
    pair = [lambda: video(length), lambda: video(3, (33, 70), 'other', seed=1)]
    together = results(evaluated, *(make() for make in pair))
    for sample, make in zip(together, pair, strict=True):
        assert_same(of_frames(sample), of_frames(results(evaluated, make())[0]))


def test_window_size_changes_nothing() -> None:
    expected = of_frames(results(build(rle=False).eval(), video(5))[0])
    for window_size in (2, 7):
        assert_same(of_frames(results(build(window_size, rle=False).eval(), video(5))[0]), expected)


@pytest.mark.parametrize('sizes', [(1, 1, 1), (2, 1)])
def test_online_ends_where_the_whole_video_does(evaluated: Any, sizes: tuple[int, ...]) -> None:
    [whole], online, start = results(evaluated, video()), video(), 0
    for size in sizes:
        results(evaluated, part(online, slice(start, start + size)))
        start += size
    found, expected = of_frames(online[1]), of_frames(whole)
    assert [frame.class_scores for frame in online[1].video_data_samples] == ['mean of the frames so far'] * 3
    assert_same(found[-1:], expected[-1:])
    assert not torch.allclose(found[0].scores, expected[0].scores, atol=1e-3)


def test_frames_of_one_batch_go_on(evaluated: Any) -> None:
    """As loaders with several frames to a batch give them; the next video begins within it."""
    one, other = video(2), video(2, name='other', seed=1)
    frames = [part(film, slice(t, t + 1)) for film in (one, other) for t in range(2)]
    results(evaluated, *frames[:1])
    results(evaluated, *frames[1:])
    for found, film in ((one, video(2)), (other, video(2, name='other', seed=1))):
        assert_same(of_frames(found[1])[-1:], of_frames(results(evaluated, film)[0])[-1:])


def test_frame_0_begins_anew(evaluated: Any) -> None:
    """The same video again, and after an evaluation that broke off."""
    first, again = video(), video()
    results(evaluated, part(first, slice(0, 2)))
    results(evaluated, part(again, slice(0, 1)))
    assert torch.equal(of_frames(again[1])[0].scores, of_frames(first[1])[0].scores)
    assert torch.equal(of_frames(again[1])[0].masks, of_frames(first[1])[0].masks)


def test_a_whole_video_in_between_does_not_matter(evaluated: Any) -> None:
    [whole], online = results(evaluated, video()), video()
    results(evaluated, part(online, slice(0, 2)))
    results(evaluated, video(name='other', seed=1))
    results(evaluated, part(online, slice(2, 3)))
    assert_same(of_frames(online[1])[-1:], of_frames(whole)[-1:])


@pytest.mark.parametrize(
    ('before', 'name', 'frames', 'text'),
    [
        (None, 'film', slice(1, 2), 'frame 1 of video film after nothing: .*TrackImgSampler'),
        (slice(0, 1), 'film', slice(2, 3), 'frame 2 of video film after frame 0 of video film'),
        (slice(0, 2), 'film', slice(1, 2), 'frame 1 of video film after frame 1 of video film'),
        (slice(0, 1), 'other', slice(1, 2), 'frame 1 of video other after frame 0 of video film'),
    ],
)
def test_frames_out_of_order(before: slice | None, name: str, frames: slice, text: str) -> None:
    model = build().eval()
    if before is not None:
        results(model, part(video(), before))
    with pytest.raises(ValueError, match=text):
        results(model, part(video(name=name), frames))


@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_maps(task: str) -> None:
    model = build(task=task, num_queries=12, score_thr=0.3, overlap_thr=0.0).eval()
    [whole], online = results(model, video()), video()
    for t in range(3):
        results(model, part(online, slice(t, t + 1)))
    found, expected = (of_frames(sample, task)[-1].sem_seg for sample in (online[1], whole))
    assert expected.shape == (1, *SIZE) and (found == expected).float().mean() > 0.99
    assert len(expected.unique()) > 1


def test_run_lengths_by_default() -> None:
    [sample] = results(build().eval(), video())
    found = of_frames(sample)[0]
    assert len(found.masks) == 10 and all(mask['size'] == list(SIZE) for mask in found.masks)


@pytest.mark.parametrize('length', [1, 3])
def test_a_model_in_training_mode_is_refused(length: int) -> None:
    model = build().train()
    with pytest.raises(ValueError, match=r'model is in training mode: call model.eval\(\)'):
        results(model, part(video(3), slice(0, length)))


# ---- training, and then evaluation


def moving_shapes(num_frames: int = 4, size: tuple[int, int] = (64, 96)) -> Video:
    """Things that stay, that are hidden for a frame, that leave and that appear later."""
    film = draw_film(np.random.default_rng(0), num_frames, size)
    samples = []
    for t, ids in enumerate(film.ids):
        truth = [(id_, label, ids == id_) for id_, label in film.labels.items() if label < NUM_THINGS]
        samples.append(true_frame('film', t, size, truth))
        samples[-1].set_metainfo(dict(img_shape=size, video_length=num_frames))
    frames = torch.from_numpy(film.frames[..., ::-1].copy()).permute(0, 3, 1, 2)  # BGR, as loaders give them
    return frames, TrackDataSample(video_data_samples=samples)


@pytest.mark.slow
def test_a_clip_is_learned_by_heart() -> None:
    """Tracks, not only masks: a query keeps its instance through the video."""
    model = build(
        backbone=dict(model_name='vit_tiny_patch16_224', patch_size=8, embed_dim=96, num_heads=3),
        num_things_classes=NUM_THINGS,
        num_queries=10,
        norm_auxiliary=True,
        criterion=dict(num_points=512),
        perturbation=0,
    )
    optimiser = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3), clip_grad=dict(max_norm=1.0))
    for _ in range(200):
        model.train()
        model.train_step(batch(moving_shapes()), optimiser)
    [found] = results(model.eval(), moving_shapes())
    metric = VideoInstanceAP()
    metric.dataset_meta = dict(classes=CLASSES[:NUM_THINGS])
    assert score(metric, [found.video_data_samples])['vis/AP'] > 90
