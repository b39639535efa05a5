"""Rules of whole videos against their definition, written out pixel by pixel; the store of masks; data samples."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from pycocotools import mask as mask_api
from videomt.mask_store import MaskStore
from videomt.postprocess import (
    Rules,
    add_predictions,
    choose_tracks,
    instance_frames,
    panoptic_frames,
    predict_video,
    semantic_frames,
)

from eomt_mm.core.geometry import Padding, resize
from eomt_mm.models.heads import boxes_of_masks

T, Q, K = 3, 5, 4
GEOMETRY = Padding(ori_size=(20, 30), resized_size=(40, 60), input_size=(64, 64))
VOID = K


def random_logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn(T, Q, K + 1, generator=generator)
    # Smooth masks: noise of 4 x 4, enlarged.
    return class_logits, resize(8 * torch.randn(T, Q, 4, 4, generator=generator), (16, 16))


def samples(num: int = T) -> list[DetDataSample]:
    meta = dict(ori_shape=(20, 30, 3), img_shape=(40, 60), batch_input_shape=(64, 64))
    return [DetDataSample(metainfo=meta) for _ in range(num)]


def flat(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value)


class TestTracks:
    def test_a_query_may_appear_under_several_labels_with_an_id_each(self):
        class_logits = flat(-9.0, Q, K + 1)
        class_logits[3, 1], class_logits[3, 2], class_logits[0, 2] = 5, 4.5, 2
        class_logits[1:3, K] = 9
        tracks = choose_tracks(class_logits, 3)
        assert tracks.queries.tolist()[:2] == [0, 3] and set(tracks.queries.tolist()) == {0, 3}
        assert sorted(zip(tracks.queries.tolist(), tracks.labels.tolist(), strict=True)) == [(0, 2), (3, 1), (3, 2)]
        assert tracks.ids.tolist() == (tracks.queries * K + tracks.labels).tolist()
        assert (tracks.scores.diff() <= 0).all()

    def test_more_tracks_than_pairs_gives_all_pairs(self):
        assert len(choose_tracks(torch.zeros(2, K + 1), 100).ids) == 2 * K

    def test_masks_are_those_of_their_query_in_every_frame(self):
        class_logits, masks = random_logits()
        tracks = choose_tracks(class_logits.mean(0), 7)
        for frame, found in enumerate(instance_frames(tracks, masks, GEOMETRY)):
            for query, mask in zip(tracks.queries.tolist(), found, strict=True):
                expected = resize(resize(masks[frame, query][None], (64, 64))[:, :40, :60], (20, 30))[0] > 0
                assert (mask != expected).sum() <= 1  # rounding at the very border
        assert found.shape == (7, 20, 30)


def panoptic_reference(class_logits, masks, num_things, score_thr, overlap_thr):
    """Straight from the definition, (T, H, W)."""
    probs = class_logits.softmax(-1)
    inside = resize(resize(masks, (64, 64))[..., :40, :60].sigmoid(), (20, 30))  # (T, Q, H, W)
    kept = [q for q in range(Q) if probs[q].argmax() != K and probs[q].max() > score_thr]
    found = torch.full((T, 20, 30), VOID)
    if kept:
        weighted = torch.stack([probs[q].max() * inside[:, q] for q in kept])
        winner = weighted.argmax(0)
        for place, query in enumerate(kept):
            won, half = winner == place, inside[:, query] >= 0.5
            if (won & half).any() and won.sum() / half.sum() >= overlap_thr:
                label = int(probs[query].argmax())
                found[won & half] = label + (1000 * (query + 1) if label < num_things else 0)
    return found


class TestPanoptic:
    @pytest.mark.parametrize('seed', range(4))
    def test_equals_the_definition(self, seed):
        class_logits, masks = random_logits(seed)
        rules = Rules('panoptic', num_things=2, score_thr=0.3, overlap_thr=0.4)
        found = torch.stack(list(panoptic_frames(class_logits.mean(0), masks, GEOMETRY, rules)))
        expected = panoptic_reference(class_logits.mean(0), masks, 2, 0.3, 0.4)
        assert expected.unique().numel() > 1
        assert (found != expected).float().mean() < 1e-3
        assert found.dtype == torch.int32

    def test_areas_are_summed_over_the_whole_video(self):
        # Query 0 is hidden behind query 1 in frame 0 and alone in the frames 1 and 2: 2 of 3 parts are its own.
        class_logits = flat(-20.0, Q, K + 1)
        class_logits[:, K] = 20
        class_logits[0, :] = class_logits[1, :] = -20
        class_logits[0, 0], class_logits[1, 1] = 9, 20
        masks = flat(-20.0, T, Q, 16, 16)
        masks[:, 0] = 5
        masks[0, 1] = 20
        codes = [set(torch.unique(frame).tolist()) for frame in panoptic_frames(
            class_logits, masks, GEOMETRY, Rules('panoptic', num_things=2, overlap_thr=0.6)
        )]  # fmt: skip
        assert codes == [{2001}, {1000}, {1000}]
        codes = [set(torch.unique(frame).tolist()) for frame in panoptic_frames(
            class_logits, masks, GEOMETRY, Rules('panoptic', num_things=2, overlap_thr=0.7)
        )]  # fmt: skip
        assert codes == [{2001}, {VOID}, {VOID}]  # dropped everywhere, though it fills two frames

    def test_stuff_of_a_class_is_one_segment(self):
        class_logits = flat(-20.0, Q, K + 1)
        class_logits[:, K] = 20
        class_logits[:2] = -20
        class_logits[:2, 3] = 20
        masks = flat(-20.0, T, Q, 16, 16)
        masks[:, 0, :8], masks[:, 1, 8:] = 20, 20
        for frame in panoptic_frames(class_logits, masks, GEOMETRY, Rules('panoptic', num_things=2)):
            assert frame.unique().tolist() in ([3], [3, VOID])

    def test_without_a_confident_query_all_is_void(self):
        masks = torch.zeros(T, Q, 16, 16)
        frames = list(panoptic_frames(torch.zeros(Q, K + 1), masks, GEOMETRY, Rules('panoptic')))
        assert len(frames) == T and all((frame == VOID).all() and frame.shape == (20, 30) for frame in frames)


class TestSemantic:
    def test_equals_the_definition(self):
        class_logits, masks = random_logits(1)
        probs = class_logits.mean(0).softmax(-1)[:, :-1]
        inside = resize(resize(masks, (64, 64))[..., :40, :60], (20, 30)).sigmoid()
        expected = torch.einsum('qc,tqhw->tchw', probs, inside).argmax(1)
        found = torch.stack(list(semantic_frames(class_logits.mean(0), masks, GEOMETRY)))
        assert (found != expected).float().mean() < 1e-3


class TestMaskStore:
    @pytest.mark.parametrize('max_bytes', [2**30, 1])
    def test_gives_back_frames_and_queries_in_memory_and_on_disk(self, max_bytes):
        store, masks = MaskStore(max_bytes), torch.randn(5, Q, 4, 6)
        store.append(masks[:2])
        assert torch.equal(store[1, torch.tensor([0])], masks[1, :1].half().float())
        store.append(masks[2:])  # after reading
        assert len(store) == 5 and store.shape == (5, Q, 4, 6)
        queries = torch.tensor([4, 0, 4])
        assert torch.equal(store[3, queries], masks[3, queries].half().float())

    def test_refuses_another_size_and_a_frame_that_is_not_there(self):
        store = MaskStore()
        store.append(torch.zeros(1, Q, 4, 6))
        with pytest.raises(ValueError, match='new store for each video'):
            store.append(torch.zeros(1, Q, 4, 7))
        with pytest.raises(IndexError, match='1 frames'):
            store[1, torch.tensor([0])]

    @pytest.mark.parametrize('task', ['instance', 'panoptic', 'semantic'])
    def test_results_are_those_of_a_tensor(self, task):
        class_logits, masks = random_logits()
        masks, store = masks.half().float(), MaskStore(max_bytes=1)
        store.append(masks)
        rules = Rules(task, num_things=2, score_thr=0.3, overlap_thr=0.3)
        whole, stored = samples(), samples()
        predict_video(class_logits, masks, whole, rules)
        predict_video(class_logits, store, stored, rules)
        field = {'instance': 'pred_track_instances', 'panoptic': 'pred_panoptic_seg', 'semantic': 'pred_sem_seg'}[task]
        for one, other in zip(whole, stored, strict=True):
            for key, value in one.get(field).items():
                assert torch.equal(value, other.get(field).get(key)), key


class TestSamples:
    def test_instances_carry_what_metrics_and_visualisers_read(self):
        class_logits, masks = random_logits()
        frames, packed = samples(), samples()
        predict_video(class_logits, masks, frames, Rules('instance', max_per_video=6))
        predict_video(class_logits, masks, packed, Rules('instance', max_per_video=6, rle=True))
        first = frames[0].pred_track_instances
        assert first.masks.shape == (6, 20, 30) and first.masks.dtype == torch.bool
        assert len(first.instances_id.unique()) == 6 and frames[0].class_scores == 'mean of all frames'
        for one, other in zip(frames, packed, strict=True):
            assert torch.equal(one.pred_track_instances.instances_id, first.instances_id)
            decoded = mask_api.decode(other.pred_track_instances.masks).transpose(2, 0, 1)
            assert np.array_equal(decoded, one.pred_track_instances.masks.numpy())

    def test_classes_are_those_of_the_mean_logits(self):
        class_logits, masks = random_logits()
        frames, averaged = samples(), samples()
        predict_video(class_logits, masks, frames, Rules('instance'))
        add_predictions(class_logits.mean(0), masks, averaged, Rules('instance'), 'mean of the frames so far')
        assert torch.equal(frames[2].pred_track_instances.scores, averaged[0].pred_track_instances.scores)
        assert averaged[0].class_scores == 'mean of the frames so far'

    def test_semantic_maps_are_bytes(self):
        class_logits, masks = random_logits()
        frames = samples()
        predict_video(class_logits, masks, frames, Rules('semantic'))
        assert frames[0].pred_sem_seg.sem_seg.dtype == torch.uint8
        assert frames[0].pred_sem_seg.sem_seg.shape == (1, 20, 30)

    def test_boxes_include_the_last_pixel_and_are_zero_without_one(self):
        masks = torch.zeros(2, 6, 8, dtype=torch.bool)
        masks[1, 2:4, 3:8] = True
        assert boxes_of_masks(masks).tolist() == [[0, 0, 0, 0], [3, 2, 8, 4]]

    def test_refuses_what_does_not_fit(self):
        class_logits, masks = random_logits()
        with pytest.raises(ValueError, match='2 samples'):
            predict_video(class_logits, masks, samples(2), Rules('instance'))
        with pytest.raises(ValueError, match="task='vis'"):
            Rules('vis')
        other = samples()
        other[1].set_metainfo(dict(ori_shape=(10, 30)))
        with pytest.raises(ValueError, match='2 sizes'):
            predict_video(class_logits, masks, other, Rules('semantic'))
