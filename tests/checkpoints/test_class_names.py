"""Class names of checkpoints and of data: what is the same, and which ones count."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tool_runs import CONFIGS

from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import init_model, local_checkpoint
from eomt_mm.checkpoints.class_names import difference
from eomt_mm.checkpoints.exporting import export_huggingface

TEN = [f'class {k}' for k in range(10)]


@pytest.mark.parametrize(
    ('saved', 'own'),
    [
        (['bed ', 'Traffic_Light', 'road, route'], ['bed', 'traffic light', 'route']),
        (TEN, [*TEN[:9], 'another']),
        ([], ['a']),
        (['a'], []),
    ],
)
def test_names_that_mean_the_same(saved: list[str], own: list[str]) -> None:
    assert difference(saved, own) is None


@pytest.mark.parametrize(
    ('saved', 'own', 'text'),
    [
        (['a', 'b'], ['b', 'a'], "'a' is class 0 in the checkpoint and class 1 in the data; 2 of 2"),
        (['a', 'b'], ['a'], '2 classes in the checkpoint, 1 in the data'),
        (['a', 'b'], ['a', 'c'], "1 of 2 names differ: 'b' is 'c' in the data (class 1)"),
        (TEN, [*TEN[:8], TEN[9], TEN[8]], '2 of 10 names have another place'),
    ],
)
def test_names_that_differ(saved: list[str], own: list[str], text: str) -> None:
    assert text in str(difference(saved, own))


@pytest.fixture
def cfg(tmp_path: Path) -> Any:
    names = dict(classes=('cat', 'dog', 'sky', 'sea'), thing_classes=('cat', 'dog'), stuff_classes=('sky', 'sea'))
    options: dict[str, Any] = {f'metainfo.{key}': value for key, value in names.items()}
    options['model.backbone.model_name'] = 'vit_small_patch14_reg4_dinov2'
    return load_config(CONFIGS['panoptic'], {**options, 'work_dir': str(tmp_path)})


def folder(cfg: Any, path: Path, names: list[str]) -> Path:
    model = init_model(cfg)
    export_huggingface(model.state_dict(), path, 128, 3, names, semantic=False, ade20k_order=False)
    assert set(json.loads((path / 'config.json').read_text())['id2label'].values()) == set(names)
    return path


def test_names_of_a_hugging_face_folder_count(cfg: Any, tmp_path: Path) -> None:
    own = folder(cfg, tmp_path / 'own', ['sea', 'sky', 'dog', 'cat'])
    assert init_model(cfg, own).dataset_meta['classes'] == ('sea', 'sky', 'dog', 'cat')
    spelled = folder(cfg, tmp_path / 'spelled', ['Cat', 'dog', 'sky', 'ocean'])
    assert list(init_model(cfg, spelled).dataset_meta['classes']) == ['cat', 'dog', 'sky', 'sea']
    imported = torch.load(local_checkpoint(cfg, own), weights_only=True)
    assert imported['meta']['dataset_meta']['classes'] == ('sea', 'sky', 'dog', 'cat')


def test_a_folder_with_names_for_other_rows_is_refused(cfg: Any, tmp_path: Path) -> None:
    own = folder(cfg, tmp_path / 'own', ['cat', 'dog', 'sky', 'sea'])
    config = json.loads((own / 'config.json').read_text())
    config['id2label'] = {'0': 'cat', '1': 'dog'}
    (own / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='names for 2 classes and rows for 4.*id2label of its config.json'):
        init_model(cfg, own)
