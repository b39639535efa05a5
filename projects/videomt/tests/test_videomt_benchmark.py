"""VidEoMT in the comparisons of tools/benchmark: videomt/benchmarking.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_sides import VIDEO, ours, video
from tool_runs import CONFIGS, small
from videomt.benchmarking import VideoSide, make_clips

from benchmark.harness import in_fresh_process
from benchmark.inputs import write_image
from benchmark.measure import measure, peak_memory
from benchmark.sides import Side, build_side

IMAGE_SIZE = (48, 80)
TASKS = ('instance', 'panoptic', 'semantic')
MASK2FORMER_VIS = 'mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019'


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_image(tmp_path_factory.mktemp('images') / 'image.jpg', IMAGE_SIZE))


def test_the_config_decides_which_side_is_built() -> None:
    assert [type(build_side(spec)) for spec in (video(), ours('instance'))] == [VideoSide, Side]


@pytest.mark.parametrize('window', [1, 2, 3, 7])
def test_model_stage_streams_the_clip_in_windows(window: int) -> None:
    side = build_side(video(size=(64, 96), batch=2, window=window))
    predictions = side.call()
    length = {1: 1, 2: 1}.get(window, 3)  # of the last window
    assert predictions.mask_logits[-1].shape == (2, length, 10, 16, 24)
    assert side.input_size == (64, 96) and side.task == 'instance'


def test_frames_know_those_of_earlier_windows() -> None:
    torch.manual_seed(0)
    clips = torch.randn(1, 3, 3, 64, 64)
    sides = [build_side(video(window=window)) for window in (1, 3)]
    assert all(isinstance(side, VideoSide) for side in sides)
    streamed, whole = (side.stream(clips).class_logits[-1][:, -1] for side in sides)  # type: ignore[attr-defined]
    torch.testing.assert_close(streamed, whole)
    alone = sides[0].stream(clips[:, -1:]).class_logits[-1][:, -1]  # type: ignore[attr-defined]
    assert not torch.allclose(streamed, alone)


@pytest.mark.parametrize('whole_video', [False, True], ids=['online', 'whole'])
@pytest.mark.parametrize('task', TASKS)
def test_full_stage_gives_a_result_per_frame_at_its_own_size(task: str, whole_video: bool, image: str) -> None:
    results = build_side(video(task, stage='full', size=(64, 96), image=image, whole_video=whole_video)).call()
    assert len(results) == 3
    for result in results:
        if task == 'instance':
            assert result.masks[0]['size'] == [*IMAGE_SIZE] and len(result.labels) == 10
        else:
            assert result.sem_seg.shape == (1, *IMAGE_SIZE)


def test_at_the_last_frame_online_results_are_those_of_the_whole_video(image: str) -> None:
    online, whole = (
        build_side(video(stage='full', image=image, whole_video=whole_video, window=1 + whole_video)).call()
        for whole_video in (False, True)
    )
    torch.testing.assert_close(online[-1].scores, whole[-1].scores)
    assert not torch.equal(online[0].scores, whole[0].scores)


def test_kept_queries_become_segments(image: str) -> None:
    results = build_side(video('panoptic', stage='full', image=image, kept=0)).call()
    assert all((result.sem_seg == 4).all() for result in results)  # void alone
    side = build_side(video('panoptic', stage='full', image=image, kept=4))
    class_logits = side.stream(torch.randn(1, 2, 3, 64, 64)).class_logits[-1]  # type: ignore[attr-defined]
    assert (class_logits.argmax(-1) < 4).sum() == 4


@pytest.mark.parametrize('task', TASKS)
def test_training_stage_changes_every_part(task: str) -> None:
    side = build_side(video(task, stage='train', batch=2))
    before = {name: parameter.detach().clone() for name, parameter in side.model.named_parameters()}
    side.call()
    changed = {name for name, value in side.model.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split('.')[0] for name in changed} == {'backbone', 'panoptic_head'}
    assert 'panoptic_head.query_updater.weight' in changed  # over more than one frame


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(batch=2), 'batch 2: from files, videos are segmented one at a time'),
        (dict(compile_mode='default'), r'without torch\.compile'),
    ],
)
def test_what_the_full_stage_does_not_do(changes: dict[str, Any], message: str, image: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_side(video(stage='full', image=image, **changes))


def test_compiled_network_gives_equal_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def eagerly(function: Any, **kwargs: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, 'compile', eagerly)
    for stage, name in (('model', 'stream'), ('train', 'extract_feat')):
        side = build_side(video(stage=stage, compile_mode='default'))
        side.compile()
        assert compiled.pop().__name__ == name and not compiled
        side.call()


@pytest.mark.slow
def test_memory_holds_the_weights() -> None:
    peak = in_fresh_process(peak_memory, video())
    weights = sum(parameter.numel() for parameter in build_side(video()).model.parameters())
    assert peak is None or peak >= 4 * weights


@pytest.mark.parametrize(('task', 'labels', 'count'), [('instance', 3, 12), ('panoptic', 5, 14), ('semantic', 5, 5)])
def test_targets_of_clips(task: str, labels: int, count: int) -> None:
    num_stuff = 0 if task == 'instance' else 2
    clips = make_clips(task, (64, 96), 2, 4, 3, num_stuff)
    assert [clip.shape for clip in clips['inputs']] == [(4, 3, 64, 96)] * 2
    assert len(clips['data_samples']) == 2
    for clip in clips['data_samples']:
        for frame in clip.video_data_samples:
            found = frame.gt_instances
            assert len(found) == len(found.instances_ids.unique()) == count
            assert found.masks.masks.any((1, 2)).all()
            assert set(found.labels.tolist()) <= set(range(labels))
    if task == 'panoptic':
        assert set(found.labels[12:].tolist()) == {3, 4}


def test_operations_per_frame_are_eomts_and_the_query_updaters() -> None:
    clip, image, frames = measure([video(), ours('instance'), ours('instance', frames=3)], rounds=1, memory=False)
    assert frames.flops == image.flops
    classes = [build_side(spec).model.panoptic_head.num_classes for spec in (video(), ours('instance'))]
    updater, width, queries = 2 * 10 * 48 * 48 * 2 // 3, 48, 10  # 3 frames have 2 before them
    assert clip.flops - image.flops == updater + 2 * queries * width * (classes[0] - classes[1])
    assert clip.attention == ['6 flash_attention_for_cpu'] and clip.speedup is not None


@pytest.mark.slow
def test_videos_beside_images(tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / 'out.json', tmp_path / 'out.png'
    arguments = ['--size', 64, 64, '--stage', 'full', '--rounds', 1, '--no-memory', '--out', out, '--plot', picture]
    vit = ['model.backbone.depth=2', 'model.backbone.embed_dim=48', 'model.backbone.num_heads=3']
    tool('benchmark.py', VIDEO.stem, CONFIGS['instance'], *arguments, '--cfg-options', *vit)
    printed = capsys.readouterr().out
    assert '; 5 frames one by one, times and operations per frame; ' in printed and '| frames/s |' in printed
    sides = json.loads(out.read_text())['sides']
    assert [side['spec']['frames'] for side in sides] == [5, 5]
    assert sides[0]['time']['median'] == pytest.approx(sides[0]['seconds'][0] / 5)
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--frames', '0'], '--frames 0: at least 1'),
        (['--window', '0'], '--window 0: at least 1'),
        (['--whole-video'], '--whole-video is about results: give --stage full'),
        (['--window', '2', '--stage', 'train'], '--window 2: for --stage model, and with --whole-video'),
        (['--window', '2', '--stage', 'full'], '--window 2: for --stage model, and with --whole-video'),
        (['--batch', '2', '--stage', 'full', '--size', '64', '64'], 'videos are segmented one at a time'),
        ([MASK2FORMER_VIS, '--size', '64', '64'], "Mask2FormerVideo is a host's model for videos"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, tool: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark.py', str(VIDEO), *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_windows_are_of_videos(tool: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark.py', CONFIGS['instance'], '--window', 2, '--cfg-options', *small('instance'))
    assert '--window and --whole-video: none of the configs is for videos' in capsys.readouterr().err


@pytest.mark.parametrize(('size', 'dtype'), [((64, 64), 'float32'), ((32, 64), 'bfloat16')])
def test_a_clip_beside_eomt_and_transformers_with_equal_weights(
    size: tuple[int, int], dtype: str, tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sides agree in what they compute, or it would raise; transformers takes part where frames are square."""
    model = ['model.backbone.embed_dim=32', 'model.backbone.depth=3', 'model.backbone.num_heads=2']
    options = ['--size', *size, '--dtype', dtype, '--frames', 2, '--rounds', 1, '--threads', 1, '--cfg-options', *model]
    tool('benchmark/compare.py', 'video', *options)
    printed = capsys.readouterr().out
    rows = [line.split('|')[1].strip() for line in printed.splitlines() if line.startswith('| ')]
    theirs = ['transformers'] if size[0] == size[1] else []
    assert rows == ['side', '---', 'eomt', 'videomt', 'videomt_whole', *theirs]
    assert 'results of videomt_whole differ from those of videomt by' in printed
    assert f', {dtype}, sides in turns' in printed


def test_equal_weights_need_a_config_of_videos(tool: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark/compare.py', 'video', CONFIGS['instance'])
    assert "is none of VidEoMT's configs" in capsys.readouterr().err.splitlines()[-1]
