"""STQ: hand-counted cases, and the definition written out track by track."""

import numpy as np
import pytest
import videomt_samples as made
from videomt.metrics.stq import SegmentationTrackingQuality

META = dict(classes=('ant', 'bee', 'sky'), thing_classes=('ant', 'bee'))
VOID = 3


def stq(videos, framewise=False):
    metric = SegmentationTrackingQuality(prefix='vps')
    metric.dataset_meta = META
    return made.score(metric, videos, framewise)


def full(code: int) -> np.ndarray:
    return np.full((4, 4), code)


class TestByHand:
    def test_perfect(self):
        maps = [full(1000), full(2)]
        assert stq([made.panoptic_frames(1, maps, maps)]) == pytest.approx(
            {'vps/STQ': 100, 'vps/AQ': 100, 'vps/SQ': 100}
        )

    def test_a_switch_of_identity_halves_association(self):
        found = stq([made.panoptic_frames(1, [full(1000)] * 2, [full(5000), full(6000)])])
        # Each half: 16 / 32 of the track with IoU 16 / 32; together 0.5.
        assert found['vps/AQ'] == pytest.approx(50) and found['vps/SQ'] == pytest.approx(100)
        assert found['vps/STQ'] == pytest.approx(100 * 0.5**0.5)

    def test_association_does_not_ask_for_the_class(self):
        found = stq([made.panoptic_frames(1, [full(1000)], [full(4001)])])
        assert found['vps/AQ'] == 100 and found['vps/SQ'] == 0

    def test_void_predictions_are_misses_and_void_truth_is_left_out(self):
        true, predicted = full(2), full(2)
        true[0], predicted[0], predicted[1] = -1, 1000, VOID
        found = stq([made.panoptic_frames(1, [true], [predicted])])
        assert found['vps/SQ'] == pytest.approx(100 * 8 / 12) and np.isnan(found['vps/AQ'])

    def test_nothing_at_all(self):
        assert all(np.isnan(value) for value in stq([]).values())


def reference(videos):
    """From the definition."""
    qualities, common, union = [], np.zeros(3), np.zeros(3)
    for true, predicted in videos:
        true, predicted = np.stack(true), np.stack(predicted)
        predicted = predicted[true >= 0]
        true = true[true >= 0]
        for label in range(3):
            own, found = true % 1000 == label, predicted % 1000 == label
            common[label] += (own & found).sum()
            union[label] += (own | found).sum()

        def ids(codes):
            return np.where(codes % 1000 < 2, codes // 1000, 0)

        for id_ in set(ids(true).tolist()) - {0}:
            own = ids(true) == id_
            quality = 0.0
            for other in set(ids(predicted).tolist()) - {0}:
                found = ids(predicted) == other
                quality += (own & found).sum() * (own & found).sum() / (own | found).sum()
            qualities.append(quality / own.sum())
    occurs = union > 0
    return np.mean(qualities), (common[occurs] / union[occurs]).mean()


@pytest.mark.parametrize('seed', range(3))
def test_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    videos = []
    for num_frames in (4, 2):
        true = made.moving(rng, [-1, 1000, 2001, 3000, 2], num_frames)
        noise = made.moving(rng, [1001, 2001, 4000, 2, VOID, 1], num_frames)
        wrong = rng.random(true[0].shape) < 0.4
        predicted = [np.where(wrong | (own < 0), other, own) for own, other in zip(true, noise, strict=True)]
        videos.append((true, predicted))
    frames = [made.panoptic_frames(number, *maps) for number, maps in enumerate(videos)]
    found = stq(frames)
    association, quality = reference(videos)
    assert found['vps/AQ'] == pytest.approx(100 * association)
    assert found['vps/SQ'] == pytest.approx(100 * quality)
    assert found['vps/STQ'] == pytest.approx(100 * (association * quality) ** 0.5)
    assert stq(frames, framewise=True) == pytest.approx(found)
