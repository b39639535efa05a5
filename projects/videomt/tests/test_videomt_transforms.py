"""Augmentation is the same for all frames of a clip, pictures and masks move together, empty clips are told."""

from typing import Any

import numpy as np
import pytest
import videomt.datasets  # noqa: F401  registers
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from videomt.datasets.run_lengths import CompressMasks
from videomt.datasets.transforms import PackClip, RotateIntoClip, _stacked

SIZE = (40, 60)
# The published augmentation, for small pictures.
AUGMENTATION = [
    dict(
        type='RandomApply',
        prob=0.5,
        transforms=[
            dict(
                type='RandomChoiceResize',
                scales=[40, 50, 60],
                resize_type='mmdet.ResizeShortestEdge',
                max_size=133,
                backend='pillow',
            ),
            dict(type='eomt_mm.CropFrame', crop_size=(24, 40)),
        ],
    ),
    dict(
        type='RandomChoiceResize',
        scales=[32, 48, 64],
        resize_type='mmdet.ResizeShortestEdge',
        max_size=77,
        backend='pillow',
    ),
    dict(type='RandomFlip', prob=0.5),
]


def clip(num_frames: int, masks_of: Any = None) -> dict[str, Any]:
    """A clip whose pictures show their own masks in white: two squares, the second in the odd frames only."""
    results: dict[str, Any] = {
        key: [] for key in ('img', 'gt_masks', 'gt_bboxes_labels', 'gt_instances_ids', 'gt_ignore_flags')
    }
    for frame in range(num_frames):
        masks = np.zeros((1 + frame % 2, *SIZE), np.uint8)
        masks[0, 8:22, 12:30] = 1
        masks[1:, 26:36, 36:52] = 1
        if masks_of is not None:
            masks = masks_of(masks)
        results['img'].append(255 * masks.any(axis=0).astype(np.uint8)[..., None].repeat(3, axis=2))
        results['gt_masks'].append(BitmapMasks(list(masks), *SIZE))
        results['gt_bboxes_labels'].append(np.arange(len(masks)))
        results['gt_instances_ids'].append(10 + np.arange(len(masks), dtype=np.int32))
        results['gt_ignore_flags'].append(np.zeros(len(masks), bool))
    numbers = list(range(num_frames))
    common = dict(img_id=numbers, frame_id=numbers, img_path=['x.jpg'] * num_frames, video_id=['v'] * num_frames)
    shapes = dict(img_shape=[SIZE] * num_frames, ori_shape=[SIZE] * num_frames, video_length=[num_frames] * num_frames)
    return {**results, **common, **shapes}


def augment(results: dict[str, Any], seed: int, share: bool = True) -> dict[str, Any]:
    init_default_scope('mmdet')
    np.random.seed(seed)
    steps = Compose([dict(type='TransformBroadcaster', share_random_params=share, transforms=AUGMENTATION)])
    found: dict[str, Any] = steps(results)
    return found


def disagreement(image: np.ndarray, masks: BitmapMasks) -> float:
    """Share of pixels that are white without a mask, or have one and are not white."""
    shown = masks.masks.any(axis=0) if len(masks) else np.zeros(image.shape[:2], bool)
    return float(np.mean((image[..., 0] > 127) != shown))


@pytest.mark.parametrize('seed', range(6))
def test_all_frames_share_their_random_parameters(seed: int) -> None:
    found = augment(clip(4), seed)
    assert len({image.shape for image in found['img']}) == 1
    for first, second in ((0, 2), (1, 3)):  # equal before
        np.testing.assert_array_equal(found['img'][first], found['img'][second])
        np.testing.assert_array_equal(found['gt_masks'][first].masks, found['gt_masks'][second].masks)
    np.testing.assert_array_equal(found['gt_masks'][0].masks[0], found['gt_masks'][1].masks[0])
    for image, masks, ids in zip(found['img'], found['gt_masks'], found['gt_instances_ids'], strict=True):
        assert masks.masks.shape == (len(ids), *image.shape[:2])
        assert disagreement(image, masks) < 0.08  # edges: bilinear against nearest
    assert found['gt_instances_ids'][1].tolist() == [10, 11]


def test_unshared_parameters_would_be_seen() -> None:
    """The test above can fail: without sharing, frames differ."""
    found = [augment(clip(4), seed, share=False) for seed in range(6)]
    assert any(not np.array_equal(one['img'][0], one['img'][2]) for one in found)


def test_augmentation_varies_and_follows_from_the_seed() -> None:
    shapes = {augment(clip(2), seed)['img'][0].shape for seed in range(12)}
    assert len(shapes) > 4
    np.testing.assert_array_equal(augment(clip(2), 5)['img'][1], augment(clip(2), 5)['img'][1])


def test_crop_sizes_are_within_range_and_small_frames_stay() -> None:
    init_default_scope('mmdet')
    crop = Compose([dict(type='TransformBroadcaster', share_random_params=True, transforms=[
        dict(type='eomt_mm.CropFrame', crop_size=(24, 45))])])  # fmt: skip
    sizes = []
    for seed in range(60):
        np.random.seed(seed)
        found = crop(clip(2))
        sizes.append(found['img'][0].shape[:2])
        assert found['img_shape'] == [sizes[-1]] * 2
        assert disagreement(found['img'][1], found['gt_masks'][1]) == 0
    heights, widths = np.array(sizes).T
    assert (heights.min(), heights.max()) == (24, 40)  # no higher than the picture
    assert widths.min() >= 24 and widths.max() <= 45 and widths.max() > 40


def test_cropped_away_instances_keep_ids_and_have_empty_masks() -> None:
    init_default_scope('mmdet')
    crop = Compose([dict(type='TransformBroadcaster', share_random_params=True, transforms=[
        dict(type='eomt_mm.CropFrame', crop_size=(8, 8))])])  # fmt: skip
    np.random.seed(0)
    found = crop(clip(2))
    assert [len(masks) for masks in found['gt_masks']] == [1, 2] == [len(ids) for ids in found['gt_instances_ids']]


def test_frames_without_instances_pass() -> None:
    found = augment(clip(2, masks_of=lambda masks: masks[:0]), seed=1)
    assert all(
        masks.masks.shape == (0, *image.shape[:2]) for masks, image in zip(found['gt_masks'], found['img'], strict=True)
    )
    np.random.seed(0)
    rotated = RotateIntoClip(3)(clip(1, masks_of=lambda masks: masks[:0]))
    assert [masks.masks.shape for masks in rotated['gt_masks']] == [(0, *SIZE)] * 3


@pytest.mark.parametrize('seed', range(4))
def test_rotation_turns_steadily_about_one_centre(seed: int) -> None:
    np.random.seed(seed)
    found = RotateIntoClip(5)(bar())
    assert {len(values) for values in found.values()} == {5}
    assert found['frame_id'] == list(range(5)) and found['video_length'] == [5] * 5
    assert [ids.tolist() for ids in found['gt_instances_ids']] == [[10]] * 5
    for image, masks in zip(found['img'], found['gt_masks'], strict=True):
        assert disagreement(image, masks) < 0.03
    angles = [_orientation(masks.masks[0]) for masks in found['gt_masks']]
    steps = np.diff(angles)
    assert np.all(steps > -0.5) or np.all(steps < 0.5)  # degrees of pixel noise
    assert max(map(abs, angles)) < 16 and np.ptp(angles) > 1


def bar() -> dict[str, Any]:
    """One picture of a long bar, whose direction is well defined."""

    def draw(masks: np.ndarray) -> np.ndarray:
        masks[:] = 0
        masks[0, 18:22, 10:50] = 1
        return masks

    return clip(1, masks_of=draw)


def _orientation(mask: np.ndarray) -> float:
    """Angle of the long axis of a mask against the horizontal, degrees."""
    y, x = np.nonzero(mask)
    vectors = np.linalg.eigh(np.cov(x, y))[1]
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    return float((angle + 90) % 180 - 90)


def test_rotation_goes_either_way_and_without_angle_repeats() -> None:
    signs = set()
    for seed in range(12):
        np.random.seed(seed)
        masks = RotateIntoClip(5)(bar())['gt_masks']
        signs.add(np.sign(_orientation(masks[-1].masks[0]) - _orientation(masks[0].masks[0])))
    assert signs == {-1.0, 1.0}
    still = RotateIntoClip(3, max_angle=0)(clip(1))
    assert all(np.array_equal(image, clip(1)['img'][0]) for image in still['img'])


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(num_frames=0), 'num_frames=0'),
    (dict(max_angle=-1), 'max_angle=-1'),
    (dict(centre_range=(0.6, 0.4)), r'centre_range=\(0.6, 0.4\)'),
])  # fmt: skip
def test_rotation_checks_its_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RotateIntoClip(**arguments)


def test_rotation_refuses_videos() -> None:
    with pytest.raises(ValueError, match='this one has 2 frames'):
        RotateIntoClip(3)(clip(2))


def test_pack_gives_what_the_model_takes() -> None:
    packed = PackClip(needs_target=True)(clip(3))
    assert packed['inputs'].shape == (3, 3, *SIZE)
    samples = packed['data_samples'].video_data_samples
    assert [sample.gt_instances.instances_ids.tolist() for sample in samples] == [[10], [10, 11], [10]]
    assert [sample.metainfo['frame_id'] for sample in samples] == [0, 1, 2]
    assert 'instances' not in samples[0].metainfo  # raw annotations stay behind


def test_pack_drops_clips_without_target_only_when_asked() -> None:
    empty = dict(masks_of=np.zeros_like)
    assert PackClip(needs_target=True)(clip(2, **empty)) is None
    assert PackClip(needs_target=True)(clip(2, masks_of=lambda masks: masks[:0])) is None
    assert PackClip()(clip(2, **empty)) is not None
    crowds = clip(2)
    crowds['gt_ignore_flags'] = [np.ones_like(flags) for flags in crowds['gt_ignore_flags']]
    assert PackClip(needs_target=True)(crowds) is None


def test_pack_names_a_video_of_several_sizes() -> None:
    results = clip(2)
    results['img'][1] = results['img'][1][:-1]
    with pytest.raises(ValueError, match=r'frames of video v have sizes \[\(39, 60\), \(40, 60\)\]'):
        PackClip()(results)


@pytest.mark.parametrize('count', [0, 1, 3])
def test_compressed_masks_are_read_as_dense_ones(count: int) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (count, *SIZE), dtype=np.uint8)
    dense = BitmapMasks(list(masks), *SIZE)
    found = CompressMasks().transform(dict(gt_masks=dense))['gt_masks']
    chosen = np.arange(count)[::-1][:2]
    assert len(found) == count and len(found[chosen]) == min(count, 2)
    np.testing.assert_array_equal(found.to_ndarray(), masks)
    np.testing.assert_array_equal(found[chosen].to_ndarray(), dense[chosen].to_ndarray())
    assert found.to_ndarray().dtype == np.uint8


def test_frames_without_masks_pass_compression() -> None:
    assert CompressMasks().transform(dict(img=1)) == dict(img=1)


def test_packing_gives_frames_up_as_it_copies_them() -> None:
    images = [np.full((4, 6, 3), number, np.uint8)[:, ::-1] for number in range(3)]  # as flips leave them
    clip = _stacked(images)
    assert images == [None] * 3
    assert clip.shape == (3, 3, 4, 6) and [int(frame.max()) for frame in clip] == [0, 1, 2]
