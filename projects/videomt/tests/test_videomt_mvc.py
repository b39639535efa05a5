"""Video consistency: hand-counted cases, the definition clip by clip, result files."""

import cv2
import numpy as np
import pytest
import videomt_samples as made
from videomt.metrics.mvc import VideoConsistency

META = dict(classes=('sky', 'sea', 'sand'))


def mvc(videos, framewise=False, meta=META, **kwargs):
    metric = VideoConsistency(**{'clip_lengths': (2, 3), **kwargs})
    metric.dataset_meta = meta
    return made.score(metric, videos, framewise)


def full(label: int) -> np.ndarray:
    return np.full((2, 4), label)


class TestByHand:
    def test_consistent_but_wrong_is_consistent(self):
        found = mvc([made.semantic_frames(1, [full(0)] * 3, [full(1)] * 3)])
        assert found == {'vss/mVC2': 100, 'vss/mVC3': 100, 'vss/mIoU': 0}

    def test_only_where_truth_stays(self):
        true = [full(0), full(0)]
        true[1] = true[1].copy()
        true[1][0] = 1
        predicted = [full(0), full(0).copy()]
        predicted[1][:, :1] = 2  # one of four steady pixels changes
        assert mvc([made.semantic_frames(1, true, predicted)], clip_lengths=(2,))['vss/mVC2'] == 75

    def test_a_video_shorter_than_a_clip_has_none(self):
        found = mvc([made.semantic_frames(1, [full(0)] * 2, [full(0)] * 2)])
        assert found['vss/mVC2'] == 100 and np.isnan(found['vss/mVC3'])

    def test_a_clip_without_steady_pixel_is_left_out(self):
        true = [full(0), full(1), full(1)]
        found = mvc([made.semantic_frames(1, true, [full(1)] * 3)], clip_lengths=(2,))
        assert found['vss/mVC2'] == 100

    def test_void_is_out_of_iou(self):
        true = full(0)
        true[0] = -1
        assert mvc([made.semantic_frames(1, [true], [full(0)])])['vss/mIoU'] == 100

    def test_as_published_drops_last_clips_and_pools_lengths(self):
        # Clips of 2: 1, 1, 0; of 3: 1, 0. Published: 1, 1 and then 1, 1, 1.
        predicted = [full(0), full(0), full(0), full(1)]
        video = made.semantic_frames(1, [full(0)] * 4, predicted)
        found = mvc([video])
        assert found['vss/mVC2'] == pytest.approx(200 / 3) and found['vss/mVC3'] == 50
        published = mvc([video], as_published=True)
        assert published['vss/mVC2'] == 100 and published['vss/mVC3'] == 100

    def test_nothing_at_all(self):
        assert all(np.isnan(value) for value in mvc([]).values())


def clips(true, predicted, length):
    """Consistency of each clip, from the definition."""
    found = []
    for start in range(len(true) - length + 1):
        window = slice(start, start + length)
        steady = np.all([labels == true[start] for labels in true[window]], axis=0)
        same = np.all([labels == predicted[start] for labels in predicted[window]], axis=0)
        if steady.any():
            found.append((steady & same).sum() / steady.sum())
    return found


@pytest.mark.parametrize('seed', range(2))
def test_equals_the_definition(seed):
    rng = np.random.default_rng(seed)
    videos = [(made.moving(rng, [-1, 0, 1, 2], num, 0.1), made.moving(rng, [0, 1, 2], num, 0.1)) for num in (7, 4, 3)]
    frames = [made.semantic_frames(number, *maps) for number, maps in enumerate(videos)]
    found = mvc(frames, clip_lengths=(2, 4))
    for length in (2, 4):
        expected = [clip for maps in videos for clip in clips(*maps, length)]
        assert found[f'vss/mVC{length}'] == pytest.approx(100 * np.mean(expected))
    true, predicted = (np.concatenate([np.ravel(maps[side]) for maps in videos]) for side in (0, 1))
    predicted, true = predicted[true >= 0], true[true >= 0]
    iou = [((true == k) & (predicted == k)).sum() / ((true == k) | (predicted == k)).sum() for k in range(3)]
    assert found['vss/mIoU'] == pytest.approx(100 * np.mean(iou))
    assert mvc(frames, framewise=True, clip_lengths=(2, 4)) == pytest.approx(found)


class TestFiles:
    @pytest.mark.parametrize(
        ('label_ids', 'category_ids', 'expected'),
        [((10, 11, 12), (5, 6, 7), (10, 12)), (None, (5, 6, 7), (5, 7)), (None, None, (0, 2))],
    )
    def test_masks_in_the_values_of_the_data_set(self, tmp_path, label_ids, category_ids, expected):
        labels = full(2)
        labels[0] = 0
        video = made.semantic_frames(4, [full(0)], [labels])
        meta = META if category_ids is None else {**META, 'category_ids': category_ids}
        assert mvc([video], meta=meta, out_dir=str(tmp_path), label_ids=label_ids, format_only=True) == {}
        written = cv2.imread(str(tmp_path / '4' / '00000.png'), cv2.IMREAD_UNCHANGED)
        assert written.dtype == np.uint8 and np.array_equal(written, np.where(labels == 0, *expected))


class TestErrors:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(clip_lengths=(4, 2)), 'ascending'),
            (dict(format_only=True), 'out_dir'),
            (dict(label_ids=(1, 256)), '8-bit'),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            VideoConsistency(**arguments)

    def test_labels_beyond_the_classes(self, tmp_path):
        with pytest.raises(ValueError, match='label 7, dataset_meta 3 classes'):
            mvc([made.semantic_frames(1, [full(0)], [full(7)])])
        with pytest.raises(ValueError, match='2 entries for 3 classes'):
            mvc([made.semantic_frames(1, [full(0)], [full(0)])], out_dir=str(tmp_path), label_ids=(1, 2))
