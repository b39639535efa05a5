"""The meta-architecture against the mm side: same weights and samples, same logits, losses, steps and results."""

from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2_models import CONFIGS, pair, samples, small_lazy
from mmengine.optim import build_optim_wrapper

TASKS = tuple(CONFIGS)


@pytest.fixture(scope='module', params=TASKS)
def both(request: pytest.FixtureRequest) -> tuple[str, Any, Any, Any]:
    return (request.param, *pair(request.param))


def test_logits_and_results_are_identical(both: tuple[str, Any, Any, Any]) -> None:
    task, mm, d2, _ = both
    mm.eval(), d2.eval()
    batch, items = samples(task)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, expected in zip(d2.network(images), mm(images, mode='tensor'), strict=True):
            assert torch.equal(found[-1], expected[-1])
        results, expected_results = d2(items), mm.test_step(batch)
    for result, sample in zip(results, expected_results, strict=True):
        assert list(result) == [dict(panoptic='panoptic_seg', instance='instances', semantic='sem_seg')[task]]
        if task == 'semantic':
            assert torch.equal(result['sem_seg'], sample.seg_logits.data)
        elif task == 'instance':
            found, expected = result['instances'], sample.pred_instances
            assert found.image_size == (80, 120) and torch.equal(found.pred_masks, expected.masks)
            assert torch.equal(found.scores, expected.scores) and torch.equal(found.pred_classes, expected.labels)
            assert torch.equal(found.pred_boxes.tensor, expected.bboxes)
        else:
            segment_map, segments = result['panoptic_seg']
            codes = [d2.num_classes, *(segment['category_id'] + 1000 * segment['id'] for segment in segments)]
            assert len(segments) > 2 and all(each['isthing'] == (each['category_id'] < 4) for each in segments)
            assert torch.equal(
                torch.tensor(codes, dtype=torch.int32)[segment_map.long()], sample.pred_panoptic_seg.sem_seg[0]
            )


def test_losses_and_a_step_are_equal(both: tuple[str, Any, Any, Any]) -> None:
    task, mm, d2, cfg = both
    batch, items = samples(task)
    mm.train(), d2.train()
    torch.manual_seed(0)
    expected = mm(**mm.data_preprocessor(batch, True), mode='loss')
    torch.manual_seed(0)
    found = d2(items)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-6
    )
    build_optim_wrapper(mm, mm.cfg.optim_wrapper).update_params(sum(expected.values()))
    cfg.optimizer.params.model = d2
    optimizer = instantiate(cfg.optimizer)
    sum(found.values()).backward()
    optimizer.step()
    stepped = dict(mm.named_parameters())
    assert set(stepped) == {name for name, _ in d2.named_parameters()}
    for name, parameter in d2.named_parameters():
        assert (parameter - stepped[name]).abs().max() < 1e-6, name


def test_gradients_are_clipped_inside_the_step() -> None:
    from eomt_mm.detectron2 import build_optimizer

    weights = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    optimizer = build_optimizer([dict(params=[weight]) for weight in weights], 'SGD', max_norm=1.0, lr=1.0)
    for weight in weights:
        weight.grad = torch.full_like(weight, 10.0)
    optimizer.step()
    assert torch.cat([weight.detach() for weight in weights]).norm() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="optimizer.kind='Adams'"):
        build_optimizer([], 'Adams')
    with pytest.raises(ValueError, match=r'optimizer\.rate: torch.optim.AdamW has no such argument'):
        build_optimizer([], rate=1)


def test_inputs_need_not_be_square() -> None:
    cfg = small_lazy(CONFIGS['panoptic'], img_size=[64, 96])
    assert cfg.dataloader.train.mapper.img_size == cfg.model.backbone.img_size == [64, 96]
    model = instantiate(cfg.model).eval()
    with torch.no_grad():
        (result,) = model([dict(image=torch.zeros(3, 50, 96, dtype=torch.uint8), height=25, width=48)])
    assert result['panoptic_seg'][0].shape == (25, 48) and model.img_size == (64, 96)


# Ground truth in other forms of detectron2 ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def semantic() -> Any:
    return instantiate(small_lazy(CONFIGS['semantic']).model).train()


def test_label_maps_and_bitmasks_are_read(semantic: Any) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    label_map = torch.full((64, 64), 255)
    label_map[:9], label_map[50:] = 3, 149
    target = semantic.target(dict(image=image, sem_seg=label_map))
    assert target['labels'].tolist() == [3, 149] and target['masks'].sum((1, 2)).tolist() == [9 * 64, 14 * 64]
    instances = Instances((64, 64), gt_classes=target['labels'], gt_masks=BitMasks(target['masks']))
    assert torch.equal(semantic.target(dict(image=image, instances=instances))['masks'], target['masks'])
    none = Instances((64, 64), gt_classes=torch.zeros(0, dtype=torch.int64))
    losses = semantic([dict(image=image, instances=none)])
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ('item', 'message'),
    [
        (dict(image=torch.zeros(3, 65, 64)), r'image a.jpg of 65 x 64 pixels is larger than the input of 64 x 64'),
        (dict(image=torch.zeros(3, 64, 64)), 'training image a.jpg has no instances or sem_seg'),
        (dict(image=torch.zeros(3, 64, 64), sem_seg=torch.full((64, 64), 150)), r'a.jpg holds label\(s\) \[150\]'),
        (
            dict(
                image=torch.zeros(3, 64, 64),
                instances=Instances(
                    (64, 64), gt_classes=torch.tensor([0]), gt_masks=PolygonMasks([[[1.0, 1, 9, 1, 9, 9]]])
                ),
            ),
            "gt_masks are PolygonMasks, EoMT needs bitmaps: .*MASK_FORMAT='bitmask'",
        ),
    ],
    ids=['large', 'bare', 'label', 'polygons'],
)
def test_wrong_items_are_named(semantic: Any, item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        semantic([dict(item, file_name='a.jpg')])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('model.task=depth', "task='depth': one of panoptic, instance, semantic"),
        ('model.num_things=3', 'num_things=3 with task='),
        ('model.img_size=70', 'img_size=70: .* multiples of the patch size 16'),
    ],
)
def test_wrong_arguments_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instantiate(small_lazy(CONFIGS['semantic'], override).model)
