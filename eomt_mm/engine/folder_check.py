"""Check the folders of the hosts' data sets before training and testing."""

from typing import Any

from mmengine.hooks import Hook

from eomt_mm.datasets.host_folders import check_host_folders
from eomt_mm.engine.query_limit import datasets_in
from eomt_mm.registry import HOOKS


@HOOKS.register_module()
class FolderCheckHook(Hook):
    """Report images that mmseg's own data sets leave out; see `check_host_folders`. Our data sets do so themselves."""

    def before_train(self, runner: Any) -> None:
        """Check the data of training and validation."""
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            self._check(loader)

    def before_test(self, runner: Any) -> None:
        """Check the data to test on."""
        self._check(runner.test_dataloader)

    def _check(self, loader: Any) -> None:
        for dataset in datasets_in(loader.dataset):
            check_host_folders(dataset)
