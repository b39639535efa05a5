"""Training, resuming and testing VidEoMT through tools/, from files, for the three tasks."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from tool_runs import losses, metrics, shrunk
from videomt.datasets import generate

CONFIGS = ROOT / 'projects' / 'videomt' / 'configs'
TOY = CONFIGS / 'videomt_tiny_500i_shapes-96.py'
SIZE, FRAMES = (48, 64), 6


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('videos')
    return {
        name: generate.WRITERS[name](folder / name, num_videos=2, num_frames=FRAMES, size=SIZE)
        for name in ('youtube_vis', 'vipseg', 'vspw')
    }


@pytest.fixture(scope='module')
def untrained(tool: Callable, roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the toy after one step."""
    folder = tmp_path_factory.mktemp('untrained')
    tool('train.py', TOY, '--data-root', roots['youtube_vis'], '--work-dir', folder, '--cfg-options', *options(1))
    return folder / 'iter_1.pth'


def options(max_iters: int = 2, **more: Any) -> list[str]:
    """Overrides for a model and a run that take seconds."""
    kept = [each for each in shrunk('panoptic', max_iters) if not each.startswith(('img_size', 'train_dataloader'))]
    loaders: dict[str, Any] = {f'{split}_dataloader.persistent_workers': False for split in ('train', 'val', 'test')}
    more = loaders | {'model.backbone.img_size': 64, 'train_dataloader.num_workers': 0} | more
    return [*kept, *(f'{key}={value}' for key, value in more.items())]


@pytest.mark.parametrize(('leaf', 'tree', 'key', 'files'), [
    ('videomt_dinov2-s_40k_ytvis2019-448', 'youtube_vis', 'vis/AP', ['results.json', 'results.zip']),
    pytest.param('videomt_dinov3-l_40k_vipseg-720', 'vipseg', 'vps/STQ', ['pred.json'], marks=pytest.mark.slow),
    pytest.param('videomt_dinov2-l_40k_vspw-720', 'vspw', 'vss/mIoU', [], marks=pytest.mark.slow),
])  # fmt: skip
def test_train_then_test(
    leaf: str, tree: str, key: str, files: list[str], tool: Callable, roots: dict[str, Path], coco_root: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    more = {'train_dataloader.dataset.datasets.1.data_root': coco_root} if tree == 'youtube_vis' else {}
    common = ['--data-root', roots[tree], '--cfg-options', *options(**more)]
    tool('train.py', CONFIGS / f'{leaf}.py', '--work-dir', tmp_path / 'train', *common)
    found = losses(tmp_path / 'train')
    assert sorted(found) == [1, 2] and np.isfinite(list(found.values())).all()
    checkpoint = tmp_path / 'train' / 'iter_2.pth'
    assert 'panoptic_head.query_updater.weight' in torch.load(checkpoint, weights_only=True)['state_dict']
    extra = ['--out', tmp_path / 'out', '--dump', tmp_path / 'dump.pkl', '--work-dir', tmp_path / 'test']
    tool('test.py', CONFIGS / f'{leaf}.py', checkpoint, *extra, *common)
    assert 0 <= metrics(tmp_path / 'test')[key] <= 100
    assert all((tmp_path / 'out' / name).exists() for name in files) and list((tmp_path / 'out').rglob('*'))
    assert len(pickle.loads((tmp_path / 'dump.pkl').read_bytes())) == 1


def test_results_alone_need_no_annotations(
    tool: Callable, roots: dict[str, Path], untrained: Path, tmp_path: Path
) -> None:
    root = tmp_path / 'root'
    root.mkdir()
    (root / 'valid').symlink_to(roots['youtube_vis'] / 'valid')
    bare = json.loads((roots['youtube_vis'] / 'valid.json').read_text())
    bare.pop('annotations')
    (root / 'valid.json').write_text(json.dumps(bare))
    arguments = ['--data-root', root, '--work-dir', tmp_path, '--out', tmp_path / 'out', '--format-only']
    tool('test.py', TOY, untrained, *arguments, '--cfg-options', *options())
    tracks = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert tracks and {len(track['segmentations']) for track in tracks} == {FRAMES}


def test_frame_by_frame_through_the_tools(
    tool: Callable, roots: dict[str, Path], untrained: Path, tmp_path: Path
) -> None:
    config = tmp_path / 'online.py'
    sampler = "test_dataloader = dict(sampler=dict(_delete_=True, type='TrackImgSampler'))"
    config.write_text(f'_base_ = [{str(TOY)!r}]\n{sampler}\n')
    common = ['--data-root', roots['youtube_vis'], '--work-dir', tmp_path / 'test', '--cfg-options', *options()]
    tool('test.py', config, untrained, *common)
    assert 'vis/AP' in metrics(tmp_path / 'test')
    with pytest.raises(TypeError, match='tools/demo.py'):
        tool('test.py', config, untrained, '--show-dir', tmp_path / 'show', *common)


def test_resumed_run_goes_on_as_if_never_stopped(tool: Callable, roots: dict[str, Path], tmp_path: Path) -> None:
    def train(work_dir: str, *arguments: Any, **more: Any) -> None:
        common = ['--data-root', roots['youtube_vis'], '--work-dir', tmp_path / work_dir, *arguments]
        tool('train.py', TOY, *common, '--cfg-options', *options(4, **more))

    train('whole', **{'default_hooks.checkpoint.interval': 2})
    train('parts', '--resume', tmp_path / 'whole' / 'iter_2.pth')
    whole, parts = losses(tmp_path / 'whole'), losses(tmp_path / 'parts')
    assert sorted(parts) == [3, 4]
    assert parts[4] == pytest.approx(whole[4], rel=1e-5)


def test_accumulated_clips_train(tool: Callable, roots: dict[str, Path], tmp_path: Path) -> None:
    more = {'optim_wrapper.accumulative_counts': 2, 'train_dataloader.batch_size': 1}
    tool(
        'train.py', TOY, '--data-root', roots['youtube_vis'], '--work-dir', tmp_path, '--cfg-options', *options(**more)
    )
    assert np.isfinite(list(losses(tmp_path).values())).all()
