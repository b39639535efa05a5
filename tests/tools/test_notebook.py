"""The notebook runs from its first cell to its last, and is stored without outputs."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from paths import ROOT

from eomt_mm.apis import init_model
from eomt_mm.synthetic.generate import write_coco

NOTEBOOK = ROOT / 'docs' / 'notebooks' / 'quick_start.ipynb'
CONFIG = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert cells
    for cell in cells:
        ast.parse(cell.source)
        assert not cell.outputs
        assert cell.execution_count is None


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder like a clone after ``make demo``; the model is untrained, but sure of the class of each query."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    demo = tmp_path / 'work_dirs' / 'demo'
    write_coco(demo / 'data', num_train=1, num_val=3, size=(128, 160), progress=False)
    model = init_model(CONFIG)
    torch.nn.init.normal_(model.panoptic_head.class_predictor.weight, std=10)
    (demo / 'train').mkdir()
    meta = dict(dataset_meta=model.dataset_meta)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), demo / 'train' / 'iter_1.pth')
    (demo / 'train' / 'last_checkpoint').write_text('work_dirs/demo/train/iter_1.pth')
    return tmp_path


@pytest.mark.slow
def test_it_runs(notebook: nbformat.NotebookNode, clone: Path) -> None:
    NotebookClient(notebook, timeout=250, kernel_name='python3', resources=dict(metadata=dict(path=clone))).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    pictures = [output for output in outputs if 'image/png' in output.get('data', {})]
    assert len(pictures) == 3
    assert not [output.text for output in outputs if output.get('name') == 'stderr']
    assert (clone / 'work_dirs' / 'notebook' / 'preds' / 'panoptic_results.json').is_file()
