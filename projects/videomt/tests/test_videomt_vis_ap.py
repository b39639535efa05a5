"""AP of tracks: hand-counted cases, mmdet's own evaluation, result files."""

import json
import zipfile

import numpy as np
import pytest
import torch
import videomt_samples as made
from mmdet.evaluation.functional import YTVIS, YTVISeval
from mmengine.structures import InstanceData
from pycocotools import mask as mask_api
from videomt.metrics import video_metric, vis_ap
from videomt.metrics.vis_ap import VideoInstanceAP

META = dict(classes=('ant', 'bee', 'cat'))
SIZE = (20, 30)


def box(top: int, left: int, height: int = 10, width: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


NOTHING = np.zeros(SIZE, bool)


def with_tracks(frame, tracks, rle=False):
    """Adds tracks (id, label, score, mask) to a frame."""
    masks = np.stack([mask for *_, mask in tracks]) if tracks else np.zeros((0, *frame.ori_shape), bool)
    frame.pred_track_instances = InstanceData(
        instances_id=torch.tensor([one[0] for one in tracks], dtype=torch.long),
        labels=torch.tensor([one[1] for one in tracks], dtype=torch.long),
        scores=torch.tensor([float(one[2]) for one in tracks]),
        masks=[mask_api.encode(np.asfortranarray(mask, np.uint8)) for mask in masks] if rle else torch.tensor(masks),
    )
    return frame


def video(truth, tracks, video_id=1, crowds=None, rle=False):
    """Truth and tracks per frame."""
    crowds = crowds or [[] for _ in truth]
    return [
        with_tracks(made.true_frame(video_id, place, SIZE, *parts[:1], parts[1]), parts[2], rle)
        for place, parts in enumerate(zip(truth, crowds, tracks, strict=True))
    ]


def ap(videos, framewise=False, **kwargs):
    metric = VideoInstanceAP(**kwargs)
    metric.dataset_meta = META
    return made.score(metric, videos, framewise)


class TestByHand:
    def test_iou_is_of_all_frames_together(self):
        # Whole in frame 0, absent in frame 1: IoU 100 / 200, which only the threshold 0.5 accepts.
        truth = [[(7, 1, box(0, 0))], [(7, 1, box(5, 5))]]
        tracks = [[(3, 1, 0.9, box(0, 0))], [(3, 1, 0.9, NOTHING)]]
        found = ap([video(truth, tracks)])
        assert found['vis/AP50'] == 100 and found['vis/AP75'] == 0 and found['vis/AP'] == pytest.approx(10)

    def test_a_switch_of_identity_costs(self):
        truth = [[(7, 1, box(0, 0))]] * 3
        kept = ap([video(truth, [[(3, 1, 0.9, box(0, 0))]] * 3)])
        switched = ap([video(truth, [[(3, 1, 0.9, box(0, 0))]] * 2 + [[(4, 1, 0.8, box(0, 0))]])])
        assert kept['vis/AP'] == 100 and switched['vis/AP50'] == 100
        assert switched['vis/AP'] == pytest.approx(40)  # IoU 2 / 3: thresholds 0.5, 0.55, 0.6, 0.65

    def test_recall_at_1_takes_the_best_track_of_a_video_and_class(self):
        truth = [[(1, 0, box(0, 0)), (2, 0, box(10, 20))]]
        tracks = [[(1, 0, 0.9, box(0, 0)), (2, 0, 0.8, box(10, 20))]]
        found = ap([video(truth, tracks)])
        assert found['vis/AR@1'] == 50 and found['vis/AR@10'] == 100

    def test_sizes_are_of_the_mean_over_frames_in_which_a_track_is_seen(self):
        found = ap([video([[(1, 0, box(0, 0))], []], [[(1, 0, 0.9, box(0, 0))], []])])
        assert found['vis/AP_s'] == 100 and np.isnan(found['vis/AP_m']) and np.isnan(found['vis/AP_l'])

    def test_crowds_are_never_missed_and_what_lies_on_them_is_not_wrong(self):
        truth, crowds = [[(1, 0, box(0, 0))]], [[(9, 0, box(10, 20))]]
        tracks = [[(5, 0, 0.95, box(10, 20)), (1, 0, 0.9, box(0, 0))]]
        assert ap([video(truth, tracks, crowds=crowds)])['vis/AP'] == 100
        assert ap([video(truth, tracks)])['vis/AP'] < 60  # without the crowd the first track is wrong

    def test_without_annotations_the_hint_is_named(self, monkeypatch):
        told = []
        monkeypatch.setattr(vis_ap, 'print_log', lambda message, **_: told.append(message))
        ap([video([[(1, 0, box(0, 0))]], [[]])])
        assert not told
        ap([video([[]], [[]])])
        assert len(told) == 1 and '--format-only' in told[0]

    def test_absent_classes_are_named_once(self, monkeypatch):
        told = []
        monkeypatch.setattr('eomt_mm.evaluation.image_metric.print_log', lambda message, **_: told.append(message))
        truth = [[(7, 1, box(0, 0))]]
        metric = VideoInstanceAP()
        metric.dataset_meta = META
        for _ in range(2):
            made.score(metric, [video(truth, [[]])])
        (text,) = told
        assert text.startswith('2 of 3 classes do not occur') and '1 evaluated video and' in text and 'ant, cat' in text

    @pytest.mark.slow
    def test_300_tracks(self):
        # More than a byte counts; each has two pixels.
        masks = [np.arange(600).reshape(SIZE) // 2 == k for k in range(300)]
        truth = [[(k, 1, mask) for k, mask in enumerate(masks)]] * 2
        tracks = [[(k, 1, 0.9, mask) for k, mask in enumerate(masks)]] * 2
        for rle in (False, True):
            assert ap([video(truth, tracks, rle=rle)])['vis/AR@10'] == pytest.approx(100 * 10 / 300)

    def test_a_video_without_tracks_or_truth(self):
        missed = video([[(1, 0, box(0, 0))]], [[]])
        assert ap([missed])['vis/AP'] == 0
        assert np.isnan(ap([video([[]], [[]])])['vis/AP'])
        assert ap([missed, video([[(1, 0, box(0, 0))]], [[(1, 0, 0.9, box(0, 0))]], 2)])['vis/AR@10'] == 50


def random_videos(seed, num_videos=4, num_frames=3, rle=False):
    rng = np.random.default_rng(seed)

    def anywhere():
        return box(*rng.integers(0, 10, 2).tolist(), *rng.integers(3, 12, 2).tolist())

    videos = []
    for video_id in range(1, num_videos + 1):
        true = [(id_, int(rng.integers(3))) for id_ in range(1, 5)]
        # Most tracks follow an instance of their class, some nothing.
        tracks = [(id_, int(rng.integers(3)), float(rng.choice([0.3, 0.5, 0.9]))) for id_ in range(1, 9)]
        frames, predicted = [], []
        for _ in range(num_frames):
            here = {id_: anywhere() if rng.random() < 0.8 else NOTHING for id_, _ in true}
            frames.append([(id_, label, here[id_]) for id_, label in true if here[id_].any()])
            found = []
            for id_, label, track_score in tracks:
                same = [here[true_id] for true_id, true_label in true if true_label == label and id_ % 4]
                mask = same[id_ % len(same)] & (rng.random(SIZE) < 0.85) if same else anywhere()
                found.append((id_, label, track_score, mask))
            predicted.append(found)
        videos.append(video(frames, predicted, video_id, rle=rle))
    return videos


def by_mmdet(videos, monkeypatch):
    """What mmdet's YTVISeval finds; numpy's alias that it needs is put back for it."""
    monkeypatch.setattr(np, 'float', float, raising=False)

    def encoded(mask):
        return mask_api.encode(np.asfortranarray(mask, np.uint8)) if mask.any() else None

    annotations, results = [], []
    for frames in videos:
        video_id = frames[0].video_id
        true, found = {}, {}
        for place, frame in enumerate(frames):
            gt, pred = frame.gt_instances, frame.pred_track_instances
            for row, id_ in enumerate(gt.instances_ids.tolist()):
                entry = true.setdefault(id_, dict(label=int(gt.labels[row]), masks=[None] * len(frames)))
                entry['masks'][place] = encoded(gt.masks.masks[row])
            for row, id_ in enumerate(pred.instances_id.tolist()):
                entry = found.setdefault(id_, dict(label=int(pred.labels[row]), masks=[None] * len(frames), scores=[]))
                entry['masks'][place] = encoded(pred.masks[row].numpy())
                entry['scores'].append(float(pred.scores[row]))
        for entry in true.values():
            areas = [None if rle is None else int(mask_api.area(rle)) for rle in entry['masks']]
            annotations.append(
                dict(id=len(annotations) + 1, video_id=video_id, category_id=entry['label'] + 1, iscrowd=0,
                     segmentations=entry['masks'], areas=areas, bboxes=[None] * len(frames))
            )  # fmt: skip
        for entry in found.values():
            results.append(
                dict(video_id=video_id, category_id=entry['label'] + 1, score=float(np.mean(entry['scores'])),
                     segmentations=entry['masks'])
            )  # fmt: skip
    truth = YTVIS(
        dict(
            videos=[dict(id=frames[0].video_id, height=SIZE[0], width=SIZE[1]) for frames in videos],
            categories=[dict(id=place + 1, name=name) for place, name in enumerate(META['classes'])],
            annotations=annotations,
        )
    )
    evaluation = YTVISeval(truth, truth.loadRes(results), 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize('seed', range(3))
def test_agrees_with_mmdets_evaluation(seed, monkeypatch):
    videos = random_videos(seed)
    expected = by_mmdet(videos, monkeypatch)
    found = ap(videos)
    assert 0.02 < expected[0] < 0.98
    for key, value in zip(('AP', 'AP50', 'AP75', 'AP_s', 'AP_m', 'AP_l', 'AR@1', 'AR@10'), expected, strict=False):
        if value < 0:
            assert np.isnan(found[f'vis/{key}'])
        else:
            assert found[f'vis/{key}'] == pytest.approx(100 * value, abs=1e-8), key


class TestVideos:
    def test_frame_by_frame_and_run_lengths_change_nothing(self):
        whole = ap(random_videos(5))
        assert ap(random_videos(5), framewise=True) == pytest.approx(whole, nan_ok=True)
        assert ap(random_videos(5, rle=True)) == pytest.approx(whole, nan_ok=True)

    def test_processes_with_different_numbers_of_videos(self, monkeypatch):
        videos = random_videos(6, num_videos=3)
        expected = ap(videos)
        metric = VideoInstanceAP()
        metric.dataset_meta = META
        made.score(metric, [])
        for frames in videos:
            metric.process(None, [{'video_data_samples': frames}])
        metric._close()
        parts = [metric.results[2:], [metric.results[0], metric.results[1], metric.results[2]]]  # one comes twice
        monkeypatch.setattr(video_metric, 'all_gather_object', lambda results: parts)
        assert metric.evaluate(2) == pytest.approx(expected, nan_ok=True)


class TestFiles:
    def test_json_and_zip_are_as_servers_take_them(self, tmp_path):
        tracks = [[(3, 1, 0.9, box(0, 0)), (4, 2, 0.2, NOTHING)], [(3, 1, 0.7, box(5, 5)), (4, 2, 0.4, box(0, 0))]]
        found = ap([video([[], []], tracks, 12)], out_dir=str(tmp_path), format_only=True)
        assert found == {}
        first, second = json.loads((tmp_path / 'results.json').read_text())
        assert first['video_id'] == 12 and first['category_id'] == 2 and first['score'] == pytest.approx(0.8)
        assert np.array_equal(mask_api.decode(first['segmentations'][1]), box(5, 5))
        assert second['segmentations'][0] is None and second['category_id'] == 3
        with zipfile.ZipFile(tmp_path / 'results.zip') as archive:
            assert archive.namelist() == ['results.json']
            assert archive.read('results.json') == (tmp_path / 'results.json').read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ['results.json', 'results.zip']

    def test_without_any_track_the_json_is_an_empty_list(self, tmp_path):
        ap([video([[]], [[]])], out_dir=str(tmp_path))
        assert json.loads((tmp_path / 'results.json').read_text()) == []


class TestErrors:
    def test_arguments(self):
        with pytest.raises(ValueError, match='out_dir'):
            VideoInstanceAP(format_only=True)

    def test_frames_without_prediction_or_truth(self):
        with pytest.raises(ValueError, match='frame 0 of video 1 .* has no pred_track_instances'):
            ap([[made.true_frame(1, 0, SIZE, [])]])
        frame = video([[]], [[]])[0]
        del frame.gt_instances.masks
        with pytest.raises(ValueError, match='no gt_instances.masks: load annotations'):
            ap([[frame]])

    def test_masks_of_another_size(self):
        small = [(1, 0, np.ones((5, 6), bool))]
        frame = video([[]], [[]])[0]
        frame.gt_instances = made.instances(small, (5, 6))
        with pytest.raises(ValueError, match=r'ground truth \(5, 6\), prediction \(20, 30\)'):
            ap([[frame]])
        frame = with_tracks(video([[]], [[]])[0], [(1, 0, 0.5, np.ones((5, 6), bool))])
        with pytest.raises(ValueError, match=r'are \[\(5, 6\)\], the frame \(20, 30\)'):
            ap([[frame]])
