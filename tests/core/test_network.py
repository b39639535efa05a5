"""EoMT's forward pass: number of predictions, masks on and off, gradients, and parity with transformers."""

from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn

from eomt_mm.core import network as eomt
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.masked_attention import query_patch_mask
from eomt_mm.core.network import eomt_forward

Q, K = 7, 4
SIZE = (64, 96)


class Network(nn.Module):
    """Backbone and head of one tiny EoMT, of values of order 1 so that errors show."""

    def __init__(self, patch_size: int = 16, img_size: int = 64, seed: int = 0, **head_kwargs: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = PlainViT(
                'vit_small_patch14_reg4_dinov2', img_size, patch_size, depth=4, embed_dim=32, num_heads=2
            )
            self.head = EoMTHead(32, 4, patch_size, K, Q, **{**dict(num_blocks=3), **head_kwargs})
        randomise(self, seed, scale=0.25)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return eomt_forward(self.backbone, self.head, images)


def images(batch: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ('training', 'intermediate', 'expected'), [(True, False, 4), (False, False, 1), (False, True, 4), (True, True, 4)]
)
def test_number_of_predictions(training: bool, intermediate: bool, expected: int) -> None:
    class_logits, mask_logits = Network(predict_intermediate=intermediate).train(training)(images())
    assert [tuple(classes.shape) for classes in class_logits] == [(2, Q, K + 1)] * expected
    assert [tuple(masks.shape) for masks in mask_logits] == [(2, Q, 16, 24)] * expected


@pytest.mark.parametrize('num_blocks', [1, 4])
def test_one_joint_block_and_all_blocks(num_blocks: int) -> None:
    class_logits, _ = Network(num_blocks=num_blocks).train()(images())
    assert len(class_logits) == num_blocks + 1


@pytest.mark.parametrize(('patch_size', 'scale'), [(8, 2), (14, 2), (16, 4), (32, 8)])
def test_mask_size_for_every_patch_size(patch_size: int, scale: int) -> None:
    network = Network(patch_size, img_size=2 * patch_size).eval()
    _, mask_logits = network(images(size=(2 * patch_size, 3 * patch_size)))
    assert mask_logits[-1].shape == (2, Q, 2 * scale, 3 * scale)


def test_first_prediction_comes_from_raw_queries() -> None:
    network = Network().train()
    class_logits, mask_logits = network(images())
    queries = network.backbone.vit.norm(network.head.queries.weight)
    expected = network.head.class_predictor(queries)
    torch.testing.assert_close(class_logits[0], expected.expand(2, -1, -1))
    patches = network.backbone.final_norm(network.backbone(images(), num_blocks=1)).x[:, 5:]
    features = patches.transpose(1, 2).unflatten(2, (4, 6))
    for block in network.head.upscale:
        features = block(features)
    torch.testing.assert_close(
        mask_logits[0], torch.einsum('qc,bchw->bqhw', network.head.mask_mlp(queries), features), rtol=0, atol=1e-4
    )


def test_probability_zero_is_masks_off() -> None:
    """Also: evaluation gives what the last layer of training gives once masks are annealed."""
    network, unmasked = Network(), Network(masked_attention=False)
    network.head.set_attn_mask_probs([0.0, 0.0, 0.0])
    with torch.no_grad():
        annealed, off = network.train()(images()), unmasked.train()(images())
        evaluated, intermediate = network.eval()(images()), Network(predict_intermediate=True).eval()(images())
    for i in range(2):
        for layer in range(4):
            torch.testing.assert_close(annealed[i][layer], off[i][layer], rtol=0, atol=0)
            torch.testing.assert_close(annealed[i][layer], intermediate[i][layer], rtol=0, atol=0)
        torch.testing.assert_close(annealed[i][-1], evaluated[i][0], rtol=0, atol=0)


def test_no_mask_is_made_once_annealed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []

    def make(*args: Any) -> Tensor:
        made.append(query_patch_mask(*args))
        return made[-1]

    monkeypatch.setattr(eomt, 'query_patch_mask', make)
    network = Network().train()
    for probs, expected in [([0.0, 0.0, 0.0], 0), ([0.0, 0.5, 1.0], 2), ([1.0, 1.0, 1.0], 3)]:
        network.head.set_attn_mask_probs(probs)
        made.clear()
        network(images())
        assert len(made) == expected


def test_each_probability_acts_on_its_own_block() -> None:
    """With masks in block b only, the predictions up to the one before block b are those without masks."""
    free = Network(masked_attention=False).train()(images())[1]
    for b in range(3):
        network = Network().train()
        network.head.set_attn_mask_probs([float(i == b) for i in range(3)])
        masked = network(images())[1]
        same = [torch.allclose(one, other, rtol=0, atol=1e-4) for one, other in zip(masked, free, strict=True)]
        assert same == [i <= b for i in range(4)]


def test_masks_are_off_in_evaluation() -> None:
    torch.manual_seed(0)
    network = Network().eval()
    assert torch.equal(network.head.attn_mask_probs, torch.ones(3))
    off = Network(masked_attention=False).eval()
    assert torch.equal(network(images())[1][0], off(images())[1][0])
    assert not torch.allclose(network.train()(images())[1][-1], off(images())[1][0], atol=1e-2)


@pytest.mark.parametrize('probs', [[1.0] * 3, [0.5] * 3, [0.0] * 3])
def test_gradient_reaches_every_parameter(probs: list[float]) -> None:
    network = Network().train()
    network.head.set_attn_mask_probs(probs)
    class_logits, mask_logits = network(images())
    sum(x.square().mean() for x in class_logits + mask_logits).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize('training', [False, True])
def test_batch_equals_single(training: bool) -> None:
    network, batch = Network().double().train(training), images(batch=3).double()
    together = network(batch)
    for n in range(3):
        alone = network(batch[n : n + 1])
        for i in range(2):
            for one, many in zip(alone[i], together[i], strict=True):
                torch.testing.assert_close(one[0], many[n], rtol=0, atol=1e-9)


def test_a_query_that_sees_no_patch_stays_finite() -> None:
    """The mask MLP's last bias makes all mask logits negative: every query row masks every patch."""
    network = Network().train()
    with torch.no_grad():
        network.head.upscale[-1].norm.weight.zero_()
        network.head.upscale[-1].norm.bias.fill_(1.0)
        network.head.mask_mlp[-1].weight.zero_()
        network.head.mask_mlp[-1].bias.fill_(-1.0)
    class_logits, mask_logits = network(images())
    assert all((masks < 0).all() for masks in mask_logits)
    sum(x.sum() for x in class_logits + mask_logits).backward()
    assert all(x.isfinite().all() for x in class_logits + mask_logits)
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize('training', [False, True])
def test_bfloat16_autocast(training: bool) -> None:
    network = Network().train(training)
    with torch.autocast('cpu', torch.bfloat16):
        class_logits, mask_logits = network(images())
    assert all(x.isfinite().all() for x in class_logits + mask_logits)
    sum(x.float().square().mean() for x in class_logits + mask_logits).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.head.parameters())


def hf_and_ours(swiglu: bool = False) -> tuple[nn.Module, Network]:
    """transformers' EoMT with random values, and ours with the same values."""
    from transformers import EomtConfig, EomtForUniversalSegmentation

    config = EomtConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, num_blocks=3, num_queries=Q,
        num_labels=K, attn_implementation='sdpa', use_swiglu_ffn=swiglu,
    )  # fmt: skip
    hf = EomtForUniversalSegmentation(config)
    randomise(hf, seed=5, scale=0.25)
    name = 'vit_giant_patch14_reg4_dinov2' if swiglu else 'vit_small_patch14_reg4_dinov2'
    network = Network()
    if swiglu:
        # hidden width as transformers rounds it: 2/3 of 4 * 32, up to a multiple of 8
        network.backbone = PlainViT(name, 64, depth=4, embed_dim=32, num_heads=2, mlp_ratio=2 * 88 / 32)
    network.load_state_dict(from_hf(hf.state_dict()))
    return hf, network


def from_hf(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers to ours."""
    ours = {
        'backbone.vit.cls_token': state['embeddings.cls_token'],
        'backbone.vit.reg_token': state['embeddings.register_tokens'],
        'backbone.vit.pos_embed': state['embeddings.position_embeddings.weight'][None],
        'head.queries.weight': state['query.weight'],
        'head.attn_mask_probs': state['attn_mask_probs'],
    }
    names = {
        'embeddings.patch_embeddings.projection': 'backbone.vit.patch_embed.proj',
        'layernorm': 'backbone.vit.norm',
        'class_predictor': 'head.class_predictor',
        'mask_head.fc1': 'head.mask_mlp.0',
        'mask_head.fc2': 'head.mask_mlp.2',
        'mask_head.fc3': 'head.mask_mlp.4',
    }
    for k in range(2):
        for theirs, mine in dict(conv1='up', conv2='conv', layernorm2d='norm').items():
            names[f'upscale_block.block.{k}.{theirs}'] = f'head.upscale.{k}.{mine}'
    for i in range(4):
        layer, block = f'layers.{i}', f'backbone.vit.blocks.{i}'
        for part in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2'):
            names[f'{layer}.{part}'] = f'{block}.{part}'
        names |= {f'{layer}.attention.out_proj': f'{block}.attn.proj', f'{layer}.mlp.down_proj': f'{block}.mlp.fc2'}
        for n in (1, 2):
            ours[f'{block}.ls{n}.gamma'] = state[f'{layer}.layer_scale{n}.lambda1']
        for kind in ('weight', 'bias'):
            qkv = [state[f'{layer}.attention.{part}_proj.{kind}'] for part in 'qkv']
            ours[f'{block}.attn.qkv.{kind}'] = torch.cat(qkv)
            if f'{layer}.mlp.gate_proj.{kind}' in state:
                gated = [state[f'{layer}.mlp.{part}_proj.{kind}'] for part in ('gate', 'up')]
                ours[f'{block}.mlp.fc1.{kind}'] = torch.cat(gated)
    for theirs, mine in names.items():
        for kind in ('weight', 'bias'):
            if f'{theirs}.{kind}' in state:
                ours[f'{mine}.{kind}'] = state[f'{theirs}.{kind}']
    return ours


def hf_predictions(hf: nn.Module, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """All its predictions (mask logits, class logits); its output holds the last one only."""
    predictions: list[tuple[Tensor, Tensor]] = []
    predict = hf.predict

    def recording(tokens: Tensor) -> tuple[Tensor, Tensor]:
        predictions.append(predict(tokens))
        return predictions[-1]

    monkeypatch.setattr(hf, 'predict', recording)
    hf(pixel_values=pixels)
    return predictions


def assert_same_output(ours: Tensor, theirs: Tensor) -> None:
    scale = (theirs.max() - theirs.min()).item()
    assert scale > 1
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('swiglu', [False, True])
def test_equals_transformers_with_masks_off(dtype: torch.dtype, swiglu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hf, network = hf_and_ours(swiglu)
    hf, network = hf.to(dtype).eval(), network.to(dtype).eval()
    hf.attn_mask_probs.zero_()  # its way to switch masks off
    pixels = images(size=(64, 64)).to(dtype)
    with torch.no_grad():
        [(masks, classes)] = hf_predictions(hf, pixels, monkeypatch)
        class_logits, mask_logits = network(pixels)
    assert_same_output(class_logits[0], classes)
    assert_same_output(mask_logits[0], masks)


def test_equals_transformers_in_training_with_all_masks_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    hf, network = hf_and_ours()
    pixels = images(size=(64, 64))
    with torch.no_grad():
        theirs = hf_predictions(hf.train(), pixels, monkeypatch)
        class_logits, mask_logits = network.train()(pixels)
    assert len(theirs) == len(class_logits) == 4
    for i, (masks, classes) in enumerate(theirs):
        assert_same_output(class_logits[i], classes)
        assert_same_output(mask_logits[i], masks)
    assert (theirs[-1][0] - Network.forward(network.eval(), pixels)[1][0]).abs().max() > 1e-2  # masks did something
