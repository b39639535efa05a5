"""What a training starts from: other classes keep their own predictor, DINOv3's differences find their base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import check_same, dinov3, hf_dinov3, official_from_hf, saved, split_delta
from first_weights import first_weights
from mmengine.config import Config
from tool_runs import CONFIGS, small

from eomt_mm.apis.model import import_for, local_checkpoint
from eomt_mm.checkpoints.describe import Description
from eomt_mm.checkpoints.files import hub_address
from eomt_mm.checkpoints.importing import ImportReport

CLASS_HEAD = 'panoptic_head.class_predictor.weight'


def test_class_predictor_of_other_classes_is_left_out(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, options = CONFIGS['panoptic'], small('panoptic', 1)
    common = ['--data-root', coco_root, '--cfg-options', *options]
    tool('train.py', config, '--work-dir', tmp_path / 'a', *common)
    checkpoint = torch.load(tmp_path / 'a' / 'iter_1.pth', weights_only=True)
    checkpoint['state_dict'][CLASS_HEAD] = torch.full((134, 48), 7.0)  # of COCO
    checkpoint['state_dict'][CLASS_HEAD.replace('weight', 'bias')] = torch.zeros(134)
    torch.save(checkpoint, tmp_path / 'coco.pth')
    start = first_weights(monkeypatch)
    fresh = ['default_hooks.checkpoint_fit.class_head=False', f'load_from={tmp_path}/coco.pth']
    with pytest.raises(ValueError, match=r'class_predictor\.weight: \(134, 48\) in the file, \(9, 48\)'):
        tool('train.py', config, '--work-dir', tmp_path / 'b', *common, fresh[1])
    tool('train.py', config, '--work-dir', tmp_path / 'b', *common, *fresh)
    assert start[CLASS_HEAD].shape == (9, 48)
    assert not (start[CLASS_HEAD] == 7).any()
    other = [name for name in start if 'class_predictor' not in name and 'attn_mask_probs' not in name]
    assert all(torch.equal(start[name], checkpoint['state_dict'][name]) for name in other)

    # resuming and testing take everything, whatever the setting
    start.clear()
    tool(
        'train.py', config, '--work-dir', tmp_path / 'b', '--resume', *common, fresh[0], 'train_cfg.max_iters=2'
    )  # fmt: skip
    trained = torch.load(tmp_path / 'b' / 'iter_1.pth', weights_only=True)['state_dict']
    assert torch.equal(start[CLASS_HEAD], trained[CLASS_HEAD])


def make_config(tmp_path: Path, **backbone: Any) -> Config:
    model = dict(backbone=backbone)
    return Config(dict(model=model, work_dir=str(tmp_path), default_scope='mmdet'))


def test_differences_take_the_base_that_the_config_names(tmp_path: Path) -> None:
    peer = hf_dinov3()
    difference, base = split_delta(official_from_hf(peer))
    source, weights = saved(difference, tmp_path / 'x.bin'), saved(base, tmp_path / 'base.pth')
    expected = dinov3().state_dict()
    state, report = import_for(make_config(tmp_path, weights=str(weights)), source, expected)
    check_same(dinov3(), state, peer)
    assert report.weights == 'delta'
    with pytest.raises(ValueError, match='--base'):
        import_for(make_config(tmp_path), source, expected)


def test_differences_to_a_pretrained_backbone_take_it_from_timms_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = hf_dinov3()
    difference, base = split_delta(official_from_hf(peer))
    source = saved(difference, tmp_path / 'x.bin')
    (tmp_path / 'hub').mkdir()
    saved(base, tmp_path / 'hub' / 'pytorch_model.bin')
    asked: list[str] = []

    def snapshot_download(repo: str, **_: Any) -> str:
        asked.append(repo)
        return str(tmp_path / 'hub')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    cfg = make_config(tmp_path, model_name='vit_large_patch16_dinov3_qkvb', pretrained=True)
    state, _ = import_for(cfg, source, dinov3().state_dict())
    check_same(dinov3(), state, peer)
    assert asked == ['timm/vit_large_patch16_dinov3_qkvb.lvd1689m']


@pytest.mark.parametrize(
    'page, address',
    [
        ('https://huggingface.co/tue-mps/x_y.z-1', 'hf://tue-mps/x_y.z-1'),
        ('https://huggingface.co/tue-mps/x/resolve/main/pytorch_model.bin', 'hf://tue-mps/x'),
        ('https://huggingface.co/tue-mps/x/resolve/main/pytorch_model.bin#/name.bin', 'hf://tue-mps/x'),
        ('https://huggingface.co/tue-mps/x/resolve/main/pytorch_model.bin?download=true&f=/n.bin', 'hf://tue-mps/x'),
        ('https://huggingface.co/tue-mps/x/blob/v2/pytorch_model.bin', 'hf://tue-mps/x@v2'),
        ('https://hf.co/tue-mps/x/', 'hf://tue-mps/x'),
        ('hf://tue-mps/x@v2', 'hf://tue-mps/x@v2'),
        ('https://example.org/tue-mps/x', 'https://example.org/tue-mps/x'),
        ('work_dirs/a/iter_1.pth', 'work_dirs/a/iter_1.pth'),
    ],
)
def test_pages_of_the_hub_are_addresses_of_the_hub(page: str, address: str) -> None:
    assert hub_address(page) == address


def test_two_released_files_of_one_name_stay_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every official file is called pytorch_model.bin."""
    monkeypatch.setattr('eomt_mm.apis.model.MODELS.build', lambda cfg: torch.nn.Linear(1, 1))
    monkeypatch.setattr('eomt_mm.apis.model.config_meta', lambda cfg: {})

    def import_one(cfg: Any, source: str, *_: Any) -> Any:
        report = ImportReport(source, 'x', False, 'absolute', 'head', Description('dinov2', 8, 1, 14))
        return {'name': torch.tensor([float(ord(source[-1]))])}, report

    monkeypatch.setattr('eomt_mm.apis.model.import_for', import_one)
    cfg = make_config(tmp_path)
    page = 'https://huggingface.co/tue-mps/{}/resolve/main/pytorch_model.bin'
    a, b = (local_checkpoint(cfg, page.format(name)) for name in 'ab')
    assert a != b
    assert [torch.load(path)['state_dict']['name'].item() for path in (a, b)] == [ord('a'), ord('b')]
