"""Checkpoint formats of VidEoMT, the official release's and Hugging Face's: EoMT's tables and the query updater.

Our own files need no table: the updater is one more part of the head.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from eomt_mm.checkpoints import huggingface, official
from eomt_mm.checkpoints.files import State
from eomt_mm.checkpoints.formats import EOMT, Format, Readable
from eomt_mm.checkpoints.rules import Rule, copy

FUSED = 'attention.qkv_proj.'
OFFICIAL_IGNORED = ('pixel_mean', 'pixel_std', 'criterion.empty_weight')


def _official_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """EoMT's table of names: what is below ``network.`` there is below ``backbone.`` here, beside the updater."""
    below_backbone = (
        replace(rule, theirs=tuple(name.replace('network.', 'backbone.', 1) for name in rule.theirs)) for rule in rules
    )
    return (copy('backbone.query_updater.{p}', 'head.query_updater.{p}'), *below_backbone)


def _prepare_official(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """Split fused projections of q, k and v, and name the parts like separately trained ones."""
    prepared: State = {}
    for name, value in state.items():
        block, fused, part = name.partition(FUSED)
        if not fused:
            prepared[name] = value
            continue
        q, k, v = value.chunk(3)
        if part == 'bias' and bool(k.any()):
            raise ValueError(f'{name}: the bias of the keys is not zero, and DINOv3 has none')
        parts = dict(q=q, v=v) if part == 'bias' else dict(q=q, k=k, v=v)
        prepared |= {f'{block}attention.{letter}_proj.{part}': rows for letter, rows in parts.items()}
    return prepared, []


def _is_official(names: Collection[str]) -> bool:
    return 'backbone.q.weight' in names


OFFICIAL = tuple(
    Format(f'official VidEoMT, {family}', found, rules, True, OFFICIAL_IGNORED, _prepare_official)
    for family, found, rules in (
        (
            'DINOv3',
            lambda names: _is_official(names) and any('.attention.' in name for name in names),
            lambda gated: _official_rules(official.dinov3_rules(gated)),
        ),
        ('DINOv2', _is_official, lambda gated: _official_rules(official.dinov2_rules())),
    )
)
HUGGING_FACE = Format(
    'Hugging Face VideomtForUniversalSegmentation',
    lambda names: 'query.weight' in names and 'query_updater.weight' in names,
    lambda gated: (copy('query_updater.{p}', 'head.query_updater.{p}'), *huggingface.dinov2_rules(gated)),
    True,
    huggingface.IGNORED,
)
# The official "segmenters" are EoMTs stored with VidEoMT's names.
VIDEOMT = Readable(
    (*OFFICIAL, HUGGING_FACE, *EOMT.formats),
    {'head.query_updater.': 'no weights of a VidEoMT: the query updater starts anew, as published'},
    'projects/videomt/tools/convert_videomt.py',
)
