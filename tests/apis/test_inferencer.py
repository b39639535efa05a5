"""EoMTInferencer: results of the three tasks, batches, arguments, and what is refused."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from inferencer_models import saved_model, small_config
from PIL import Image
from pycocotools import mask as mask_api
from tool_runs import CONFIGS

from eomt_mm.apis import EoMTInferencer
from eomt_mm.apis.results import summary

TASKS = tuple(CONFIGS)
Make = Callable[[str], EoMTInferencer]


def noise(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Inferencers of small models, each built once."""
    folder = tmp_path_factory.mktemp('models')
    return cache(lambda task: EoMTInferencer(*saved_model(task, folder / task), device='cpu', show_progress=False))


@pytest.mark.parametrize('task', TASKS)
def test_prediction_fits_its_segments(task: str, make: Make) -> None:
    (found,) = make(task)(noise(50, 70))['predictions']
    segmentation, info = found['segmentation'], found['segments_info']
    assert segmentation.shape == (50, 70) and segmentation.dtype == np.int32
    assert info and json.dumps(info)
    for segment in info:
        own = segmentation == segment['id']
        whole = own
        if task == 'instance':
            whole = mask_api.decode(segment['mask']).astype(bool)
            assert not (own & ~whole).any()
        assert segment['area'] == whole.sum() > 0
        rows, cols = np.nonzero(whole)
        assert segment['bbox'] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
        assert segment['label'] == make(task).meta['classes'][segment['label_id']]
        if task == 'semantic':
            assert segment['score'] is None and segment['id'] == segment['label_id']
        else:
            assert 0 < segment['score'] <= 1 and segment['isthing'] == (segment['label_id'] < make(task).num_things)
    ids = {segment['id'] for segment in info}
    assert set(np.unique(segmentation)) - {0} <= ids
    assert task == 'semantic' or 0 not in ids


@pytest.mark.parametrize('task', TASKS)
def test_batch_of_different_sizes_equals_single_images(task: str, make: Make) -> None:
    images = [noise(50, 70), noise(90, 30, seed=1), noise(64, 64, seed=2)]
    single = [make(task)(image)['predictions'][0] for image in images]
    batch = make(task)(images, batch_size=2)['predictions']
    assert [p['segmentation'].shape for p in batch] == [(50, 70), (90, 30), (64, 64)]
    for one, other in zip(single, batch, strict=True):
        # rounding may differ between batch sizes
        assert (one['segmentation'] == other['segmentation']).mean() > 0.99
        assert [s['label'] for s in one['segments_info']] == [s['label'] for s in other['segments_info']]


@pytest.mark.parametrize('task', TASKS)
def test_file_array_and_pil_give_the_same_result(task: str, make: Make, tmp_path: Path) -> None:
    bgr = noise(50, 70)
    cv2.imwrite(str(tmp_path / 'a.png'), bgr)
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    found = make(task)([tmp_path / 'a.png', bgr, Image.fromarray(rgb)])['predictions']
    found += make(task)(rgb, channel_order='rgb')['predictions']
    for other in found[1:]:
        assert np.array_equal(found[0]['segmentation'], other['segmentation'])
        assert found[0]['segments_info'] == other['segments_info']
    (swapped,) = make(task)(rgb, return_datasamples=True, channel_order='bgr')['predictions']
    (right,) = make(task)(bgr, return_datasamples=True)['predictions']
    assert str(swapped.to_dict()) != str(right.to_dict())  # the order does matter


@pytest.mark.parametrize('task', TASKS)
def test_samples_are_those_of_the_host(task: str, make: Make) -> None:
    (sample,) = make(task)(noise(50, 70), return_datasamples=True)['predictions']
    field = dict(panoptic='pred_panoptic_seg', instance='pred_instances', semantic='pred_sem_seg')[task]
    assert field in sample
    if task == 'semantic':
        assert sample.seg_logits.shape == (50, 70) and sample.seg_logits.data.shape[0] == 8
        assert make(task).head.keep_scores


def test_pictures_are_of_the_image(make: Make) -> None:
    found = make('panoptic')([noise(400, 330), noise(340, 500)], return_vis=True)
    assert [picture.shape for picture in found['visualization']] == [(400, 330, 3), (340, 500, 3)]
    bare = make('instance')(noise(400, 330), return_vis=True, pred_score_thr=1.0)['visualization'][0]
    assert np.array_equal(bare, noise(400, 330)[..., ::-1])  # RGB, nothing drawn
    assert make('panoptic')(noise(20, 20))['visualization'] == []


def test_score_threshold_of_instances(make: Make) -> None:
    every, some = (make('instance')(noise(50, 70), pred_score_thr=t)['predictions'][0] for t in (0.0, 0.5))
    scores = [segment['score'] for segment in every['segments_info']]
    assert scores == sorted(scores, reverse=True) and min(scores) < 0.5 < max(scores)
    assert [s['score'] for s in some['segments_info']] == [score for score in scores if score >= 0.5]
    (none,) = make('instance')(noise(50, 70), pred_score_thr=1.0)['predictions']
    assert none['segments_info'] == [] and not none['segmentation'].any()


def test_best_instance_is_on_top(make: Make) -> None:
    (found,) = make('instance')(noise(50, 70), pred_score_thr=0.0)['predictions']
    best = mask_api.decode(found['segments_info'][0]['mask']).astype(bool)
    assert (found['segmentation'][best] == 1).all()


def test_thresholds_of_panoptic_hold_for_one_call(make: Make) -> None:
    inferencer = make('panoptic')
    before = inferencer.head.score_thr, inferencer.head.overlap_thr
    (none,) = inferencer(noise(50, 70), pred_score_thr=1.0)['predictions']
    assert none['segments_info'] == [] and not none['segmentation'].any()
    counts = [
        len(inferencer(noise(50, 70), pred_score_thr=0.0, overlap_thr=t)['predictions'][0]['segments_info'])
        for t in (0.0, 1.0)
    ]
    assert counts[0] > counts[1]
    assert (inferencer.head.score_thr, inferencer.head.overlap_thr) == before


@pytest.mark.parametrize(
    'task, options, message',
    [
        ('semantic', dict(pred_score_thr=0.5), 'segments of a semantic model have no scores'),
        ('instance', dict(overlap_thr=0.5), 'panoptic segmentation has it, instance has none'),
        ('panoptic', dict(pred_score_thr=80), r'pred_score_thr=80: in \[0, 1\]'),
        ('panoptic', dict(batch_size=0), 'batch_size=0: at least 1'),
        ('panoptic', dict(on_error='ignore'), "on_error='ignore': 'raise' or 'skip'"),
        (
            'panoptic',
            dict(whole_video=True),
            'whole_video=True: EoMTInferencer has no such option; is it one of video models',
        ),
        ('semantic', dict(whole_video=False, fps=5), 'fps=5: EoMTInferencer has no such option'),
        ('panoptic', dict(inputs='https://example.org/a.jpg'), 'addresses are not read'),
    ],
)
def test_refused_at_once(task: str, options: dict, message: str, make: Make) -> None:
    with pytest.raises(ValueError, match=message):
        make(task).stream(**{'inputs': noise(8, 8), **options})  # not iterated


def test_unreadable_file(make: Make, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), noise(20, 20))
    (tmp_path / 'b.jpg').write_text('no image')
    cv2.imwrite(str(tmp_path / 'c.png'), noise(20, 20))
    with pytest.raises(ValueError, match='b.jpg cannot be decoded'):
        make('semantic')(tmp_path)
    with pytest.warns(UserWarning, match='skipped: image .*b.jpg'):
        found = make('semantic')(tmp_path, batch_size=3, on_error='skip')
    assert len(found['predictions']) == 2
    assert make('semantic').skipped == [tmp_path / 'b.jpg']
    make('semantic')(tmp_path / 'a.png')
    assert make('semantic').skipped == []


@pytest.mark.parametrize('task', TASKS)
def test_task_that_the_model_was_not_trained_for(task: str, tmp_path: Path) -> None:
    wanted = 'semantic' if task == 'panoptic' else 'panoptic'
    with pytest.raises(ValueError, match=f"task='{wanted}': .* is trained for {task} segmentation; take a config") as e:
        EoMTInferencer(small_config(task), task=wanted)
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match="task='depth': one of"):
        EoMTInferencer(small_config(task), task='depth')


def test_models_of_others_are_refused() -> None:
    cfg = small_config('panoptic')
    cfg.model = dict(type='mmdet.MaskFormer')
    with pytest.raises(ValueError, match='has a model of mmdet.MaskFormer: give one of eomt_mm'):
        EoMTInferencer(cfg)


def test_config_without_a_test_pipeline() -> None:
    cfg = small_config('panoptic')
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='no test_dataloader.dataset.pipeline'), pytest.warns(UserWarning):
        EoMTInferencer(cfg)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(device='gpu'), "device='gpu': such as"),
        (dict(device='cuda:99'), "device='cuda:99': PyTorch sees"),
        (dict(device='cpu', amp_dtype='float16'), 'is for GPUs: on the CPU take'),
        (dict(amp_dtype='half'), "amp_dtype='half': one of"),
        (dict(cfg_options={'img_size': 32}), 'give them to load_config'),
    ],
)
def test_refused_when_built(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EoMTInferencer(small_config('panoptic'), **arguments)


def test_random_weights_are_warned_about_and_overrides_reach_the_model() -> None:
    options = {'img_size': 32, 'model.backbone.depth': 1, 'model.panoptic_head.num_blocks': 1}
    with pytest.warns(UserWarning, match='weights are random'):
        inferencer = EoMTInferencer('eomt_tiny_shapes-panoptic-128', cfg_options=options)
    assert inferencer.model.data_preprocessor.img_size == (32, 32)
    assert inferencer(noise(8, 8))['predictions'][0]['segmentation'].shape == (8, 8)


def test_mixed_precision_reaches_the_network_only(tmp_path: Path) -> None:
    inferencer = EoMTInferencer(*saved_model('semantic', tmp_path), amp_dtype='bfloat16', device='cpu')
    types = set()
    predict = inferencer.head.predict_inputs

    def watched(network, inputs, samples, rules):  # type: ignore[no-untyped-def]
        def watched_network(windows):  # type: ignore[no-untyped-def]
            predictions = network(windows)
            types.update(logits.dtype for part in predictions for logits in part)
            assert not torch.is_autocast_enabled('cpu')
            return predictions

        return predict(watched_network, inputs, samples, rules)

    inferencer.head.predict_inputs = watched  # type: ignore[method-assign]
    (found,) = inferencer(noise(50, 70), return_datasamples=True)['predictions']
    assert torch.bfloat16 in types
    assert found.seg_logits.data.dtype == torch.float32


def test_class_names_come_from_the_checkpoint(tmp_path: Path) -> None:
    names = [f'name {k}' for k in range(8)]
    inferencer = EoMTInferencer(*saved_model('semantic', tmp_path, classes=names), device='cpu')
    (found,) = inferencer(noise(20, 20))['predictions']
    assert {segment['label'] for segment in found['segments_info']} <= set(names)
    assert len(inferencer.meta['palette']) == 8  # made: the checkpoint has none
    with pytest.raises(ValueError, match='names for 3 classes and rows for 8'):
        EoMTInferencer(*saved_model('semantic', tmp_path, classes=names[:3]), device='cpu')


@pytest.mark.parametrize('task', TASKS)
def test_agrees_with_test_step_of_the_host(task: str, make: Make, tmp_path: Path) -> None:
    """The model's own ``test_step`` on what the config's test pipeline makes of the file."""
    inferencer = make(task)
    cv2.imwrite(str(tmp_path / 'a.png'), noise(50, 70))
    item = inferencer.pipeline(inferencer.load_image(dict(img_path=str(tmp_path / 'a.png'))))
    with torch.no_grad():
        (expected,) = inferencer.model.test_step(inferencer.collate_fn([item]))
    (found,) = inferencer(tmp_path / 'a.png', return_datasamples=True)['predictions']
    if task == 'panoptic':
        assert torch.equal(found.pred_panoptic_seg.sem_seg, expected.pred_panoptic_seg.sem_seg)
    elif task == 'instance':
        assert torch.equal(found.pred_instances.masks, expected.pred_instances.masks)
    else:
        assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_print_result(make: Make, capsys: pytest.CaptureFixture) -> None:
    make('panoptic')([noise(20, 20)] * 2, print_result=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(': ' in line for line in lines)


def test_summary() -> None:
    def segments(**areas: int) -> list[dict]:
        return [dict(label=label.strip('_'), area=area) for label, area in areas.items()]

    assert summary(segments(cat=5, sky=9, cat_=7)) == '2 cat, sky'
    assert summary(segments(a=3, b=2, c=1), limit=2) == 'a, b and 1 more'
    assert summary([]) == 'nothing'
