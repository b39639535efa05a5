"""torch.compile: one graph in inference, for every batch size; the same numbers; training works."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import eomt_forward

FAMILIES = ['vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3_qkvb']
Predicted = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def no_graph_left() -> None:
    torch._dynamo.reset()


class Network(nn.Module):
    """Backbone and head of one tiny EoMT; class and mask logits of the last layer."""

    def __init__(self, family: str, **backbone: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone = PlainViT(family, 64, depth=3, embed_dim=32, num_heads=2, **backbone)
            self.head = EoMTHead(32, 3, 16, num_classes=4, num_queries=7, num_blocks=2)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.add_(0.25 * torch.randn(parameter.shape))

    def forward(self, images: Tensor) -> Predicted:
        class_logits, mask_logits = eomt_forward(self.backbone, self.head, images)
        return class_logits[-1], mask_logits[-1]


def images(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def assert_same(found: Predicted, expected: Predicted) -> None:
    for one, other in zip(found, expected, strict=True):
        span = (other.max() - other.min()).item()
        assert span > 0.5
        torch.testing.assert_close(one / span, other / span, rtol=0, atol=1e-4)


def check_inference(family: str, backend: str) -> None:
    network = Network(family).eval()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (2, 3, 5):
            assert_same(compiled(images(batch)), network(images(batch)))


@pytest.mark.slow  # the contract's exported programs take any batch size, too
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
@pytest.mark.parametrize('family', FAMILIES)
def test_inference_is_one_graph_for_all_batch_sizes(family: str, backend: str) -> None:
    check_inference(family, backend)


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_inference_with_inductor(family: str) -> None:
    check_inference(family, 'inductor')


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_one_dynamic_dimension_is_enough(family: str) -> None:
    """As exporters and servers mark it, with all other sizes fixed."""
    network = Network(family).eval()
    compiled = torch.compile(network, fullgraph=True, backend='eager')
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (2, 4, 3):
            x = images(batch)
            torch._dynamo.mark_dynamic(x, 0)
            assert_same(compiled(x), network(images(batch)))


@pytest.mark.slow
def test_other_batch_sizes_would_be_noticed() -> None:
    """Otherwise the tests above could not fail."""
    compiled = torch.compile(Network(FAMILIES[0]).eval(), fullgraph=True, dynamic=False, backend='eager')
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        compiled(images(2))
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compiled(images(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('family', 'with_cp'),
    [
        (FAMILIES[0], False),
        (FAMILIES[0], True),
        (FAMILIES[1], True),
    ],
)
def test_compiled_training(family: str, with_cp: bool) -> None:
    """Masks on in one block and annealed in the other; graph breaks are allowed."""
    losses, gradients = [], []
    for compiled in (False, True):
        network = Network(family, with_cp=with_cp).train()
        network.head.set_attn_mask_probs([0.0, 1.0])
        run = torch.compile(network, backend='aot_eager') if compiled else network
        class_logits, mask_logits = run(images(2))
        loss = class_logits.square().mean() + mask_logits.square().mean()
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
