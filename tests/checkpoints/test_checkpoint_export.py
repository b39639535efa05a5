"""Exported models load elsewhere, compute the same, and come back bit by bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import (
    CLASSES,
    HEADS,
    IMAGENET_MEAN,
    SIZE,
    Ours,
    dinov2,
    dinov3,
    equal,
    gated_dinov3,
    giant,
    hf_dinov2,
    hf_dinov3,
    hf_outputs,
    official_from_hf,
    randomise,
    relative_difference,
)
from transformers import (
    AutoImageProcessor,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
)

from eomt_mm.annotations.class_tables import ADE20K_THINGS_FIRST
from eomt_mm.checkpoints.exporting import export_huggingface, export_official
from eomt_mm.checkpoints.importing import import_checkpoint

PEERS = [
    (dinov2, EomtForUniversalSegmentation, 'eomt'),
    (giant, EomtForUniversalSegmentation, 'eomt'),
    (dinov3, EomtDinov3ForUniversalSegmentation, 'eomt_dinov3'),
]


def without_biases() -> Ours:
    return randomise(Ours('vit_small_patch16_dinov3'))


def masks_off(model: Ours) -> dict[str, torch.Tensor]:
    return {name: value * ('attn_mask_probs' not in name) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(('ours', 'peer', 'kind'), PEERS)
def test_transformers_loads_it_and_computes_the_same(
    tmp_path: Path, ours: Callable[..., Ours], peer: Any, kind: str
) -> None:
    model = ours()
    export_huggingface(model.state_dict(), tmp_path / 'hf', SIZE, HEADS, ['cat', 'dog', 'sky'])
    theirs, loading = peer.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not any(loading[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert theirs.config.model_type == kind and theirs.config.id2label == {0: 'cat', 1: 'dog', 2: 'sky'}
    assert theirs.attn_mask_probs.tolist() == [0]
    assert torch.allclose(theirs.criterion.empty_weight, torch.tensor([1, 1, 1, 0.1]))
    images = torch.randn(2, 3, SIZE, SIZE)  # transformers takes no other shape
    with torch.no_grad():
        found, expected = model(images), theirs.eval()(pixel_values=images)
    assert relative_difference(expected.class_queries_logits, found[0]) < 1e-5
    assert relative_difference(expected.masks_queries_logits, found[1]) < 1e-5
    assert equal(import_checkpoint(tmp_path / 'hf', model.state_dict())[0], masks_off(model))


def test_training_in_transformers_does_not_rescale_positions(tmp_path: Path) -> None:
    export_huggingface(dinov3().state_dict(), tmp_path / 'hf', SIZE, HEADS)
    theirs = EomtDinov3ForUniversalSegmentation.from_pretrained(tmp_path / 'hf').train()
    images = torch.randn(1, 3, SIZE, SIZE)
    assert torch.equal(*(theirs(pixel_values=images).masks_queries_logits for _ in range(2)))


@pytest.mark.parametrize(
    ('ours', 'peer'),
    [(dinov2, hf_dinov2), (giant, lambda: hf_dinov2(gated=True)), (dinov3, hf_dinov3)],
)
def test_official_names_are_those_of_the_spec_and_come_back(
    tmp_path: Path, ours: Callable[..., Ours], peer: Callable[[], Any]
) -> None:
    model = ours()
    export_official(model.state_dict(), tmp_path / 'pytorch_model.bin')
    written = torch.load(tmp_path / 'pytorch_model.bin', weights_only=True)
    expected = official_from_hf(peer())
    assert {name: value.shape for name, value in written.items()} == {n: v.shape for n, v in expected.items()}
    assert torch.equal(written['network.encoder.pixel_mean'], IMAGENET_MEAN)
    assert torch.equal(written['criterion.empty_weight'], torch.tensor([1, 1, 1, 0.1]))
    state, report = import_checkpoint(tmp_path / 'pytorch_model.bin', model.state_dict())
    assert equal(state, masks_off(model)) and report.weights == 'absolute'


@pytest.mark.parametrize('peer', [hf_dinov2, lambda: hf_dinov2(gated=True), hf_dinov3])
def test_files_of_others_come_back_unchanged(tmp_path: Path, peer: Callable[[], Any]) -> None:
    """Through us and back into the format that they came from."""
    theirs = peer()
    theirs.attn_mask_probs.zero_()
    official = official_from_hf(theirs)
    torch.save(official, tmp_path / 'x.bin')
    export_official(import_checkpoint(tmp_path / 'x.bin', head='panoptic_head')[0], tmp_path / 'back.bin')
    assert equal(torch.load(tmp_path / 'back.bin', weights_only=True), official)
    theirs.save_pretrained(tmp_path / 'hf')
    export_huggingface(import_checkpoint(tmp_path / 'hf', head='panoptic_head')[0], tmp_path / 'back', SIZE, HEADS)
    assert equal(type(theirs).from_pretrained(tmp_path / 'back').state_dict(), theirs.state_dict())


def test_models_without_biases_of_q_and_v(tmp_path: Path) -> None:
    """transformers has them switched off; the official backbone always has some."""
    model = without_biases()
    export_huggingface(model.state_dict(), tmp_path / 'hf', SIZE, HEADS)
    theirs = EomtDinov3ForUniversalSegmentation.from_pretrained(tmp_path / 'hf').eval()
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        assert relative_difference(hf_outputs(theirs, images)[1], model(images)[1]) < 1e-5
    export_official(model.state_dict(), tmp_path / 'x.bin')
    written = torch.load(tmp_path / 'x.bin', weights_only=True)
    assert written.keys() == official_from_hf(hf_dinov3()).keys()
    for source in ('hf', 'x.bin'):
        assert equal(import_checkpoint(tmp_path / source, model.state_dict())[0], masks_off(model))


def test_gated_dinov3_goes_to_official_but_not_to_transformers(tmp_path: Path) -> None:
    model = gated_dinov3()
    with pytest.raises(ValueError, match='gated MLP .* hidden_act also applies to the mask head.*--to official'):
        export_huggingface(model.state_dict(), tmp_path / 'hf', SIZE, HEADS)
    export_official(model.state_dict(), tmp_path / 'x.bin')
    assert equal(import_checkpoint(tmp_path / 'x.bin', model.state_dict())[0], masks_off(model))


@pytest.mark.parametrize('export', [export_huggingface, export_official])
def test_models_that_have_no_place_elsewhere_are_refused(tmp_path: Path, export: Callable[..., None]) -> None:
    for name in ('vit_tiny_patch16_224', 'deit3_small_patch16_224', 'eva02_tiny_patch14_224'):
        state = Ours(name, embed_dim=48).state_dict()
        with pytest.raises(ValueError, match='only DINOv2 with 4 registers and DINOv3'):
            export(state, tmp_path / 'x')
    backbone = {name: value for name, value in dinov2().state_dict().items() if 'backbone' in name}
    with pytest.raises(ValueError, match='only whole models'):
        export(backbone, tmp_path / 'x')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('model', 'kwargs', 'message'),
    [
        (dinov3, dict(num_heads=HEADS), 'img_size cannot be read off the weights'),
        (dinov3, dict(img_size=SIZE), 'num_heads cannot be read off the weights'),
        (dinov2, dict(num_heads=HEADS, classes=['a']), f'1 names for a model with {CLASSES} classes'),
        (lambda: dinov2(mlp_ratio=2.5), dict(num_heads=HEADS), 'MLP of 80 for a width of 32'),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_left(
    tmp_path: Path, model: Callable[[], Ours], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_huggingface(model().state_dict(), tmp_path / 'hf', **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_empty_is_kept(tmp_path: Path) -> None:
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(FileExistsError, match='name a new folder or empty it'):
        export_huggingface(dinov2().state_dict(), tmp_path, SIZE, HEADS)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_ade20k_rows_and_names_go_back_into_the_data_sets_order(tmp_path: Path) -> None:
    model = dinov2(classes=150)
    order = ['wall', *(f'class {k}' for k in range(1, 150))]
    names = [order[row] for row in ADE20K_THINGS_FIRST]
    export_huggingface(model.state_dict(), tmp_path / 'hf', SIZE, HEADS, names, ade20k_order=True)
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    assert config['id2label'] == {str(k): name for k, name in enumerate(order)}
    theirs = EomtForUniversalSegmentation.from_pretrained(tmp_path / 'hf')
    ours = model.panoptic_head.class_predictor.bias
    assert torch.equal(theirs.class_predictor.bias[[*ADE20K_THINGS_FIRST, 150]], ours)
    assert equal(import_checkpoint(tmp_path / 'hf', model.state_dict())[0], masks_off(model))
    export_official(model.state_dict(), tmp_path / 'x.bin', ade20k_order=True)
    assert equal(import_checkpoint(tmp_path / 'x.bin', model.state_dict())[0], masks_off(model))


@pytest.mark.parametrize(('semantic', 'shapes'), [(False, [(3, SIZE, SIZE)]), (True, [(3, SIZE, SIZE)] * 2)])
def test_image_processor_pads_or_cuts_windows(tmp_path: Path, semantic: bool, shapes: list[Any]) -> None:
    export_huggingface(dinov2().state_dict(), tmp_path / 'hf', SIZE, HEADS, semantic=semantic)
    processor = AutoImageProcessor.from_pretrained(tmp_path / 'hf')
    image = torch.zeros(3, 60, 100, dtype=torch.uint8)
    pixels = processor(images=image, return_tensors='pt')['pixel_values']
    assert [tuple(window.shape) for window in pixels] == shapes
    black = -IMAGENET_MEAN.flatten() / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(pixels[0][:, 0, 0], black)
