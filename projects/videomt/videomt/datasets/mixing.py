"""Mix several data sets with equal shares of the samples."""

from collections.abc import Sequence
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset

from eomt_mm.registry import DATASETS


@DATASETS.register_module()
class MixedClips(Dataset[Any]):
    """Mix data sets 1 : 1, whatever their sizes: in an epoch, each gives as many samples as the largest has.

    For K data sets, of which the largest has N samples, the mix has K * N samples: index i is sample (i // K) mod n of
    data set i mod K, where n is that data set's size. In shuffled order, every sample is from each data set with
    probability 1 / K.

    Args:
        datasets: data sets or their configs, with the same classes.

    Raises:
        ValueError: there is no data set, one is empty, or their classes differ.
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
        """Metainfo of the first data set."""
        found: dict[str, Any] = self.datasets[0].metainfo
        return found

    def full_init(self) -> None:
        """Read the annotation files of data sets with ``lazy_init``."""
        for each in self.datasets:
            each.full_init()

    def __len__(self) -> int:
        return len(self.datasets) * max(len(each) for each in self.datasets)

    def __getitem__(self, index: int) -> Any:
        turn, place = index % len(self.datasets), index // len(self.datasets)
        each = self.datasets[turn]
        return each[place % len(each)]
