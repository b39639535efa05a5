"""Check that saved weights fit a model; mmengine itself only warns, and continues with random weights."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from eomt_mm.checkpoints.describe import POSITIONS, position_grid

SHOWN = 8
BACKBONE = 'backbone.'


def check_fit(
    expected: Mapping[str, Tensor], saved: Mapping[str, Tensor], source: str, allow_missing: bool = False
) -> list[str]:
    """Compare names and shapes of saved weights with those of a model.

    Args:
        expected: the model's ``state_dict()``.
        saved: weights of the file; a leading ``module.`` from distributed training is ignored, and so are unexpected
            names.
        source: the file, for the message.
        allow_missing: accept missing weights, which then keep their initial values (fine-tuning): up to half of the
            model's, or any number if all of the backbone's are there.

    Returns:
        names of the missing weights.

    Raises:
        ValueError: shapes differ or too many weights are missing; the message lists them.
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
    differing += _other_grid(expected, names)
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
        f'Use the config it was trained with (same backbone, img_size, classes, queries, blocks); to start a new '
        f'training from it with other classes, set default_hooks.checkpoint_fit.class_head=False{resampled}'
    )


def _other_grid(expected: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    """Describe position embeddings of the model's shape for another grid of patches, such as 16 x 16, not 8 x 32."""
    grids = [position_grid(state)[1] for state in (saved, expected)]
    if grids[0] == grids[1] or not all(grids) or saved[POSITIONS].shape != expected[POSITIONS].shape:
        return []
    there, needed = (f'{rows} x {columns}' for rows, columns in filter(None, grids))
    return [f'{POSITIONS}: of {there} patches in the file, of {needed} in the model']


def _check_share(expected: Mapping[str, Tensor], names: Mapping[str, Tensor], source: str) -> None:
    """Refuse to start from less than half of the model's weights, unless all of the backbone's are there.

    The same holds for the backbone's weights, except that all of them may be missing: the backbone then keeps its
    pretrained weights.
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
    """Join the first names in one line, with the number of those left out."""
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')


def _listed(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []
    return '\n'.join(f'  {line}' for line in [*lines[:SHOWN], *more])
