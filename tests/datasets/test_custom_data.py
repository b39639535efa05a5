"""The examples of docs/custom_data.md, run as they stand there (with fewer iterations)."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT
from tool_runs import metrics

from eomt_mm.synthetic.generate import main as generate

PAGE = (ROOT / 'docs' / 'custom_data.md').read_text()
EXAMPLES = dict(re.findall(r'`(configs/own/\w+\.py)`:\n\n```python\n(.*?)```', PAGE, flags=re.S))
METRICS = {'instance': 'coco/segm_mAP', 'panoptic': 'coco_panoptic/PQ', 'semantic': 'mIoU'}


@pytest.fixture(scope='module')
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's clone: configs, the examples, the generated data of the page."""
    folder = tmp_path_factory.mktemp('clone')
    (folder / 'configs' / 'own').mkdir(parents=True)
    (folder / 'configs' / 'eomt').symlink_to(ROOT / 'configs' / 'eomt')
    (block,) = re.findall(r'```bash\n(.*?)```', PAGE, flags=re.S)
    for command in block.strip().splitlines():
        words = shlex.split(command)
        assert words[:3] == ['python', '-m', 'eomt_mm.synthetic.generate']
        generate([words[3], str(folder / words[4]), '--num-train', '6', '--num-val', '2'])
    for name, text in EXAMPLES.items():
        (folder / name).write_text(text)
    return folder


def test_the_page_has_an_example_of_each_task() -> None:
    assert sorted(name.split('_')[-1] for name in EXAMPLES) == ['instance.py', 'panoptic.py', 'semantic.py']


@pytest.mark.parametrize('name', EXAMPLES)
def test_example_trains_and_evaluates(
    name: str, clone: Path, tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    task = Path(name).stem.split('_')[-1]
    short = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.num_workers=0']
    short += ['val_dataloader.num_workers=0', 'model.backbone.depth=3', 'train_dataloader.batch_size=2']
    tool('train.py', name, '--work-dir', tmp_path, '--cfg-options', *short)
    assert (tmp_path / 'iter_2.pth').is_file()
    assert METRICS[task] in metrics_of_training(tmp_path)
    tool(
        'test.py', name, tmp_path / 'iter_2.pth', '--work-dir', tmp_path / 'test', '--cfg-options',
        'test_dataloader.num_workers=0', 'model.backbone.depth=3',
    )  # fmt: skip
    assert METRICS[task] in metrics(tmp_path / 'test')


def metrics_of_training(work_dir: Path) -> str:
    return ''.join(file.read_text() for file in work_dir.glob('*/vis_data/scalars.json'))
