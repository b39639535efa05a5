"""Several data sets in one, each with the same share of the samples."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset

from eomt_mm.registry import DATASETS


@DATASETS.register_module()
class MixedClips(Dataset[Any]):
    """Mix data sets 1 : 1 for any sizes: in an epoch each gives as many samples as the largest has.

    Of K data sets, the largest of N samples, this one has K N: index i is sample (i // K) mod its own size of data set
    i mod K. In a shuffled order, every sample is from each data set with probability 1 / K.

    Args:
        datasets: two or more, or their configs; of the same classes.

    Raises:
        ValueError: there is none, one is empty, or their classes differ.
    """

    def __init__(self, datasets: Sequence[Any]) -> None:
        if not datasets:
            raise ValueError('datasets=[]: name the data sets to mix')
        self.datasets = [MMENGINE_DATASETS.build(each) if isinstance(each, dict) else each for each in datasets]
        first = self.datasets[0]
        for each in self.datasets:
            if not len(each):
                raise ValueError(f'{type(each).__name__} is empty: check its data_root, ann_file and filter_cfg')
            if tuple(each.metainfo['classes']) != tuple(first.metainfo['classes']):
                raise ValueError(
                    f'{type(each).__name__} has {len(each.metainfo["classes"])} classes, {type(first).__name__} '
                    f'{len(first.metainfo["classes"])}, or in another order: give both the same metainfo, CocoClips '
                    'the right target'
                )

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the first data set."""
        found: dict[str, Any] = self.datasets[0].metainfo
        return found

    def full_init(self) -> None:
        """Reads the annotation files of data sets with ``lazy_init``."""
        for each in self.datasets:
            each.full_init()

    def __len__(self) -> int:
        return len(self.datasets) * max(len(each) for each in self.datasets)

    def __getitem__(self, index: int) -> Any:
        turn, place = index % len(self.datasets), index // len(self.datasets)
        each = self.datasets[turn]
        return each[place % len(each)]
