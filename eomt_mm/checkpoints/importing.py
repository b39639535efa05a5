"""Import foreign checkpoints: detect the format, rename weights, add a delta's base, fit the model, report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from eomt_mm.annotations.class_tables import ADE20K_NUM_CLASSES
from eomt_mm.checkpoints.class_order import ClassOrder, to_mmdet_order
from eomt_mm.checkpoints.delta import Weights, add_base, check_absolute, resolve
from eomt_mm.checkpoints.describe import NORM_EPS, Description, describe
from eomt_mm.checkpoints.files import Checkpoint, State, read_checkpoint
from eomt_mm.checkpoints.fitting import check_complete, check_model, listed, resample, settle_biases
from eomt_mm.checkpoints.formats import EOMT, OWN, Format, Readable, to_ours
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.checkpoints.rules import Mapped
from eomt_mm.core.head import default_num_blocks

PROBS = 'head.attn_mask_probs'
CLASS_HEAD = 'head.class_predictor.'
STAGES = ('reading', 'mapping names', 'putting weights together', 'fitting')
Progress = Callable[[str], object]
# Whether to import the class rows; 'auto': only if their number is that of the model
ClassHead = bool | Literal['auto']


@dataclass
class ImportReport:
    """Report of an import.

    Attributes:
        source: the file.
        format: title of the file's format.
        whole: whether the file holds a whole EoMT, not only a backbone.
        weights: 'absolute' or 'delta' (differences to a pretrained backbone).
        head: name of the head in our model.
        description: architecture of the file, as stored.
        config: ``config.json`` of a Hugging Face folder, or empty.
        meta: ``meta`` of our own files, or empty.
        table: (name in the file, name in our model, number of weights); one name pattern stands for all blocks.
        ignored: names in the file that the model does not need.
        missing: names of the model whose values are unchanged.
        reordered: whether ADE20K's panoptic class rows were permuted to mmdet's order.
        notes: further information, one line each.
    """

    source: str
    format: str
    whole: bool
    weights: str
    head: str
    description: Description
    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    table: list[tuple[str, str, int]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    reordered: bool = False
    notes: list[str] = field(default_factory=list)

    def text(self, table: bool = False) -> str:
        """Format the report for a log; with ``table``, include the table of names."""
        lines = [f'{self.source}: {self.format}, {self.weights} weights', f'  {self.description.text()}']
        if table:
            width = max(len(theirs) for theirs, _, _ in self.table)
            lines += [f'  {theirs:{width}}  ->  {ours}  ({count})' for theirs, ours, count in self.table]
        lines += [f'  {note}' for note in self.notes]
        if self.ignored:
            lines.append(f'  not needed: {", ".join(self.ignored)}')
        if self.missing:
            lines.append(f"  keep the model's values: {', '.join(self.missing)}")
        return '\n'.join(lines)


def import_checkpoint(
    source: str | Path,
    expected_state: Mapping[str, Tensor] | None = None,
    base: str | Path | None = None,
    weights: Weights = 'auto',
    class_head: ClassHead = True,
    head: str | None = None,
    class_order: ClassOrder = 'auto',
    progress: Progress | None = None,
    default_base: str | Path | None = None,
    readable: Readable = EOMT,
) -> tuple[State, ImportReport]:
    """Read the weights of a checkpoint in any known format and rename them to the names of our models.

    Args:
        source: file, folder, or ``hf://owner/name[@revision]``; see :func:`~eomt_mm.checkpoints.files.read_checkpoint`.
        expected_state: ``state_dict()`` of the model to fit. None: nothing is checked against a model.
        base: pretrained backbone, for files that hold differences to it; same forms as ``source``.
        weights: 'absolute' or 'delta', if the kind of the file is known; 'auto': detect it.
        class_head: False leaves the class rows out, for another set of classes; 'auto' does so if their number differs.
        head: 'panoptic_head' (mmdet) or 'decode_head' (mmseg). None: as in the model, or without a model as in our own
            file; files of other programs do not state it.
        class_order: 'ade20k' permutes ADE20K's panoptic class rows to mmdet's order, 'as_stored' does not; 'auto'
            does so for a ``panoptic_head`` with 150 classes, unless the file is our own or states other class names.
        progress: function that is called with the name of each stage (one of ``STAGES``) when it begins.
        default_base: default of ``base``, used only if the file holds differences.
        readable: the formats of the model's kind; see :class:`~eomt_mm.checkpoints.formats.Readable`.

    Returns:
        weights (floating types as float32) and a report. With ``expected_state``, the weights are complete except for
        ``report.missing``: the head if the file holds only a backbone, omitted class rows, and optional parts.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the download failed.
        ValueError: the file or the arguments do not fit; the message names the problem and the fix.
    """
    tell = progress or (lambda stage: None)
    tell(STAGES[0])
    read = read_checkpoint(source)
    tell(STAGES[1])
    known, mapped = to_ours(read.state, read.path, readable)
    if mapped.unexpected and expected_state is None:
        raise ValueError(
            f'{read.path} ({known.title}) holds {len(mapped.unexpected)} weights that this format does not have:\n'
            f'{listed(mapped.unexpected)}\nIt may be of another model; remove these weights if they are not needed'
        )
    tell(STAGES[2])
    state, kind = _absolute(read, known, mapped, base, default_base, weights)
    try:
        found = describe(state)
    except ValueError as error:
        raise ValueError(f'{read.path} ({known.title}): {error}') from None
    size = read.config.get('image_size')
    if found.img_size is None and isinstance(size, int) and known.whole:
        found = replace(found, img_size=size)
    mapped.notes += _config_notes(read.config, found) if known.whole else []
    head = head or _head(expected_state, read, known)
    report = ImportReport(
        read.path, known.title, known.whole, kind, head, found, read.config, read.meta,
        [(theirs, ours.replace('head.', f'{head}.', 1) if ours.startswith('head.') else ours, count)
         for (theirs, ours), count in mapped.table.items()],
        mapped.ignored, notes=mapped.notes,
    )  # fmt: skip
    if class_head == 'auto':
        class_head = expected_state is None or found.num_classes == describe(expected_state).num_classes
    if known.whole:
        state = _own_head(state, report, class_head, class_order)
    tell(STAGES[3])
    if expected_state is not None:
        state = _fit_to_model(state, expected_state, report, class_head, mapped.unexpected, readable)
    else:
        check_complete(state, found.depth, known.whole, read.path)
    return {_named(name, head): v.float() if v.is_floating_point() else v for name, v in state.items()}, report


def _absolute(
    read: Checkpoint, known: Format, mapped: Mapped, base: str | Path | None, default_base: str | Path | None,
    weights: Weights,
) -> tuple[State, str]:  # fmt: skip
    """Return absolute weights in our names, and the kind of the file's weights ('absolute' or 'delta')."""
    kind = resolve(weights, known, read.state, read.path)
    if kind == 'delta':
        base = base or default_base
        state, title = add_base(mapped.weights, base, read.path)
        mapped.notes.append(f'backbone: {base} ({title}) + the differences of the file')
        return state, kind
    if base is not None:
        raise ValueError(f'--base {base}: {read.path} holds absolute weights and needs none; leave --base out')
    if known.whole and known is not OWN:
        check_absolute(mapped.weights, read.path)
    return mapped.weights, kind


def _config_notes(config: Mapping[str, Any], found: Description) -> list[str]:
    """Return notes on settings in the config.json of a Hugging Face folder that our models do not follow."""
    notes = []
    act, eps = config.get('hidden_act', 'gelu'), config.get('layer_norm_eps')
    if act != 'gelu':
        notes.append(f"hidden_act '{act}': transformers uses it in the mask head too, this model uses GELU there")
    if eps is not None and eps != NORM_EPS.get(found.family, eps):
        notes.append(f'layer_norm_eps {eps} in config.json, {NORM_EPS[found.family]} in this model: tiny differences')
    return notes


def _head(expected: Mapping[str, Tensor] | None, read: Checkpoint, known: Format) -> str:
    """Return the head's name: as in the expected model, else as in our own file; '' for a file of only a backbone."""
    for names in (expected or {}, read.state if known is OWN else {}):
        for head in HEADS:
            if any(name.startswith(f'{head}.') for name in names):
                return head
    if known.whole:
        raise ValueError(
            f'{read.path} ({known.title}) does not state its task: give --config CONFIG, or --head panoptic_head '
            f'(instance, panoptic) or --head decode_head (semantic)'
        )
    return ''


def _own_head(state: State, report: ImportReport, class_head: bool, class_order: ClassOrder) -> State:
    """Set the mask probabilities to 0, and reorder or leave out the class rows."""
    ours = report.format == OWN.title
    if not ours:
        probs = state.get(PROBS)
        blocks = probs.numel() if probs is not None else default_num_blocks(report.description.depth)
        if probs is None:
            report.notes.append(f'assumed: {blocks} joint blocks, as published for this depth; not stated in the file')
        state = {**state, PROBS: torch.zeros(blocks)}
    if not class_head:
        report.notes.append('class rows left out')
        return {name: value for name, value in state.items() if not name.startswith(CLASS_HEAD)}
    names = stored_names(report.config, report.meta)
    automatic = not ours and report.head == 'panoptic_head' and report.description.num_classes == ADE20K_NUM_CLASSES
    automatic = automatic and (not names or names[0].startswith('wall'))  # other names: custom classes
    if class_order == 'ade20k' or (class_order == 'auto' and automatic):
        if report.description.num_classes != ADE20K_NUM_CLASSES:
            raise ValueError(f"class_order='ade20k': the file has {report.description.num_classes} classes, not 150")
        report.reordered = True
        report.notes.append("ADE20K panoptic: class rows brought into mmdet's order, 100 things first")
        return to_mmdet_order(state)
    return state


def stored_names(config: Mapping[str, Any], meta: Mapping[str, Any]) -> list[str]:
    """Return the class names that a file states, by row; none if it has none, or Hugging Face's LABEL_0, LABEL_1, ...

    Args:
        config: ``config.json`` of a Hugging Face folder, with ``id2label``.
        meta: ``meta`` of the file, with ``dataset_meta``, whose names take precedence.
    """
    labels = config.get('id2label') or {}
    names = list((meta.get('dataset_meta') or {}).get('classes') or [labels[str(k)] for k in range(len(labels))])
    return [] if all(name.startswith('LABEL_') for name in names) else names


def _fit_to_model(
    state: State, expected: Mapping[str, Tensor], report: ImportReport, class_head: bool, unexpected: list[str],
    readable: Readable,
) -> State:  # fmt: skip
    """Fit weights to the model: resample, add or drop biases; raise ValueError if they do not fit.

    Args:
        state: the file's weights; names of the head begin with ``head.``, as in the result.
        expected: the model's ``state_dict()``.
        report: report to extend: notes and ``missing``.
        class_head: whether class rows are needed.
        unexpected: names in the file that its format does not have.
        readable: formats of the model, including the optional parts that a file may lack.
    """
    head = report.head
    wanted_state = {_generic(name, head): value for name, value in expected.items()}
    found, wanted = report.description, describe(expected)
    if found.family == wanted.family:
        state, notes = settle_biases(state, wanted_state)
        report.notes += notes
    state, notes = resample(state, wanted_state, report.whole)
    report.notes += notes
    if not class_head:
        found = replace(found, num_classes=None)
    if report.whole:
        may_miss = [part for part in readable.optional if not any(name.startswith(part) for name in state)]
        report.notes += [readable.optional[part] for part in may_miss]
        may_miss += [] if class_head else [CLASS_HEAD]
        if wanted.num_blocks is not None and found.num_blocks is None and PROBS in state:
            state[PROBS] = torch.zeros(wanted.num_blocks)
            report.notes = [note for note in report.notes if 'joint blocks, as published' not in note]
            report.notes.append(f'joint blocks: {wanted.num_blocks} as in the model; not stated in the file')
    else:
        may_miss = ['head.']
        found = replace(found, patch_size=wanted.patch_size)  # resampled
        if found.width == wanted.width and found.depth == wanted.depth:
            found = replace(found, family=wanted.family)  # names and shapes are checked instead
    try:
        missing = check_model(state, wanted_state, found, wanted, may_miss, head, unexpected)
    except ValueError as error:
        pattern = report.description.config_pattern
        hint = f'\nConfigs for this file: configs/eomt/{pattern}' if pattern else ''
        raise ValueError(f'{report.source} ({report.format}) does not fit the model:\n{error}{hint}') from None
    report.missing = [_named(name, head) for name in missing]
    return state


def _generic(name: str, head: str) -> str:
    return 'head.' + name.removeprefix(f'{head}.') if name.startswith(f'{head}.') else name


def _named(name: str, head: str) -> str:
    return f'{head}.' + name.removeprefix('head.') if name.startswith('head.') else name
