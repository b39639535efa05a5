"""VPQ: hand-counted cases, PQ of stacked frames as reference, result files."""

import json

import numpy as np
import pytest
import videomt_samples as made
from videomt.metrics.vpq import VideoPanopticQuality

from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.evaluation.pq_counting import average_pq, count_panoptic

META = dict(classes=('ant', 'bee', 'sky', 'sea'), thing_classes=('ant', 'bee'), stuff_classes=('sky', 'sea'))
THINGS = {0: True, 1: True, 2: False, 3: False}
VOID = 4


def vpq(videos, framewise=False, **kwargs):
    metric = VideoPanopticQuality(**kwargs)
    metric.dataset_meta = META
    return made.score(metric, videos, framewise)


def full(code: int) -> np.ndarray:
    return np.full((4, 4), code)


class TestByHand:
    def test_a_switch_of_identity_costs_tubes_but_not_frames(self):
        true = [full(1000)] * 2
        found = vpq([made.panoptic_frames(1, true, [full(1000), full(2000)])], tube_lengths=(1, 2))
        assert found['vps/VPQ1'] == 100
        # Of 2 frames each track has half: IoU exactly 0.5 is no match; one miss, two false positives.
        assert found['vps/VPQ2'] == 0 and found['vps/VPQ'] == 50

    def test_a_window_of_three_with_two_frames_right(self):
        predicted = [full(1000), full(1000), full(2000)]
        found = vpq([made.panoptic_frames(1, [full(1000)] * 3, predicted)], tube_lengths=(3,))
        # IoU 2 / 3, one match, one false positive: 2 / 3 / 1.5.
        assert found['vps/VPQ3'] == pytest.approx(100 * 2 / 3 / 1.5)
        assert found['vps/VPQ_th'] == found['vps/VPQ3'] and np.isnan(found['vps/VPQ_st'])

    def test_void_is_neither_right_nor_wrong(self):
        true = full(2)
        true[:2] = -1
        other = full(3)
        other[2:] = 2  # sea only where truth is void
        found = vpq([made.panoptic_frames(1, [true], [other])], tube_lengths=(1,))
        assert found['vps/VPQ'] == 100

    def test_crowds_are_void(self):
        frame = made.panoptic_frames(1, [full(-1)], [full(1000)])[0]
        frame.ignored_instances = made.instances([(9, 0, full(1) > 0)], (4, 4))
        frame.gt_instances = made.instances([(8, 1, full(1) > 0)], (4, 4))  # hidden by the crowd
        assert np.isnan(vpq([[frame]], tube_lengths=(1,))['vps/VPQ'])

    def test_a_video_shorter_than_a_tube_has_none(self):
        found = vpq([made.panoptic_frames(1, [full(1000)], [full(1000)])], tube_lengths=(1, 2))
        assert found['vps/VPQ1'] == 100 and np.isnan(found['vps/VPQ2'])


def reference(videos, length):
    """PQ of frames laid below each other, window by window."""
    rows = []
    for true, predicted in videos:
        for start in range(len(true) - length + 1):
            gt, pred = (np.concatenate(maps[start : start + length]) for maps in (true, predicted))
            gt_segments = [(code, code % 1000, 0) for code in np.unique(gt) if code >= 0]
            pred_segments = [(code, code % 1000) for code in np.unique(pred) if code % 1000 < VOID]
            gt_segments = np.array(gt_segments, np.int64).reshape(-1, 3)
            pred_segments = np.array(pred_segments, np.int64).reshape(-1, 2)
            rows.append(count_panoptic(gt, gt_segments, pred, pred_segments))
    averages, _ = average_pq(np.concatenate(rows), THINGS)
    return averages


@pytest.mark.parametrize('seed', range(3))
def test_equals_pq_of_stacked_frames(seed):
    rng = np.random.default_rng(seed)
    videos = []
    for num_frames in (5, 3):
        true = made.moving(rng, [-1, 1000, 2001, 3000, 2, 3], num_frames)
        # Mostly the truth under other numbers, partly something else.
        names = {-1: VOID, 1000: 5000, 2001: 4001, 3000: 7000, 2: 2, 3: 3}
        noise = made.moving(rng, [5000, 4001, 7001, 2, 3, VOID], num_frames, change=0.9)
        wrong = rng.random(true[0].shape) < 0.15
        predicted = [
            np.where(wrong, other, np.vectorize(names.get)(own)) for own, other in zip(true, noise, strict=True)
        ]
        videos.append((true, predicted))
    frames = [made.panoptic_frames(number, *maps) for number, maps in enumerate(videos)]
    found = vpq(frames, tube_lengths=(1, 2, 4))
    for length in (1, 2, 4):
        expected = reference(videos, length)
        for group, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st')):
            value = found[f'vps/VPQ{length}{suffix}']
            assert value == pytest.approx(100 * expected[group]['pq'], nan_ok=True)
    assert 5 < found['vps/VPQ'] < 95
    assert vpq(frames, framewise=True, tube_lengths=(1, 2, 4)) == pytest.approx(found, nan_ok=True)


def test_absent_classes_are_named(monkeypatch):
    told = []
    monkeypatch.setattr('eomt_mm.evaluation.image_metric.print_log', lambda message, **_: told.append(message))
    vpq([made.panoptic_frames(1, [full(2)], [full(2)])])
    assert told[0].startswith(f'{len(META["classes"]) - 1} of {len(META["classes"])} classes do not occur')


class TestFiles:
    def test_ids_stay_with_their_segment(self, tmp_path):
        first, second = full(3000), full(2)
        first[0] = VOID
        second[0] = 3000
        video = made.panoptic_frames(8, [full(-1)] * 2, [first, second])
        assert vpq([video], out_dir=str(tmp_path), format_only=True) == {}
        content = json.loads((tmp_path / 'pred.json').read_text())
        (entry,) = content['annotations']
        assert entry['video_id'] == '8'
        assert [frame['file_name'] for frame in entry['annotations']] == ['00000.png', '00001.png']
        for frame, codes in zip(entry['annotations'], (first, second), strict=True):
            ids = read_panoptic_png(tmp_path / 'pan_pred' / '8' / frame['file_name'])
            segments = {segment['id']: segment for segment in frame['segments_info']}
            assert set(np.unique(ids).tolist()) - {0} == set(segments)
            assert (ids == 0).sum() == (codes == VOID).sum()
            thing = ids[codes == 3000][0]
            assert thing == 1 and segments[1]['category_id'] == 1 and segments[1]['area'] == (codes == 3000).sum()

    def test_frames_of_one_name_are_refused(self, tmp_path):
        frames = made.panoptic_frames(8, [full(-1)] * 2, [full(2)] * 2)
        for camera, frame in enumerate(frames):
            frame.set_metainfo(dict(img_path=f'data/video/cam{camera}/00000.jpg'))
        with pytest.raises(ValueError, match='video 8 has two frames 00000.png, such as data/video/cam1/00000.jpg'):
            vpq([frames], out_dir=str(tmp_path), format_only=True)

    def test_the_json_comes_last(self, tmp_path):
        (tmp_path / 'pred.json').write_text('of an evaluation before')
        metric = VideoPanopticQuality(out_dir=str(tmp_path))
        metric.dataset_meta = META
        metric.process(None, [{'video_data_samples': made.panoptic_frames(1, [full(2)], [full(2)])}])
        assert not (tmp_path / 'pred.json').exists()
        assert metric.evaluate(1)['vps/VPQ1'] == 100 and (tmp_path / 'pred.json').exists()


class TestErrors:
    def test_arguments(self):
        with pytest.raises(ValueError, match='tube_lengths'):
            VideoPanopticQuality(tube_lengths=(0, 1))
        with pytest.raises(ValueError, match='out_dir'):
            VideoPanopticQuality(format_only=True)

    def test_meta_and_prediction(self):
        metric = VideoPanopticQuality()
        metric.dataset_meta = dict(classes=('ant',))
        frames = made.panoptic_frames(1, [full(2)], [full(2)])
        with pytest.raises(ValueError, match='thing_classes'):
            made.score(metric, [frames])
        with pytest.raises(ValueError, match='has no pred_panoptic_seg'):
            vpq([[made.true_frame(1, 0, (4, 4), [])]])
