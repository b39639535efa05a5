"""The examples of docs/custom_data.md and docs/first_dataset.md, run as they stand there (with fewer iterations)."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT
from tool_runs import metrics

from eomt_mm.synthetic.generate import main as generate

PAGES = [(ROOT / 'docs' / name).read_text() for name in ('custom_data.md', 'first_dataset.md')]
EXAMPLES = {
    name: text
    for page in PAGES
    for name, text in re.findall(r'`configs/own/(\w+)\.py`:\n\n```python\n(.*?)```', page, flags=re.S)
}
METRICS = dict(
    shapes_instance='coco/segm_mAP', shapes_panoptic='coco_panoptic/PQ', streets_semantic='mIoU', camvid='mIoU'
)


@pytest.fixture(scope='module')
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's clone: configs, the examples, the generated data of the page."""
    folder = tmp_path_factory.mktemp('clone')
    (folder / 'configs' / 'own').mkdir(parents=True)
    (folder / 'configs' / 'eomt').symlink_to(ROOT / 'configs' / 'eomt')
    blocks = re.findall(r'```bash\n(.*?)```', ''.join(PAGES), flags=re.S)
    for command in ''.join(blocks).strip().splitlines():
        words = shlex.split(command)
        assert words[:3] == ['python', '-m', 'eomt_mm.synthetic.generate']
        generate([words[3], str(folder / words[4]), '--num-train', '6', '--num-val', '2'])
    for name, text in EXAMPLES.items():
        (folder / 'configs' / 'own' / f'{name}.py').write_text(text)
    return folder


def test_every_example_is_run() -> None:
    assert EXAMPLES.keys() == METRICS.keys() | {'facades'}  # in test_exports.py


@pytest.mark.parametrize('name', METRICS)
def test_example_trains_and_evaluates(
    name: str, clone: Path, tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    config = f'configs/own/{name}.py'
    short = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.num_workers=0']
    short += ['val_dataloader.num_workers=0', 'model.backbone.depth=3', 'train_dataloader.batch_size=2']
    tool('train.py', config, '--work-dir', tmp_path, '--cfg-options', *short)
    assert (tmp_path / 'iter_2.pth').is_file()
    assert METRICS[name] in metrics_of_training(tmp_path)
    tool(
        'test.py', config, tmp_path / 'iter_2.pth', '--work-dir', tmp_path / 'test', '--cfg-options',
        'test_dataloader.num_workers=0', 'model.backbone.depth=3',
    )  # fmt: skip
    assert METRICS[name] in metrics(tmp_path / 'test')


def metrics_of_training(work_dir: Path) -> str:
    return ''.join(file.read_text() for file in work_dir.glob('*/vis_data/scalars.json'))
