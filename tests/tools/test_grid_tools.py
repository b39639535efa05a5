"""Leaves of the grid through tools/, from official files or zips of them to files for the benchmark servers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from tool_runs import metrics, shrunk

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS
from eomt_mm.synthetic.generate import write_cityscapes

CONFIGS = ROOT / 'configs' / 'eomt'


@pytest.fixture(scope='module')
def cityscapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('cityscapes') / 'root'
    return write_cityscapes(root, num_train=4, num_val=2, size=(64, 128), progress=False)


def run(tool: Callable, leaf: str, root: Path, work_dir: Path) -> dict[str, float]:
    """Two steps of training, then a test that writes results to ``work_dir / 'out'``."""
    task = leaf.split('-')[-2]
    common = ['--data-root', root, '--work-dir', work_dir, '--cfg-options', *shrunk(task), 'load_from=None']
    tool('train.py', CONFIGS / f'{leaf}.py', *common)
    tool('test.py', CONFIGS / f'{leaf}.py', work_dir / 'iter_2.pth', '--out', work_dir / 'out', *common)
    return metrics(work_dir)


def test_cityscapes_semantic_writes_label_ids(tool: Callable, cityscapes_root: Path, tmp_path: Path) -> None:
    found = run(tool, 'cityscapes/eomt_dinov2-s_107e_cityscapes-semantic-1024', cityscapes_root, tmp_path)
    assert 0 <= found['mIoU'] <= 100
    files = sorted((tmp_path / 'out').rglob('*.png'))
    assert len(files) == 2
    for file in files:
        values = np.asarray(Image.open(file))
        assert values.shape == (64, 128)
        assert set(np.unique(values)) <= set(CITYSCAPES_LABEL_IDS.values())


def test_cityscapes_instance_writes_text_and_masks(tool: Callable, cityscapes_root: Path, tmp_path: Path) -> None:
    found = run(tool, 'cityscapes/eomt_dinov3-s_107e_cityscapes-instance-1024', cityscapes_root, tmp_path)
    assert {'cityscapes/mAP', 'coco/segm_mAP'} <= found.keys()
    texts = sorted((tmp_path / 'out').rglob('*_pred.txt'))
    assert len(texts) == 2
    line = texts[0].read_text().splitlines()[0].split()
    assert Image.open(texts[0].parent / line[0]).size == (128, 64)
    assert 24 <= int(line[1]) <= 33 and 0 <= float(line[2]) <= 1


def test_cityscapes_panoptic_writes_the_ids_of_its_evaluation(
    tool: Callable, cityscapes_root: Path, tmp_path: Path
) -> None:
    found = run(tool, 'cityscapes/eomt_dinov2-s_107e_cityscapes-panoptic-1024', cityscapes_root, tmp_path)
    assert 'coco_panoptic/PQ' in found
    written = json.loads((tmp_path / 'out' / 'panoptic_results.json').read_text())
    assert [len(a['image_id'].split('_')) for a in written['annotations']] == [3, 3]  # city, sequence, frame


def test_ade20k_from_one_zip_as_downloaded(tool: Callable, ade20k_root: Path, tmp_path: Path) -> None:
    top = tmp_path / 'tree' / 'ADEChallengeData2016'
    shutil.copytree(ade20k_root, top)
    shutil.make_archive(str(tmp_path / 'zips' / 'ADEChallengeData2016'), 'zip', top.parent, top.name)
    shutil.rmtree(top.parent)
    found = run(tool, 'ade20k/eomt_dinov3-s_31e_ade20k-instance-640', tmp_path / 'zips', tmp_path / 'work')
    assert 'coco/segm_mAP' in found
    assert (tmp_path / 'work' / 'out' / 'instance_results.json').is_file()
