"""Clips as a video model is fed them, in pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image
from videomt.datasets import generate

CONFIGS = ROOT / 'projects' / 'videomt' / 'configs'


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize(('leaf', 'tree'), [
    ('videomt_tiny_500i_shapes-96', 'youtube_vis'),
    *(pytest.param(leaf, tree, marks=pytest.mark.slow) for leaf, tree in (
        ('videomt_dinov2-s_40k_ytvis2019-448', 'youtube_vis'), ('videomt_dinov2-l_40k_vipseg-720', 'vipseg'),
        ('videomt_dinov2-l_40k_vspw-720', 'vspw'),
    )),
])  # fmt: skip
def test_pictures_of_clips(leaf: str, tree: str, split: str, tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    root = generate.WRITERS[tree](tmp_path / 'data', num_videos=2, num_frames=4, size=(48, 64))
    mixed = leaf.endswith('ytvis2019-448')
    options = ['--cfg-options', f'train_dataloader.dataset.datasets.1.data_root={coco_root}'] if mixed else []
    arguments = ['--data-root', root, '--split', split, '--num', 2, '--out-dir', tmp_path / 'out', *options]
    tool('browse_dataset.py', CONFIGS / f'{leaf}.py', *arguments)
    written = sorted((tmp_path / 'out').iterdir())
    assert len(written) == (2 if split == 'train' else 1)
    assert all(Image.open(path).width > Image.open(path).height for path in written)
