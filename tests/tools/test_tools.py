"""Training, testing and resuming through tools/, from files, for the three tasks."""

import ast
import copy
import json
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image
from tool_runs import CONFIGS, HEAD, METRIC, losses, metrics, small

from eomt_mm.apis import init_model, load_config
from eomt_mm.apis.model import local_checkpoint
from eomt_mm.checkpoints.exporting import export_huggingface, export_official
from eomt_mm.synthetic.shapes import SHAPES_METAINFO


@pytest.fixture
def roots(coco_root: Path, ade20k_root: Path) -> dict[str, Path]:
    return dict(panoptic=coco_root, instance=coco_root, semantic=ade20k_root)


@pytest.mark.parametrize('task', CONFIGS)
def test_train_then_test(
    task: str, tool: Callable, roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start: dict[str, torch.Tensor] = {}
    after_init = Runner.load_or_resume

    def remember(runner: Runner) -> None:
        after_init(runner)
        start.update({name: param.detach().clone() for name, param in runner.model.named_parameters()})

    common = ['--data-root', roots[task], '--cfg-options', *small(task)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, 'load_or_resume', remember)
        tool('train.py', CONFIGS[task], '--work-dir', tmp_path / 'train', *common)
    checkpoint = tmp_path / 'train' / 'iter_2.pth'
    commands = check_screen(capsys.readouterr().out, tmp_path / 'train')
    assert commands['test'][-1] == str(checkpoint)
    trained = torch.load(checkpoint, weights_only=True)['state_dict']
    assert start.keys() < trained.keys()
    unchanged = [name for name, param in start.items() if torch.equal(param, trained[name])]
    assert not unchanged  # one step with warm-up 0 reaches every parameter
    assert trained[f'{HEAD[task]}.attn_mask_probs'].tolist() == [0, 0]  # annealed by the end

    out, dump, show = tmp_path / 'out', tmp_path / 'dump.pkl', tmp_path / 'show'
    extra = ['--out', out, '--dump', dump, '--show-dir', show, '--work-dir', tmp_path / 'test']
    tool('test.py', *commands['test'][2:], *extra)
    found = metrics(tmp_path / 'test')[METRIC[task]]
    assert 0 <= found <= 100 or np.isnan(found) or found == -1
    assert len(pickle.loads(dump.read_bytes())) == 4
    assert len(list(show.glob('*.png'))) == 4
    assert list(out.rglob('*'))


def check_screen(shown: str, work_dir: Path) -> dict[str, list[str]]:
    """The screen has a header, a short line per logged step, and ends with the commands that it returns as words."""
    for name in ('data', 'model', 'steps', 'device', 'results'):
        assert re.search(rf'^  {name} +\S', shown, re.MULTILINE), shown
    assert re.search(r'[56] images to train, 4 to validate, \d+ classes', shown)
    assert '10 queries, 2 joint blocks, input 64 px' in shown
    losses = '  '.join(rf'{name} [\d.]+' for name in ('loss', 'cls', 'mask', 'dice'))
    line = rf'\[{{step}}/2\]  {losses}  lr \d\.\de-\d\d  masks \S.*  memory [\d.]+ GiB'
    assert re.search(line.format(step=1) + '$', shown, re.MULTILINE), shown
    assert re.search(line.format(step=2) + r'  [\d.]+ s/step  ETA 0:00:00$', shown, re.MULTILINE), shown
    (log,) = work_dir.glob('*/*.log')
    for text in ('Config:', 'Hooks will be executed', 'd0.loss_cls', 'System environment'):
        assert text in log.read_text()
        assert text not in shown
    assert 'FileClient' not in shown + log.read_text()
    assert 'validation_due' not in shown + log.read_text()
    *_, done, test, predict = shown.splitlines()
    assert done.endswith('done')
    commands = {name: shlex.split(words) for name, words in (line.strip().split(': ', 1) for line in (test, predict))}
    assert Path(commands['predict'][2]).is_file()
    assert [Path(words[1]).name for words in commands.values()] == ['test.py', 'demo.py']
    return commands


def test_resumed_run_goes_on(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    config, common = CONFIGS['panoptic'], ['--data-root', coco_root, '--work-dir', tmp_path]
    interrupted = ['--cfg-options', *small('panoptic', 6, default_hooks__checkpoint__interval=3)]

    def stop(self: Any, runner: Runner, *_: Any, **__: Any) -> None:
        if runner.iter == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.hooks.IterTimerHook._before_iter', stop)
        with pytest.raises(KeyboardInterrupt):
            tool('train.py', config, *common, *interrupted)
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_3.pth')
    tool('train.py', config, *common, '--resume', *interrupted)
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]
    saved = torch.load(tmp_path / 'iter_6.pth', weights_only=True)
    assert saved['meta']['iter'] == 6
    assert saved['param_schedulers'][0]['last_step'] == 6 - 1


@pytest.fixture(scope='module')
def after_a_step(tool: Callable, coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a panoptic run of one step."""
    folder = tmp_path_factory.mktemp('after_a_step')
    data = ['--data-root', coco_root, '--work-dir', folder]
    tool('train.py', CONFIGS['panoptic'], *data, '--cfg-options', *small('panoptic', 1))
    return folder / 'iter_1.pth'


@pytest.mark.parametrize('how', ['weights', 'load_from', 'resume'])
def test_weights_survive_the_start_of_training(
    how: str, after_a_step: Path, tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, options = CONFIGS['panoptic'], small('panoptic', 2)
    common = ['--data-root', coco_root, '--work-dir', tmp_path]
    saved = torch.load(after_a_step, weights_only=True)['state_dict']
    vit = {k.removeprefix('backbone.vit.'): v for k, v in saved.items() if k.startswith('backbone.vit.')}
    torch.save(vit, tmp_path / 'vit.pth')
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('network'))
    init_model_weights = Runner._init_model_weights

    def init_without_timm(runner: Runner) -> None:
        runner.model.backbone.vit.init_weights = lambda *_, **__: pytest.fail("timm's init_weights was called")
        init_model_weights(runner)

    monkeypatch.setattr(Runner, '_init_model_weights', init_without_timm)
    started: dict[str, torch.Tensor] = {}

    def remember(self: Any, runner: Runner, *_: Any, **__: Any) -> None:
        if not started:
            started.update({k: v.detach().clone() for k, v in runner.model.state_dict().items()})

    monkeypatch.setattr('mmengine.hooks.IterTimerHook._before_iter', remember)
    if how == 'weights':
        tool('train.py', config, *common, '--cfg-options', *options, f'model.backbone.weights={tmp_path}/vit.pth')
        kept = {k: v for k, v in saved.items() if k.startswith('backbone.vit.')}
    else:
        arguments = ['--resume', after_a_step] if how == 'resume' else []
        more = [f'load_from={after_a_step}'] if how == 'load_from' else []
        # what the released leaves say: fetched only where no checkpoint brings the weights
        tool(
            'train.py', config, *common, *arguments, '--cfg-options', *options, 'model.backbone.pretrained=True', *more
        )
        kept = saved
    assert len(kept) > 10
    differing = [k for k, v in kept.items() if 'attn_mask_probs' not in k and not torch.equal(v, started[k])]
    assert not differing


@pytest.mark.slow
def test_resume_without_a_checkpoint_starts_from_the_beginning(
    tool: Callable, coco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ['--data-root', coco_root, '--work-dir', tmp_path, '--resume', '--cfg-options']
    tool('train.py', CONFIGS['panoptic'], *arguments, *small('panoptic', 1))
    assert 'no checkpoint in' in capsys.readouterr().out
    assert (tmp_path / 'iter_1.pth').is_file()


def test_amp_without_accelerator_is_refused_in_one_line(tool: Callable, capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        assert torch.cuda.device_count() > 0
        return
    with pytest.raises(SystemExit) as stop:
        tool('train.py', CONFIGS['panoptic'], '--amp')
    assert stop.value.code == 2
    assert '--amp needs an accelerator' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('dtype, scale', [('float16', 'dynamic'), ('bfloat16', dict(enabled=False))])
def test_amp_takes_both_types(
    dtype: str, scale: Any, tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Any] = []
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cuda')
    monkeypatch.setattr(Runner, 'from_cfg', lambda cfg: built.append(cfg))
    with pytest.raises(AttributeError, match='train'):  # there is no runner to train
        tool(
            'train.py',
            CONFIGS['panoptic'],
            '--data-root',
            coco_root,
            '--work-dir',
            tmp_path,
            '--amp',
            '--amp-dtype',
            dtype,
        )
    wrapper = built[0].optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', dtype, scale)


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_missing_checkpoint_is_named(name: str, tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    arguments = [tmp_path / 'nowhere.pth'] if name == 'test.py' else ['--resume', tmp_path / 'nowhere.pth']
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        tool(name, CONFIGS['panoptic'], *arguments, '--data-root', coco_root, '--work-dir', tmp_path / 'work')
    assert not (tmp_path / 'work').exists()


def test_checkpoint_of_another_shape_is_refused(
    after_a_step: Path, tool: Callable, coco_root: Path, tmp_path: Path
) -> None:
    arguments = ['--data-root', coco_root, '--work-dir', tmp_path, '--cfg-options']
    options, wrong = small('panoptic', 1), 'model.panoptic_head.num_queries=7'
    pairs = dict(option.split('=') for option in options if option.startswith(('model', 'img')))
    values = {key: ast.literal_eval(value) for key, value in pairs.items()}
    cfg = load_config(CONFIGS['panoptic'], {**values, 'model.panoptic_head.num_queries': 7}, coco_root)
    for use in (
        lambda: init_model(cfg, after_a_step),
        lambda: tool('test.py', CONFIGS['panoptic'], after_a_step, *arguments, *options, wrong),
        lambda: tool('train.py', CONFIGS['panoptic'], *arguments, *options, wrong, f'load_from={after_a_step}'),
    ):
        with pytest.raises(ValueError, match=r'iter_1\.pth') as error:
            use()
        assert 'queries.weight: (10, 48) in the file, (7, 48) in the model' in str(error.value)
    model = init_model(load_config(CONFIGS['panoptic'], values, coco_root), after_a_step)
    assert model.dataset_meta['classes'] == SHAPES_METAINFO['classes']


def without_targets(task: str, source: Path, root: Path) -> None:
    """Copies a tree so that no training image has a target: all void (semantic), only crowds (the others)."""
    shutil.copytree(source, root)
    if task == 'semantic':
        for path in (root / 'annotations' / 'training').iterdir():
            Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
        return
    kind = 'panoptic' if task == 'panoptic' else 'instances'
    path = root / 'annotations' / f'{kind}_train2017.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        for segment in annotation.get('segments_info', [annotation]):
            segment['iscrowd'] = 1
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('task', CONFIGS)
def test_images_without_targets_do_not_stop_training(
    task: str, tool: Callable, roots: dict[str, Path], tmp_path: Path
) -> None:
    without_targets(task, roots[task], tmp_path / 'root')
    options = small(task, 2)
    if task != 'semantic':
        options.append('train_dataloader.dataset.filter_cfg.filter_empty_gt=False')
    arguments = ['--data-root', tmp_path / 'root', '--work-dir', tmp_path / 'work', '--cfg-options', *options]
    tool('train.py', CONFIGS[task], *arguments)
    found = losses(tmp_path / 'work')
    assert sorted(found) == [1, 2]
    assert all(np.isfinite(value) for value in found.values())


@pytest.mark.parametrize('damage', ['missing image', 'corrupt image', 'missing png', 'label outside'])
def test_bad_files_are_named(damage: str, tool: Callable, coco_root: Path, ade20k_root: Path, tmp_path: Path) -> None:
    task = 'semantic' if damage == 'label outside' else 'panoptic'
    root = tmp_path / 'root'
    shutil.copytree(ade20k_root if task == 'semantic' else coco_root, root)
    if damage == 'missing png':
        victims = list((root / 'annotations' / 'panoptic_train2017').iterdir())
    elif damage == 'label outside':
        victims = list((root / 'annotations' / 'training').iterdir())
    else:
        victims = list((root / 'train2017').iterdir())
    for victim in victims:
        if damage == 'corrupt image':
            victim.write_bytes(b'no image')
        elif damage == 'label outside':
            Image.fromarray(np.full(np.asarray(Image.open(victim)).shape, 200, np.uint8)).save(victim)
        else:
            victim.unlink()
    arguments = ['--data-root', root, '--work-dir', tmp_path / 'work', '--cfg-options', *small(task)]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        tool('train.py', CONFIGS[task], *arguments)
    assert any(victim.stem in str(error.value) for victim in victims)
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.slow
def test_released_formats_are_read_on_the_fly(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS['panoptic']
    options = [*small('panoptic', 1), 'model.backbone.model_name=vit_small_patch14_reg4_dinov2']
    common = ['--data-root', coco_root, '--cfg-options', *options]
    tool('train.py', config, '--work-dir', tmp_path / 'a', *common)
    saved = torch.load(tmp_path / 'a' / 'iter_1.pth', weights_only=True)['state_dict']
    export_official(saved, tmp_path / 'pytorch_model.bin')

    for name, source in dict(ours=tmp_path / 'a' / 'iter_1.pth', official=tmp_path / 'pytorch_model.bin').items():
        tool('test.py', config, source, '--work-dir', tmp_path / name, '--dump', tmp_path / f'{name}.pkl', *common)
    ours, official = (pickle.loads((tmp_path / f'{name}.pkl').read_bytes()) for name in ('ours', 'official'))
    for a, b in zip(ours, official, strict=True):
        assert torch.equal(a['pred_panoptic_seg']['sem_seg'], b['pred_panoptic_seg']['sem_seg'])

    started: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(
        'mmengine.hooks.IterTimerHook._before_iter',
        lambda self, runner, *_, **__: started or started.update(copy.deepcopy(runner.model.state_dict())),
    )
    tool('train.py', config, '--work-dir', tmp_path / 'b', *common, f'load_from={tmp_path}/pytorch_model.bin')
    assert not [k for k, v in saved.items() if 'attn_mask_probs' not in k and not torch.equal(v, started[k])]


def test_bare_backbone_is_no_model(tmp_path: Path) -> None:
    cfg = load_config(CONFIGS['panoptic'], {'img_size': 64, 'model.backbone.depth': 2})
    vit = {k.removeprefix('backbone.vit.'): v for k, v in init_model(cfg).state_dict().items() if 'vit' in k}
    torch.save(vit, tmp_path / 'vit.bin')
    with pytest.raises(ValueError, match=r'model\.backbone\.weights'):
        init_model(cfg, tmp_path / 'vit.bin')


def test_hub_addresses_are_read_on_the_fly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'img_size': 64, 'model.backbone.depth': 2, 'model.backbone.model_name': 'vit_small_patch14_reg4_dinov2'}
    cfg = load_config(CONFIGS['panoptic'], {**options, 'model.backbone.patch_size': 16, 'work_dir': str(tmp_path)})
    source = init_model(cfg)
    export_huggingface(source.state_dict(), tmp_path / 'hub', num_heads=3, classes=SHAPES_METAINFO['classes'])
    asked: list[Any] = []

    def snapshot_download(repo: str, revision: str | None = None, **_: Any) -> str:
        asked.append((repo, revision))
        return str(tmp_path / 'hub')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    model = init_model(cfg, 'hf://somebody/eomt@v2')
    converted = torch.load(local_checkpoint(cfg, 'hf://somebody/eomt'), weights_only=True)
    assert asked == [('somebody/eomt', 'v2'), ('somebody/eomt', None)]
    assert converted['meta']['dataset_meta']['classes'] == model.dataset_meta['classes'] == SHAPES_METAINFO['classes']
    for name, value in source.state_dict().items():
        if 'attn_mask_probs' not in name:
            assert torch.equal(value, model.state_dict()[name])
            assert torch.equal(value, converted['state_dict'][name])


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise OSError('no\nroute to host')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    with pytest.raises(ConnectionError, match='hf://somebody/eomt.*no route to host') as error:
        local_checkpoint(load_config(CONFIGS['panoptic'], {'work_dir': str(tmp_path)}), 'hf://somebody/eomt')
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
