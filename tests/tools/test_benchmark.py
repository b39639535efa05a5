"""tools/benchmark.py and tools/benchmark/measure.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_sides import STOCK, mask2former, ours
from tool_runs import CONFIGS, small

from benchmark.measure import measure

PANOPTIC, SEMANTIC = str(CONFIGS['panoptic']), str(CONFIGS['semantic'])


def test_sides_take_turns_and_speed_is_over_the_first(tmp_path: Path) -> None:
    host, toy = measure([mask2former('panoptic', tmp_path), ours('panoptic')], rounds=2, memory=False)
    assert host.name == 'tiny_mask2former_panoptic' and toy.name == 'eomt_tiny_shapes-panoptic-128'
    assert host.speedup is not None and (host.speedup.low, host.speedup.high) == (1, 1)
    ratios = [a / b for a, b in zip(host.seconds, toy.seconds, strict=True)]
    assert toy.speedup is not None and toy.speedup.median == pytest.approx(sum(ratios) / 2)
    assert toy.attention == ['2 flash_attention_for_cpu']
    assert host.attention == ['6 bmm + softmax', '1 deformable, slow PyTorch form (no compiled op)']
    assert toy.flops > 2 * 16 * toy.parameters / 2  # patches times weights, most of which multiply each of them


def test_all_sides_that_cannot_run_are_named(tmp_path: Path) -> None:
    specs = [ours('panoptic', size=(65, 65)), ours('panoptic'), mask2former('panoptic', tmp_path, num_queries=0)]
    with pytest.raises(ValueError, match='cannot run:\n  eomt_tiny_shapes-panoptic-128: .*65') as caught:
        measure([*specs, ours('panoptic', checkpoint='nothing.pth')], rounds=1)
    assert str(caught.value).count('\n') >= 2 and 'nothing.pth' in str(caught.value)


def test_different_tasks_share_the_network_stage_alone() -> None:
    with pytest.raises(ValueError, match=r'\(panoptic\), .*\(semantic\) differ; compare them with --stage model'):
        measure([ours('panoptic', stage='train'), ours('semantic', stage='train')], rounds=1)
    assert len(measure([ours('panoptic'), ours('semantic')], rounds=1, memory=False)) == 2


def test_full_comparison_writes_table_json_and_picture(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / 'out.json', tmp_path / 'out.png'
    tool(
        'benchmark.py', PANOPTIC, mask2former('panoptic', tmp_path).config, '--stage', 'full', '--size', 64, 64,
        '--rounds', 2, '--no-memory', '--out', out, '--plot', picture,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert 'image file to result; input 64 x 64, batch 1; 25 queries kept; float32; eager' in printed
    assert '| tiny_mask2former_panoptic |' in printed
    content = json.loads(out.read_text())
    assert [len(side['seconds']) for side in content['sides']] == [2, 2]
    assert content['sides'][0]['task'] == 'panoptic' and content['environment']['device'] == 'cpu'
    assert picture.stat().st_size > 5000


def test_growth_varies_one_axis_at_a_time(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'growth.json'
    arguments = ['--growth', 'size=64,96', 'queries=5,20', '--rounds', 1, '--no-memory', '--out', out]
    tool('benchmark.py', PANOPTIC, *arguments, '--cfg-options', *small('panoptic'))
    printed = capsys.readouterr().out
    assert 'eomt_tiny_shapes-panoptic-128: model forward; input 64 x 64' in printed
    assert [f'| {row} |' in printed for row in ('size 64', 'size 96', 'queries 5', 'queries 20')] == [True] * 4
    flops = [side['flops'] for side in json.loads(out.read_text())['sides']]
    assert flops[0] < flops[1] and flops[2] < flops[3]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nothing'], "config 'nothing' does not exist"),
        ([PANOPTIC, SEMANTIC, '--growth'], '--growth is of one config, not of 2'),
        ([PANOPTIC, '--growth', 'depth'], "growth axis 'depth': size, batch, queries"),
        ([PANOPTIC, '--rounds', '0'], '--rounds 0: at least 1'),
        ([PANOPTIC, '--device', 'cuda:99'], '--device cuda:99'),
        ([PANOPTIC, '--checkpoints', 'a', 'b'], '2 files for 1 configs; one each'),
        ([PANOPTIC, '--data-root', 'data'], 'give --checkpoints'),
        ([PANOPTIC, '--image', 'nothing.jpg'], '--image nothing.jpg does not exist'),
        ([PANOPTIC, '--out', '.'], 'it is a folder; name a file'),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, tool: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark.py', *arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('benchmark.py: error: ') and message in last


@pytest.mark.slow
def test_memory_of_fresh_processes_and_stock_mask2former(
    tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out.json'
    tool('benchmark.py', PANOPTIC, STOCK['panoptic'], '--size', 128, 128, '--rounds', 1, '--out', out)
    toy, stock = json.loads(out.read_text())['sides']
    assert 43e6 < stock['parameters'] < 45e6 and toy['parameters'] < 5e6
    assert 4 * stock['parameters'] < stock['memory'] < 4e9 and 4 * toy['parameters'] < toy['memory'] < stock['memory']
    assert '6 deformable, slow PyTorch form (no compiled op)' in capsys.readouterr().out


@pytest.mark.slow
def test_accuracy_is_of_the_configs_own_test(
    tool: Callable[..., None], tmp_path: Path, coco_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ['--cfg-options', *small('panoptic')]
    work_dir, out = tmp_path / 'run', tmp_path / 'out.json'
    tool('train.py', PANOPTIC, '--work-dir', work_dir, '--data-root', coco_root, *options)
    checkpoint = work_dir / 'iter_2.pth'
    tool(
        'benchmark.py', PANOPTIC, '--checkpoints', checkpoint, '--data-root', coco_root, '--no-memory',
        '--rounds', 1, '--out', out, *options,
    )  # fmt: skip
    assert 'coco_panoptic/PQ' in json.loads(out.read_text())['sides'][0]['accuracy']
    assert '| PQ ' in capsys.readouterr().out
