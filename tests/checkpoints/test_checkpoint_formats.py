"""Every format is known by its names, and its weights become ours and back without a bit changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_samples import (
    DEPTH,
    HEADS,
    SIZE,
    WIDTH,
    State,
    dinov2,
    dinov3,
    equal,
    gated_dinov3,
    giant,
    hf_dinov2,
    hf_dinov3,
    official_from_hf,
    randomise,
    relative_difference,
)
from safetensors.torch import load_file
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, DINOv3ViTConfig, DINOv3ViTModel

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST
from eomt_mm.checkpoints import huggingface, official
from eomt_mm.checkpoints.class_order import is_ade20k_panoptic, to_ade20k_order, to_mmdet_order
from eomt_mm.checkpoints.formats import EOMT, Format, Readable, detect, to_ours
from eomt_mm.checkpoints.rules import Rule, copy, map_to_ours, map_to_theirs, together

BACKBONE = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS)


def hf_dinov2_backbone(gated: bool = False) -> Any:
    settings = BACKBONE | dict(image_size=56, patch_size=14, num_register_tokens=4, use_swiglu_ffn=gated)
    settings |= dict(hidden_size=24) if gated else {}
    return randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings)))


def hf_dinov3_backbone(gated: bool = False) -> Any:
    settings = BACKBONE | dict(image_size=SIZE, intermediate_size=4 * WIDTH, num_register_tokens=4)
    settings |= dict(use_gated_mlp=True, hidden_act='silu') if gated else {}
    return randomise(DINOv3ViTModel(DINOv3ViTConfig(**settings)))


def file_of(model: Any, folder: Path) -> State:
    """The state dict as ``save_pretrained`` writes it, in the names of files on the hub."""
    model.save_pretrained(folder)
    return load_file(folder / 'model.safetensors')


def meta_dinov2() -> State:
    """Meta's own file for giant: names as timm's converter expects them."""
    vit = {name.removeprefix('vit.'): value for name, value in giant(img_size=SIZE).backbone.state_dict().items()}
    state = {name.replace('mlp.fc1', 'mlp.w12').replace('mlp.fc2', 'mlp.w3'): value for name, value in vit.items()}
    state['register_tokens'] = state.pop('reg_token')
    state['pos_embed'] = torch.cat([torch.full((1, 1, 24), 0.3), state['pos_embed']], dim=1)
    return {**state, 'mask_token': torch.zeros(1, 24)}


def meta_dinov3(gated: bool = False) -> State:
    """Meta's own file; the keys' part of the bias is masked out, and may hold anything."""
    model = (gated_dinov3 if gated else dinov3)().backbone.state_dict()
    state: State = {'mask_token': torch.zeros(1, WIDTH), 'rope_embed.periods': torch.ones(4)}
    for name, value in model.items():
        name = name.removeprefix('vit.')
        for ours, theirs in dict(
            gamma_1='ls1.gamma', gamma_2='ls2.gamma', reg_token='storage_tokens', fc1_g='w1', fc1_x='w2'
        ).items():
            name = name.replace(ours, theirs)
        state[name.replace('mlp.fc2', 'mlp.w3') if gated else name] = value
    for i in range(DEPTH):
        q, v = (state.pop(f'blocks.{i}.attn.{x}_bias') for x in 'qv')
        state[f'blocks.{i}.attn.qkv.bias'] = torch.cat([q, torch.full_like(q, float('nan')), v])
        state[f'blocks.{i}.attn.qkv.bias_mask'] = torch.full((3 * WIDTH,), float('nan'))
    return state


SAMPLES: dict[str, Callable[[], State]] = {
    'eomt_mm': lambda: dinov2().state_dict(),
    'official EoMT, DINOv2': lambda: official_from_hf(hf_dinov2()),
    'official EoMT, DINOv3': lambda: official_from_hf(hf_dinov3()),
    'Hugging Face EomtForUniversalSegmentation': lambda: hf_dinov2().state_dict(),
    'Hugging Face EomtDinov3ForUniversalSegmentation': lambda: hf_dinov3().state_dict(),
    "Meta's DINOv2 backbone": meta_dinov2,
    "Meta's DINOv3 backbone": meta_dinov3,
    'timm backbone': lambda: dinov3().backbone.vit.state_dict(),
    'Hugging Face DINOv3 backbone, as in memory of transformers 5': lambda: hf_dinov3_backbone().state_dict(),
}


@pytest.mark.parametrize('title', SAMPLES)
def test_format_is_found_and_nothing_is_left_over(title: str) -> None:
    state = SAMPLES[title]()
    assert detect(state, 'x.pth').title == title
    mapped = to_ours(state, 'x.pth')[1]
    assert mapped.unexpected == [] and len(mapped.weights) > 20
    assert sum(mapped.table.values()) == len(mapped.weights) == len(mapped.sources)


def test_unknown_files_are_refused_with_names_and_known_formats() -> None:
    state = {f'layer{k}.conv.weight': torch.ones(1) for k in range(9)}
    with pytest.raises(
        ValueError, match=r'x\.pth: the format .* 9 weights: layer0\.conv\.weight, .*, \.\.\.\n'
    ) as error:
        detect(state, 'x.pth')
    assert 'official EoMT, DINOv3' in str(error.value) and 'timm backbone' in str(error.value)


def test_a_project_may_read_more_formats() -> None:
    """Its own come first where it lists them first."""
    mine = Format('mine', lambda names: 'query.weight' in names, lambda gated: (copy('{rest}', 'head.{rest}'),), True)
    readable = Readable((mine, *EOMT.formats))
    state = hf_dinov2().state_dict()
    assert readable.find(state) is mine and detect(state, 'x.pth') is not mine
    known, mapped = to_ours(state, 'x.pth', readable)
    assert known is mine and 'head.query.weight' in mapped.weights
    assert detect(dinov2().state_dict(), 'x.pth', readable).title == 'eomt_mm'
    with pytest.raises(ValueError, match='Known are\n  mine'):
        detect({'conv.weight': torch.ones(1)}, 'x.pth', readable)


def test_incomplete_groups_are_named() -> None:
    state = dict(hf_dinov2().state_dict())
    del state['layers.1.attention.k_proj.weight']
    with pytest.raises(ValueError, match=r'layers\.1\.\S*q_proj\.weight but lacks layers\.1\.\S*k_proj\.weight'):
        to_ours(state, 'x.pth')


def test_nan_is_refused_by_the_names_in_the_file() -> None:
    state = {name: value.clone() for name, value in hf_dinov2().state_dict().items()}
    state['layers.1.attention.k_proj.weight'][3, 4] = float('nan')
    state['query.weight'][0] = float('inf')
    with pytest.raises(ValueError, match='2 weights') as error:
        to_ours(state, 'x.pth')
    assert 'layers.1.attention.q_proj.weight + layers.1.attention.k_proj.weight' in str(error.value)
    assert '  query.weight\n' in str(error.value)


@pytest.mark.parametrize(
    ('sample', 'rules'),
    [
        (lambda: hf_dinov2().state_dict(), huggingface.dinov2_rules(False)),
        (lambda: hf_dinov2(gated=True).state_dict(), huggingface.dinov2_rules(True)),
        (lambda: hf_dinov3().state_dict(), huggingface.dinov3_rules(False)),
        (lambda: hf_dinov3(use_gated_mlp=True).state_dict(), huggingface.dinov3_rules(True)),
        (lambda: official_from_hf(hf_dinov2()), official.dinov2_rules()),
        (lambda: official_from_hf(hf_dinov2(gated=True)), official.dinov2_rules()),
        (lambda: official_from_hf(hf_dinov3()), official.dinov3_rules(False)),
        (lambda: official_from_hf(hf_dinov3(use_gated_mlp=True)), official.dinov3_rules(True)),
    ],
)
def test_round_trip_is_exact(sample: Callable[[], State], rules: tuple[Rule, ...]) -> None:
    state = sample()
    mapped = to_ours(state, 'x.pth')[1]
    back = map_to_theirs(mapped.weights, rules)
    assert equal(back, {name: value for name, value in state.items() if name not in mapped.ignored})
    assert equal(to_ours(back, 'x.pth')[1].weights, mapped.weights)


@pytest.mark.parametrize(
    ('ours', 'sample'),
    [
        (dinov2, lambda: hf_dinov2().state_dict()),
        (giant, lambda: hf_dinov2(gated=True).state_dict()),
        (dinov3, lambda: hf_dinov3().state_dict()),
        (gated_dinov3, lambda: hf_dinov3(use_gated_mlp=True).state_dict()),
    ],
)
def test_names_and_shapes_are_those_of_our_models(ours: Callable[[], Any], sample: Callable[[], State]) -> None:
    weights = to_ours(sample(), 'x.pth')[1].weights
    model = {name.replace('panoptic_head.', 'head.'): value for name, value in ours().state_dict().items()}
    assert {name: value.shape for name, value in weights.items()} == {name: v.shape for name, v in model.items()}


def test_packed_gated_mlp_of_transformers_4() -> None:
    """4.x names and layout: weights_in holds gate and up, weights_out is down."""
    split = hf_dinov2(gated=True).state_dict()
    packed: State = {}
    for name, value in split.items():
        if '.up_proj.' in name:
            continue
        if '.gate_proj.' in name:
            value = torch.cat([value, split[name.replace('gate_proj', 'up_proj')]])
        packed[name.replace('gate_proj', 'weights_in').replace('down_proj', 'weights_out')] = value
    assert any('weights_in' in name for name in packed)
    assert equal(to_ours(packed, 'x')[1].weights, to_ours(split, 'x')[1].weights)


def test_unexpected_and_unplaceable_names_are_told() -> None:
    state = {**hf_dinov3().state_dict(), 'layers.0.attention.k_proj.bias': torch.ones(WIDTH), 'extra': torch.ones(1)}
    assert to_ours(state, 'x.pth')[1].unexpected == ['layers.0.attention.k_proj.bias', 'extra']
    with pytest.raises(ValueError, match=r'no place for backbone\.vit\.ls9, head\.y'):
        map_to_theirs({'backbone.vit.ls9': torch.ones(1), 'head.y': torch.ones(1)}, huggingface.dinov2_rules(False))


def test_rules_tell_numbers_from_names() -> None:
    rule = Rule(('layer.{i}.norm1.{p}',), 'blocks.{i}.norm1.{p}')
    state = {
        'layer.10.norm1.bias': torch.ones(1),
        'layer.x.norm1.bias': torch.ones(1),
        'layerX1.norm1.bias': torch.ones(1),
    }
    mapped = map_to_ours(state, [rule], (), 'x.pth')
    assert set(mapped.weights) == {'blocks.10.norm1.bias'} and len(mapped.unexpected) == 2


def test_names_shown_together() -> None:
    assert together(('a.weight',)) == 'a.weight'
    assert together(('l.q_proj.{p}', 'l.k_proj.{p}', 'l.v_proj.{p}')) == 'l.[q|k|v]_proj.{p}'
    assert together(('gate_proj', 'up_proj')) == '[gate|up]_proj'


def test_hf_dinov2_backbone_in_both_namings(tmp_path: Path) -> None:
    for gated in (False, True):
        model = hf_dinov2_backbone(gated)
        written = file_of(model, tmp_path / str(gated))
        assert any('attention.attention.query' in name for name in written)
        known, from_file = to_ours(written, 'x.pth')
        assert known.title == 'Hugging Face DINOv2 backbone' and from_file.unexpected == []
        assert equal(from_file.weights, to_ours(model.state_dict(), 'x.pth')[1].weights)
        assert 'position of the class token' in from_file.notes[0]


def test_hf_dinov2_backbone_computes_the_same(tmp_path: Path) -> None:
    model = hf_dinov2_backbone()
    ours = dinov2(patch_size=14, img_size=56).backbone
    weights = to_ours(file_of(model, tmp_path), 'x.pth')[1].weights
    ours.load_state_dict({name.removeprefix('backbone.'): value for name, value in weights.items()})
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model(images).last_hidden_state
        found = ours.final_norm(ours(images)).x
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize('gated', [False, True])
def test_hf_dinov3_backbone_computes_the_same(tmp_path: Path, gated: bool) -> None:
    """Gated: what huge+ and 7B are made of."""
    model = hf_dinov3_backbone(gated)
    written = file_of(model, tmp_path)
    assert 'layer.0.norm1.weight' in written
    known, mapped = to_ours(written, 'x.pth')
    assert known.title == 'Hugging Face DINOv3 backbone' and mapped.unexpected == []
    assert equal(mapped.weights, to_ours(model.state_dict(), 'x.pth')[1].weights)
    ours = (gated_dinov3 if gated else dinov3)().backbone
    ours.load_state_dict({name.removeprefix('backbone.'): value for name, value in mapped.weights.items()})
    images = torch.randn(2, 3, SIZE, SIZE + 32)
    with torch.no_grad():
        expected = model(images).last_hidden_state
        found = ours.final_norm(ours(images)).x
    assert relative_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    ('state', 'model'),
    [
        (meta_dinov2(), lambda: giant().backbone.vit),
        (meta_dinov3(), lambda: dinov3().backbone.vit),
        (meta_dinov3(gated=True), lambda: gated_dinov3().backbone.vit),
    ],
)
def test_meta_files_as_timm_reads_them(state: State, model: Callable[[], Any]) -> None:
    """timm's converters of Meta's files are the peer."""
    filters = dict(VisionTransformer=timm.models.vision_transformer.checkpoint_filter_fn)
    convert = filters.get(type(model()).__name__, timm.models.eva.checkpoint_filter_fn)
    expected = convert(dict(state), model())
    found = {name.removeprefix('backbone.vit.'): value for name, value in to_ours(state, 'x.pth')[1].weights.items()}
    assert equal(found, expected)


def test_ade20k_classes_come_into_mmdets_order() -> None:
    """Names of both data sets agree row by row; nine are other words for the same."""
    from mmdet.datasets import ADE20KPanopticDataset
    from mmseg.datasets import ADE20KDataset

    theirs, ours = ADE20KDataset.METAINFO['classes'], ADE20KPanopticDataset.METAINFO['classes']
    assert ADE20K_THINGS_FIRST[:10] == (7, 8, 10, 12, 14, 15, 18, 19, 20, 22) and sorted(ADE20K_THINGS_FIRST) == list(
        range(150)
    )
    first = [name.split(',')[0].strip() for name in ours]
    differing = {
        theirs[row].strip(): first[k] for k, row in enumerate(ADE20K_THINGS_FIRST) if theirs[row].strip() != first[k]
    }
    assert differing == {
        'windowpane': 'window',
        'bathtub': 'tub',
        'railing': 'rail',
        'streetlight': 'street lamp',
        'television receiver': 'tv',
        'apparel': 'clothes',
        'ashcan': 'trash can',
        'swimming pool': 'pool',
        'waterfall': 'falls',
    }
    assert is_ade20k_panoptic(ours, 100) and not is_ade20k_panoptic(ours, 80) and not is_ade20k_panoptic(theirs, 100)


def test_class_rows_are_permuted_and_back() -> None:
    rows = torch.arange(151.0)
    weights = {'head.class_predictor.bias': rows, 'head.class_predictor.weight': rows[:, None], 'head.queries': rows}
    ours = to_mmdet_order(weights)
    assert ours['head.class_predictor.bias'][:3].tolist() == [7, 8, 10]
    assert ours['head.class_predictor.weight'][100, 0] == 0 and ours['head.class_predictor.bias'][-1] == 150
    assert torch.equal(ours['head.queries'], rows)
    assert equal(to_ade20k_order(ours), weights)
