"""Label maps of semantic segmentation: from the values in files to class indices."""

from collections.abc import Sequence

import numpy as np

from eomt_mm.fileio.images import stored_values

VOID = 255


def label_table(label_ids: Sequence[int]) -> np.ndarray:
    """Build the label of each value of a 16-bit map, (65536,), uint8.

    Args:
        label_ids: value that each class has in the files; all other values are void.

    Raises:
        ValueError: the values repeat, or are not 1 to 255 whole numbers in 0 .. 65535.
    """
    is_valid = all(isinstance(value, int) and 0 <= value < 1 << 16 for value in label_ids)
    if not is_valid or not 0 < len(label_ids) <= VOID or len(set(label_ids)) < len(label_ids):
        raise ValueError(f'label_ids={label_ids}: 1 to {VOID} different whole numbers in 0 .. 65535, one per class')
    table = np.full(1 << 16, VOID, dtype=np.uint8)
    table[list(label_ids)] = np.arange(len(label_ids))
    return table


def one_channel(values: np.ndarray, path: str, content: bytes) -> np.ndarray:
    """Return the values of a label map as (H, W), as they are stored.

    Args:
        values: decoded from ``content``.
        path: of the file, for messages.
        content: of the file.

    Raises:
        ValueError: there are several channels, or values of another type than whole numbers.
    """
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in 'biu':
        hint = 'where its colours stand for classes, convert it first'
        if values.ndim == 2:
            hint = 'save it as whole numbers'
        elif values.shape[2] > 2 and (values[..., :1] == values[..., :3]).all():
            hint = 'its colours are equal, save one of them'
        raise ValueError(
            f'label map {path} has shape {values.shape}, type {values.dtype}: one channel of whole numbers is '
            f'needed; {hint}'
        )
    return stored_values(np.asarray(values), content)


def labels_of(values: np.ndarray, table: np.ndarray | None, path: str, reduce_zero_label: bool = False) -> np.ndarray:
    """Convert the values of a label map to labels (H, W), uint8, 255 = void.

    Args:
        values: (H, W), integers or bool.
        table: from `label_table`; None: values are labels.
        path: of the file, for messages.
        reduce_zero_label: without a table, 0 is void and label k has the value k + 1.

    Raises:
        ValueError: without a table, values are above 255; with one, above 65535.
    """
    limit = VOID if table is None else len(table) - 1
    if values.size and not 0 <= values.min() <= values.max() <= limit:
        raise ValueError(
            f'label map {path} has values from {values.min()} to {values.max()}, not within 0 .. {limit}: '
            'label_ids=(...) of LoadSemanticMap says which value each class has (up to 65535); a map of instances '
            'is the wrong file'
        )
    if table is not None:
        found: np.ndarray = table[values.astype(np.uint16, copy=False)]
        return found
    labels = values.astype(np.uint8)
    # In uint8, 0 - 1 wraps around to 255 (void). Void is unchanged.
    return np.where(labels == VOID, labels, labels - np.uint8(1)) if reduce_zero_label else labels
