"""What `InstanceAP` does with one image, in its own process or in a worker."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eomt_mm.evaluation.ap_counting import RLE, TrueInstance, encode_masks, match_image


class PackedMasks(NamedTuple):
    """Masks with eight pixels a byte, as they go to another process.

    Attributes:
        bits: (N, H, ceil(W / 8)), uint8.
        width: W.
    """

    bits: np.ndarray
    width: int

    @classmethod
    def of(cls, masks: np.ndarray) -> 'PackedMasks':
        """Of masks (N, H, W), bool."""
        return cls(np.packbits(masks, axis=-1), masks.shape[-1])

    def encode(self) -> list[RLE]:
        """Run lengths of the masks."""
        return encode_masks(np.unpackbits(self.bits, axis=-1, count=self.width))


def match_masks(
    labels: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray | PackedMasks | list[RLE],
    instances: Sequence[TrueInstance] | None,
    max_dets: Sequence[int],
    keep_rles: bool,
) -> dict[str, Any]:
    """Matches an image.

    Args:
        labels, scores, max_dets: see `match_image`.
        masks: of the N predictions; arrays are (N, H, W), bool.
        instances: ground truth of the image; None where there is nothing to compare with.
        keep_rles: whether run lengths of the masks are asked for, for result files.

    Returns:
        ``matches``, an `ImageMatches`, unless there is no ground truth; ``rles``, run lengths, none unless asked for.
    """
    if isinstance(masks, PackedMasks):
        rles = masks.encode()
    else:
        rles = encode_masks(masks) if isinstance(masks, np.ndarray) else masks
    found: dict[str, Any] = {'rles': rles if keep_rles else []}
    if instances is not None:
        found['matches'] = match_image(instances, labels, scores, rles, max_dets)
    return found
