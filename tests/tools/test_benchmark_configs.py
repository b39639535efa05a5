"""tools/benchmark/configs.py."""

from pathlib import Path

import pytest
from benchmark_sides import STOCK, VIDEO, video
from tool_runs import CONFIGS, ROOT, small

from benchmark.configs import (
    all_steps,
    find_config,
    is_video,
    mask_head,
    side_config,
    task_of,
    test_pipeline as pipeline_of,
    without_targets,
)
from eomt_mm.options import read_options

LEAF = 'eomt_dinov2-s_24e_coco-panoptic-640'


@pytest.mark.parametrize(
    'name',
    [LEAF, f'{LEAF}.py', f'coco/{LEAF}', str(ROOT / f'configs/eomt/coco/{LEAF}.py')],
    ids=['name', 'file name', 'folder and name', 'path'],
)
def test_our_configs_are_found_by_path_and_by_name(name: str) -> None:
    assert find_config(name) == ROOT / f'configs/eomt/coco/{LEAF}.py'


def test_configs_of_projects_are_found_by_their_names() -> None:
    assert find_config(VIDEO.stem) == VIDEO


@pytest.mark.parametrize(('task', 'name'), STOCK.items())
def test_the_hosts_configs_are_found_with_their_name_and_without(task: str, name: str) -> None:
    path = find_config(name)
    assert path.is_file() and path.parent.parent.parent.name == '.mim'
    assert find_config(f'{name}.py') == find_config(Path(name).name) == path


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('eomt_dinov2-s_24e_coco-panoptc-640', 'did you mean eomt_dinov2-s_24e_coco-panoptic-640'),
        ('mmdet::mask2former/mask2former_r50', 'does not exist'),
        ('mmpose::something', 'mmdet and mmseg have some'),
    ],
)
def test_unknown_names_say_what_there_is(name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        find_config(name)


def test_a_name_of_several_is_refused() -> None:
    with pytest.raises(ValueError, match='give the path'):
        find_config('mmdet::override_category')


@pytest.mark.parametrize('size', [(64, 64), (64, 96)])
def test_one_size_reaches_everything_of_ours(size: tuple[int, int]) -> None:
    cfg = side_config(str(CONFIGS['panoptic']), size)
    stated = {str(step['img_size']) for step in pipeline_of(cfg) if 'img_size' in step}
    stated.add(str(cfg.model.data_preprocessor.img_size))
    stated.add(str(cfg.model.backbone.img_size))
    assert stated == ({'64'} if size[0] == size[1] else {'(64, 96)'})


def test_one_size_reaches_the_hosts_pipelines_and_padding() -> None:
    det, seg = (side_config(STOCK[task], (64, 96)) for task in ('panoptic', 'semantic'))
    for cfg in (det, seg):
        assert [step.scale for step in pipeline_of(cfg) if step.type == 'Resize'] == [(96, 64)]
    assert det.model.data_preprocessor.batch_augments[0].size == (64, 96)
    assert seg.model.data_preprocessor.size == (64, 96)


def test_one_size_reaches_the_frames_of_videos() -> None:
    (resize,) = [step for step in all_steps(pipeline_of(side_config(str(VIDEO), (64, 96)))) if 'scale' in step]
    assert (resize.scale, resize.max_size) == (64, 96)


def test_targets_are_left_out_of_the_pipelines_of_images_and_of_frames() -> None:
    for name in (str(CONFIGS['panoptic']), STOCK['semantic'], str(VIDEO)):
        pipeline = pipeline_of(side_config(name))
        kept = [step['type'] for step in all_steps(without_targets(pipeline))]
        assert [kind.rpartition('.')[2][:9] for kind in kept if 'Load' in kind] == ['LoadImage']
        assert len(kept) == len(list(all_steps(pipeline))) - 1


def test_models_for_videos_are_told_by_their_pipeline() -> None:
    assert is_video(side_config(str(VIDEO)))
    assert is_video(side_config('mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019'))
    assert not any(is_video(side_config(str(config))) for config in CONFIGS.values())


@pytest.mark.parametrize('task', ['instance', 'panoptic', 'semantic'])
def test_tasks_of_videos(task: str) -> None:
    assert task_of(side_config(str(VIDEO), options=video(task).options)) == task


@pytest.mark.parametrize('task', CONFIGS)
def test_tasks_of_ours_and_of_the_hosts(task: str) -> None:
    assert task_of(side_config(str(CONFIGS[task]))) == task_of(side_config(STOCK[task])) == task


def test_tasks_of_models_without_queries() -> None:
    assert task_of(side_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco')) == 'instance'
    faster_rcnn = side_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco')
    assert task_of(faster_rcnn) == 'detection'
    with pytest.raises(ValueError, match='no queries'):
        mask_head(faster_rcnn)


@pytest.mark.parametrize('name', [str(CONFIGS['semantic']), STOCK['instance']])
def test_number_of_queries(name: str) -> None:
    assert mask_head(side_config(name, num_queries=7)).num_queries == 7


def test_the_users_overrides_stay() -> None:
    options = dict(read_options(small('panoptic')) or {}, **{'model.backbone.depth': 5})
    cfg = side_config(str(CONFIGS['panoptic']), (96, 96), options)
    assert cfg.model.backbone.depth == 5 and cfg.img_size == 96
