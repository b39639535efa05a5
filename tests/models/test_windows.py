"""Images of many windows: chunks of them, memory that does not grow with their number, and equal results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope
from paths import ROOT
from torch import Tensor

from eomt_mm.apis import init_model, load_config
from eomt_mm.core import postprocess, window_scores
from eomt_mm.core.geometry import Windows
from eomt_mm.core.postprocess import semantic_scores
from eomt_mm.core.window_scores import semantic_predictions
from eomt_mm.registry import TRANSFORMS

CONFIG = ROOT / 'configs/eomt/ade20k/eomt_dinov2-s_31e_ade20k-semantic-512.py'
SIDE = 32
SIZES = [(SIDE, 6 * SIDE - 9), (SIDE, SIDE), (2 * SIDE, SIDE + 5)]


@pytest.fixture(scope='module')
def model() -> Any:
    torch.manual_seed(0)
    model = init_model(load_config(CONFIG, {'img_size': SIDE, 'model.backbone.depth': 4}))
    for parameter in model.decode_head.parameters():  # sharp predictions
        parameter.data.mul_(3)
    return model


def batch(model: Any) -> dict[str, Any]:
    """Images of 6, 1 and 4 windows, as the model takes them."""
    rng = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8) for size in SIZES]
    sample = model.data_preprocessor.sample_class
    samples = [sample(metainfo=dict(ori_shape=(h + 3, 2 * w))) for h, w in SIZES]
    return model.data_preprocessor(dict(inputs=images, data_samples=samples))


@pytest.mark.parametrize('keep_scores', [True, False])
@pytest.mark.parametrize('intermediate', [True, False])
def test_chunks_do_not_change_predictions(
    model: Any, keep_scores: bool, intermediate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, sizes = model.decode_head, []
    extract_feat = model.extract_feat
    monkeypatch.setattr(model, 'extract_feat', lambda inputs: sizes.append(len(inputs)) or extract_feat(inputs))
    monkeypatch.setattr(head, 'keep_scores', keep_scores)
    monkeypatch.setattr(head, 'predict_intermediate', intermediate)
    found = []
    for window_batch in (1000, 4):
        monkeypatch.setattr(head, 'window_batch', window_batch)
        with torch.no_grad():
            found.append(model.predict(**batch(model)))
    assert sizes == [11, 4, 4, 3]
    for whole, parts, (h, w) in zip(*found, SIZES, strict=True):
        assert parts.pred_sem_seg.shape == (h + 3, 2 * w)
        assert (
            torch.equal(whole.pred_sem_seg.data, parts.pred_sem_seg.data) and len(parts.pred_sem_seg.data.unique()) > 1
        )
        assert ('seg_logits' in parts) is keep_scores and ('layer_predictions' in parts) is intermediate
        if keep_scores:
            torch.testing.assert_close(parts.seg_logits.data, whole.seg_logits.data, rtol=0, atol=1e-5)
        if intermediate:
            assert len(parts.layer_predictions) == len(whole.layer_predictions) == 3
            for one, other in zip(parts.layer_predictions, whole.layer_predictions, strict=True):
                assert torch.equal(one['pred_sem_seg']['data'], other['pred_sem_seg']['data'])


def test_batches_of_images_stay_whole(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for a batch has the memory for it."""
    sizes: list[int] = []
    extract_feat = model.extract_feat
    monkeypatch.setattr(model, 'extract_feat', lambda inputs: sizes.append(len(inputs)) or extract_feat(inputs))
    monkeypatch.setattr(model.decode_head, 'window_batch', 2)
    with torch.no_grad():
        model.predict(torch.randn(5, 3, SIDE, SIDE))
    assert sizes == [5]


def test_window_batch_is_checked() -> None:
    head = load_config(CONFIG).model.decode_head
    with (
        DefaultScope.overwrite_default_scope('mmseg'),
        pytest.raises(ValueError, match='window_batch=0: must be at least 1'),
    ):
        MODELS.build({**head, 'window_batch': 0, 'embed_dim': 32, 'depth': 4, 'patch_size': 16})


GEOMETRIES = [
    Windows(ori_size=(50, 91), resized_size=(32, 200), input_size=(32, 32)),
    Windows(ori_size=(7, 5), resized_size=(20, 30), input_size=(32, 32)),
    Windows(ori_size=(32, 32), resized_size=(70, 50), input_size=(32, 32)),
]


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    count = sum(geometry.num_inputs for geometry in GEOMETRIES)
    shapes = (count, 20, 6), (count, 20, 8, 8)
    return torch.randn(*shapes[0], generator=generator), 5 * torch.randn(*shapes[1], generator=generator)


@pytest.mark.parametrize('at_once', [1, 2, 100])
@pytest.mark.parametrize('chunk', [1, 3, 5, 100])
def test_labels_and_scores_are_those_of_all_windows_at_once(
    chunk: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, 'MAPS_AT_ONCE', at_once)
    classes, masks = logits()
    for keep_scores in (True, False):
        chunks = (([c], [m]) for c, m in zip(classes.split(chunk), masks.split(chunk), strict=True))
        found = list(semantic_predictions(chunks, GEOMETRIES, keep_scores))
        counts = [geometry.num_inputs for geometry in GEOMETRIES]
        for geometry, ((labels, scores),), c, m in zip(
            GEOMETRIES, found, classes.split(counts), masks.split(counts), strict=True
        ):
            expected = geometry.invert(semantic_scores(c, m, geometry.input_size))
            assert torch.equal(labels, expected.argmax(0)) and len(labels.unique()) > 1
            assert torch.equal(scores, expected) if scores is not None else not keep_scores


def test_windows_are_used_up_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of one window at a time, and sums of one image at a time."""
    counted: list[int] = []
    one = window_scores.semantic_scores

    def counting(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
        counted.append(len(class_logits))
        return one(class_logits, mask_logits, size)

    monkeypatch.setattr(window_scores, 'semantic_scores', counting)
    classes, masks = logits()
    drawn = semantic_predictions(([([classes], [masks])]), GEOMETRIES, keep_scores=False)
    next(drawn)
    assert counted == [1] * GEOMETRIES[0].num_inputs


# Very long images


def test_very_long_images_are_refused_by_name() -> None:
    resize = TRANSFORMS.build(dict(type='ResizeToInput', img_size=64, fit='cover'))
    image: Callable[[int, int], dict[str, Any]] = lambda h, w: dict(  # noqa: E731
        img=np.zeros((h, w, 3), np.uint8), img_path='a/b.jpg'
    )
    for size in ((100, 700), (20, 400), (400, 20)):
        assert min(resize(image(*size))['img_shape']) == 64
    for size in ((3, 2000), (2000, 3), (20, 401)):
        with pytest.raises(ValueError, match=rf'image a/b.jpg has {size[1]} x {size[0]} pixels.*max_aspect'):
            resize(image(*size))
    wide = TRANSFORMS.build(dict(type='ResizeToInput', img_size=64, fit='cover', max_aspect=1000))
    assert wide(image(3, 2000))['img_shape'] == (64, 42667)
    inside = TRANSFORMS.build(dict(type='ResizeToInput', img_size=64, fit='inside'))
    assert inside(image(3, 2000))['img_shape'] == (1, 64)
    with pytest.raises(ValueError, match='max_aspect=0.5: at least 1'):
        TRANSFORMS.build(dict(type='ResizeToInput', img_size=64, fit='cover', max_aspect=0.5))


def test_aspect_is_that_of_the_published_pipeline() -> None:
    cfg = load_config(CONFIG)
    with DefaultScope.overwrite_default_scope('mmseg'), pytest.raises(ValueError, match='max_aspect'):
        Compose(cfg.test_pipeline[1:2])(dict(img=np.zeros((3, 2000, 3), np.uint8), img_path='a.jpg'))
