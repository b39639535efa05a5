"""Match each target of a clip to a query in the frame that first shows it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eomt_mm.core.matcher import HungarianMatcher, Match, Matches, compute_dtype, on_the_host
from videomt.targets import ClipTarget


class FirstAppearanceMatcher(HungarianMatcher):
    """Match, frame by frame, the targets that appear for the first time to the queries that are still free.

    Costs are those of the parent, between a target and the queries' predictions in the target's first frame. The
    published code adds a cost of 1e6 to used queries; here they are excluded, which is equivalent while there are
    enough queries.
    """

    @torch.no_grad()
    def match_clips(
        self,
        class_logits: Sequence[Tensor],
        mask_logits: Sequence[Tensor],
        targets: Sequence[ClipTarget],
        cost_labels: Sequence[Tensor] | None = None,
    ) -> list[Matches]:
        """Match each clip in each prediction layer independently; all costs are copied to the host in one transfer.

        Args:
            class_logits: per layer (B, T, Q, K + 1).
            mask_logits: per layer (B, T, Q, h, w).
            targets: of the clips.
            cost_labels: per clip (N,), column of the class logits for each target's cost; None: its label.

        Returns:
            for each layer and clip, the indices of matched queries and of their targets, each (min(Q, N),), int64, on
            the CPU; queries in ascending order.
        """
        dtype, device = compute_dtype(mask_logits[0]), mask_logits[0].device
        costs: list[list[Tensor]] = [[] for _ in class_logits]  # per layer, of all first appearances
        appearing: list[list[Tensor]] = []  # per clip and first frame, which targets
        for b, target in enumerate(targets):
            labels = target.labels if cost_labels is None else cost_labels[b]
            appearing.append([])
            for t in target.first_frames.unique().tolist():
                new = (target.first_frames == t).nonzero()[:, 0]
                appearing[b].append(new)
                new = new.to(device)
                of_frame = self.cost_matrices(
                    [layer[b, t] for layer in class_logits],
                    [layer[b, t] for layer in mask_logits],
                    dict(labels=labels[new], masks=target.masks[t, new]),
                    torch.rand(self.num_points, 2, device=device, dtype=dtype),
                )
                for layer, cost in zip(costs, of_frame, strict=True):
                    layer.append(cost)
        num_queries = class_logits[0].shape[2]
        matches = []
        for layer in on_the_host(costs):
            queue = iter(layer)
            matches.append(
                [self._assign_in_turn([(new, next(queue)) for new in frames], num_queries) for frames in appearing]
            )
        return matches

    def _assign_in_turn(self, appearances: list[tuple[Tensor, Tensor]], num_queries: int) -> Match:
        """Assign a clip's targets, given targets (n,) and costs (Q, n) frame by frame."""
        free = torch.arange(num_queries)
        queries, matched = [free[:0]], [free[:0]]
        for new, costs in appearances:
            query_idx, target_idx = self.assign(costs[free])
            queries.append(free[query_idx])
            matched.append(new[target_idx])
            free = free[~torch.isin(torch.arange(len(free)), query_idx)]
        order = torch.cat(queries).argsort()
        return torch.cat(queries)[order], torch.cat(matched)[order]
