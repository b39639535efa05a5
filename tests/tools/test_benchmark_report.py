"""tools/benchmark/report.py and growth.py."""

import json
from pathlib import Path

import pytest

from benchmark.growth import AXES, growth_plot, growth_table, parse_axes, point, slope
from benchmark.harness import paired_ratio
from benchmark.measure import Result
from benchmark.report import caption, environment, main_metric, markdown, plot, table, two_lines, write_json
from benchmark.sides import Spec


def result(name: str, seconds: list[float], flops: int = 10**9, **changes: object) -> Result:
    fields = dict(parameters=1_500_000, flops=flops, attention=['2 flash_attention'], memory=3 * 2**20) | changes
    fields = dict(spec=Spec(name, batch=2)) | fields
    made = Result(name, task='panoptic', input_size=(640, 640), seconds=seconds, **fields)  # type: ignore[arg-type]
    made.speedup = paired_ratio([1.0, 1.0, 1.0], seconds)
    return made


RESULTS = [result('a', [1.0, 1.0, 1.0]), result('b', [0.5, 0.25, 0.5], attention=[])]


def test_table() -> None:
    header, _, a, b = table(RESULTS).splitlines()
    assert [cell.strip() for cell in header.split('|')[2:-1]] == [
        'parameters', 'GFLOPs', 'time (ms)', 'images/s', 'peak memory', 'speed', 'attention',
    ]  # fmt: skip
    assert a == '| a | 1.5 M | 1.0 | 1000 [1000, 1000] | 2.00 | 3 MiB | 1.00 [1.00, 1.00] x | 2 flash_attention |'
    assert b == '| b | 1.5 M | 1.0 | 500 [375, 500] | 4.00 | 3 MiB | 2.00 [2.00, 3.00] x |  |'


def test_columns_that_only_some_comparisons_have() -> None:
    other = result('c', [1.0, 1.0, 1.0], memory=None, accuracy={'coco_panoptic/SQ': 80.0, 'coco_panoptic/PQ': 51.25})
    other.input_size = (480, 640)
    text = table([RESULTS[0], other])
    assert '| input |' in text and '| 480 x 640 |' in text and '| 640 x 640 |' in text
    assert text.splitlines()[0].endswith('| accuracy |') and text.endswith('| PQ 51.2 |')
    assert len({line.count('|') for line in text.splitlines()}) == 1


@pytest.mark.parametrize(
    ('metrics', 'text'),
    [
        ({'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.44}, 'segm_mAP 0.44'),
        ({'mIoU': 50.5, 'aAcc': 80}, 'mIoU 50.5'),
        ({'vis/AR@1': 30.0, 'vis/AP50': 40.0, 'vis/AP': 20.0}, 'AP 20'),
        ({'vps/VPQ_th': 30.0, 'vps/VPQ': 40.0}, 'VPQ 40'),
        ({}, ''),
    ],
)
def test_the_tasks_own_metric_is_shown(metrics: dict[str, float], text: str) -> None:
    assert main_metric(metrics) == text


def test_caption_says_what_ran_on_what() -> None:
    env = dict(environment('cpu'), device_name='C', threads=2, torch='2')
    spec = Spec('a', stage='full', size=(512, 1024), amp='bfloat16', compile_mode='default', kept=7)
    assert caption(spec, 'panoptic', 5, env) == (
        'image file to result; input 512 x 1024, batch 1; 7 queries kept; bfloat16 autocast; torch.compile default; '
        'C, 2 threads, torch 2; 5 rounds, in turns'
    )
    assert '; float32; eager; ' in caption(Spec('a'), 'panoptic', 5, env)


@pytest.mark.parametrize(
    ('spec', 'text'),
    [
        (Spec('a', frames=5), '; 5 frames one by one, times and operations per frame; '),
        (Spec('a', frames=5, window=2), '; 5 frames in windows of 2 by video models, times'),
        (
            Spec('a', stage='full', frames=2, whole_video=True),
            '2 frames one by one, results of videos in the end, times',
        ),
        (Spec('a', stage='train', frames=2, batch=3), 'batch 3; 2 frames as a clip or a batch, times'),
    ],
)
def test_caption_says_how_frames_come(spec: Spec, text: str) -> None:
    assert text in caption(spec, 'instance', 5, environment('cpu'))


def test_times_of_calls_are_divided_by_their_frames() -> None:
    one = result('v', [1.0, 2.0, 3.0], spec=Spec('v', batch=2, frames=4))
    assert one.time.median == 0.5 and one.images_per_second == 4 and one.seconds == [1.0, 2.0, 3.0]
    assert '| frames/s |' in table([one])


def test_json_holds_every_round_and_the_environment(tmp_path: Path) -> None:
    write_json(tmp_path / 'out' / 'a.json', environment('cpu'), RESULTS)
    content = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert content['environment'].keys() >= {'torch', 'device', 'device_name', 'threads'}
    side = content['sides'][1]
    assert side['seconds'] == [0.5, 0.25, 0.5] and side['time']['median'] == 0.5 and side['speedup']['median'] == 2
    assert side['spec']['stage'] == 'model' and side['flops'] == 10**9 and side['memory'] == 3 * 2**20


def test_names_are_broken_in_the_middle() -> None:
    assert two_lines('mask2former_r50_8xb2-lsj-50e_coco-panoptic') == 'mask2former_r50\n8xb2-lsj-50e_coco-panoptic'
    assert two_lines('name') == 'name'


def test_table_of_text_and_numbers() -> None:
    assert markdown([['x', '1']], ['name', 'n']) == '| name | n |\n| --- | ---: |\n| x | 1 |'


def test_axes_of_growth() -> None:
    assert parse_axes([]) == AXES
    assert parse_axes(['batch', 'size=64,96']) == dict(batch=AXES['batch'], size=(64, 96))
    for text in ('sizes', 'size=', 'size=a', 'size=0', 'size=64,'):
        with pytest.raises(ValueError, match='growth axis'):
            parse_axes([text])


def test_points_change_one_thing() -> None:
    spec = Spec('a', size=(512, 1024), batch=3)
    assert point(spec, 'size', 96).size == (96, 96) and point(spec, 'size', 96).batch == 3
    assert point(spec, 'batch', 5).batch == 5 and point(spec, 'queries', 7).num_queries == 7


def test_slope_is_the_exponent() -> None:
    assert slope([1, 10, 100], [2, 2e3, 2e6]) == pytest.approx(3)


def test_growth_table_and_pictures(tmp_path: Path) -> None:
    sizes = {320: result('a', [1.0] * 3), 640: result('a', [4.0] * 3, 4 * 10**9, memory=6 * 2**20)}
    growth = dict(size=sizes, batch={1: result('a', [4.0] * 3, memory=None)})
    text = growth_table(growth)
    assert '| size 640 | 4.0 | 4000 [4000, 4000] | 1 | 6 MiB |' in text
    assert text.count('time ~ operations^1.00, memory ~ operations^0.50') == 1
    growth_plot(tmp_path / 'growth.png', growth, 'title')
    plot(tmp_path / 'bars.png', RESULTS, 'title')
    assert all((tmp_path / name).read_bytes().startswith(b'\x89PNG') for name in ('growth.png', 'bars.png'))
