"""Classes and images of files in COCO's formats: find classes by name, count crowds, filter training images."""

import os.path as osp
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

Item = dict[str, Any]
HINT = 'check that its annotations belong to its images and to metainfo.classes, or filter less'
CLASSES_HINT = 'metainfo.classes, and the categories of the annotations'
LABELS_HINT = (
    'label_ids, the value of each class in the label maps (label_ids=[0, 255] for masks of 0 and 255, where 255 would '
    'otherwise be void), and metainfo.classes'
)
MAX_NAMES = 10  # of classes, in a warning


def absent_classes_text(
    classes: Sequence[str], num_true: Sequence[int], number: int, unit: str = 'images', hint: str = CLASSES_HINT
) -> str:
    """Describe classes that do not occur in the ground truth and so have no score; '' if there are none.

    Args:
        classes: names.
        num_true: pixels or segments of ground truth of each class.
        number: number of evaluated images.
        unit: what ``number`` counts, in the plural.
        hint: what to check.
    """
    absent = [name for name, count in zip(classes, num_true, strict=True) if not count]
    if not absent or not number:
        return ''
    names = ', '.join(absent[:MAX_NAMES]) + (', ...' if len(absent) > MAX_NAMES else '')
    return (
        f'{len(absent)} of {len(classes)} classes do not occur in the ground truth of the {number} evaluated '
        f'{unit if number != 1 else unit[:-1]} and have no score: {names}. If they should occur, check {hint}'
    )


def crowds_text(flags: Iterable[bool], path: str) -> tuple[str, bool]:
    """Describe how many annotations are crowds.

    Args:
        flags: whether each annotation is a crowd.
        path: of the JSON.

    Returns:
        text for the log, '' without crowds; and whether they are more than half, which deserves a warning.
    """
    found = list(flags)
    count = sum(found)
    if not count:
        return '', False
    text = f'{path}: {count} of {len(found)} annotations are crowds (iscrowd=1), which are no targets of training'
    is_many = 2 * count > len(found)
    hint = '. Tools that write run lengths often set iscrowd=1 for every mask: where these are objects, set it to 0'
    return text + hint * is_many, is_many


def unused_categories_texts(
    data: Mapping[str, Any], categories: Sequence[Mapping[str, Any]], used: Collection[Any], path: str
) -> tuple[str, str]:
    """Describe annotated categories that are no classes, and classes without annotations; '' if there are none.

    Args:
        data: content of the JSON.
        categories: of the classes.
        used: ids of the categories that have annotations.
        path: of the JSON.
    """
    ids = {category['id'] for category in categories}
    others = [one['name'] for one in data['categories'] if one['id'] in used and one['id'] not in ids]
    unused = [category['name'] for category in categories if category['id'] not in used]
    left_out = (
        f'{path}: {len(others)} annotated categories are not among the classes and are left out: {_first(others)}'
    )
    not_learnt = (
        f'{path}: {len(unused)} of {len(categories)} classes have no annotation, so training cannot learn them: '
        f'{_first(unused)}. If they should have some, check metainfo.classes and the categories of the annotations'
    )
    return left_out * bool(others), not_learnt * bool(unused)


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:MAX_NAMES]) + (', ...' if len(names) > MAX_NAMES else '')


def left_out_text(num_kept: int, items: Sequence[Item], filter_cfg: Mapping[str, Any], path: str) -> str:
    """Describe how many images `images_to_train_on` drops; '' if it keeps all."""
    count, min_size = len(items) - num_kept, filter_cfg.get('min_size', 0)
    text = (
        f'{path}: {count} of {len(items)} images are left out of training: they have no target (annotations of these '
        f'classes that are no crowds){f", or a side below {min_size}" * bool(min_size)}'
    )
    return text * bool(count)


def repeated_stuff_text(items: Sequence[Item], path: str) -> str:
    """Describe images with several segments of a stuff class, of which models predict one; '' if there are none."""
    repeated = [item for item in items if _repeats_stuff(item['segments_info'])]
    if not repeated:
        return ''
    return (
        f'{path}: {len(repeated)} of {len(items)} images have several segments of one stuff class, such as '
        f'{repeated[0]["img_path"]}: models predict one per class, so that the others count as missed; give them one '
        'id in json and PNG'
    )


def _repeats_stuff(segments: Sequence[Mapping[str, Any]]) -> bool:
    stuff = [segment['category'] for segment in segments if not (segment['is_thing'] or segment['iscrowd'])]
    return len(set(stuff)) < len(stuff)


def only_crowds(flags: Iterable[Any]) -> str:
    """Error text if all annotations are crowds; '' if any is not a crowd, or there are none."""
    found = list(flags)
    if not found or not all(found):
        return ''
    return (
        f'all {len(found)} annotations of these classes are crowds (iscrowd=1), which are no targets: set iscrowd to 0 '
        'where they are objects; tools that write run lengths often set it to 1'
    )


def categories_by_name(
    data: Mapping[str, Any], classes: Sequence[str], path: str, used: Collection[Any] = ()
) -> list[dict[str, Any]]:
    """Find the category of each class by name, whatever the order in the JSON.

    If several categories have the name of a class, the one with annotations is used. If none has annotations, the one
    whose supercategory has that name is used: Roboflow's exports begin with an unused category for the whole project,
    often named like a class, which is the supercategory of the others.

    Args:
        data: content of the JSON.
        classes: names, in the order of labels.
        path: of the JSON, for the message.
        used: ids of the categories that have annotations.

    Returns:
        one entry of data['categories'] per class; label k is the k-th.

    Raises:
        ValueError: classes repeat or are missing from the JSON, or a class name is ambiguous.
    """
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated:
        raise ValueError(f'metainfo: the names of the {len(classes)} classes must be unique. Repeated: {repeated}')
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in classes}
    for category in data['categories']:
        found.get(category['name'], []).append(category)
    missing = [name for name, same in found.items() if not same]
    if missing:
        names = [category['name'] for category in data['categories']]
        alike = {name.strip().casefold(): name for name in names}
        meant = {name: alike[name.strip().casefold()] for name in missing if name.strip().casefold() in alike}
        hint = f'In other letters: {meant}. ' if meant else ''
        raise ValueError(
            f'{len(missing)} of the {len(classes)} classes are not among the {len(names)} categories of {path}. '
            f'Missing: {missing}. There: {names}. {hint}Pass metainfo=dict(classes=...), for panoptic data also '
            'thing_classes=... and stuff_classes=..., with the names of the file'
        )
    return [_the_one_meant(same, used, path) for same in found.values()]


def _the_one_meant(same: list[dict[str, Any]], used: Collection[Any], path: str) -> dict[str, Any]:
    """Choose among the categories of the same name; see `categories_by_name`."""
    if len(same) == 1:
        return same[0]
    name, ids = same[0]['name'], [category['id'] for category in same]
    annotated = [category for category in same if category['id'] in used]
    meant = annotated or [category for category in same if category.get('supercategory') == name]
    if len(meant) == 1:
        return meant[0]
    which = f'{len(annotated)} of them have annotations' if annotated else 'none of them has annotations'
    raise ValueError(
        f'{path}: {len(same)} categories are named {name!r}, with the ids {ids}, and {which}: give them names of their '
        'own, or merge them'
    )


def images_to_train_on(
    items: list[Item], filter_cfg: Mapping[str, Any], crowd_flags: Callable[[Item], list[bool]], path: str
) -> list[Item]:
    """Filter the training images of a data set according to ``filter_cfg``.

    Args:
        items: of a data set, with height and width (pixels).
        filter_cfg: ``filter_empty_gt`` drops images without targets, ``min_size`` drops images whose shorter side is
            below it (pixels).
        crowd_flags: returns whether each annotation of an item is a crowd; an item with only crowds has no target.
        path: of the JSON, for the message.

    Raises:
        ValueError: no image is left.
    """
    drop_empty = filter_cfg.get('filter_empty_gt', False)
    min_size = filter_cfg.get('min_size', 0)
    kept = [
        item
        for item in items
        if min(item['width'], item['height']) >= min_size and not (drop_empty and all(crowd_flags(item)))
    ]
    if not kept:
        raise ValueError(
            f'filter_cfg={dict(filter_cfg)} leaves none of the {len(items)} images of {path}: '
            + (only_crowds(flag for item in items for flag in crowd_flags(item)) or HINT)
        )
    return kept


def check_things_first(categories: list[dict[str, Any]], metainfo: dict[str, Any], path: str) -> None:
    """Check that labels 0 .. number of things - 1 are things, both in metainfo and in the file; raises ValueError."""
    classes = list(metainfo['classes'])
    things, stuff = list(metainfo['thing_classes']), list(metainfo['stuff_classes'])
    by_file = [name for name, category in zip(classes, categories, strict=True) if category['isthing']]
    if classes != things + stuff or by_file != things:
        raise ValueError(
            f'metainfo: classes must be thing_classes followed by stuff_classes, things being those that {path} marks '
            f'with isthing=1. {len(classes)} classes, {len(things)} thing_classes, {len(stuff)} stuff_classes; things '
            f'by the file: {by_file}. Pass metainfo=dict(classes=..., thing_classes=..., stuff_classes=...) so ordered'
        )


def segments_of_classes(annotation: Mapping[str, Any], label_of: Collection[Any]) -> list[dict[str, Any]]:
    """Select the segments of a panoptic annotation whose category is in ``label_of``.

    Unlike in mmdet, they are kept whatever their area and box: the PNG says which have pixels.
    """
    return [segment for segment in annotation['segments_info'] if segment['category_id'] in label_of]


def png_name(annotation: Mapping[str, Any], image: Mapping[str, Any], suffix: str = '.png') -> str:
    """Name of an image's panoptic PNG: as stated, or that of the image."""
    name: str = annotation.get('file_name') or osp.splitext(image['file_name'])[0] + suffix
    return name


def no_mask_text(annotation: Mapping[str, Any], file_name: str, path: str) -> str:
    """Error text for an instance without a mask; ``file_name`` is its image, ``path`` the JSON."""
    return (
        f'{path}: annotation {annotation.get("id")} of {file_name} has no "segmentation": training needs a mask of '
        'every instance, a box is not enough; add it or remove the annotation'
    )


def choose_classes(known: Mapping[str, Any], stated: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Derive palette, category ids and things from the class names that a user selects.

    Args:
        known: METAINFO of the data set: classes, category_ids, palette (optional) and, for panoptic data,
            thing_classes.
        stated: the same, updated with the user's entries.
        given: keys that the user gave.

    Returns:
        classes, palette, category_ids and, for panoptic data, thing_classes and stuff_classes.

    Raises:
        ValueError: names do not exist, repeat, or are not things followed by stuff.
    """
    names, classes = list(known['classes']), tuple(stated['classes'])
    unknown = [name for name in classes if name not in names]
    if unknown or len(set(classes)) < len(classes) or not classes:
        raise ValueError(
            f'metainfo: classes {unknown or classes} are unknown or repeat; choose among the {len(names)} of the '
            f'data set: {names}'
        )
    index = [names.index(name) for name in classes]
    chosen: dict[str, Any] = {'classes': classes, 'category_ids': tuple(known['category_ids'][i] for i in index)}
    if 'palette' in given:
        chosen['palette'] = stated['palette']
    elif 'palette' in known:
        chosen['palette'] = [known['palette'][i] for i in index]
    if 'thing_classes' in known:
        split = {key: tuple(n for n in classes if n in known[key]) for key in ('thing_classes', 'stuff_classes')}
        wrong = [key for key in split if key in given and tuple(stated[key]) != split[key]]
        if wrong or classes != split['thing_classes'] + split['stuff_classes']:
            raise ValueError(
                f'metainfo: classes must be things followed by stuff, and {wrong or "both"} agree with them: things '
                f'of these classes are {split["thing_classes"]}, stuff {split["stuff_classes"]}'
            )
        chosen.update(split)
    return chosen
