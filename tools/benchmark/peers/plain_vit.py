"""timm's ViT alone: the one inside our model."""

from argparse import Namespace

import torch

from benchmark.harness import Call
from benchmark.peers import ours


def forward(problem: Namespace) -> Call:
    """Returns nothing to compare: it has no predictions."""
    vit = ours.network(problem.cfg).backbone.vit

    @torch.no_grad()
    def call() -> None:
        vit.forward_features(problem.images)

    return call
