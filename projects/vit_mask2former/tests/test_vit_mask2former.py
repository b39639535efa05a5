"""The ladder from Mask2Former on a plain ViT to EoMT: every step builds, learns and predicts."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract import NUM_QUERIES, SIDE, TINY_VIT, ArchitectureContract, tiny
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from paths import ROOT
from torch import nn

from eomt_mm.apis import init_model, load_config
from eomt_mm.engine import QueryLimitHook

PROJECT = ROOT / 'projects' / 'vit_mask2former'
sys.path.insert(0, str(PROJECT))  # as load_config does

from vit_mask2former.pyramid import NoPixelDecoder, SimpleFeaturePyramid  # noqa: E402

LEAVES = sorted((PROJECT / 'configs').glob('*.py'))
STEPS = {
    'full': 'vit-m2f',
    'no pixel decoder': 'vit-m2f-wo-pixel-decoder',
    'one scale': 'vit-m2f-wo-multi-scale',
    'masked EoMT': 'eomt-masked',
}
DECODED = ['full', 'no pixel decoder', 'one scale']
WIDTHS = dict(s=384, b=768, l=1024)


def leaf_of(step: str) -> Path:
    return PROJECT / 'configs' / f'{STEPS[step]}_dinov2-s_24e_coco-panoptic-640.py'


def tiny_options(step: str) -> dict[str, Any]:
    """64 px, 2 blocks, 10 queries, short decoders."""
    if step == 'masked EoMT':
        return tiny('panoptic_head')
    options = TINY_VIT | {
        'img_size': SIDE,
        'model.panoptic_head.num_queries': NUM_QUERIES,
        'model.panoptic_head.transformer_decoder.num_layers': 4,
        'model.train_cfg.num_points': 64,
    }
    if step == 'full':
        options['model.panoptic_head.pixel_decoder.encoder.num_layers'] = 1
    return options


def small(step: str) -> Config:
    return load_config(leaf_of(step), tiny_options(step))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def ground_truth() -> DetDataSample:
    """40 x 60 pixels as our pipelines pack them: a thing (id 1), stuff (id 2) and void."""
    ids = torch.zeros(1, 40, 60, dtype=torch.int32)
    ids[0, :20, :20], ids[0, 20:] = 1, 2
    sample = DetDataSample(metainfo=dict(img_shape=(40, 60), ori_shape=(80, 120)))
    sample.gt_instances = InstanceData(labels=torch.tensor([3, 90]))
    sample.gt_panoptic_seg = PixelData(segment_ids=ids)
    return sample


def batch() -> dict[str, Any]:
    return dict(inputs=[torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)], data_samples=[ground_truth()])


def total_loss(model: Any, data: dict[str, Any]) -> torch.Tensor:
    return model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))[0]


def test_every_size_has_every_step() -> None:
    names = {f'{step}_dinov2-{size}' for step in STEPS.values() for size in WIDTHS}
    assert {leaf.name.rsplit('_', 2)[0] for leaf in LEAVES} == names and len(LEAVES) == len(names)


@pytest.mark.parametrize(
    'leaf',
    [pytest.param(leaf, marks=[pytest.mark.slow] * ('-s_' not in leaf.name)) for leaf in LEAVES],
    ids=lambda leaf: leaf.name.rsplit('_', 2)[0],
)
def test_builds(leaf: Path) -> None:
    cfg = load_config(leaf)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.backbone.embed_dim == WIDTHS[leaf.name.split('dinov2-')[1][0]]
    assert model.panoptic_head.num_queries == 200 and model.panoptic_head.num_classes == 133
    assert model.data_preprocessor.img_size == (640, 640)
    assert cfg.default_scope == 'mmdet'
    assert cfg.mask_annealing is None  # mask annealing finds no head in steps 1 to 3, and would undo step 4


def test_each_step_takes_a_part_away() -> None:
    with torch.device('meta'):
        full, direct, one_scale, masked = (MODELS.build(small(step).model) for step in STEPS)

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert (
        size(full) - size(direct) == size(full.panoptic_head.pixel_decoder) > size(direct.panoptic_head.pixel_decoder)
    )
    assert len(direct.neck.levels) == 4 and len(one_scale.neck.levels) == 2
    assert not hasattr(masked, 'neck') and not hasattr(masked.panoptic_head, 'transformer_decoder')
    backbones = {tuple(model.backbone.state_dict()) for model in (full, direct, one_scale, masked)}
    assert len(backbones) == 1


class TestFull(ArchitectureContract):
    """Step 1; the others take parts away."""

    config = leaf_of('full')
    options = tiny_options('full')
    task = 'panoptic'
    rounding = 1e-3  # masks between the layers amplify it
    exports = False


class TestWithoutPixelDecoder(TestFull):
    config = leaf_of('no pixel decoder')
    options = tiny_options('no pixel decoder')


class TestOneScale(TestFull):
    config = leaf_of('one scale')
    options = tiny_options('one scale')


class TestMaskedEoMT(TestFull):
    config = leaf_of('masked EoMT')
    options = tiny_options('masked EoMT')


@pytest.mark.parametrize('step', STEPS)
def test_predictions_of_every_layer(step: str) -> None:
    model: Any = init_model(small(step))
    with torch.no_grad():
        class_logits, mask_logits = model(torch.randn(1, 3, SIDE, SIDE), mode='tensor')
        (sample,) = model.test_step(batch())
    assert len(class_logits) == len(mask_logits) == (2 if step == 'masked EoMT' else 5)
    assert 'layer_predictions' not in sample


@pytest.mark.parametrize('step', DECODED)
def test_backbone_learns_at_a_tenth(step: str) -> None:
    cfg = small(step)
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        optimizer = build_optim_wrapper(MODELS.build(cfg.model), cfg.optim_wrapper).optimizer
    assert {group['lr'] for group in optimizer.param_groups} == {1e-4, 1e-5}


def test_losses_read_both_forms_of_ground_truth() -> None:
    """One id map as our pipelines pack it, or masks and a label map as mmdet's do."""
    model, data = init_model(small('one scale')).train(), batch()
    masks = data['data_samples'][0].gt_panoptic_seg.segment_ids == torch.tensor([1, 2])[:, None, None]
    unpacked = ground_truth()
    del unpacked.gt_panoptic_seg
    unpacked.gt_instances = InstanceData(labels=torch.tensor([3]), masks=BitmapMasks(masks[:1].numpy(), 40, 60))
    unpacked.gt_sem_seg = PixelData(sem_seg=torch.where(masks[1:], 90, 255))
    totals = []
    for sample in (data['data_samples'][0], unpacked):
        torch.manual_seed(0)  # points are drawn
        totals.append(total_loss(model, dict(data, data_samples=[sample])))
    assert torch.equal(*totals)


def test_image_without_segments() -> None:
    model, data = init_model(small('one scale')).train(), batch()
    data['data_samples'][0].gt_panoptic_seg.segment_ids.zero_()
    assert torch.isfinite(total_loss(model, data))


def test_masks_act_in_inference() -> None:
    cfg = small('masked EoMT')
    masked: Any = init_model(cfg)
    cfg.model.panoptic_head.type = 'eomt_mm.EoMTDetHead'
    plain = init_model(cfg)
    plain.load_state_dict(masked.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        outputs = [model(images, mode='tensor')[1][-1] for model in (masked, plain)]
        assert not torch.equal(*outputs)
        masked.panoptic_head.set_attn_mask_probs([0.0] * masked.panoptic_head.num_blocks)
        torch.testing.assert_close(masked(images, mode='tensor')[1][-1], outputs[1])


@pytest.mark.parametrize('stride, side', [(4, 32), (8, 16), (16, 8), (32, 4), (64, 2)])
def test_pyramid_levels(stride: int, side: int) -> None:
    pyramid = SimpleFeaturePyramid(in_channels=48, patch_size=16, strides=[stride], out_channels=32)
    (level,) = pyramid(torch.randn(2, 48, 8, 8))
    assert level.shape == (2, 32, side, side)


@pytest.mark.parametrize('stride', [5, 12, 24])
def test_pyramid_refuses_other_strides(stride: int) -> None:
    with pytest.raises(ValueError, match=rf'strides=\({stride},\) with patch_size=16'):
        SimpleFeaturePyramid(in_channels=48, patch_size=16, strides=[stride])


def encoder(num_levels: int) -> ConfigDict:
    return ConfigDict(layer_cfg=dict(self_attn_cfg=dict(num_levels=num_levels)))


def test_no_pixel_decoder_hands_maps_over() -> None:
    features = [torch.randn(1, 8, side, side) for side in (16, 8, 4, 2)]
    for_masks, attended = NoPixelDecoder([8] * 4, 8, 8, encoder(3))(features)
    assert for_masks is features[0]
    assert [level.shape[-1] for level in attended] == [2, 4, 8]
    assert [level.shape[-1] for level in NoPixelDecoder([8] * 4, 8, 8, encoder(1))(features)[1]] == [2]


def test_no_pixel_decoder_refuses() -> None:
    with pytest.raises(ValueError, match='nothing projects'):
        NoPixelDecoder([8, 16], 8, 8, encoder(1))
    with pytest.raises(ValueError, match='needs at least 4 strides'):
        NoPixelDecoder([8, 8, 8], 8, 8, encoder(3))


@pytest.mark.parametrize('step', STEPS)
def test_more_targets_than_queries_are_reported(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr('eomt_mm.engine.query_limit.print_log', lambda text, **_: lines.append(text))
    loader = SimpleNamespace(dataset=SimpleNamespace(most_targets=(NUM_QUERIES + 1, 'x.jpg')))
    QueryLimitHook().before_train(SimpleNamespace(model=init_model(small(step)), train_dataloader=loader))
    (line,) = lines
    assert f'x.jpg has {NUM_QUERIES + 1} targets and the model {NUM_QUERIES} queries' in line
