"""Inputs that are not square, by one override: configs, geometry, training step, evaluation, export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tool_runs import CONFIGS, HEAD, METRIC, metrics, shrunk, small

from eomt_mm.apis import EoMTInferencer, init_model, load_config
from eomt_mm.apis.exporting import network_of
from eomt_mm.options import read_options

SIZE = (64, 128)


def options(task: str) -> dict[str, Any]:
    return {**(read_options(shrunk(task)) or {}), 'img_size': SIZE}


@pytest.mark.parametrize('task', CONFIGS)
def test_every_part_follows_one_override(task: str) -> None:
    cfg = load_config(CONFIGS[task], options(task))
    model: Any = init_model(cfg)
    assert model.backbone.vit.patch_embed.grid_size == (4, 8) and model.data_preprocessor.img_size == SIZE
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline):
        assert [step.img_size for step in pipeline if 'img_size' in step] == [SIZE]
    images = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    network = network_of(model)
    expected = model((images - network.mean) / network.std, mode='tensor')
    assert network.size == SIZE
    for found, (logits,) in zip(network(images), expected, strict=True):
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    with pytest.warns(UserWarning, match='no checkpoint'):
        inferencer = EoMTInferencer(cfg, device='cpu')
    for size in ((50, 40), (30, 200)):  # padded at the right, or windows below each other; and beside each other
        (found,) = inferencer(np.zeros((*size, 3), np.uint8))['predictions']
        assert found['segmentation'].shape == size


def test_sizes_in_any_form() -> None:
    path = CONFIGS['semantic']
    on_command_line = [read_options([f'img_size={text}']) for text in ('64,128', '(64,128)', '[64,128]')]
    for given in (*on_command_line, {'img_size': [64, 128]}):
        assert load_config(path, given).img_size == SIZE
    assert load_config(path, {'img_size': (64, 64)}).img_size == 64
    with pytest.raises(ValueError, match=r"img_size='64x128': must be an int or \(height, width\)"):
        load_config(path, {'img_size': '64x128'})
    same = {'img_size': SIZE, 'model.data_preprocessor.img_size': [64, 128]}
    assert load_config(path, same).model.data_preprocessor.img_size == [64, 128]
    with pytest.raises(ValueError, match='img_size is stated in different ways'):
        load_config(path, {'img_size': SIZE, 'model.data_preprocessor.img_size': [128, 64]})


@pytest.mark.slow
@pytest.mark.parametrize('task', CONFIGS)
def test_training_and_evaluation(task: str, tool: Callable, coco_root: Path, ade20k_root: Path, tmp_path: Path) -> None:
    root = ade20k_root if task == 'semantic' else coco_root
    common = ['--data-root', root, '--cfg-options', *small(task), 'img_size=64,128']
    tool('train.py', CONFIGS[task], '--work-dir', tmp_path / 'train', *common)
    tool('test.py', CONFIGS[task], tmp_path / 'train' / 'iter_2.pth', '--work-dir', tmp_path / 'test', *common)
    assert METRIC[task] in metrics(tmp_path / 'test')
    tool('convert_checkpoint.py', tmp_path / 'train' / 'iter_2.pth', tmp_path / 'square.pth', '--config', CONFIGS[task],
         *common[2:], 'img_size=64')  # fmt: skip
    state = torch.load(tmp_path / 'square.pth', weights_only=True)['state_dict']
    assert state['backbone.vit.pos_embed'].shape[1] in (16, 17) and f'{HEAD[task]}.queries.weight' in state
    tool('export.py', CONFIGS[task], tmp_path / 'train' / 'iter_2.pth', '--out', tmp_path / 'a.onnx', *common[2:])
    assert (tmp_path / 'a.onnx').is_file()
