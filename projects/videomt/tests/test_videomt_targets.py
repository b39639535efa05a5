"""Ground truth of clips: what becomes a target, in which frames, with which label, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from videomt.targets import FIELDS, clip_target, num_clip_targets
from videomt_samples import Instance, true_frame

SIZE, K = (4, 6), 3


def pixels(*places: tuple[int, int]) -> np.ndarray:
    """A mask with these (row, column)s."""
    mask = np.zeros(SIZE, bool)
    for place in places:
        mask[place] = True
    return mask


ONE, TWO, NONE = pixels((0, 0)), pixels((2, 3), (2, 4)), pixels()


def clip(*frames: list[Instance]) -> list[DetDataSample]:
    return [true_frame('film', t, SIZE, truth) for t, truth in enumerate(frames)]


@pytest.mark.parametrize('frames', [([],), ([], []), ([(7, 0, NONE)], []), ([(7, 0, NONE)], [(7, 0, NONE)])])
@pytest.mark.parametrize('by_appearance', [True, False])
def test_nothing_occurs(frames: tuple[list[Instance], ...], by_appearance: bool) -> None:
    found = clip_target(clip(*frames), K, SIZE, by_appearance)
    assert found.masks.shape == (len(frames), 0, *SIZE) and found.shown.shape == (len(frames), 0)
    assert len(found.labels) == len(found.first_frames) == num_clip_targets(clip(*frames)) == 0


def test_targets_come_and_go() -> None:
    """One target per id, whatever its place in a frame; an empty mask is as good as none."""
    frames = clip([(900, 1, ONE)], [(5, 2, TWO), (900, 1, NONE)], [], [(900, 1, TWO), (5, 2, ONE)])
    found = clip_target(frames, K, SIZE)
    assert found.labels.tolist() == [2, 1]  # of 5 and 900
    assert found.first_frames.tolist() == [1, 0]
    assert found.shown.tolist() == [[False, True], [True, False], [False, False], [True, True]]
    assert found.masks.dtype == torch.bool
    for t, expected in enumerate([(NONE, ONE), (TWO, NONE), (NONE, NONE), (ONE, TWO)]):
        assert np.array_equal(found.masks[t].numpy(), np.stack(expected))


def test_segments_and_classes_are_matched_in_the_first_frame() -> None:
    found = clip_target(clip([], [(5, 2, TWO)], [(5, 2, TWO), (6, 0, ONE)]), K, SIZE, by_appearance=False)
    assert found.first_frames.tolist() == [0, 0]
    assert found.shown.tolist() == [[False, False], [True, False], [True, True]]


def test_the_first_frame_that_shows_a_target_decides_its_label() -> None:
    frames = clip([(3, 0, NONE)], [(3, 1, ONE)], [(3, 2, ONE)])
    assert clip_target(frames, K, SIZE).labels.tolist() == [1]


def test_a_frame_may_be_repeated() -> None:
    """As in clips of videos that are shorter."""
    [frame] = clip([(3, 1, ONE)])
    found = clip_target([frame, frame], K, SIZE)
    assert found.masks[:, 0].sum().item() == 2 and found.first_frames.tolist() == [0]


def test_crowds_are_no_targets() -> None:
    frame = true_frame('film', 0, SIZE, [(1, 0, ONE)], crowds=[(2, 1, TWO)])
    assert clip_target([frame], K, SIZE).labels.tolist() == [0] and num_clip_targets([frame]) == 1


@pytest.mark.parametrize('kind', ['polygons', 'array', 'bytes', 'bools', 'floats', 'numpy ids'])
def test_masks_in_every_form(kind: str) -> None:
    square = np.zeros(SIZE, bool)
    square[1:3, 2:5] = True
    frames = clip([(1, 0, NONE), (4, 2, square)])
    expected, instances = clip_target(frames, K, SIZE), frames[0].gt_instances
    array = instances.masks.to_ndarray()
    other: dict[str, Any] = {
        'polygons': PolygonMasks([[np.array([0, 0, 0, 0, 0, 0.0])], [np.array([2, 1, 5, 1, 5, 3, 2, 3.0])]], *SIZE),
        'array': array,
        'bytes': torch.from_numpy(array),
        'bools': torch.from_numpy(array).bool(),
        'floats': torch.from_numpy(array).float(),
    }
    if kind in other:
        instances.masks = other[kind]
    else:
        instances.instances_ids = instances.instances_ids.int().numpy()
    found = clip_target(frames, K, SIZE)
    assert torch.equal(found.masks, expected.masks) and found.masks.any()
    assert torch.equal(found.labels, expected.labels) and num_clip_targets(frames) == 1


def test_masks_are_padded_at_the_bottom_and_the_right() -> None:
    found = clip_target(clip([(1, 0, TWO)], []), K, (8, 32))
    assert found.masks.shape == (2, 1, 8, 32)
    assert found.masks.nonzero().tolist() == [[0, 0, 2, 3], [0, 0, 2, 4]]


def test_masks_larger_than_the_input_are_refused() -> None:
    with pytest.raises(ValueError, match='4 x 6 pixels does not fit the input of 4 x 4'):
        clip_target(clip([(1, 0, TWO)]), K, (4, 4))


@pytest.mark.parametrize('missing', [*FIELDS, 'gt_instances'])
def test_frames_without_ground_truth_are_refused(missing: str) -> None:
    frames = clip([(1, 0, ONE)], [(1, 0, ONE)])
    if missing == 'gt_instances':
        del frames[1].gt_instances
    else:
        delattr(frames[1].gt_instances, missing)
    with pytest.raises(ValueError, match=r'/00001.jpg has no tracks .*labels, instances_ids, masks.*ann_file'):
        clip_target(frames, K, SIZE)
    assert num_clip_targets(frames) == 0


@pytest.mark.parametrize('label', [-1, K])
def test_labels_outside_the_classes_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf'00001.jpg holds label\(s\) \[{label}\], outside the 3 classes'):
        clip_target(clip([(1, 0, ONE)], [(1, 0, ONE), (2, label, TWO)]), K, SIZE)
    assert clip_target(clip([(1, 0, ONE), (2, label, NONE)]), K, SIZE).labels.tolist() == [0]


def test_an_id_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r'00001.jpg holds an id more than once among \[2, 5, 5\]'):
        clip_target(clip([], [(5, 0, ONE), (2, 1, ONE), (5, 0, TWO)]), K, SIZE)
    assert len(clip_target(clip([(5, 0, ONE), (5, 0, NONE)]), K, SIZE).labels) == 1  # only one of them is shown


@pytest.mark.parametrize('seed', range(5))
def test_random_clips(seed: int) -> None:
    """Against dictionaries of what frames hold; the number without making the target, too."""
    rng = np.random.default_rng(seed)
    labels = {id_: int(rng.integers(K)) for id_ in rng.choice(1000, 6, replace=False).tolist()}
    truth: list[dict[int, np.ndarray]] = []
    for _ in range(4):
        chosen = rng.permutation(list(labels))[: rng.integers(5)].tolist()
        truth.append({id_: rng.random(SIZE) < rng.choice([0, 0.3]) for id_ in chosen})
    frames = clip(*([(id_, labels[id_], mask) for id_, mask in frame.items()] for frame in truth))
    found = clip_target(frames, K, SIZE)
    ids = sorted({id_ for frame in truth for id_, mask in frame.items() if mask.any()})
    assert found.labels.tolist() == [labels[id_] for id_ in ids] and num_clip_targets(frames) == len(ids)
    masks = np.array([[frame.get(id_, NONE) for id_ in ids] for frame in truth]).reshape(4, len(ids), *SIZE)
    assert np.array_equal(found.masks.numpy(), masks)
    assert np.array_equal(found.shown.numpy(), masks.any((2, 3)))
    assert found.first_frames.tolist() == [next(t for t in range(4) if masks[t, n].any()) for n in range(len(ids))]


def test_only_what_is_needed_goes_to_the_device() -> None:
    """The forward pass is still running there: nothing may wait for it."""
    found = clip_target(clip([(1, 0, ONE)], [(2, 1, TWO)]), K, SIZE, device='meta')
    assert found.labels.device.type == found.masks.device.type == 'meta'
    assert found.first_frames.tolist() == [0, 1] and found.shown.tolist() == [[True, False], [False, True]]
