"""Class names of checkpoints and of data: what is the same, and which ones count."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import dinov2, hf_dinov2, hf_dinov3, official_from_hf
from inferencer_models import saved_model, saved_video_model
from mmdet.apis import init_detector
from mmengine.runner import CheckpointLoader
from mmseg.datasets import ADE20KDataset
from safetensors.torch import save_file
from tool_runs import CONFIGS

from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import init_model, local_checkpoint
from eomt_mm.checkpoints.class_names import check_names, difference, stated_meta
from eomt_mm.checkpoints.exporting import export_huggingface
from eomt_mm.checkpoints.files import read_checkpoint
from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.hosts.install import install

CLASSES = ['cat', 'dog', 'sky', 'sea']
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
    assert list(init_model(cfg, spelled).dataset_meta['classes']) == ['cat', 'dog', 'sky', 'ocean']
    imported = torch.load(local_checkpoint(cfg, own), weights_only=True)
    assert imported['meta']['dataset_meta']['classes'] == ('sea', 'sky', 'dog', 'cat')


def test_a_folder_with_names_for_other_rows_is_refused(cfg: Any, tmp_path: Path) -> None:
    own = folder(cfg, tmp_path / 'own', ['cat', 'dog', 'sky', 'sea'])
    config = json.loads((own / 'config.json').read_text())
    config['id2label'] = {'0': 'cat', '1': 'dog'}
    (own / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='names for 2 classes and rows for 4.*id2label of its config.json'):
        init_model(cfg, own)


def test_synonyms_are_spelled_as_in_the_config_and_other_names_stay(cfg: Any, tmp_path: Path) -> None:
    meta = init_model(cfg, folder(cfg, tmp_path / 'x', ['cat, kitten', 'puppy', 'Sky', 'sea'])).dataset_meta
    assert meta['classes'] == ('cat', 'puppy', 'sky', 'sea')
    assert (meta['thing_classes'], meta['stuff_classes']) == (('cat', 'puppy'), ('sky', 'sea'))
    assert 'palette' in meta


def imported(cfg: Any, path: Path) -> Any:
    """What tools/test.py and load_from read."""
    return torch.load(local_checkpoint(cfg, path), weights_only=True)['meta']['dataset_meta']['classes']


def test_runs_on_data_get_names_that_differ(cfg: Any, tmp_path: Path) -> None:
    assert imported(cfg, folder(cfg, tmp_path / 'same', ['cat, kitten', 'dog', 'sky', 'sea'])) == tuple(CLASSES)
    other = imported(cfg, folder(cfg, tmp_path / 'other', ['cat', 'puppy', 'sky', 'sea']))
    assert difference(other, CLASSES)  # which CheckpointFitHook refuses


@pytest.mark.parametrize('converter', ['convert_checkpoint.py', '../projects/videomt/tools/convert_videomt.py'])
def test_converters_refuse_other_names(converter: str, cfg: Any, tool: Any, tmp_path: Path) -> None:
    if 'video' in converter:
        config, source = saved_video_model('panoptic', tmp_path / 'video')
        content = torch.load(source, weights_only=True)
        content['meta'] = dict(dataset_meta=dict(classes=['turtle', 'bus', 'shark', 'frog']))
        torch.save(content, source)
    else:
        config, source = tmp_path / 'config.py', folder(cfg, tmp_path / 'x', ['cat', 'bus', 'sky', 'sea'])
        cfg.dump(config)
    with pytest.raises(SystemExit, match="names other classes than .*'bus' is '(dog|train)' in the data"):
        tool(converter, source, tmp_path / 'out.pth', '--config', config)
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('labels', [{'1': 'a', '2': 'b'}, {'a': '0'}, {'0': 'a', '2': 'b'}, {'0': 3}])
def test_labels_that_no_row_has_are_refused(labels: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(json.dumps(dict(id2label=labels)))
    save_file({'a': torch.ones(1)}, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match=r'config\.json: id2label is .*it must have a name for each of "0"'):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=['a', 'b', 'c'])),
        dict(dataset_meta=dict(CLASSES=('a', 'b', 'c'), PALETTE=[(1, 2, 3)] * 3)),
        dict(CLASSES=('a', 'b', 'c'), PALETTE=[(1, 2, 3)] * 3),
    ],
)
def test_names_in_files_of_every_program(meta: dict[str, Any], tmp_path: Path) -> None:
    """Lightning and official files, and those of older versions of the hosts, may have names too."""
    for state in (official_from_hf(hf_dinov2()), hf_dinov3().state_dict(), dinov2().state_dict()):
        torch.save(dict(state_dict=state, meta=meta), tmp_path / 'x.ckpt')
        _, report = import_checkpoint(tmp_path / 'x.ckpt', head='panoptic_head')
        for own in ({}, dict(classes=('x', 'y', 'z'))):
            assert list(stated_meta(report, own)['classes']) == ['a', 'b', 'c']
        with pytest.raises(ValueError, match="names other classes than config.py: 3 of 3 names differ: 'a' is 'x'"):
            check_names(report, dict(classes=('x', 'y', 'z')), 'config.py')


@pytest.mark.parametrize('is_ade20k', [True, False])
def test_names_and_rows_keep_together_in_ade20k_panoptic(is_ade20k: bool, tmp_path: Path) -> None:
    names = list(ADE20KDataset.METAINFO['classes']) if is_ade20k else [f'thing {k}' for k in range(150)]
    state = official_from_hf(hf_dinov2(num_labels=150))
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=names))), tmp_path / 'x.ckpt')
    found, report = import_checkpoint(tmp_path / 'x.ckpt', head='panoptic_head')
    meta = stated_meta(report, {})['classes']
    rows = found['panoptic_head.class_predictor.weight']
    assert report.reordered == is_ade20k and set(meta) == set(names)
    for row, name in enumerate(meta):
        assert torch.equal(rows[row], state['network.class_head.weight'][names.index(name)])


def test_the_hosts_take_no_names_of_their_own(tmp_path: Path) -> None:
    config, checkpoint = saved_model('instance', tmp_path)
    cfg, state = load_config(config), torch.load(checkpoint, weights_only=True)['state_dict']
    count = cfg.model.panoptic_head.num_things_classes
    for content in (state, dict(state_dict=state), dict(state_dict=state, meta=dict(dataset_meta={}))):
        torch.save(content, checkpoint)
        model = init_detector(cfg, str(checkpoint), device='cpu')
        assert model.dataset_meta['classes'] == tuple(f'class {k}' for k in range(count))
    own = [f'name {k}' for k in range(count)]
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=own))), checkpoint)
    assert list(init_detector(cfg, str(checkpoint), device='cpu').dataset_meta['classes']) == own


@pytest.mark.parametrize('meta', [{}, dict(dataset_meta=dict(classes=['a', 'b', 'c']))])
def test_the_hosts_take_no_colours_of_their_own(meta: dict[str, Any], tmp_path: Path) -> None:
    install()
    torch.save(dict(state_dict=dinov2(head='decode_head').state_dict(), meta=meta), tmp_path / 'x.pth')
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))['meta']['dataset_meta']
    assert len(found['classes']) == len(found['palette']) == 3
