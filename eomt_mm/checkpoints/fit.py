"""Whether saved weights are those of a model; mmengine itself only warns, and goes on with random ones."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

SHOWN = 8
BACKBONE = 'backbone.'


def check_fit(
    expected: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str, allow_missing: bool = False
) -> list[str]:
    """Compares names and shapes of saved weights with a model's.

    Args:
        expected: the model's ``state_dict()``.
        saved: the file's; a leading ``module.`` of distributed training is passed over. Unexpected names are fine.
        source: the file, for the message.
        allow_missing: weights that the file lacks keep their initial values (fine-tuning), at most half of them, or
            none of the backbone's.

    Returns:
        names of those weights.

    Raises:
        ValueError: listing shapes that differ and names that are missing, or too many to be another state of the model.
    """
    names = {str(name).removeprefix('module.'): value for name, value in saved.items() if isinstance(value, Tensor)}
    differing = [
        f'{name}: {tuple(names[name].shape)} in the file, {tuple(value.shape)} in the model'
        for name, value in expected.items()
        if name in names and names[name].shape != value.shape
    ]
    differing += [
        f'{name}: {names[name].dtype} in the file, {value.dtype} in the model'
        for name, value in expected.items()
        if name in names and names[name].is_floating_point() != value.is_floating_point()
    ]
    missing = [name for name in expected if name not in names]
    refused = [] if allow_missing else missing
    if allow_missing:
        _check_share(expected, names, source)
    if not differing and not refused:
        return missing
    parts = []
    if differing:
        parts.append(f'{len(differing)} weights of another shape or kind:\n{_listed(differing)}')
    if refused:
        parts.append(f"{len(refused)} of the model's {len(expected)} weights missing:\n{_listed(refused)}")
    found = '\nand '.join(parts)
    resampled = (
        '. Positions of another img_size are resampled by tools/convert_checkpoint.py SRC DST --config CONFIG '
        '(video models: convert_videomt.py)'
        if any(line.partition(':')[0].endswith('pos_embed') for line in differing)
        else ''
    )
    raise ValueError(
        f'checkpoint {source} does not fit the model. It has {found}\n'
        f'Use the config it was trained with (same backbone, img_size, classes, queries, blocks); to start another '
        f'training from it with other classes, set default_hooks.checkpoint_fit.class_head=False{resampled}'
    )


def _check_share(expected: Mapping[str, Tensor], names: Mapping[str, Tensor], source: str) -> None:
    """Refuses a start from other weights: less than half of the model's, unless all of the backbone's are there.

    Of the backbone's alone, too, there must be half or none: then it keeps its pretrained weights.
    """
    backbone = [name for name in expected if name.startswith(BACKBONE)]
    if backbone and all(name in names for name in backbone):
        return
    for owner, wanted in (("the model's backbone", backbone), ('the model', list(expected))):
        found = [name for name in wanted if name in names]
        if 2 * len(found) >= len(wanted) or (wanted is backbone and not found):
            continue
        is_backbone = any(name.startswith(('patch_embed.', 'blocks.', 'vit.')) for name in names)
        hint = 'a bare backbone belongs to model.backbone.weights' if is_backbone else 'give a checkpoint of this model'
        raise ValueError(
            f'load_from={source} holds {len(found)} of the {len(wanted)} weights of {owner}, less than half, so the '
            f'training would start from random ones. The file has {listed_names(list(names)) or "no weights"}; the '
            f'model has {listed_names(wanted)}. Hint: {hint}'
        )


def listed_names(names: Sequence[str]) -> str:
    """The first of them in one line."""
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')


def _listed(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []
    return '\n'.join(f'  {line}' for line in [*lines[:SHOWN], *more])
