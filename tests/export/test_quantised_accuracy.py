"""INT8 on a model that has learned something: its panoptic quality, from training to the evaluation of the files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tool_runs import CONFIGS, METRIC, metrics

from eomt_mm.synthetic.generate import write_coco

POINTS = 1.0  # that INT8 may cost, of 100


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_int8_keeps_the_panoptic_quality(tool: Callable[..., None], tmp_path: Path) -> None:
    write_coco(tmp_path / 'coco', num_train=100, num_val=40)
    config, data, weights = CONFIGS['panoptic'], ['--data-root', tmp_path / 'coco'], tmp_path / 'train' / 'iter_120.pth'
    short = ['--cfg-options', 'train_cfg.max_iters=120', 'train_dataloader.batch_size=4']
    tool('train.py', config, *data, '--work-dir', weights.parent, *short)
    calibration = ['--quantize', 'int8', '--calibration', tmp_path / 'coco' / 'train2017', '--samples', 40]
    files = {
        'float.onnx': [],
        'int8.onnx': calibration,
        'int8.xml': ['--format', 'openvino', *calibration],
    }
    measured = {}
    for name, words in files.items():
        tool('export.py', config, weights, '--out', tmp_path / name, *words)
        tool('test.py', config, tmp_path / name, *data, '--work-dir', tmp_path / f'tested_{name}')
        measured[name] = metrics(tmp_path / f'tested_{name}')[METRIC['panoptic']]
    tool('test.py', config, weights, *data, '--work-dir', tmp_path / 'tested')
    trained = metrics(tmp_path / 'tested')[METRIC['panoptic']]
    assert trained > 40
    assert measured['float.onnx'] == pytest.approx(trained, abs=0.1)
    assert min(measured['int8.onnx'], measured['int8.xml']) > trained - POINTS, measured
