"""Detect the format of a checkpoint from its weight names, and convert its weights to our names."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from eomt_mm.checkpoints import backbones, huggingface, official
from eomt_mm.checkpoints.files import State, check_finite
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.checkpoints.rules import Mapped, Rule, copy, map_to_ours

Names = Collection[str]


def _as_it_is(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    return dict(state), []


@dataclass(frozen=True)
class Format:
    """A checkpoint format: the names that a program gives to weights.

    Attributes:
        title: name of the format in messages.
        found: function that returns whether names are of this format; if several formats match, the first is used.
        rules: function that returns the rules to our names, given whether the MLP has a separate gate.
        whole: whether files hold a whole EoMT, not a bare backbone.
        ignored: templates of names that we do not need.
        prepare: function that makes the changes that renaming cannot express, and returns notes for the user.
    """

    title: str
    found: Callable[[Names], bool]
    rules: Callable[[bool], tuple[Rule, ...]]
    whole: bool
    ignored: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, Tensor]], tuple[State, list[str]]] = _as_it_is


def _any(names: Names, part: str) -> bool:
    return any(part in name for name in names)


def _starts(names: Names, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _own_rules(gated: bool) -> tuple[Rule, ...]:
    return (
        copy('backbone.vit.{rest}', 'backbone.vit.{rest}'),
        copy('backbone.grid', 'backbone.grid'),
        copy('neck.{rest}', 'neck.{rest}'),  # for a host's head on our backbone
        *(copy(f'{head}.{{rest}}', 'head.{rest}') for head in HEADS),
    )


OWN = Format(
    'eomt_mm',
    lambda names: _starts(names, 'backbone.vit.') and any(_starts(names, f'{head}.') for head in HEADS),
    _own_rules,
    whole=True,
    ignored=('data_preprocessor.{rest}', 'panoptic_head.criterion.{rest}', 'decode_head.criterion.{rest}'),
)
OWN_BACKBONE = Format('eomt_mm, backbone alone', lambda names: _starts(names, 'backbone.vit.'), _own_rules, whole=False)
OFFICIAL_DINOV3 = Format(
    'official EoMT, DINOv3',
    lambda names: _starts(names, 'network.') and _any(names, '.attention.'),
    official.dinov3_rules,
    whole=True,
    ignored=official.IGNORED,
)
OFFICIAL_DINOV2 = Format(
    'official EoMT, DINOv2',
    lambda names: _starts(names, 'network.'),
    lambda gated: official.dinov2_rules(),
    whole=True,
    ignored=official.IGNORED,
)
HF_DINOV2 = Format(
    'Hugging Face EomtForUniversalSegmentation',
    lambda names: 'query.weight' in names and _any(names, 'patch_embeddings.projection.'),
    huggingface.dinov2_rules,
    whole=True,
    ignored=huggingface.IGNORED,
)
HF_DINOV3 = Format(
    'Hugging Face EomtDinov3ForUniversalSegmentation',
    lambda names: 'query.weight' in names and _starts(names, 'embeddings.'),
    huggingface.dinov3_rules,
    whole=True,
    ignored=huggingface.IGNORED,
)
FORMATS = (
    OWN,
    OWN_BACKBONE,
    OFFICIAL_DINOV3,
    OFFICIAL_DINOV2,
    HF_DINOV2,
    HF_DINOV3,
    Format(
        'Hugging Face DINOv2 backbone',
        lambda names: _starts(names, 'embeddings.') and _starts(names, 'encoder.layer.'),
        backbones.hf_dinov2_rules,
        whole=False,
        ignored=backbones.IGNORED,
        prepare=backbones.prepare_hf_dinov2,
    ),
    Format(
        'Hugging Face DINOv3 backbone',
        lambda names: _starts(names, 'embeddings.') and _starts(names, 'layer.'),
        lambda gated: backbones.hf_dinov3_rules('embeddings.', 'layer.', 'norm', gated),
        whole=False,
        ignored=backbones.IGNORED,
    ),
    Format(
        'Hugging Face DINOv3 backbone, as in memory of transformers 5',
        lambda names: _starts(names, 'embeddings.') and _starts(names, 'model.layer.'),
        lambda gated: backbones.hf_dinov3_rules('embeddings.', 'model.layer.', 'norm', gated),
        whole=False,
        ignored=backbones.IGNORED,
    ),
    Format(
        "Meta's DINOv3 backbone",
        lambda names: 'storage_tokens' in names and _starts(names, 'blocks.'),
        lambda gated: backbones.meta_dinov3_rules(),
        whole=False,
        ignored=backbones.IGNORED,
        prepare=backbones.prepare_meta_dinov3,
    ),
    Format(
        "Meta's DINOv2 backbone",
        lambda names: 'mask_token' in names and 'pos_embed' in names and _any(names, '.ls1.gamma'),
        lambda gated: backbones.meta_dinov2_rules(),
        whole=False,
        ignored=backbones.IGNORED,
        prepare=backbones.prepare_meta_dinov2,
    ),
    Format(
        'timm backbone',
        lambda names: _starts(names, 'patch_embed.proj.') and _starts(names, 'blocks.'),
        lambda gated: backbones.timm_rules(),
        whole=False,
        ignored=backbones.IGNORED,
        prepare=backbones.prepare_timm,
    ),
)


@dataclass(frozen=True)
class Readable:
    """Checkpoint formats that a kind of model can be loaded from.

    A model class that reads more than EoMT's files sets its attribute ``checkpoint_formats`` to an instance.

    Attributes:
        formats: formats in order of priority; the first one that matches is used.
        optional: prefixes of weights (``head.NAME.``) that may be missing entirely from a whole file and then keep the
            model's values, each with a note for the user.
        converter: the command whose flags appear in messages.
    """

    formats: tuple[Format, ...]
    optional: Mapping[str, str] = field(default_factory=dict)
    converter: str = 'tools/convert_checkpoint.py'

    def find(self, names: Names) -> Format | None:
        """Return the format of a file with these names, or None if it is unknown."""
        return next((known for known in self.formats if known.found(names)), None)


EOMT = Readable(FORMATS)


def detect(names: Names, path: str, readable: Readable = EOMT) -> Format:
    """Return the format of a file with these names.

    Raises:
        ValueError: no format of ``readable`` matches; the message lists some of the names.
    """
    known = readable.find(names)
    if known is not None:
        return known
    titles = '\n'.join(f'  {known.title}' for known in readable.formats)
    shown = ', '.join(list(names)[:8]) + (', ...' if len(names) > 8 else '')
    raise ValueError(
        f'{path}: the format of this file is not known. It holds {len(names)} weights: {shown}\nKnown are\n{titles}'
    )


def to_ours(state: Mapping[str, Tensor], path: str, readable: Readable = EOMT) -> tuple[Format, Mapped]:
    """Convert weights of any known format to our names; refuse NaN, infinity and integers, except in ignored tensors.

    Args:
        state: the file's weights.
        path: the file, for messages.
        readable: the formats that it may have.

    Raises:
        ValueError: the format is unknown, weights that belong together are incomplete, or weights are not finite or not
            floating point.
    """
    known = detect(state, path, readable)
    prepared, notes = known.prepare(state)
    mapped = map_to_ours(prepared, known.rules(_any(state, '.gate_proj.')), known.ignored, path)
    mapped.notes += notes
    integers = [name for name, value in mapped.weights.items() if not value.is_floating_point()]
    if integers:
        names, kind = ' + '.join(mapped.sources[integers[0]]), mapped.weights[integers[0]].dtype
        raise ValueError(f"{path}: tensor '{names}' is of {kind}, but weights are floats: save it as torch.float32")
    check_finite(mapped.weights, path, lambda name: ' + '.join(mapped.sources[name]))
    return known, mapped
