"""VidEoMT's weights: files of the official release and of Hugging Face, EoMT's as a start, and back to Hugging Face."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eomt_mm.checkpoints import exporting, official
from eomt_mm.checkpoints.delta import Weights, check_absolute
from eomt_mm.checkpoints.describe import describe
from eomt_mm.checkpoints.files import Checkpoint, State, check_finite, read_checkpoint, written_aside
from eomt_mm.checkpoints.fitting import check_complete, check_model, listed, resample, settle_biases
from eomt_mm.checkpoints.formats import Format
from eomt_mm.checkpoints.importing import ImportReport, import_checkpoint
from eomt_mm.checkpoints.rules import Mapped, map_to_ours
from eomt_mm.models.eomt_head import default_num_blocks
from videomt.formats import FORMATS, OFFICIAL, OWN, head_name, renamed

HEAD = 'panoptic_head'  # where no model says otherwise
UPDATER = ('query_updater.weight', 'query_updater.bias')
FRESH = 'no weights of a VidEoMT: the query updater starts anew, as published'
PROBS, CLASS_HEAD = 'head.attn_mask_probs', 'head.class_predictor.'


def import_videomt(
    source: str | Path,
    expected: Mapping[str, Tensor] | None = None,
    class_head: bool = True,
    base: str | Path | None = None,
    weights: Weights = 'auto',
) -> tuple[State, ImportReport]:
    """Weights of a checkpoint in the names of our model: of VidEoMT, or of an EoMT to start from.

    Every format of VidEoMT (:data:`~videomt.formats.FORMATS`) and everything that
    :func:`~eomt_mm.checkpoints.importing.import_checkpoint` reads.

    Args:
        source: file, folder, or ``hf://owner/name[@revision]``.
        expected: ``state_dict()`` of the model that they are for. None: nothing is checked against a model.
        class_head: False leaves the class rows out, for another set of classes.
        base: pretrained backbone, for files of EoMT that hold differences to it.
        weights: what a file of EoMT holds: 'auto', 'absolute' or 'delta'.

    Returns:
        weights in float32, and a report. With a model they are complete but for ``report.missing``: the query updater
        where the file is of an EoMT (the official "segmenters" are), class rows left out, and the whole head where it
        is a bare backbone.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the download failed.
        ValueError: naming what does not fit, and the remedy.
    """
    head = (head_name(expected) if expected is not None else None) or HEAD
    read = read_checkpoint(source)
    known = next((known for known in FORMATS if known.found(read.state)), None)
    if known is None:
        state, report = _from_eomt(source, expected, head, class_head, base, weights)
    elif base is not None or weights == 'delta':
        raise ValueError(f'{read.path} ({known.title}) holds absolute weights: leave --base and --weights out')
    else:
        state, report = _from_videomt(read, known, expected, head, class_head)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, report


def _from_videomt(
    read: Checkpoint, known: Format, expected: Mapping[str, Tensor] | None, head: str, class_head: bool
) -> tuple[State, ImportReport]:
    state, mapped = _mapped(known, read)
    table = [(theirs, ours.replace('head.', f'{head}.', 1), count) for (theirs, ours), count in mapped.table.items()]
    report = ImportReport(
        read.path, known.title, True, 'absolute', head, describe(state), read.config, read.meta, table, mapped.ignored,
        notes=mapped.notes,
    )  # fmt: skip
    if not class_head:
        state = {name: value for name, value in state.items() if not name.startswith(CLASS_HEAD)}
        report.notes.append('class rows left out')
    if expected is not None:
        state = _fitted(state, renamed(expected, head, 'head'), report, class_head, mapped.unexpected)
    elif mapped.unexpected:
        raise ValueError(
            f'{read.path} ({known.title}) holds {len(mapped.unexpected)} weights that this format does not have:\n'
            f'{listed(mapped.unexpected)}\nIt is of another model; remove them where they are not needed'
        )
    else:
        check_complete(state, report.description.depth, True, read.path)
    return renamed(state, 'head', head), report


def _mapped(known: Format, read: Checkpoint) -> tuple[State, Mapped]:
    """A file's weights below ``backbone.vit.`` and ``head.``; attention is never masked, whatever others store."""
    prepared, notes = known.prepare(read.state)
    gated = any('.gate_proj.' in name for name in prepared)
    mapped = map_to_ours(prepared, known.rules(gated), known.ignored, read.path)
    mapped.notes += notes
    check_finite(mapped.weights, read.path, lambda name: ' + '.join(mapped.sources[name]))
    if known in OFFICIAL:
        check_absolute(mapped.weights, read.path)
    if known is OWN:
        return mapped.weights, mapped
    probs = mapped.weights.get(PROBS)
    num_blocks = default_num_blocks(describe(mapped.weights).depth) if probs is None else probs.numel()
    return {**mapped.weights, PROBS: torch.zeros(num_blocks)}, mapped


def _fitted(state: State, expected: State, report: ImportReport, class_head: bool, unexpected: list[str]) -> State:
    """Weights that are the model's in every name and shape."""
    state, notes = settle_biases(state, expected)
    state, more_notes = resample(state, expected, whole=True)
    report.notes += notes + more_notes
    found = report.description if class_head else replace(report.description, num_classes=None)
    may_miss = [] if class_head else [CLASS_HEAD]
    if not any(f'head.{name}' in state for name in UPDATER):
        may_miss.append('head.query_updater.')
        report.notes.append(FRESH)
    try:
        missing = check_model(state, expected, found, describe(expected), may_miss, report.head, unexpected)
    except ValueError as error:
        raise ValueError(f'{report.source} ({report.format}) does not fit the model:\n{error}') from None
    report.missing = [name.replace('head.', f'{report.head}.', 1) for name in missing]
    return state


def _from_eomt(
    source: str | Path, expected: Mapping[str, Tensor] | None, head: str, class_head: bool, base: str | Path | None,
    weights: Weights,
) -> tuple[State, ImportReport]:  # fmt: skip
    """Weights of an EoMT, or of a bare backbone: the query updater stays what it is."""
    updater = [f'{head}.{name}' for name in UPDATER]
    rest = None
    if expected is not None:
        rest = renamed({name: value for name, value in expected.items() if name not in updater}, head, HEAD)
    state, report = import_checkpoint(source, rest, base, weights, class_head, HEAD, class_order='as_stored')
    report.head = head
    report.missing = [name.replace(f'{HEAD}.', f'{head}.', 1) for name in report.missing]
    if expected is not None:
        report.missing += updater
    report.notes.append(FRESH)
    return renamed(state, HEAD, head), report


def export_huggingface(
    state: Mapping[str, Tensor],
    folder: str | Path,
    num_heads: int | None = None,
    classes: Sequence[str] | None = None,
    norm_queries: bool = False,
) -> None:
    """Writes a folder that ``VideomtForUniversalSegmentation`` loads: EoMT's, with the query updater.

    Its network takes square frames of the size that positions are stored for only (the backbone's ``img_size``), and
    its processor squeezes videos to that.

    Args:
        state: ``state_dict()`` of our model.
        folder: new or empty; holds ``config.json``, ``model.safetensors`` and ``video_preprocessor_config.json``.
        num_heads: attention heads. None: those of the published model of this size.
        classes: names, in the order of the model's classes. None: transformers' placeholders LABEL_0, LABEL_1, ...
        norm_queries: of the model's head.

    Raises:
        ValueError: the model has no query updater, or transformers would compute something else.
        FileExistsError: the folder is not empty.
    """
    head = head_name(state)
    if head is None:
        raise ValueError('query_updater.weight is missing: these are no weights of a VidEoMT')
    ours = renamed(state, head, HEAD)
    more = {name: ours.pop(f'{HEAD}.{name}').detach().cpu().contiguous() for name in UPDATER}
    found = describe(ours)
    if found.family != 'dinov2' or norm_queries:
        raise ValueError(
            f'{found.text()}, norm_queries={norm_queries}: transformers has VidEoMT for DINOv2 with registers only, '
            f'and without norm_queries'
        )
    more['embeddings.mask_token'] = torch.zeros(1, 1, found.width)  # transformers has it, and never uses it
    with written_aside(folder, folder=True) as aside:
        exporting.export_huggingface(ours, aside, None, num_heads, classes)
        save_file(load_file(aside / 'model.safetensors') | more, aside / 'model.safetensors', dict(format='pt'))
        config = json.loads((aside / 'config.json').read_text(encoding='utf-8'))
        config |= dict(model_type='videomt', architectures=['VideomtForUniversalSegmentation'])
        _write_json(aside / 'config.json', config)
        (aside / 'preprocessor_config.json').unlink()
        _write_json(aside / 'video_preprocessor_config.json', _processor(config['image_size']))


def _processor(size: int) -> dict[str, object]:
    return dict(
        video_processor_type='VideomtVideoProcessor',
        do_resize=True,
        size=dict(height=size, width=size),
        resample=2,  # bilinear
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(official.IMAGENET_MEAN),
        image_std=list(official.IMAGENET_STD),
    )


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
