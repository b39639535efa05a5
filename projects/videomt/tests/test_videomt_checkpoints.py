"""Import of VidEoMT's formats and of EoMT as a start; export for transformers."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoint_samples import Ours, equal, hf_dinov2, hf_dinov3, official_from_hf, saved
from mmengine.registry import MODELS
from safetensors.torch import load_file
from torch import Tensor
from transformers import VideomtVideoProcessor
from videomt.checkpoints import export_huggingface, import_videomt
from videomt_networks import BLOCKS, DEPTH, HEADS, QUERIES, SIZE, WIDTH, Network, clips, final, transformers_network

from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.core.network import eomt_forward

State = dict[str, Tensor]
DINOV3 = 'vit_small_patch16_dinov3_qkvb'
UPDATER = ['panoptic_head.query_updater.weight', 'panoptic_head.query_updater.bias']
# entries of transformers' model that do nothing
UNUSED = {'attn_mask_probs': torch.zeros(BLOCKS), 'embeddings.mask_token': torch.zeros(1, 1, WIDTH)}
HF_SIZES = dict(num_hidden_layers=DEPTH, num_queries=QUERIES, num_blocks=BLOCKS)


def official(model: Any) -> State:
    """Official names for the weights of a model of transformers, EoMT's or VidEoMT's (spec, section 5)."""
    state = {name: value for name, value in model.state_dict().items() if 'mask_token' not in name}  # timm has none
    updater = {name: state.pop(f'query_updater.{name}') for name in ('weight', 'bias') if 'query_updater.bias' in state}
    eomt = official_from_hf(SimpleNamespace(state_dict=lambda: state))
    found = {name.replace('network.', 'backbone.', 1): value for name, value in eomt.items() if '.pixel_' not in name}
    return found | {f'backbone.query_updater.{name}': value for name, value in updater.items()}


def official_dinov3() -> State:
    weight, bias = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH)
    updater = {'backbone.query_updater.weight': weight, 'backbone.query_updater.bias': bias}
    return official(hf_dinov3(**HF_SIZES)) | updater


def fused(state: State) -> State:
    """Projections of q, k and v as one, as the official program has them on demand."""
    found = {name: value for name, value in state.items() if not any(f'.{x}_proj.' in name for x in 'qkv')}
    for name in [name for name in state if name.endswith('q_proj.weight')]:
        block = name.removesuffix('q_proj.weight')
        found[f'{block}qkv_proj.weight'] = torch.cat([state[f'{block}{x}_proj.weight'] for x in 'qkv'])
        q, v = state[f'{block}q_proj.bias'], state[f'{block}v_proj.bias']
        found[f'{block}qkv_proj.bias'] = torch.cat([q, torch.zeros_like(q), v])
    return found


def renamed(state: State, old: str, new: str) -> State:
    """Weights below ``old.`` are below ``new.`` then."""
    return {
        f'{new}.{name.removeprefix(f"{old}.")}' if name.startswith(f'{old}.') else name: value
        for name, value in state.items()
    }


def detectron2(state: State) -> dict[str, Any]:
    return dict(model=state, __author__='somebody', iteration=3)


# --- VidEoMT's own formats


def test_all_formats_give_the_same_weights(tmp_path: Path) -> None:
    theirs, ours = transformers_network(), Network()
    theirs.save_pretrained(tmp_path / 'hf')
    sources = [
        tmp_path / 'hf',
        tmp_path / 'hf' / 'model.safetensors',
        saved(theirs.state_dict(), tmp_path / 'state.pth'),
        saved(detectron2(official(theirs)), tmp_path / 'model_final.pth'),
    ]
    found = [import_videomt(source, ours.state_dict()) for source in sources]
    assert found[0][0].keys() == ours.state_dict().keys()
    assert all(equal(state, found[0][0]) and not report.missing for state, report in found)
    assert torch.equal(found[0][0][UPDATER[0]], theirs.query_updater.weight)
    assert [report.format.split()[0] for _, report in found] == ['Hugging'] * 3 + ['official']
    assert 'query_updater.{p}  ' in found[0][1].text(table=True)


def test_official_dinov3(tmp_path: Path) -> None:
    state, model = official_dinov3(), Network(DINOV3)
    apart = import_videomt(saved(detectron2(state), tmp_path / 'a.pth'), model.state_dict())[0]
    joined = import_videomt(saved(detectron2(fused(state)), tmp_path / 'b.pth'), model.state_dict())[0]
    assert equal(apart, joined) and apart.keys() == model.state_dict().keys()
    source = saved(official_from_hf(hf_dinov3(**HF_SIZES)), tmp_path / 'c.bin')
    eomt = import_checkpoint(source, head='panoptic_head')[0] | {name: apart[name] for name in UPDATER}
    assert equal(apart, eomt)
    assert torch.equal(apart[UPDATER[0]], state['backbone.query_updater.weight'])


def test_fused_bias_of_the_keys_is_refused(tmp_path: Path) -> None:
    state = fused(official_dinov3())
    name = 'backbone.encoder.backbone.blocks.1.attention.qkv_proj.bias'
    state[name][WIDTH] = 0.1
    with pytest.raises(ValueError, match=f'{name}: the bias of the keys is not zero'):
        import_videomt(saved(state, tmp_path / 'a.pth'))


@pytest.mark.parametrize('head', ['panoptic_head', 'decode_head'])
def test_own_checkpoints_pass_unchanged(head: str, tmp_path: Path) -> None:
    """Whatever the head is called there, and here."""
    network = Network(DINOV3)
    state = renamed(network.state_dict(), 'panoptic_head', head)
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))), state_dict=state)
    source = saved(checkpoint, tmp_path / 'x.pth')
    found, report = import_videomt(source, state)
    assert equal(found, state) and report.meta['dataset_meta']['classes'] == ('a', 'b', 'c')
    assert equal(import_videomt(source, network.state_dict())[0], network.state_dict())
    assert equal(import_videomt(source)[0], network.state_dict())


def test_positions_are_resampled_and_halves_become_floats(tmp_path: Path) -> None:
    large = official(transformers_network(image_size=2 * SIZE))
    source = saved({name: value.half() for name, value in large.items()}, tmp_path / 'x.pth')
    state, report = import_videomt(source, Network().state_dict())
    assert state['backbone.vit.pos_embed'].shape == (1, 16, WIDTH)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert any('8 x 8 to 4 x 4' in note for note in report.notes)


def test_class_rows_can_be_left_out(tmp_path: Path) -> None:
    source = saved(official(transformers_network()), tmp_path / 'x.pth')
    model = Network(num_classes=7)
    with pytest.raises(ValueError, match='classes: 3 in the file, 7 in the model'):
        import_videomt(source, model.state_dict())
    state, report = import_videomt(source, model.state_dict(), class_head=False)
    assert report.missing == [f'panoptic_head.class_predictor.{part}' for part in ('weight', 'bias')]
    assert model.state_dict().keys() - state.keys() == set(report.missing)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_queries=9), r'queries: 5 in the file, 9 in the model. Set model.panoptic_head.num_queries=5'),
        (dict(num_blocks=3), r'joint blocks: 2 in the file, 3 in the model'),
        (dict(model_name=DINOV3), r'backbone: the file has dinov2'),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = saved(official(transformers_network()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=f'does not fit the model:\n(.|\n)*{message}'):
        import_videomt(source, Network(**change).state_dict())


def test_damaged_files(tmp_path: Path) -> None:
    state, expected = official(transformers_network()), Network().state_dict()
    gone = {name: value for name, value in state.items() if name != 'backbone.query_updater.bias'}
    with pytest.raises(ValueError, match=r'missing in the file: head\.query_updater\.bias'):
        import_videomt(saved(gone, tmp_path / 'x.pth'), expected)
    more = state | {'backbone.reid.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'unexpected in the file: backbone\.reid\.weight'):
        import_videomt(saved(more, tmp_path / 'x.pth'), expected)
    with pytest.raises(ValueError, match=r'1 weights that this format does not have:\n  backbone\.reid\.weight'):
        import_videomt(saved(more, tmp_path / 'x.pth'))
    incomplete = {name: value for name, value in state.items() if 'upscale.1.norm' not in name}
    with pytest.raises(ValueError, match='is incomplete, 2 weights are missing'):
        import_videomt(saved(incomplete, tmp_path / 'x.pth'))
    nan = state | {'backbone.query_updater.bias': torch.full((WIDTH,), torch.nan)}
    with pytest.raises(ValueError, match=r'NaN or infinity:\n  backbone\.query_updater\.bias'):
        import_videomt(saved(nan, tmp_path / 'x.pth'))


def test_differences_to_a_backbone(tmp_path: Path) -> None:
    state = official_dinov3()
    with pytest.raises(ValueError, match='holds absolute weights and needs none; leave --base out'):
        import_videomt(saved(state, tmp_path / 'x.pth'), base='base.pth')
    small = {name: value * 0.01 if '.encoder.' in name else value for name, value in state.items()}
    with pytest.raises(ValueError, match='look like differences'):
        import_videomt(saved(small, tmp_path / 'x.pth'))


# --- EoMT as a start


@pytest.mark.parametrize('kind', ['ours', 'ours of mmseg', 'hf', 'official', 'official segmenter'])
def test_start_from_eomt(kind: str, tmp_path: Path) -> None:
    """Before any training, the first frame is what the EoMT predicts; the updater keeps the model's values."""
    theirs, source = hf_dinov2(**HF_SIZES), tmp_path / 'x.pth'
    eomt = Ours('vit_small_patch14_reg4_dinov2', depth=DEPTH, queries=QUERIES, blocks=BLOCKS).eval()
    theirs.save_pretrained(tmp_path / 'hf')
    eomt.load_state_dict(import_checkpoint(tmp_path / 'hf', eomt.state_dict())[0])
    if kind.startswith('ours'):
        head = 'decode_head' if 'mmseg' in kind else 'panoptic_head'
        saved(dict(state_dict=renamed(eomt.state_dict(), 'panoptic_head', head)), source)
    elif kind == 'hf':
        source = tmp_path / 'hf'
    else:
        saved(official_from_hf(theirs) if kind == 'official' else detectron2(official(theirs)), source)
    network, frames = Network().eval(), clips(2, 1)
    before = network.panoptic_head.query_updater.weight.clone()
    state, report = import_videomt(source, network.state_dict())
    assert report.missing == UPDATER and any('query updater starts anew' in note for note in report.notes)
    network.load_state_dict(state, strict=False)
    assert torch.equal(network.panoptic_head.query_updater.weight, before)
    with torch.no_grad():
        classes, masks = eomt_forward(eomt.backbone, eomt.panoptic_head, frames[:, 0])
        found = final(network(frames)[0])
    torch.testing.assert_close(found[0][:, 0], classes[-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1][:, 0], masks[-1], rtol=0, atol=1e-3)


def test_start_from_eomt_without_its_classes(tmp_path: Path) -> None:
    source = saved(official_from_hf(hf_dinov2(**HF_SIZES)), tmp_path / 'x.bin')
    expected = renamed(Network(num_classes=40).state_dict(), 'panoptic_head', 'decode_head')
    state, report = import_videomt(source, expected, class_head=False)
    assert set(report.missing) == expected.keys() - state.keys()
    assert {name.split('.')[1] for name in report.missing} == {'class_predictor', 'query_updater'}
    assert report.head == 'decode_head'


def test_start_from_a_bare_backbone(tmp_path: Path) -> None:
    expected = Network().state_dict()
    backbone = {name: value for name, value in expected.items() if name.startswith('backbone.')}
    state, report = import_videomt(saved(backbone, tmp_path / 'x.pth'), expected)
    assert equal(state, backbone) and set(report.missing) == expected.keys() - backbone.keys()


def test_files_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='the format of this file is not known'):
        import_videomt(saved({'conv.weight': torch.zeros(1)}, tmp_path / 'x.pth'))


# --- export


def test_export_comes_back_bit_by_bit(tmp_path: Path) -> None:
    ours = renamed(Network().state_dict(), 'panoptic_head', 'decode_head')
    ours['decode_head.attn_mask_probs'].zero_()
    export_huggingface(ours, tmp_path / 'hf', num_heads=HEADS, classes=('cat', 'dog', 'bird'))
    assert equal(import_videomt(tmp_path / 'hf', ours)[0], ours)
    names = {path.name for path in (tmp_path / 'hf').iterdir()}
    assert names == {'config.json', 'model.safetensors', 'video_preprocessor_config.json'}
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert config['model_type'] == 'videomt' and config['id2label'] == {'0': 'cat', '1': 'dog', '2': 'bird'}
    assert VideomtVideoProcessor.from_pretrained(tmp_path / 'hf').size == dict(height=SIZE, width=SIZE)


def test_export_holds_what_transformers_saves(tmp_path: Path) -> None:
    theirs = transformers_network()
    theirs.save_pretrained(tmp_path / 'theirs')
    state, _ = import_videomt(tmp_path / 'theirs')
    export_huggingface(state, tmp_path / 'ours', num_heads=HEADS)
    ours, expected = (load_file(tmp_path / name / 'model.safetensors') for name in ('ours', 'theirs'))
    assert equal(ours, expected | UNUSED)


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        (dict(model_name=DINOV3), {}, 'transformers has VidEoMT for DINOv2 with registers only'),
        ({}, dict(norm_queries=True), 'norm_queries=True'),
        ({}, dict(classes=('a',)), '1 names for a model with 3 classes'),
        ({}, dict(num_heads=None), 'num_heads cannot be read off the weights'),
    ],
)
def test_what_cannot_be_exported(change: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_huggingface(Network(**change).state_dict(), tmp_path / 'hf', **(dict(num_heads=HEADS) | options))
    assert not list(tmp_path.iterdir())


def test_eomt_is_no_videomt(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='query_updater.weight is missing'):
        export_huggingface(Ours('vit_small_patch14_reg4_dinov2').state_dict(), tmp_path / 'hf')


# --- the command

TOOL = '../projects/videomt/tools/convert_videomt.py'


def test_command_without_a_config(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = transformers_network()
    tool(TOOL, saved(detectron2(official(theirs)), tmp_path / 'model_final.pth'), tmp_path / 'ours.pth')
    assert 'official VidEoMT, DINOv2, absolute weights' in capsys.readouterr().out
    written = torch.load(tmp_path / 'ours.pth', weights_only=True)
    theirs.save_pretrained(tmp_path / 'hf')
    assert equal(written['state_dict'], import_videomt(tmp_path / 'hf')[0])


def test_command_there_and_back_with_a_config(tool: Any, tmp_path: Path) -> None:
    """The model tells the number of heads, which weights do not."""
    MODELS.register_module('TinyVidEoMT', force=True, module=Network)
    config = tmp_path / 'config.py'
    config.write_text("model = dict(type='TinyVidEoMT')\n")
    transformers_network().save_pretrained(tmp_path / 'theirs')
    tool(TOOL, tmp_path / 'theirs', tmp_path / 'ours.pth', '--config', config)
    tool(TOOL, tmp_path / 'ours.pth', tmp_path / 'back', '--config', config, '--to', 'hf')
    theirs, back = (load_file(tmp_path / name / 'model.safetensors') for name in ('theirs', 'back'))
    assert equal(back, theirs | UNUSED)
    assert json.loads((tmp_path / 'back' / 'config.json').read_text())['num_attention_heads'] == HEADS
    normed = ['--config', config, '--cfg-options', 'model.norm_queries=True', '--to', 'hf']
    with pytest.raises(SystemExit, match='norm_queries=True: transformers has VidEoMT for DINOv2'):
        tool(TOOL, tmp_path / 'ours.pth', tmp_path / 'other', *normed)


def test_command_fails_in_one_message(tool: Any, tmp_path: Path) -> None:
    source = saved(detectron2(official(transformers_network())), tmp_path / 'model_final.pth')
    with pytest.raises(SystemExit, match='convert_videomt: num_heads cannot be read off the weights'):
        tool(TOOL, source, tmp_path / 'folder', '--to', 'hf')
    with pytest.raises(SystemExit, match='convert_videomt: .*x.pth does not exist'):
        tool(TOOL, tmp_path / 'x.pth', tmp_path / 'ours.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['model_final.pth']
