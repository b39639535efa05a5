"""Import VidEoMT's weights from official, Hugging Face or EoMT files, and export them to Hugging Face."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from eomt_mm.checkpoints.delta import Weights
from eomt_mm.checkpoints.describe import describe
from eomt_mm.checkpoints.exporting import PIXELS, huggingface_model, write_folder
from eomt_mm.checkpoints.files import State
from eomt_mm.checkpoints.importing import ClassHead, ImportReport, import_checkpoint
from videomt.formats import VIDEOMT

UPDATER = '.query_updater.'


def import_videomt(
    source: str | Path,
    expected: Mapping[str, Tensor] | None = None,
    class_head: ClassHead = True,
    base: str | Path | None = None,
    weights: Weights = 'auto',
) -> tuple[State, ImportReport]:
    """Import a checkpoint of VidEoMT, or of an EoMT to start from, with the names of our model.

    This is :func:`~eomt_mm.checkpoints.importing.import_checkpoint` with the formats
    :data:`~videomt.formats.VIDEOMT`. If a file has no query updater, ``report.missing`` lists it. Without ``expected``,
    the head is called ``panoptic_head``.
    """
    head = None if expected else 'panoptic_head'
    return import_checkpoint(source, expected, base, weights, class_head, head, 'as_stored', readable=VIDEOMT)


def export_huggingface(
    state: Mapping[str, Tensor],
    folder: str | Path,
    num_heads: int | None = None,
    classes: Sequence[str] | None = None,
    norm_queries: bool = False,
) -> None:
    """Write a folder that ``VideomtForUniversalSegmentation`` loads: EoMT's, with the query updater.

    Its network only takes square frames of the size for which position embeddings are stored (the backbone's
    ``img_size``), and its processor resizes videos to that size without keeping their aspect ratio.

    Args:
        state: ``state_dict()`` of our model.
        folder: new or empty; gets ``config.json``, ``model.safetensors`` and ``video_preprocessor_config.json``.
        num_heads: attention heads. None: those of the published model of this size.
        classes: names, in the order of the model's classes. None: transformers' placeholders LABEL_0, LABEL_1, ...
        norm_queries: of the model's head.

    Raises:
        ValueError: the model has no query updater, or transformers would compute something else.
        FileExistsError: the folder is not empty.
    """
    updater = {name.partition('.')[2]: value.detach().cpu() for name, value in state.items() if UPDATER in name}
    if not updater:
        raise ValueError('query_updater.weight is missing: these are not the weights of a VidEoMT')
    found = describe(state)
    if found.family != 'dinov2' or norm_queries:
        raise ValueError(
            f'{found.text()}, norm_queries={norm_queries}: transformers has VidEoMT for DINOv2 with registers only, '
            f'and without norm_queries'
        )
    eomt = {name: value for name, value in state.items() if UPDATER not in name}
    theirs, config = huggingface_model(eomt, num_heads=num_heads, classes=classes)
    config |= dict(model_type='videomt', architectures=['VideomtForUniversalSegmentation'])
    unused = {'embeddings.mask_token': torch.zeros(1, 1, found.width)}  # transformers expects it, but never uses it
    size = config['image_size']
    processor = dict(video_processor_type='VideomtVideoProcessor', size=dict(height=size, width=size), **PIXELS)
    write_folder(
        folder, theirs | updater | unused, {'config.json': config, 'video_preprocessor_config.json': processor}
    )
