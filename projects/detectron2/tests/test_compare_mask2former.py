"""EoMT beside Mask2Former's project: a folder without it ends in one line; with a stand-in for it, one table."""

import contextlib
import runpy
import sys
from pathlib import Path

import pytest
from copies import in_copies
from detectron2_models import SMALL
from paths import ROOT

SCRIPT = ROOT / 'projects' / 'detectron2' / 'compare_mask2former.py'
TOY = ROOT / 'configs' / 'eomt' / 'toy'
PEER = """
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import fast_eval_api  # needs detectron2's compiled part, or a stand-in
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
import MultiScaleDeformableAttention

def add_maskformer2_config(cfg):
    cfg.MODEL.MASK_FORMER = CfgNode(dict(TEST=dict(PANOPTIC_ON=False, SEMANTIC_ON=True, INSTANCE_ON=True)))

@META_ARCH_REGISTRY.register()
class MaskFormer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.sem_seg_head = nn.Linear(2, 3)
        self.sem_seg_head.num_classes = 2
        assert not cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON

    def forward(self, batch):
        return [dict(panoptic_seg=(torch.zeros(item['height'], SIZE), [])) for item in batch]
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """Folder of a model that answers as Mask2Former does, in the layout of its repository."""
    (tmp_path / 'mask2former').mkdir()
    (tmp_path / 'mask2former' / '__init__.py').write_text(PEER.replace('SIZE', "item['width']"))
    text = 'MODEL: {META_ARCHITECTURE: MaskFormer, MASK_FORMER: {TEST: {PANOPTIC_ON: true}}}\nVERSION: 2\n'
    (tmp_path / 'panoptic.yaml').write_text(text)
    (tmp_path / 'semantic.yaml').write_text(text.replace('true', 'false'))
    (tmp_path / 'video.yaml').write_text(text.replace('MASK_FORMER', 'VIDEO'))
    return tmp_path


def compare(folder: Path, *arguments: object, config: str = 'eomt_tiny_shapes-panoptic-128') -> None:
    common = ['--mask2former', folder, '--config-file', config, '--rounds', 1, '--device', 'cpu']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', list(map(str, [SCRIPT.name, *common, *arguments])))
        runpy.run_path(str(SCRIPT), run_name='__main__')


def write_result(_: int, folder: Path, *arguments: object) -> None:
    """Run the script; in a copy of this process, for it changes what can be imported."""
    with (folder / 'result.txt').open('w') as file, contextlib.redirect_stdout(file):
        try:
            compare(folder, *arguments)
        except SystemExit as stopped:
            print(stopped)


def test_a_folder_without_mask2former_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare(tmp_path, '--size', 64, 64, *SMALL)
    message = str(stopped.value)
    assert message.startswith(f'compare_mask2former.py: --mask2former {tmp_path}: no mask2former/__init__.py is there')
    assert 'git clone https://github.com/facebookresearch/Mask2Former' in message and '\n' not in message


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', 64, 64, 'img_size=64'], '--size and img_size: give one of them'),
        (['--size', 64, 60], 'is no multiple of patch_size=16'),
        (['--images', 'no/such.jpg', 'img_size=64'], 'image no/such.jpg does not exist'),
        (['--device', 'abacus'], '--device abacus: '),
        (['--mask2former-config', 'other.yaml'], '--mask2former-config other.yaml: no such file in'),
    ],
    ids=['two sizes', 'size', 'image', 'device', 'yaml'],
)
def test_wrong_use_ends_in_one_line(arguments: list[object], message: str, peer: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare(peer, *arguments, *SMALL)
    assert message in str(stopped.value) and '\n' not in str(stopped.value)


def test_a_config_of_another_task_ends_in_one_line(peer: Path) -> None:
    with pytest.raises(SystemExit, match='its task is instance; give a panoptic config'):
        compare(peer, config=str(TOY / 'eomt_tiny_coco-instance-256.py'))


def test_one_table_of_both(peer: Path, coco_root: Path) -> None:
    images = sorted((coco_root / 'val2017').glob('*.jpg'))[:2]
    yaml = ['--mask2former-config', 'panoptic.yaml']
    in_copies(1, write_result, peer, *yaml, '--images', *images, 'img_size=64', *SMALL)
    table = (peer / 'result.txt').read_text()
    assert '| EoMT eomt_tiny_shapes-panoptic-128 |' in table and 'images: 2, at 64 x 64; 1 rounds' in table
    assert '| Mask2Former panoptic, attention in PyTorch |' in table
    (peer / 'mask2former' / '__init__.py').write_text(PEER.replace('SIZE', '7'))
    in_copies(1, write_result, peer, *yaml, '--size', 64, 32, *SMALL)
    assert 'the panoptic map has the shape (64, 7), the image (64, 32)' in (peer / 'result.txt').read_text()


@pytest.mark.parametrize('name', ['semantic', 'video'])
def test_other_configs_of_mask2former_are_refused(name: str, peer: Path) -> None:
    in_copies(1, write_result, peer, '--mask2former-config', f'{name}.yaml', '--size', 64, 64, *SMALL)
    assert f'--mask2former-config {name}.yaml: no panoptic config' in (peer / 'result.txt').read_text()
