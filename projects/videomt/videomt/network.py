"""VidEoMT's forward pass: EoMT on every frame, with queries passed from frame to frame (`README.md`, "Sources")."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt_mm.core.backbone import PlainViT, Tokens
from eomt_mm.core.head import EoMTHead

Logits = tuple[Tensor, Tensor]  # of one frame and layer: classes (B, Q, K + 1), masks (B, Q, H/4, W/4)


@dataclass(frozen=True)
class ClipPredictions:
    """Predictions of a clip, one entry per prediction layer, the final one last.

    Attributes:
        class_logits: (B, T, Q, K + 1) each; the last class is "no object".
        mask_logits: (B, T, Q, H/4, W/4) each.
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]


class VidEoMTHead(EoMTHead):
    """EoMT's head with the query updater; attention is never masked.

    Args:
        norm_queries: normalise the queries that are passed to the next frame. As published, True only for DINOv3 on
            VIPSeg and VSPW.
        norm_auxiliary: normalise the tokens for the predictions that training makes before each joint block. None, as
            published: the value of ``norm_queries``. EoMT always normalises, so True suits heads that start from an
            EoMT.
        drop_last_auxiliary: as published, training makes no prediction before the last joint block. False: before every
            joint block, as EoMT does.
        **kwargs: see :class:`~eomt_mm.core.head.EoMTHead`.
    """

    def __init__(
        self,
        norm_queries: bool = False,
        norm_auxiliary: bool | None = None,
        drop_last_auxiliary: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(masked_attention=False, **kwargs)
        self.norm_queries = norm_queries
        self.norm_auxiliary = norm_queries if norm_auxiliary is None else norm_auxiliary
        self.drop_last_auxiliary = drop_last_auxiliary
        dim = self.queries.embedding_dim
        self.query_updater = nn.Linear(dim, dim)

    def predicts_before(self, b: int) -> bool:
        """Whether a prediction is made before joint block ``b``: in training, or with ``predict_intermediate``."""
        dropped = self.training and self.drop_last_auxiliary and b == self.num_blocks - 1
        return self.predicts_before_blocks and not dropped

    def frame_queries(self, state: Tensor | None, batch: int) -> Tensor:
        """Queries (B, Q, C) of a frame: the learned ones, plus, from the second frame on, the last frame's, updated.

        Args:
            state: see :func:`videomt_forward`.
            batch: number B of clips.

        Raises:
            ValueError: the state belongs to another batch or model.
        """
        learned = self.queries.weight.expand(batch, -1, -1)
        if state is None:
            return learned
        if state.shape != learned.shape:
            raise ValueError(
                f'state of shape {tuple(state.shape)} for {batch} clips with queries {tuple(learned.shape[1:])}: give '
                f'what the call for the frames before returned, or None at the start of a video'
            )
        return self.query_updater(state) + learned


def videomt_forward(
    backbone: PlainViT, head: VidEoMTHead, frames: Tensor, state: Tensor | None = None
) -> tuple[ClipPredictions, Tensor]:
    """Run VidEoMT on consecutive frames.

    The first blocks process all frames in one batch; the joint blocks run frame by frame. Nothing is detached: the
    gradient of a frame reaches all frames before it. A video may be split into windows of any length, with equal
    results.

    Predictions are made by the final layer and before the joint blocks that :meth:`VidEoMTHead.predicts_before`
    selects: 1 entry in evaluation, ``num_blocks`` or ``num_blocks + 1`` in training.

    Args:
        backbone: computes the tokens and runs its own blocks.
        head: queries and predictors.
        frames: (B, T, 3, H, W), normalised; sides are multiples of the patch size. T is at least 1.
        state: state returned by the call for the previous frames; None at the start of a video.

    Returns:
        predictions, and the state (B, Q, C): the last frame's output queries.

    Raises:
        ValueError: frames or state have another shape.
    """
    if frames.ndim != 5 or frames.shape[1] == 0:
        raise ValueError(f'frames of shape {tuple(frames.shape)}: (B, T, 3, H, W) is needed, with at least one frame')
    batch, length = frames.shape[:2]
    tokens = backbone(frames.flatten(0, 1), num_blocks=backbone.depth - head.num_blocks)  # (B * T, P + h * w, C)
    predicted = []  # frame by frame
    for x in tokens.x.unflatten(0, (batch, length)).unbind(1):
        frame = replace(tokens, x=x).prepend(head.frame_queries(state, batch))
        layers, state = _joint_blocks(backbone, head, frame)
        predicted.append(layers)
    assert state is not None  # there was a frame
    layers_of_clip = list(zip(*predicted, strict=True))
    predictions = ClipPredictions(
        [torch.stack([classes for classes, _ in layer], dim=1) for layer in layers_of_clip],
        [torch.stack([masks for _, masks in layer], dim=1) for layer in layers_of_clip],
    )
    return predictions, state


def _joint_blocks(backbone: PlainViT, head: VidEoMTHead, frame: Tokens) -> tuple[list[Logits], Tensor]:
    """Run the joint blocks on one frame; return its predictions, layer by layer, and its output queries (B, Q, C)."""
    layers = []
    first = backbone.depth - head.num_blocks
    for b in range(head.num_blocks):
        if head.predicts_before(b):
            layers.append(_predict(head, backbone.final_norm(frame) if head.norm_auxiliary else frame))
        frame = backbone.run_block(frame, first + b)
    normed = backbone.final_norm(frame)
    layers.append(_predict(head, normed))
    leaving = normed if head.norm_queries else frame
    return layers, leaving.x[:, : head.num_queries]


def _predict(head: VidEoMTHead, tokens: Tokens) -> Logits:
    """Run ``head.predict_logits``; with ``head.with_cp``, keep only the tokens for the backward pass."""
    if head.with_cp and torch.is_grad_enabled():
        return checkpoint(lambda x: head.predict_logits(replace(tokens, x=x)), tokens.x, use_reentrant=False)
    return head.predict_logits(tokens)
