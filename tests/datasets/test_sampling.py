"""Order and randomness of training samples: from seed and position, and from nothing else."""

import itertools
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from drawing import Drawing
from torch.utils.data import DataLoader

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.datasets.sampling import (
    ORDER,
    SAMPLE,
    STEP,
    Key,
    PositionSampler,
    SeededDataset,
    by_position,
    seed_generators,
)


def take(sampler: PositionSampler, number: int) -> list[Key]:
    return list(itertools.islice(sampler, number))


def sampler_of(rank: int, world_size: int, size: int = 5, **kwargs: Any) -> PositionSampler:
    sampler = PositionSampler(Drawing(size), **kwargs)
    sampler.rank, sampler.world_size = rank, world_size
    return sampler


def numbers() -> tuple[float, float, float]:
    return Drawing()[0][1:]


# ---- order


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('size', [1, 2, 7])
def test_every_epoch_shows_each_sample_once(size: int, shuffle: bool) -> None:
    keys = take(sampler_of(0, 1, size, shuffle=shuffle), 4 * size)
    assert [position for position, _ in keys] == list(range(4 * size))
    for epoch in range(4):
        indices = [index for _, index in keys[epoch * size : (epoch + 1) * size]]
        assert sorted(indices) == list(range(size))
        assert shuffle or indices == list(range(size))


@pytest.mark.parametrize('world_size', [2, 3, 8])
@pytest.mark.parametrize('start', [0, 3, 24])
def test_processes_share_out_the_positions_of_one_process(world_size: int, start: int) -> None:
    """Also where the start is no multiple of the processes, and where they are more than the samples."""
    shares = [take(sampler_of(rank, world_size, start=start), 6) for rank in range(world_size)]
    together = [key for step in zip(*shares, strict=True) for key in step]
    assert together == take(sampler_of(0, 1, start=start), 6 * world_size)
    assert [position for position, _ in together] == list(range(start, start + 6 * world_size))


@pytest.mark.parametrize('start', [1, 5, 13])
def test_start_goes_on_where_another_run_was(start: int) -> None:
    assert take(sampler_of(0, 1, start=start), 20) == take(sampler_of(0, 1), start + 20)[start:]


def test_permutations_differ_by_epoch_and_seed() -> None:
    permutations = [tuple(sampler_of(0, 1, 50, seed=seed).permutation(epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(permutations)) == 6
    assert permutations[:3] == [tuple(sampler_of(1, 4, 50, seed=0).permutation(epoch)) for epoch in (0, 1, 2)]


@pytest.mark.parametrize('size, world_size, share', [(5, 1, 5), (5, 2, 3), (4, 2, 2), (5, 8, 1)])
def test_length_is_the_share_of_an_epoch(size: int, world_size: int, share: int) -> None:
    assert len(sampler_of(0, world_size, size)) == share


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match='data set is empty: check its data_root, ann_file'):
        PositionSampler(Drawing(0))


# ---- randomness


def test_sample_follows_from_seed_and_position() -> None:
    dataset = SeededDataset(Drawing(), seed=3)
    first = dataset[7, 2]
    assert first[0] == 2
    np.random.rand(), random.random(), torch.rand(1), dataset[8, 2]
    assert dataset[7, 2] == first
    others = [dataset[8, 2], SeededDataset(Drawing(), seed=4)[7, 2]]
    assert all(a != b for other in others for a, b in zip(other[1:], first[1:], strict=True))


@pytest.mark.parametrize('index', [2, 99])
def test_generators_of_the_process_are_as_before(index: int) -> None:
    """After an error of the sample, too."""
    seed_generators(STEP, 5)
    expected = numbers()
    seed_generators(STEP, 5)
    try:
        SeededDataset(Drawing())[7, index]
    except IndexError:
        assert index == 99
    assert numbers() == expected


@pytest.mark.parametrize('batch_size', [2, 3])
def test_samples_do_not_depend_on_workers_and_batches(batch_size: int) -> None:
    dataset, total = SeededDataset(Drawing(), seed=1), 12
    expected = [dataset[key] for key in take(sampler_of(0, 1, seed=1), total)]
    for workers in (0, 2):
        loader = DataLoader(
            dataset, batch_size, sampler=sampler_of(0, 1, seed=1), num_workers=workers, collate_fn=list
        )  # fmt: skip
        batches = itertools.islice(loader, total // batch_size)
        assert [sample for batch in batches for sample in batch] == expected


def test_keys_share_no_randomness() -> None:
    seen = []
    for key in [(ORDER, 0, 7), (SAMPLE, 0, 7), (STEP, 0, 7), (STEP, 0, 7, 1), (STEP, 7, 0), (STEP, 0, 8)]:
        seed_generators(*key)
        seen.append(numbers())
    assert all(len(set(column)) == len(seen) for column in zip(*seen, strict=True))


def test_samples_leave_generators_of_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With num_workers=0 they are drawn in the training process."""
    seeded: list[int] = []
    monkeypatch.setattr(torch, 'manual_seed', seeded.append)
    SeededDataset(Drawing())[7, 2]
    assert not seeded
    seed_generators(STEP, 5, devices=True)
    assert len(seeded) == 1


def test_wrapped_data_set_stays_reachable() -> None:
    dataset = pickle.loads(pickle.dumps(SeededDataset(Drawing(), seed=3)))
    assert (dataset.metainfo, dataset.size, len(dataset), dataset.seed) == (Drawing.metainfo, 5, 5, 3)
    assert dataset[2][0] == 2
    assert not hasattr(dataset, 'full_init') and not hasattr(dataset, '__getitems__')


# ---- config


@pytest.mark.parametrize('kind', ['InfiniteSampler', 'mmengine.InfiniteSampler', 'DefaultSampler'])
@pytest.mark.parametrize('stated, shuffle', [({}, True), (dict(shuffle=True), True), (dict(shuffle=False), False)])
def test_samplers_by_epoch_and_without_end_are_translated(kind: str, stated: dict[str, Any], shuffle: bool) -> None:
    given = dict(dataset=dict(type='X'), batch_size=4, num_workers=2, sampler=dict(type=kind, **stated))
    config = by_position(given)
    assert config.pop('sampler') == dict(type=PositionSampler, shuffle=shuffle)
    assert config == dict(dataset=dict(type=SeededDataset, dataset=dict(type='X')), batch_size=4, num_workers=2)
    assert given['sampler'] == dict(type=kind, **stated)


@pytest.mark.parametrize(
    'part, text',
    [
        (dict(sampler=dict(type='mmdet.ClassAwareSampler')), r'sampler=.*ClassAwareSampler.* takes InfiniteSampler or'),
        (dict(sampler=dict(type='InfiniteSampler', seed=3)), r'the seed is randomness\.seed'),
        (dict(batch_sampler=dict(type='mmdet.AspectRatioBatchSampler')), 'train_dataloader.batch_sampler='),
        (dict(num_batch_per_epoch=3), 'num_batch_per_epoch=3'),
    ],
)
def test_what_has_no_meaning_by_position_is_refused(part: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as error:
        by_position(dict(dataset=dict(type='X'), batch_size=4, **part))
    assert "train_cfg.type='IterBasedTrainLoop'" in str(error.value)


def test_built_loader_is_refused() -> None:
    with pytest.raises(TypeError, match='train_dataloader is a DataLoader: .* give its config'):
        by_position(DataLoader(Drawing()))
