"""Pictures of validations and tests: which images, where they go, and what is drawn of the three tasks."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from tool_runs import CONFIGS, small

from eomt_mm.engine.pictures import PictureHook, sample_picture
from eomt_mm.models.predictions import drawn_ground_truth, drawn_prediction, has_void
from eomt_mm.visualization import legend_of, with_palette

META = dict(classes=('cat', 'sky'), palette=[(200, 0, 0), (0, 0, 200)])
H, W = 20, 30


def instances(labels: list[int], scores: list[float] | None = None) -> InstanceData:
    masks = np.zeros((len(labels), H, W), bool)
    for k in range(len(labels)):
        masks[k, :, 5 * k : 5 * k + 5] = True
    if scores is None:
        return InstanceData(labels=torch.tensor(labels), masks=BitmapMasks(masks.astype(np.uint8), H, W))
    return InstanceData(labels=torch.tensor(labels), masks=torch.from_numpy(masks), scores=torch.tensor(scores))


def sample_of(task: str, path: Path | None = None) -> Any:
    meta = dict(img_path=str(path), panoptic_segments=[dict(id=1, label=0, score=0.75)])
    if task == 'semantic':
        label_map = torch.full((1, H, W), 255)
        label_map[:, :5] = 1
        return SegDataSample(
            metainfo=meta, gt_sem_seg=PixelData(data=label_map), pred_sem_seg=PixelData(data=label_map)
        )
    sample = DetDataSample(metainfo=meta)
    if task == 'instance':
        sample.gt_instances = instances([0, 0])
        sample.pred_instances = instances([0, 1, 0], [0.9, 0.2, 0.5])
        return sample
    ids = torch.zeros(1, H, W, dtype=torch.int32)
    ids[:, :5], ids[:, 5:9], ids[:, 9:12] = 1, 2, 3  # the third is a crowd
    sample.gt_instances = InstanceData(labels=torch.tensor([0, 0]))
    sample.gt_panoptic_seg = PixelData(segment_ids=ids)
    codes = torch.full((1, H, W), 2)
    codes[:, :5], codes[:, 5:8] = 1000, 2001
    sample.pred_panoptic_seg = PixelData(sem_seg=codes)
    return sample


def test_semantic_segments() -> None:
    sample = sample_of('semantic')
    for segments in (drawn_ground_truth(sample, META), drawn_prediction(sample, META)):
        assert [(s.caption, s.colour, int(s.mask.sum())) for s in segments] == [('sky', (0, 0, 200), 5 * W)]
    assert has_void(sample)


def test_instances_are_told_apart_and_the_best_is_on_top() -> None:
    sample = sample_of('instance')
    first, second = drawn_ground_truth(sample, META)
    assert first.colour == (200, 0, 0) != second.colour
    found = drawn_prediction(sample, META, 0.3)
    assert [s.caption for s in found] == ['cat 0.50', 'cat 0.90']
    assert len(drawn_prediction(sample, META)) == 3
    assert drawn_prediction(sample, META, 1.0) == []
    assert not has_void(sample)


def test_panoptic_segments() -> None:
    sample = sample_of('panoptic')
    assert [int(s.mask.sum()) for s in drawn_ground_truth(sample, META)] == [5 * W, 4 * W]
    found = drawn_prediction(sample, META)
    assert [s.caption for s in found] == ['cat 0.75', 'sky']  # other models know no scores
    assert legend_of(['sky', 'cat'], META) == [('cat', (200, 0, 0)), ('sky', (0, 0, 200))]
    assert legend_of(['sky'], META) == [('sky', (0, 0, 200))]


def test_without_ground_truth() -> None:
    assert drawn_ground_truth(DetDataSample(), META) is None
    assert drawn_ground_truth(SegDataSample(), META) is None


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new('RGB', (W, H), (90, 90, 90)).save(tmp_path / 'scene.png')
    return tmp_path / 'scene.png'


@pytest.mark.parametrize('task', ['semantic', 'instance', 'panoptic'])
def test_panel_of_the_truth_only_where_it_is(task: str, image: Path) -> None:
    sample = sample_of(task, image)
    assert sample_picture(sample, META).width == 3 * 16 * W + 2 * 8
    for name in ('gt_sem_seg', 'gt_panoptic_seg', 'gt_instances'):
        sample.pop(name, None)
    assert sample_picture(sample, META).width == 2 * 16 * W + 8


def test_empty_predictions_are_drawn(image: Path) -> None:
    sample = DetDataSample(metainfo=dict(img_path=str(image)), pred_instances=instances([], []))
    sample.pred_instances.masks = torch.zeros(0, H, W, dtype=torch.bool)
    assert sample_picture(sample, META).width == 2 * 16 * W + 8


def runner(drawn: list[Any], iteration: int = 7) -> Any:
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=META))
    visualizer = SimpleNamespace(add_image=lambda name, image, step: drawn.append((name, image.shape[2], step)))
    return SimpleNamespace(val_dataloader=loader, test_dataloader=loader, visualizer=visualizer, iter=iteration)


def test_first_images_of_every_second_validation(image: Path) -> None:
    drawn: list[Any] = []
    hook, sample = PictureHook(max_val_images=3, interval=2), sample_of('panoptic', image)
    for iteration in (10, 20, 30):
        hook.before_val(runner(drawn))
        for k in range(4):
            hook.after_val_iter(runner(drawn, iteration), k, outputs=[sample, sample])
    assert drawn == [('val_scene', 3, 10)] * 3 + [('val_scene', 3, 30)] * 3


def test_folder(image: Path, tmp_path: Path) -> None:
    hook, sample = PictureHook(str(tmp_path / 'out'), max_images=1, palette='distinct'), sample_of('instance', image)
    for _ in range(2):
        hook.before_test(runner([]))
        hook.after_test_iter(runner([]), 0, outputs=[sample, sample_of('instance', tmp_path / 'never_read.png')])
    hook.before_val(runner([]))
    hook.after_val_iter(runner([]), 0, outputs=[sample])
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['scene.png', 'scene_7.png']


def test_pictures_of_equal_names_do_not_replace_each_other(image: Path, tmp_path: Path) -> None:
    samples = []
    for k in range(2):
        path = tmp_path / f'cam{k}' / 'scene.png'
        path.parent.mkdir()
        path.write_bytes(image.read_bytes())
        samples.append(sample_of('instance', path))
    drawn: list[Any] = []
    for _ in range(2):
        for hook in (
            PictureHook(str(tmp_path / 'below'), img_prefix=str(tmp_path)),
            PictureHook(str(tmp_path / 'flat')),
            PictureHook(),
            PictureHook(img_prefix=str(tmp_path)),
        ):
            hook.before_test(runner([]))
            hook.after_test_iter(runner(drawn), 0, outputs=samples)
    below, flat = (
        sorted(str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob('*.png'))
        for name in ('below', 'flat')
    )
    assert below == ['cam0/scene.png', 'cam1/scene.png'] and flat == ['scene.png', 'scene_2.png']
    tags = [name for name, *_ in drawn]
    assert tags == ['test_scene', 'test_scene_2', 'test_cam0_scene', 'test_cam1_scene'] * 2


def test_300_instances_are_drawn(image: Path) -> None:
    sample = sample_of('instance', image)
    masks = torch.zeros(300, H, W, dtype=torch.bool)
    for k, mask in enumerate(masks):
        mask[k // 20, k % 20] = True
    sample.pred_instances = InstanceData(masks=masks, labels=torch.zeros(300, dtype=torch.long), scores=torch.ones(300))
    assert len(drawn_prediction(sample, META)) == 300
    assert sample_picture(sample, META).width > 0


def test_another_palette() -> None:
    assert with_palette(META)['palette'] == META['palette']
    assert with_palette(META, 'distinct')['palette'] != META['palette']
    assert with_palette(META, 'distinct')['classes'] == META['classes']


@pytest.mark.parametrize('wrong', [dict(palette='bright'), dict(interval=0), dict(max_side=0)])
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f'{name}=.*{value}'):
        PictureHook(**wrong)


def test_tensorboard_gets_pictures(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    options = small('panoptic', 2, train_cfg__val_interval=1)
    options += ['visualizer.vis_backends.0.type=TensorboardVisBackend']
    options += ['default_hooks.pictures.type=eomt_mm.PictureHook', 'default_hooks.pictures.max_val_images=1']
    tool('train.py', CONFIGS['panoptic'], '--data-root', coco_root, '--work-dir', tmp_path, '--cfg-options', *options)
    events = accumulator.EventAccumulator(str(next(tmp_path.rglob('events.out.*')).parent))
    events.Reload()
    (tag,) = events.Tags()['images']
    assert tag.startswith('val_')
    assert [event.step for event in events.Images(tag)] == [1, 2]
    assert events.Images(tag)[0].width > 3 * 320
