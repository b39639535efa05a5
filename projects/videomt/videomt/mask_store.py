"""Store the mask logits of a long video in bounded memory."""

import tempfile

import numpy as np
import torch
from torch import Tensor


class MaskStore:
    """Mask logits (T, Q, h, w), appended window by window and indexed like a tensor, by frame and queries.

    They are kept in half precision, in memory or, above ``max_bytes``, in a temporary file. 200 queries over 500 frames
    of 720 x 1280 pixels take 12 GB, of which results need only a few queries at a time. ``tempfile`` chooses the folder
    (``TMPDIR``); the file is deleted with the store.

    Args:
        max_bytes: limit above which everything is moved to the file.
    """

    def __init__(self, max_bytes: int = 2**29) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=max_bytes)  # noqa: SIM115  open as long as the store
        self._shape: tuple[int, ...] = ()
        self._device = torch.device('cpu')
        self._num_frames = 0

    def close(self) -> None:
        """Free memory and file; nothing can be read afterwards."""
        self._file.close()

    def __del__(self) -> None:
        self.close()

    def __len__(self) -> int:
        return self._num_frames

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored logits, (T, Q, h, w)."""
        return (self._num_frames, *self._shape)

    def append(self, mask_logits: Tensor) -> None:
        """Append the logits (t, Q, h, w) of the next frames.

        Raises:
            ValueError: earlier frames had another number of queries or another size.
        """
        if self._num_frames and tuple(mask_logits.shape[1:]) != self._shape:
            raise ValueError(
                f'mask logits (T, Q, h, w) of shape {tuple(mask_logits.shape)} after frames of {self._shape}: all '
                'frames of a video have one size; start a new store for each video'
            )
        self._shape, self._device = tuple(mask_logits.shape[1:]), mask_logits.device
        self._file.seek(0, 2)
        for frame in mask_logits.detach():
            self._file.write(frame.half().cpu().contiguous().numpy().tobytes())
        self._num_frames += len(mask_logits)

    def __getitem__(self, place: tuple[int, Tensor]) -> Tensor:
        """Read the logits (N, h, w), float32, of queries (N,) in a frame, to the device that they came from."""
        frame, queries = place
        if not 0 <= frame < self._num_frames:
            raise IndexError(f'frame {frame} of a video of {self._num_frames} frames')
        num_queries, height, width = self._shape
        size = height * width * 2  # bytes of a mask
        found = np.empty((len(queries), height, width), np.float16)
        for mask, query in zip(found, queries.tolist(), strict=True):
            self._file.seek((frame * num_queries + query) * size)
            mask[...] = np.frombuffer(self._file.read(size), np.float16).reshape(height, width)
        return torch.from_numpy(found).to(self._device).float()
