"""Imported models compute what the original computes; what does not fit is refused with its hint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_samples import (
    CLASSES,
    QUERIES,
    SIZE,
    WIDTH,
    Ours,
    check_same,
    dinov2,
    dinov3,
    equal,
    giant,
    hf_dinov2,
    hf_dinov3,
    official_from_hf,
    randomise,
    saved,
)
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from eomt_mm.checkpoints.describe import GRID, POSITIONS, describe, position_grid
from eomt_mm.checkpoints.exporting import export_huggingface, export_official
from eomt_mm.checkpoints.fit import check_fit
from eomt_mm.checkpoints.importing import STAGES, import_checkpoint


@pytest.mark.parametrize('head', ['panoptic_head', 'decode_head'])
@pytest.mark.parametrize(
    ('peer', 'ours'),
    [(hf_dinov2, dinov2), (lambda: hf_dinov2(gated=True), giant), (hf_dinov3, dinov3)],
)
def test_all_whole_formats_compute_the_same(
    tmp_path: Path, peer: Callable[[], Any], ours: Callable[..., Ours], head: str
) -> None:
    model, theirs = ours(head=head), peer()
    theirs.attn_mask_probs.fill_(0.7)  # must not reach our model
    official = official_from_hf(theirs)
    lightning = dict(state_dict={name.replace('network.', 'network._orig_mod.'): v for name, v in official.items()})
    theirs.save_pretrained(tmp_path / 'hf')
    states = [
        import_checkpoint(source, model.state_dict())[0]
        for source in (
            tmp_path / 'hf',
            tmp_path / 'hf' / 'model.safetensors',
            saved(official, tmp_path / 'pytorch_model.bin'),
            saved(lightning, tmp_path / 'last.ckpt'),
        )
    ]
    assert all(equal(state, states[0]) for state in states)
    assert states[0][f'{head}.attn_mask_probs'].tolist() == [0]
    check_same(model, states[0], theirs)


def test_stages_are_told_as_they_begin(tmp_path: Path) -> None:
    stages: list[str] = []
    import_checkpoint(
        saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin'), head='panoptic_head', progress=stages.append
    )
    assert stages == list(STAGES)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    official = {name: value.half() for name, value in official_from_hf(hf_dinov2()).items()}
    state, _ = import_checkpoint(saved(official, tmp_path / 'x.bin'), dinov2().state_dict())
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state['panoptic_head.queries.weight'], official['network.q.weight'].float())


def test_own_checkpoints_pass_unchanged(tmp_path: Path) -> None:
    model = dinov3()
    model.panoptic_head.attn_mask_probs.fill_(0.3)
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))), state_dict=model.state_dict())
    state, report = import_checkpoint(saved(checkpoint, tmp_path / 'x.pth'), dinov3().state_dict())
    assert equal(state, model.state_dict()) and report.meta['dataset_meta']['classes'] == ('a', 'b', 'c')


def test_own_backbone_alone_is_a_backbone(tmp_path: Path) -> None:
    backbone = {name: value for name, value in dinov3().state_dict().items() if name.startswith('backbone.')}
    state, report = import_checkpoint(saved(backbone, tmp_path / 'x.pth'), dinov3().state_dict())
    assert equal(state, backbone) and not report.whole and 'panoptic_head.queries.weight' in report.missing


def test_file_without_patch_embedding_is_named(tmp_path: Path) -> None:
    state = {**dinov3().state_dict(), 'backbone.vit.patch_embed.proj.weight': torch.zeros(3)}
    with pytest.raises(ValueError, match=r'x\.pth .*not the weights of a ViT'):
        import_checkpoint(saved(state, tmp_path / 'x.pth'), dinov3().state_dict())


def test_heads_of_one_host_serve_the_other(tmp_path: Path) -> None:
    source = saved(dinov2(head='panoptic_head').state_dict(), tmp_path / 'x.pth')
    state, _ = import_checkpoint(source, dinov2(head='decode_head').state_dict())
    assert equal(state, dinov2(head='decode_head').state_dict())


# --- what does not fit the model


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (lambda: dinov2(classes=5), r'classes: 3 in the file, 5 in the model.*--no-class-head'),
        (
            lambda: dinov2(queries=7),
            r'queries: 4 in the file, 7 .*Set model\.panoptic_head\.num_queries=4',
        ),
        (lambda: dinov2(blocks=2), r'joint blocks: 1 .*2 in the model\. Set model\.panoptic_head\.num_blocks=1'),
        (lambda: dinov2(depth=3, blocks=1), r'backbone: .*2 blocks.*3 blocks.*Set model\.backbone\.model_name'),
        (lambda: dinov3(), r'backbone: the file has dinov2.*the model dinov3'),
        (lambda: randomise(Ours('vit_small_patch16_dinov3')), r'backbone: the file has dinov2.*the model dinov3'),
        (lambda: dinov2(patch_size=8), r'patches: 16 in the file, 8 in the model'),
        (lambda: giant(embed_dim=WIDTH), r'mlp\.fc1\.weight: \(128, 32\) in the file, \(170, 32\) in the model'),
    ],
)
def test_differences_are_told_as_settings(tmp_path: Path, model: Callable[[], Ours], message: str) -> None:
    source = saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin')
    with pytest.raises(ValueError, match=f'does not fit the model:\n(.|\n)*{message}'):
        import_checkpoint(source, model().state_dict())


def test_all_missing_and_unexpected_names_are_listed(tmp_path: Path) -> None:
    official = official_from_hf(hf_dinov2())
    gone = [name for name in official if 'blocks.1.' in name or 'upscale.0' in name]
    official = {name: value for name, value in official.items() if name not in gone}
    for k in range(30):
        official[f'network.encoder.backbone.blocks.0.adapter.{k}'] = torch.ones(1)
    source = saved(official, tmp_path / 'x.bin')
    model = Ours('vit_small_patch14_reg4_dinov2')
    with pytest.raises(ValueError, match='missing in the file') as error:
        import_checkpoint(source, model.state_dict())
    lines = str(error.value).splitlines()
    assert sum('unexpected in the file' in line for line in lines) == 30
    assert sum('missing in the file' in line for line in lines) == len(gone)


def test_incomplete_files_are_refused_without_a_model_too(tmp_path: Path) -> None:
    official = official_from_hf(hf_dinov2())
    for name in ('encoder.backbone.blocks.1.norm2.bias', 'encoder.backbone.norm.bias', 'mask_head.2.bias'):
        del official[f'network.{name}']
    del official['network.upscale.1.norm.bias']
    with pytest.raises(ValueError, match='is incomplete, 4 weights are missing') as error:
        import_checkpoint(saved(official, tmp_path / 'x.bin'), head='panoptic_head')
    for name in ('backbone.vit.blocks.1.norm2.bias', 'backbone.vit.norm.bias', 'head.upscale.1.norm.bias'):
        assert f'  {name}' in str(error.value)


def test_names_that_the_format_lacks_are_all_listed(tmp_path: Path) -> None:
    state = {**hf_dinov3().state_dict(), **{f'adapter.{k}': torch.ones(1) for k in range(20)}}
    with pytest.raises(ValueError, match='holds 20 weights that this format does not have') as error:
        import_checkpoint(saved(state, tmp_path / 'x.pth'))
    assert all(f'  adapter.{k}\n' in str(error.value) for k in range(20))
    del state['query.weight'], state['layernorm.bias']
    state['query.weight'] = torch.zeros(9, WIDTH)
    with pytest.raises(ValueError, match='queries: 9 in the file') as error:
        import_checkpoint(saved(state, tmp_path / 'x.pth'), dinov3().state_dict())
    text = str(error.value)
    assert text.count('unexpected in the file: adapter') == 20 and 'missing in the file: backbone.vit.norm.bias' in text


def test_class_rows_can_be_left_out(tmp_path: Path) -> None:
    model = dinov2(classes=11)
    source = saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin')
    state, report = import_checkpoint(source, model.state_dict(), class_head=False)
    rows = ['panoptic_head.class_predictor.weight', 'panoptic_head.class_predictor.bias']
    assert report.missing == rows and set(model.state_dict()) - set(state) == set(rows)
    without = import_checkpoint(source, class_head=False, head='panoptic_head')[0]
    assert set(without) == set(state)


# --- sizes, biases, bare backbones


def test_positions_are_resampled_as_timm_does_and_told(tmp_path: Path) -> None:
    official = official_from_hf(hf_dinov2())
    source = saved(official, tmp_path / 'x.bin')
    model = dinov2(img_size=112)
    state, report = import_checkpoint(source, model.state_dict())
    stored = official['network.encoder.backbone.pos_embed']
    assert torch.equal(state['backbone.vit.pos_embed'], resample_abs_pos_embed(stored, [7, 7], [4, 4], 0))
    assert 'position embeddings resampled from 4 x 4 to 7 x 7 patches' in report.text()
    model.load_state_dict(state)
    assert not any('resampled' in note for note in import_checkpoint(source, dinov2().state_dict())[1].notes)


@pytest.mark.parametrize('name', ['vit_small_patch14_reg4_dinov2', 'vit_tiny_patch16_224', 'deit3_small_patch16_224',
                                  'eva02_tiny_patch14_224'])  # fmt: skip
def test_bare_backbones_as_timm_loads_them(tmp_path: Path, name: str) -> None:
    """Another image and patch size; the peer is timm's own loading of the same file."""
    kwargs = dict(embed_dim=48, depth=2, num_heads=2)
    classes = 0 if 'eva' in name or 'dinov2' in name else 5  # as released: self-supervised ones have no classifier
    source = randomise(timm.create_model(name, img_size=112, num_classes=classes, **kwargs))
    path = saved(source.state_dict(), tmp_path / 'timm.pth')
    model = Ours(name, img_size=SIZE, **kwargs)
    state, report = import_checkpoint(path, model.state_dict())
    peer = Ours(name, img_size=SIZE, weights=str(path), **kwargs).backbone
    peer.init_weights()
    expected = {f'backbone.{key}': value for key, value in peer.state_dict().items()}
    assert state.keys() == expected.keys()
    for key, value in state.items():
        assert torch.allclose(value, expected[key], atol=1e-6), key
    assert set(report.missing) == {key for key in model.state_dict() if key.startswith('panoptic_head.')}
    assert any('position embeddings resampled' in note for note in report.notes)


def test_patch_kernel_of_a_bare_backbone_is_resampled(tmp_path: Path) -> None:
    source = dinov2(patch_size=14, img_size=56).backbone.vit.state_dict()
    state, report = import_checkpoint(saved(source, tmp_path / 'x.pth'), dinov2().state_dict())
    expected = resample_patch_embed(source['patch_embed.proj.weight'], [16, 16])
    assert torch.equal(state['backbone.vit.patch_embed.proj.weight'], expected)
    assert 'patch kernel resampled from 14 x 14 to 16 x 16 pixels' in report.notes


def test_zero_biases_come_and_go_others_are_refused(tmp_path: Path) -> None:
    def plain(**kwargs: Any) -> Ours:
        return randomise(Ours('vit_7b_patch16_dinov3', **kwargs))

    without = saved(plain().backbone.vit.state_dict(), tmp_path / 'plain.pth')
    with_biases = plain(qkv_bias=True)
    state, report = import_checkpoint(without, with_biases.state_dict())
    assert not state['backbone.vit.blocks.1.attn.q_bias'].any() and '4 biases of q and v set to zero' in report.text()
    biased = with_biases.backbone.vit.state_dict()
    with pytest.raises(ValueError, match=r'_qkvb, or set model\.backbone\.qkv_bias=True'):
        import_checkpoint(saved(biased, tmp_path / 'x.pth'), plain().state_dict())
    for name, value in biased.items():
        if name.endswith(('q_bias', 'v_bias')):
            value.zero_()
    state, report = import_checkpoint(saved(biased, tmp_path / 'x.pth'), plain().state_dict())
    assert not any(name.endswith('q_bias') for name in state) and '4 zero biases' in report.text()


def test_some_missing_biases_are_missing(tmp_path: Path) -> None:
    state = dict(dinov3().backbone.vit.state_dict())
    del state['blocks.1.attn.q_bias']
    with pytest.raises(ValueError, match=r'missing in the file: backbone\.vit\.blocks\.1\.attn\.q_bias'):
        import_checkpoint(saved(state, tmp_path / 'x.pth'), dinov3().state_dict())


def test_incomplete_backbone_is_refused(tmp_path: Path) -> None:
    state = dict(dinov3().backbone.vit.state_dict())
    del state['norm.weight']
    with pytest.raises(ValueError, match=r'missing in the file: backbone\.vit\.norm\.weight'):
        import_checkpoint(saved(state, tmp_path / 'x.pth'), dinov3().state_dict())


# --- ADE20K, and what can be recovered


def test_ade20k_panoptic_rows_are_reordered_only_there(tmp_path: Path) -> None:
    official = official_from_hf(hf_dinov2(num_labels=150))
    official['network.class_head.bias'] = torch.arange(151.0)
    source = saved(official, tmp_path / 'x.bin')

    def first_rows(head: str, **kwargs: Any) -> list[float]:
        state, _ = import_checkpoint(source, dinov2(classes=150, head=head).state_dict(), **kwargs)
        return state[f'{head}.class_predictor.bias'][:3].tolist()

    assert first_rows('panoptic_head') == [7, 8, 10]
    assert first_rows('decode_head') == [0, 1, 2]
    assert first_rows('panoptic_head', class_order='as_stored') == [0, 1, 2]
    own, report = import_checkpoint(source, dinov2(classes=150).state_dict())
    assert report.reordered and "mmdet's order" in report.text()
    again, report = import_checkpoint(saved(own, tmp_path / 'own.pth'), dinov2(classes=150).state_dict())
    assert equal(own, again) and not report.reordered
    with pytest.raises(ValueError, match='the file has 3 classes'):
        import_checkpoint(
            saved(official_from_hf(hf_dinov2()), tmp_path / 'y.bin'), head='panoptic_head', class_order='ade20k'
        )


def test_description_without_a_config(tmp_path: Path) -> None:
    source = saved(official_from_hf(hf_dinov2()), tmp_path / 'x.bin')
    state, report = import_checkpoint(source, head='panoptic_head')
    found = report.description
    assert (found.family, found.width, found.depth, found.patch_size, found.img_size) == ('dinov2', WIDTH, 2, 16, SIZE)
    assert (found.num_classes, found.num_queries, found.num_blocks, found.num_scale_blocks) == (CLASSES, QUERIES, 1, 2)
    assert set(state) == set(dinov2().state_dict())
    other = saved(official_from_hf(hf_dinov3()), tmp_path / 'y.bin')
    found = import_checkpoint(other, head='panoptic_head')[1].description
    assert found.family == 'dinov3' and found.img_size is None
    hf_dinov3().save_pretrained(tmp_path / 'hf')
    assert import_checkpoint(tmp_path / 'hf', head='panoptic_head')[1].description.img_size == SIZE
    semantic, report = import_checkpoint(source, head='decode_head')
    assert report.head == 'decode_head' and 'decode_head.queries.weight' in semantic


@pytest.mark.parametrize('num_queries', [100, 200])
def test_head_is_never_guessed(tmp_path: Path, num_queries: int) -> None:
    """Files of other programs do not state it; a bare backbone has none."""
    source = saved(official_from_hf(hf_dinov2(num_queries=num_queries)), tmp_path / 'x.bin')
    with pytest.raises(ValueError, match=r'does not state its task: give --config .* --head decode_head') as error:
        import_checkpoint(source)
    assert '\n' not in str(error.value)
    for head in ('decode_head', 'panoptic_head'):
        own = saved(dinov2(head=head).state_dict(), tmp_path / f'{head}.pth')
        assert import_checkpoint(own)[1].head == head
    backbone = {name: value for name, value in dinov2().state_dict().items() if name.startswith('backbone.')}
    assert set(import_checkpoint(saved(backbone, tmp_path / 'vit.pth'))[0]) == set(backbone)


def test_joint_blocks_that_a_file_does_not_tell(tmp_path: Path) -> None:
    official = official_from_hf(hf_dinov2())
    del official['network.attn_mask_probs']
    source = saved(official, tmp_path / 'x.bin')
    state, report = import_checkpoint(source, head='panoptic_head')
    assert len(state['panoptic_head.attn_mask_probs']) == 2 and 'assumed: 2 joint blocks' in report.text()
    state, report = import_checkpoint(source, dinov2().state_dict())
    assert len(state['panoptic_head.attn_mask_probs']) == 1 and 'assumed' not in report.text()


def test_published_models_are_recognised() -> None:
    with torch.device('meta'):
        names = {
            'backbone.vit.patch_embed.proj.weight': torch.empty(1024, 3, 16, 16),
            'backbone.vit.reg_token': torch.empty(1, 4, 1024),
            'backbone.vit.pos_embed': torch.empty(1, 1600, 1024),
            'decode_head.class_predictor.weight': torch.empty(134, 1024),
            'decode_head.queries.weight': torch.empty(200, 1024),
            **{f'backbone.vit.blocks.{i}.norm1.weight': torch.empty(1024) for i in range(24)},
        }
    found = describe(names)
    assert (found.model_name, found.num_heads) == ('vit_large_patch14_reg4_dinov2', 16)
    assert found.config_pattern == 'coco/eomt_dinov2-l_*_coco-panoptic-640.py'
    with pytest.raises(ValueError, match='not the weights of a ViT'):
        describe({'x': torch.ones(1)})


def test_grids_with_and_without_prefix_tokens() -> None:
    sides = {16: (0, 4), 17: (1, 4), 1600: (0, 40), 1370: (1, 37), 2: (1, 1), 8 * 5: (4, 6)}
    for count, (prefix, side) in sides.items():
        assert position_grid({POSITIONS: torch.empty(1, count, 8)}) == (prefix, (side, side))
    positions = {POSITIONS: torch.empty(1, 1 + 8 * 2, 8)}
    assert position_grid({**positions, GRID: torch.tensor([2.0, 8.0])}) == (1, (2, 8))
    assert position_grid({**positions, GRID: torch.tensor([3.0, 8.0])}) == position_grid({}) == (0, None)


def test_positions_of_grids_that_are_not_square(tmp_path: Path) -> None:
    """Grids of equally many patches are told apart; files of other formats, which store no grid, are square."""
    square, wide, high = (dinov2(img_size=size).state_dict() for size in (64, (32, 128), (128, 32)))
    assert square[POSITIONS].shape == wide[POSITIONS].shape == high[POSITIONS].shape and GRID not in square
    path = saved(wide, tmp_path / 'wide.pth')
    for expected, grid in ((square, (4, 4)), (high, (8, 2)), (wide, (2, 8))):
        state, report = import_checkpoint(path, expected)
        resampled = resample_abs_pos_embed(wide[POSITIONS], list(grid), [2, 8], 0)
        assert torch.equal(state[POSITIONS], resampled) and state.keys() == expected.keys()
        assert any('from 2 x 8 to' in note for note in report.notes) == (grid != (2, 8))
        assert report.description.img_size == (32, 128)
    state, _ = import_checkpoint(saved(square, tmp_path / 'square.pth'), wide)
    assert torch.equal(state[POSITIONS], resample_abs_pos_embed(square[POSITIONS], [2, 8], [4, 4], 0))
    for file, model in ((wide, square), (square, wide), (wide, high)):
        for allow_missing in (False, True):
            with pytest.raises(ValueError, match=r'pos_embed: of . x . patches in the file(.|\n)*convert_checkpoint'):
                check_fit(model, file, 'a.pth', allow_missing)
    with pytest.raises(ValueError, match=r'position embeddings of 2 x 8 patches: .* square img_size'):
        export_official(wide, tmp_path / 'official.bin')
    with pytest.raises(ValueError, match=r'img_size=\(32, 128\): transformers takes square inputs'):
        export_huggingface(dinov3().state_dict(), tmp_path / 'hf', (32, 128), num_heads=2)


def test_settings_of_transformers_that_differ_are_told(tmp_path: Path) -> None:
    hf_dinov3(layer_norm_eps=1e-6, hidden_act='silu').save_pretrained(tmp_path)
    text = import_checkpoint(tmp_path, head='panoptic_head')[1].text(table=True)
    assert "hidden_act 'silu'" in text and 'layer_norm_eps 1e-06' in text
    assert 'layers.{i}.attention.[q|k|v]_proj.weight' in text
    assert text.count('backbone.vit.blocks.{i}.attn.qkv.weight  (2)') == 1
