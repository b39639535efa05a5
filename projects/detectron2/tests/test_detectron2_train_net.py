"""The scripts of the project: train, resume, evaluate, draw; wrong options end in one line."""

import re
import runpy
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from copies import in_new_processes
from detectron2.config import LazyConfig, instantiate
from detectron2_models import CONFIGS, SMALL
from paths import ROOT

PROJECT = ROOT / 'projects' / 'detectron2'
CONFIG = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'
QUICK = [
    'img_size=64', 'train.max_iter=3', 'train.eval_period=0', 'dataloader.train.total_batch_size=2',
    'dataloader.train.num_workers=0', 'dataloader.test.num_workers=0', 'lr_multiplier.warmup_steps=[1,1]',
]  # fmt: skip
Script = Callable[..., Any]


@pytest.fixture(scope='module')
def config(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of its own name: data sets are registered once per process."""
    path = tmp_path_factory.mktemp('recipe') / 'shapes_for_scripts.py'
    path.write_text(f'_base_ = {str(CONFIG)!r}\ndata_root = {str(coco_root) + "/"!r}\n')
    return path


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Runs a script of the project with arguments, in this process."""

    def run(name: str, *arguments: Any) -> None:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        runpy.run_path(str(PROJECT / name), run_name='__main__')

    return run


@pytest.fixture(scope='module')
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a training of 3 steps."""
    out = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        options = [*QUICK, *SMALL, f'train.output_dir={out}', 'train.checkpointer.period=2']
        patch.setattr(sys, 'argv', ['train_net.py', '--config-file', str(config), *options])
        runpy.run_path(str(PROJECT / 'train_net.py'), run_name='__main__')
    return out


def test_training_writes_a_checkpoint_that_the_mm_side_loads(trained: Path) -> None:
    from contract import tiny

    from eomt_mm.apis import init_model, load_config

    saved = torch.load(trained / 'model_final.pth', weights_only=True)
    assert saved['iteration'] == 2 and (trained / 'metrics.json').stat().st_size > 0
    again = instantiate(LazyConfig.load(str(trained / 'config.yaml')).model)  # detectron2's copy of the config
    again.load_state_dict(saved['model'])
    model = init_model(load_config(CONFIG, tiny('panoptic_head')), trained / 'model_final.pth')
    assert len(model.dataset_meta['classes']) == 8
    stored = saved['model']
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_resuming_continues_at_the_next_step(
    trained: Path, config: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    options = [*QUICK, *SMALL, f'train.output_dir={trained}']
    with pytest.raises(SystemExit, match='after iteration 3, and train.max_iter=3: nothing is left to train'):
        script('train_net.py', '--config-file', config, '--resume', *options)
    script('train_net.py', '--config-file', config, '--resume', *options, 'train.max_iter=5')
    assert torch.load(trained / 'model_final.pth', weights_only=True)['iteration'] == 4


def test_evaluation_and_pictures(
    trained: Path, config: Path, coco_root: Path, script: Script, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level('INFO')
    weights = f'train.init_checkpoint={trained / "model_final.pth"}'
    common = [*QUICK, *SMALL, f'train.output_dir={tmp_path}', weights]
    script('train_net.py', '--config-file', config, '--eval-only', *common)
    images = sorted((coco_root / 'val2017').glob('*.jpg'))[:2]
    root = f'data_root={coco_root}/'  # an option whose value looks like a path
    script('demo.py', '--config-file', config, '--output', tmp_path / 'out', '--input', *images, root, *common)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {f'{image.stem}.png' for image in images}
    with pytest.raises(SystemExit, match='two images have the same name'):
        script('demo.py', '--config-file', config, '--output', tmp_path, '--input', images[0], images[0], *common)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config-file', 'eomt_tiny_shape-panoptic-128'], 'did you mean eomt_tiny_shapes-panoptic-128'),
        (['--config-file', CONFIG, '--eval-only'], '--eval-only: which weights'),
        (['--config-file', CONFIG, 'train_cfg.max_iters=3'], 'is an option of the mm side'),
        (['--config-file', CONFIG, 'train.max_iter'], 'give KEY=VALUE'),
        (['--config-file', CONFIG, 'optim_wrapper.accumulative_counts=4'], 'does not accumulate gradients'),
        (['--config-file', CONFIG, 'dataloader.train.total_batch_size=0'], 'give a positive multiple'),
        (['--config-file', CONFIG, 'train.device=tpu'], 'give cpu, cuda or cuda:0'),
        (['--config-file', CONFIG, 'model.task=semantic', 'model.num_things=null'], 'is for panoptic segmentation'),
        (['--config-file', CONFIG, 'train.amp.enabled=True', 'train.device=cpu'], 'mixed precision needs a GPU'),
        (['--config-file', CONFIG, 'data_root=none/such', 'dataloader.train.num_workers=0'], 'none/such'),
    ],
    ids=['config', 'weights', 'mm option', 'form', 'accumulation', 'batch', 'device', 'task', 'amp', 'data'],
)
def test_wrong_use_ends_in_one_line(
    arguments: list[Any], message: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the default folder of results is below the working directory
    with pytest.raises(SystemExit) as stopped:
        script(
            'train_net.py', *arguments, *([] if arguments[-1] == '--eval-only' else [f'train.output_dir={tmp_path}'])
        )
    assert str(stopped.value).startswith('train_net.py: ') and message in str(stopped.value)
    assert '\n' not in str(stopped.value)


@pytest.mark.parametrize(
    ('recipe', 'options', 'message'),
    [
        (CONFIG, ['model.backbone.embed_dim=96'], 'does not fit'),
        (CONFIG, ['model.head.num_queries=12'], 'Set model.head.num_queries=10'),
        (CONFIG, ['model.backbone.depth=3'], 'does not fit'),
        (CONFIGS['instance'], [], 'classes'),
        (CONFIGS['semantic'], [], 'classes'),
    ],
    ids=['width', 'queries', 'depth', 'instance', 'semantic'],
)
def test_a_checkpoint_of_another_shape_or_task_ends_in_one_line(
    recipe: Path, options: list[str], message: str, trained: Path, script: Script, tmp_path: Path
) -> None:
    own = [f'train.output_dir={tmp_path}', f'train.init_checkpoint={trained / "model_final.pth"}']
    with pytest.raises(SystemExit, match=message) as stopped:
        script('train_net.py', '--config-file', recipe, '--eval-only', 'img_size=64', *SMALL, *options, *own)
    assert '\n' not in str(stopped.value)


YAML = """MODEL:
  META_ARCHITECTURE: EoMT
EOMT:
  RECIPE: {recipe}
OUTPUT_DIR: {out}
SOLVER:
  MAX_ITER: 3
  IMS_PER_BATCH: 2
DATALOADER:
  NUM_WORKERS: 0
TEST:
  EVAL_PERIOD: 0
"""
SMALL_MODEL = """
img_size = 64
model = dict(backbone=dict(depth=2, embed_dim=48, num_heads=3), panoptic_head=dict(num_blocks=1, num_queries=10))
"""


def test_yaml_trains_resumes_and_predicts(config: Path, coco_root: Path, script: Script, tmp_path: Path) -> None:
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor

    from eomt_mm.detectron2 import load_yaml

    recipe, path = tmp_path / 'shapes_by_yaml.py', tmp_path / 'eomt.yaml'
    recipe.write_text(config.read_text() + SMALL_MODEL)
    path.write_text(YAML.format(recipe=recipe, out=tmp_path / 'out'))
    script('train_net.py', '--config-file', path)
    script('train_net.py', '--config-file', path, '--resume', 'SOLVER.MAX_ITER', '4')
    with pytest.raises(SystemExit, match='--eval-only: which weights and data'):
        script('train_net.py', '--config-file', path, '--eval-only')
    weights = tmp_path / 'out' / 'model_final.pth'
    assert torch.load(weights, weights_only=True)['iteration'] == 3
    script('train_net.py', '--config-file', path, '--eval-only', 'MODEL.WEIGHTS', weights)
    predictor = DefaultPredictor(load_yaml(str(path), ['MODEL.WEIGHTS', str(weights)]))
    image = read_image(str(next((coco_root / 'val2017').glob('*.jpg'))), 'BGR')
    assert predictor(image)['panoptic_seg'][0].shape == image.shape[:2]


def train_in_two(rank: int, config: Path, out: Path) -> None:
    if rank == 0:
        sys.path.insert(0, str(PROJECT))
        import train_net
        from detectron2.engine import launch

        options = [*QUICK, *SMALL, f'train.output_dir={out}']
        args = Namespace(config_file=str(config), opts=options, resume=False, eval_only=False, num_gpus=2)
        launch(train_net.main, 2, dist_url='auto', args=(args,))


@pytest.mark.slow
def test_two_processes_train_on_cpus(config: Path, tmp_path: Path) -> None:
    in_new_processes(1, train_in_two, config, tmp_path)
    assert torch.load(tmp_path / 'model_final.pth', weights_only=True)['iteration'] == 2


@pytest.mark.slow
def test_the_demo_draws_every_held_out_image(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool('make_demo.py', '--detectron2', '--max-iters', 3, '--num-train', 16, '--num-val', 2, '--work-dir', tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf'demo: PQ \d+\.\d on 2 held-out images, pictures in {tmp_path}/pictures', last)
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 2
