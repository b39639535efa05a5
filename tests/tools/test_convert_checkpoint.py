"""The command: what it writes, what it says, and that it fails in one message."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from checkpoint_samples import (
    HEADS,
    SIZE,
    WIDTH,
    equal,
    hf_dinov2,
    hf_dinov3,
    hf_outputs,
    official_from_hf,
    relative_difference,
    saved,
    split_delta,
)
from mmengine.logging import HistoryBuffer
from transformers import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation

from conftest import ROOT
from eomt_mm.apis import init_model

TINY = f'embed_dim={WIDTH}, depth=2, num_heads={HEADS}'


PANOPTIC = ('--head', 'panoptic_head')


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('convert_checkpoint', ROOT / 'tools' / 'convert_checkpoint.py')
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: Any) -> str:
        monkeypatch.setattr(sys, 'argv', ['convert_checkpoint.py', *map(str, args)])
        tool.main(tool.parse_args())
        shown = capsys.readouterr()
        call.progress = shown.err  # type: ignore[attr-defined]
        return shown.out

    return call


def config(folder: Path, base: str, backbone: str, head: str) -> Path:
    path = folder / f'{Path(base).stem}.py'
    path.write_text(
        f"_base_ = ['{ROOT}/configs/eomt/{base}']\n"
        f'img_size = {SIZE}\n'
        f"model = dict(backbone=dict(_delete_=True, type='eomt_mm.TimmViT', model_name='{backbone}', "
        f'img_size={SIZE}, {TINY}), {head})\n'
    )
    return path


@pytest.fixture
def panoptic(tmp_path: Path) -> Path:
    return config(
        tmp_path, 'toy/eomt_tiny_coco-panoptic-256.py', 'vit_small_patch14_reg4_dinov2',
        'panoptic_head=dict(num_queries=4, num_blocks=1)',
    )  # fmt: skip


@pytest.fixture
def semantic(tmp_path: Path) -> Path:
    return config(
        tmp_path, 'toy/eomt_tiny_ade20k-semantic-256.py', 'vit_small_patch16_dinov3_qkvb',
        'decode_head=dict(num_queries=4, num_blocks=1)',
    )  # fmt: skip


def test_converted_file_loads_carries_classes_and_computes_the_same(tmp_path: Path, panoptic: Path, run: Any) -> None:
    peer = hf_dinov2(num_labels=133)
    source = saved(official_from_hf(peer), tmp_path / 'pytorch_model.bin')
    text = run(source, tmp_path / 'out' / 'eomt.pth', '--config', panoptic)
    assert 'official EoMT, DINOv2, absolute weights' in text
    assert '100%' in run.progress and 'writing' in run.progress
    assert 'network.class_head.{p}' in text and 'panoptic_head.class_predictor.{p}  (2)' in text
    checkpoint = torch.load(tmp_path / 'out' / 'eomt.pth', weights_only=True)
    meta = checkpoint['meta']['dataset_meta']
    assert len(meta['classes']) == len(meta['palette']) == 133 and meta['classes'][0] == 'person'
    assert len(meta['thing_classes']) == 80
    model = init_model(panoptic, tmp_path / 'out' / 'eomt.pth')
    assert model.dataset_meta['classes'] == meta['classes']
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        found = model(images, mode='tensor')[1][-1]
    assert relative_difference(found, hf_outputs(peer, images)[1]) < 1e-5
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['eomt.pth']


def test_delta_to_ours_to_transformers_and_back(tmp_path: Path, semantic: Path, run: Any) -> None:
    peer = hf_dinov3(num_labels=150)
    delta, base = split_delta(official_from_hf(peer))
    source, base_file = saved(delta, tmp_path / 'x.bin'), saved(base, tmp_path / 'base.pth')
    with pytest.raises(SystemExit, match='convert_checkpoint: .*give it with --base'):
        run(source, tmp_path / 'eomt.pth', '--config', semantic)
    text = run(source, tmp_path / 'eomt.pth', '--config', semantic, '--base', base_file)
    assert 'delta weights' in text and 'Hugging Face DINOv3 backbone' in text
    run(tmp_path / 'eomt.pth', tmp_path / 'hf', '--config', semantic, '--to', 'hf')
    theirs = EomtDinov3ForUniversalSegmentation.from_pretrained(tmp_path / 'hf').eval()
    assert theirs.config.id2label[0] == 'wall' and theirs.config.image_size == SIZE
    images = torch.randn(1, 3, SIZE, SIZE)
    for found, expected in zip(hf_outputs(theirs, images), hf_outputs(peer, images), strict=True):
        assert relative_difference(found, expected) < 1e-5
    run(tmp_path / 'eomt.pth', tmp_path / 'official.bin', '--config', semantic, '--to', 'official')
    run(tmp_path / 'official.bin', tmp_path / 'back.pth', '--config', semantic)
    once, again = (torch.load(tmp_path / name, weights_only=True)['state_dict'] for name in ('eomt.pth', 'back.pth'))
    assert equal(once, again)


def test_without_a_config_it_says_what_it_assumes(tmp_path: Path, run: Any) -> None:
    source = saved(official_from_hf(hf_dinov2(num_labels=19, num_queries=100)), tmp_path / 'x.bin')
    text = run(source, tmp_path / 'eomt.pth', '--head', 'decode_head')
    assert 'num_classes 19, num_queries 100, num_blocks 1' in text
    assert 'assumed without a config: classes of cityscapes-semantic' in text
    checkpoint = torch.load(tmp_path / 'eomt.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes'][0] == 'road'
    assert 'decode_head.queries.weight' in checkpoint['state_dict']
    source = saved(official_from_hf(hf_dinov2(num_labels=5)), tmp_path / 'y.bin')
    assert 'class names are not known: give --config' in run(source, tmp_path / 'unknown.pth', *PANOPTIC)
    source = saved(official_from_hf(hf_dinov2(num_labels=19, num_queries=100)), tmp_path / 'z.bin')
    assert 'class names are not known' in run(source, tmp_path / 'z.pth', *PANOPTIC)  # none is published for it
    hf_dinov2(num_labels=2, id2label={0: 'cat', 1: 'dog'}).save_pretrained(tmp_path / 'hf')
    assert 'class names taken from config.json' in run(tmp_path / 'hf', tmp_path / 'cats.pth', *PANOPTIC)
    checkpoint = torch.load(tmp_path / 'cats.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta'] == dict(classes=('cat', 'dog'))


def test_head_is_asked_for_where_the_file_does_not_state_it(tmp_path: Path, panoptic: Path, run: Any) -> None:
    source = saved(official_from_hf(hf_dinov2(num_queries=100)), tmp_path / 'x.bin')
    with pytest.raises(SystemExit, match=r'^convert_checkpoint: .* give --config CONFIG, or --head [^\n]*$'):
        run(source, tmp_path / 'eomt.pth')
    with pytest.raises(SystemExit, match='the config names the head'):
        run(source, tmp_path / 'eomt.pth', '--config', panoptic, *PANOPTIC)
    assert not (tmp_path / 'eomt.pth').exists()


def test_names_in_config_json_outweigh_numbers_that_look_published(tmp_path: Path, run: Any) -> None:
    own = {k: f'part {k}' for k in range(150)}
    published = {k: f'LABEL_{k}' for k in range(150)}
    for name, labels, first in (('own', own, 'part 0'), ('published', published, 'bed')):
        hf_dinov2(num_labels=150, num_queries=200, id2label=labels).save_pretrained(tmp_path / name)
        text = run(tmp_path / name, tmp_path / f'{name}.pth', *PANOPTIC)
        checkpoint = torch.load(tmp_path / f'{name}.pth', weights_only=True)
        assert checkpoint['meta']['dataset_meta']['classes'][0] == first
        assert ("mmdet's order" in text) == (name == 'published')


def test_ade20k_panoptic_without_a_config_goes_there_and_back(tmp_path: Path, run: Any) -> None:
    peer = hf_dinov2(num_labels=150, num_queries=200, hidden_size=384, num_hidden_layers=1, num_attention_heads=6)
    peer.attn_mask_probs.zero_()
    source = saved(official_from_hf(peer), tmp_path / 'x.bin')
    text = run(source, tmp_path / 'eomt.pth', *PANOPTIC)
    assert "class rows brought into mmdet's order" in text and 'classes of ade20k-panoptic' in text
    checkpoint = torch.load(tmp_path / 'eomt.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes'][0] == 'bed'
    with pytest.raises(SystemExit, match='num_heads cannot be read off'):
        run(tmp_path / 'eomt.pth', tmp_path / 'hf', '--to', 'hf')
    run(tmp_path / 'eomt.pth', tmp_path / 'back.bin', '--to', 'official')
    assert equal(torch.load(tmp_path / 'back.bin', weights_only=True), official_from_hf(peer))


def test_own_training_checkpoint_with_its_optimiser(tmp_path: Path, panoptic: Path, run: Any) -> None:
    model = init_model(panoptic)
    model.panoptic_head.set_attn_mask_probs([0.5] * model.panoptic_head.num_blocks)
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters).state_dict()
    log = dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1])))
    checkpoint = dict(meta=dict(iter=3), state_dict=model.state_dict(), optimizer=optimiser, message_hub=log)
    run(saved(checkpoint, tmp_path / 'iter_3.pth'), tmp_path / 'hf', '--config', panoptic, '--to', 'hf')
    theirs = EomtForUniversalSegmentation.from_pretrained(tmp_path / 'hf')
    assert torch.equal(theirs.query.weight, model.panoptic_head.queries.weight)
    assert theirs.config.id2label[132] == 'rug-merged' and (tmp_path / 'hf' / 'preprocessor_config.json').is_file()


def test_other_classes_keep_everything_but_the_class_rows(tmp_path: Path, panoptic: Path, run: Any) -> None:
    source = saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin')
    with pytest.raises(SystemExit, match=r'classes: 3 in the file, 133 in the model(.|\n)*--no-class-head'):
        run(source, tmp_path / 'eomt.pth', '--config', panoptic)
    assert not (tmp_path / 'eomt.pth').exists()
    text = run(source, tmp_path / 'eomt.pth', '--config', panoptic, '--no-class-head')
    assert 'panoptic_head.class_predictor.weight, panoptic_head.class_predictor.bias' in text
    state = torch.load(tmp_path / 'eomt.pth', weights_only=True)['state_dict']
    assert not any('class_predictor' in name for name in state) and 'panoptic_head.queries.weight' in state


def test_another_size_is_told(tmp_path: Path, panoptic: Path, run: Any) -> None:
    hf_dinov2(num_labels=133, image_size=96).save_pretrained(tmp_path / 'hf')
    text = run(tmp_path / 'hf', tmp_path / 'eomt.pth', '--config', panoptic)
    assert 'resampled from 6 x 6 to 4 x 4' in text and 'made for inputs of 96 pixels, the config has 64' in text


def test_targets_that_cannot_be_written_are_refused_first(tmp_path: Path, run: Any) -> None:
    source = saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin')
    for target, to, message in (
        (source, 'eomt_mm', 'is SRC'),
        (tmp_path, 'eomt_mm', 'name a file'),
        (tmp_path, 'hf', 'name a new folder'),
        (tmp_path / 'y.safetensors', 'official', r'name it \*\.pth'),
    ):
        with pytest.raises(SystemExit, match=message):
            run(source, target, '--to', to)
    assert [path.name for path in tmp_path.iterdir()] == ['x.bin']


def test_missing_source_and_failed_download_are_one_line(tmp_path: Path, run: Any, monkeypatch: Any) -> None:
    with pytest.raises(SystemExit, match=r'convert_checkpoint: checkpoint \S*nowhere\.pth does not exist'):
        run(tmp_path / 'nowhere.pth', tmp_path / 'eomt.pth')
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(SystemExit, match=r"^convert_checkpoint: checkpoint 'hf://a/b' could not be downloaded[^\n]*$"):
        run('hf://a/b', tmp_path / 'eomt.pth')


def test_configs_that_the_page_names_exist() -> None:
    text = (ROOT / 'docs' / 'checkpoints.md').read_text()
    named = set(re.findall(r'`(?:configs/eomt/)?(\w+/eomt_\S+\.py)`', text))
    assert len(named) >= 6 and not [name for name in named if not (ROOT / 'configs' / 'eomt' / name).is_file()]
