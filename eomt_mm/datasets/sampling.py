"""Order and augmentation of training samples as a function of the seed and the position in the run.

A run goes through positions 0, 1, 2, ... over all its processes. Position p holds one sample of epoch p // N. Which
sample that is, and how it is augmented, depends only on the seed and p, not on workers, processes, batch sizes or
earlier samples. A resumed run therefore continues at its position without loading the samples before it.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.registry import DATASETS
from torch.utils.data import Dataset, Sampler

Key = tuple[int, int]  # position, index of the sample in the data set
# What a seed is used for, so that position 7, step 7 and epoch 7 draw different random numbers.
ORDER, SAMPLE, STEP = range(3)
TRANSLATED_SAMPLERS = ('InfiniteSampler', 'DefaultSampler')


def seed_generators(*key: int, devices: bool = False) -> None:
    """Seed the global generators of numpy, Python and torch's CPU from a key of non-negative integers.

    Args:
        key: equal keys give equal random numbers, different keys give independent ones.
        devices: also seed torch's generators of accelerators.
    """
    words = np.random.SeedSequence(key).generate_state(8)
    np.random.seed(words[:4])
    random.seed(words[4:6].tobytes())
    torch_seed = int(words[6])
    if devices:
        torch.manual_seed(torch_seed)
    else:
        torch.default_generator.manual_seed(torch_seed)


@contextmanager
def sample_randomness(seed: int, position: int) -> Iterator[None]:
    """Seed the CPU's global generators for a position within the context, and restore them afterwards."""
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    seed_generators(SAMPLE, seed, position)
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])


class SeededDataset(Dataset[Any]):
    """Data set wrapper that takes (position, index) and loads the sample with the random seed of that position.

    Plain indices and attributes (``metainfo``, ``pipeline``, ...) are passed to the wrapped data set.

    Args:
        dataset: a data set or its config.
        seed: of the run; may be set until the workers start.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | Key) -> Any:
        if not isinstance(key, tuple):
            return self.dataset[key]
        position, index = key
        with sample_randomness(self.seed, position):
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # asked while a worker unpickles, or by torch and Python
            raise AttributeError(f'{type(self).__name__} has no attribute {name!r}')
        return getattr(self.dataset, name)


class PositionSampler(Sampler[Key]):
    """Endless sampler of (position, index): of W processes, process r takes every W-th position, starting at r.

    Args:
        dataset: only its length N is used.
        seed: of the run, the same in every process.
        shuffle: draw a permutation per epoch; otherwise use the data set's own order.
        start: number of samples that the run has already seen, over all processes.

    Raises:
        ValueError: the data set is empty.
    """

    def __init__(self, dataset: Any, seed: int | None = None, shuffle: bool = True, start: int = 0) -> None:
        self.size = len(dataset)
        if not self.size:
            raise ValueError('the training data set is empty: check its data_root, ann_file, data_prefix, filter_cfg')
        self.seed = seed or 0
        self.shuffle = shuffle
        self.start = start
        self.rank, self.world_size = get_dist_info()

    def __len__(self) -> int:
        """Number of samples of this process in an epoch, rounded up; the iteration itself is endless."""
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[Key]:
        order, order_epoch = np.arange(self.size), -1
        for position in itertools.count(self.start + self.rank, self.world_size):
            epoch, place = divmod(position, self.size)
            if self.shuffle and epoch != order_epoch:
                order, order_epoch = self.permutation(epoch), epoch
            yield position, int(order[place])

    def permutation(self, epoch: int) -> np.ndarray:
        """Order of the indices in an epoch, (N,)."""
        return np.random.default_rng((ORDER, self.seed, epoch)).permutation(self.size)


def by_position(dataloader: Any) -> dict[str, Any]:
    """Convert the config of a training loader to a :class:`SeededDataset` and a :class:`PositionSampler`.

    Args:
        dataloader: mmengine's config, with an InfiniteSampler or a DefaultSampler; its ``shuffle`` is kept.

    Raises:
        TypeError: the loader is already built.
        ValueError: an option is not supported with samples by position.
    """
    hint = "or use mmengine's loop: train_cfg.type='IterBasedTrainLoop'"
    if not isinstance(dataloader, Mapping):
        raise TypeError(
            f'train_dataloader is a {type(dataloader).__name__}: eomt_mm.TrainLoop builds the loader itself; give its '
            f'config, {hint}'
        )
    for name in ('batch_sampler', 'num_batch_per_epoch'):
        if dataloader.get(name) is not None:
            raise ValueError(
                f'train_dataloader.{name}={dataloader[name]}: eomt_mm.TrainLoop draws samples by their position in '
                f'the run, one by one; leave it out, {hint}'
            )
    sampler = {'type': 'InfiniteSampler', **(dataloader.get('sampler') or {})}
    kind = sampler['type'] if isinstance(sampler['type'], str) else sampler['type'].__name__
    unknown = sorted(set(sampler) - {'type', 'shuffle', 'round_up', '_scope_'})
    if kind.rpartition('.')[2] not in TRANSLATED_SAMPLERS or unknown:
        raise ValueError(
            f'train_dataloader.sampler={dict(sampler)}: eomt_mm.TrainLoop takes {" or ".join(TRANSLATED_SAMPLERS)} '
            f'with shuffle (the seed is randomness.seed), {hint}'
        )
    return dict(
        dataloader,
        dataset=dict(type=SeededDataset, dataset=dataloader['dataset']),
        sampler=dict(type=PositionSampler, shuffle=sampler.get('shuffle', True)),
    )
