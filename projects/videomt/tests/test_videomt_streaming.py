"""Online results against those of the whole video."""

import numpy as np
import pytest
import torch
from videomt.postprocess import Rules
from videomt.streaming import OnlineVideo, RunningMean, StoredVideo, VideoSegmenter, segment_video
from videomt_networks import Network

T, SIZE = 3, (40, 70)


@pytest.fixture(scope='module')
def network() -> Network:
    return Network().eval()


def frames(seed: int = 0, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(T)]


def segmenter(network: Network, task: str) -> VideoSegmenter:
    return VideoSegmenter(network, Rules(task, num_things=1, score_thr=0.2, overlap_thr=0.1), short_side=48)


def whole_video(online: VideoSegmenter, video: list[np.ndarray], window_size: int = 2) -> list:
    """Results with the class scores of all frames."""
    images, samples = zip(*(online.prepare(frame) for frame in video), strict=True)
    segment_video(online.video.model, torch.stack(images), samples, online.video.rules, window_size)
    return list(samples)


def test_running_mean() -> None:
    mean, logits = RunningMean(), torch.randn(4, 5, 3)
    for number in range(4):
        found = mean.update(logits[number].half())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, logits[: number + 1].half().float().mean(0))


class TestAgainstWholeVideo:
    def test_tracks(self, network: Network) -> None:
        online, video = segmenter(network, 'instance'), frames()
        online.video.rules = Rules('instance', max_per_video=1000)  # all pairs: masks are compared one by one
        found, expected = [online.step(frame) for frame in video], whole_video(online, video)
        for one, other in zip(found, expected, strict=True):
            by_id = {int(id_): mask for id_, mask in zip(
                other.pred_track_instances.instances_id, other.pred_track_instances.masks, strict=True
            )}  # fmt: skip
            assert one.pred_track_instances.masks.shape[1:] == SIZE
            for id_, mask in zip(one.pred_track_instances.instances_id, one.pred_track_instances.masks, strict=True):
                assert (mask != by_id[int(id_)]).float().mean() < 0.01
        last, same = (samples[-1].pred_track_instances for samples in (found, expected))
        torch.testing.assert_close(last.scores, same.scores, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[0].pred_track_instances.scores, same.scores, atol=1e-3)

    @pytest.mark.parametrize(('task', 'field'), [('panoptic', 'pred_panoptic_seg'), ('semantic', 'pred_sem_seg')])
    def test_maps_of_the_last_frame(self, network: Network, task: str, field: str) -> None:
        online, video = segmenter(network, task), frames()
        if task == 'panoptic':  # areas of one frame and of all decide alike only where nothing is dropped
            online.video.rules = Rules(task, num_things=1, score_thr=0.2, overlap_thr=0.0)
        found, expected = [online.step(frame) for frame in video][-1], whole_video(online, video)[-1]
        same = found.get(field).sem_seg == expected.get(field).sem_seg
        assert same.shape == (1, *SIZE) and same.float().mean() > 0.99
        assert len(found.get(field).sem_seg.unique()) > 1


def test_window_size_changes_nothing(network: Network) -> None:
    online, video = segmenter(network, 'instance'), frames(3)
    found, expected = (whole_video(online, video, size) for size in (1, 100))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.pred_track_instances.scores, other.pred_track_instances.scores)
        assert torch.equal(one.pred_track_instances.instances_id, other.pred_track_instances.instances_id)
        assert (one.pred_track_instances.masks != other.pred_track_instances.masks).float().mean() < 0.01
    with pytest.raises(ValueError, match='window_size=0'):
        whole_video(online, video, 0)


def prepared(online: VideoSegmenter, seed: int = 0) -> tuple[torch.Tensor, list]:
    images, samples = zip(*(online.prepare(frame) for frame in frames(seed)), strict=True)
    return torch.stack(images), list(samples)


@pytest.mark.parametrize(
    ('task', 'field'),
    [('instance', 'pred_track_instances'), ('panoptic', 'pred_panoptic_seg'), ('semantic', 'pred_sem_seg')],
)
def test_a_window_online_gives_the_results_of_its_frames(network: Network, task: str, field: str) -> None:
    online = segmenter(network, task)
    images, one_by_one = prepared(online)
    _, together = prepared(online)
    for image, sample in zip(images, one_by_one, strict=True):
        online.video.segment(image, sample)
    windows = OnlineVideo(network, online.video.rules)
    windows.segment_window(images[:2], together[:2])
    windows.segment_window(images[2:], together[2:])
    for one, other in zip(one_by_one, together, strict=True):
        assert one.class_scores == other.class_scores
        if task == 'instance':
            assert torch.equal(one.get(field).instances_id, other.get(field).instances_id)
            assert (one.get(field).masks != other.get(field).masks).float().mean() < 0.01
        else:
            assert (one.get(field).sem_seg != other.get(field).sem_seg).float().mean() < 0.01


@pytest.mark.parametrize('task', ['instance', 'panoptic', 'semantic'])
def test_stored_results_are_those_of_the_whole_video_frame_by_frame(network: Network, task: str) -> None:
    online = segmenter(network, task)
    images, samples = prepared(online)
    expected = whole_video(online, frames(), window_size=2)
    stored = StoredVideo(network)
    stored.add(images[:2])
    stored.add(images[2:])
    results = stored.results(samples, online.video.rules)
    for one, other in zip(results, expected, strict=True):
        assert one.class_scores == other.class_scores == 'mean of all frames'
        assert one.frame_id == other.frame_id
        for key in ('pred_panoptic_seg', 'pred_sem_seg'):
            if key in other:
                assert torch.equal(one.get(key).sem_seg, other.get(key).sem_seg)
        if task == 'instance':
            assert torch.equal(one.pred_track_instances.masks, other.pred_track_instances.masks)
            assert torch.equal(one.pred_track_instances.instances_id, other.pred_track_instances.instances_id)
    # what is given is kept by nobody: memory does not grow with the maps
    assert not any('pred_' in key for sample in samples for key in sample.all_keys())


def test_segments_of_a_panoptic_map_have_names_and_scores(network: Network) -> None:
    online = segmenter(network, 'panoptic')
    online.video.rules = Rules('panoptic', num_things=1, score_thr=0.2, overlap_thr=0.0)
    for sample in [online.step(frame) for frame in frames()]:
        codes = set(sample.pred_panoptic_seg.sem_seg.unique().tolist()) - {3}  # void
        assert {s['label'] + 1000 * s['id'] for s in sample.panoptic_segments} == codes != set()
        assert all(0.2 < s['score'] <= 1 and (s['id'] > 0) == (s['label'] == 0) for s in sample.panoptic_segments)


def test_mixed_precision_is_the_networks_only(network: Network) -> None:
    online = segmenter(network, 'semantic')
    images, samples = prepared(online)
    seen = []
    predict = network.panoptic_head.predict_logits

    def watched(tokens):  # type: ignore[no-untyped-def]
        seen.append(torch.is_autocast_enabled('cpu'))
        return predict(tokens)

    network.panoptic_head.predict_logits = watched  # type: ignore[method-assign]
    try:
        OnlineVideo(network, online.video.rules, torch.bfloat16).segment_window(images, samples)
        OnlineVideo(network, online.video.rules).segment_window(images, samples)
        with torch.autocast('cpu', torch.bfloat16):  # as a runner's
            OnlineVideo(network, online.video.rules).segment_window(images, samples)
    finally:
        del network.panoptic_head.predict_logits
    assert seen == [True] * T + [False] * T + [True] * T
    assert not torch.is_autocast_enabled('cpu')


def test_results_say_where_their_scores_are_from(network: Network) -> None:
    online = segmenter(network, 'instance')
    samples = [online.step(frame) for frame in frames()]
    assert [sample.frame_id for sample in samples] == [0, 1, 2]
    assert {sample.class_scores for sample in samples} == {'mean of the frames so far'}
    assert {sample.class_scores for sample in whole_video(online, frames())} == {'mean of all frames'}


def test_reset_begins_another_video(network: Network) -> None:
    online, fresh = segmenter(network, 'instance'), segmenter(network, 'instance')
    for frame in frames(1):
        online.step(frame)
    carried = online.step(frames(2)[0])
    online.reset()
    again, expected = online.step(frames(2)[0]), fresh.step(frames(2)[0])
    assert again.frame_id == 0
    assert torch.equal(again.pred_track_instances.scores, expected.pred_track_instances.scores)
    assert torch.equal(again.pred_track_instances.masks, expected.pred_track_instances.masks)
    assert not torch.equal(carried.pred_track_instances.scores, expected.pred_track_instances.scores)


def test_size_may_change_within_a_video(network: Network) -> None:
    online = segmenter(network, 'semantic')
    for size in ((40, 70), (64, 50)):
        assert online.step(frames(size=size)[0]).pred_sem_seg.sem_seg.shape == (1, *size)


def test_frames_are_resized_normalised_and_padded_with_zeros(network: Network) -> None:
    online = VideoSegmenter(network, Rules('semantic'), short_side=20, max_long_side=50)
    image, sample = online.prepare(np.full((40, 120, 3), 255, np.uint8))  # 50 long: 17 x 50
    assert sample.img_shape == (17, 50) and sample.batch_input_shape == (32, 64) == tuple(image.shape[1:])
    white = (255 - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(image[:, :17, :50], white[:, None, None].expand(3, 17, 50))
    assert not image[:, 17:].any() and not image[:, :, 50:].any()


def test_refuses_what_is_no_frame_and_a_model_in_training(network: Network) -> None:
    online = segmenter(network, 'semantic')
    with pytest.raises(ValueError, match=r'\(3, 40, 70\)'):
        online.step(np.zeros((3, *SIZE), np.uint8))
    with pytest.raises(ValueError, match='float64'):
        online.step(np.zeros((*SIZE, 3)))
    with pytest.raises(ValueError, match='eval'):
        VideoSegmenter(Network().train(), Rules('semantic'))
