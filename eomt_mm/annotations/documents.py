"""Read JSON annotation files and check them as a whole: types, references between entries, masks.

Data sets and metrics use the same reader, so that both accept the same files. msgspec checks the types: a file of the
size of train2017 takes 60 % of the time of `json.loads`, checks included, and 15 % less memory.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypedDict, TypeVar

import msgspec

from eomt_mm.annotations.masks import MAX_SIDE, NORMALISED, Defect, box, examine
from eomt_mm.fileio.foreign_files import NUM_BYTES, foreign_kind

BOM = b'\xef\xbb\xbf'
# Segment ids have three bytes.
NUM_SEGMENTS = 1 << 24

Document = TypeVar('Document')
# Files exported from spreadsheets have integers as floats.
Id = int | float | str
Number = int | float
Flag = bool | int | float | None
# VIA writes [] for the box and the area of points and lines.
Area = float | list[Any] | None


class RunLengths(TypedDict):
    """A mask as run lengths."""

    size: list[int]
    counts: str | list[int]


Mask = list[float | list[float | list[float]]] | RunLengths | None


# Which keys an entry must have depends on the purpose of the file; the readers check it.
class Image(TypedDict, total=False):
    """An image."""

    id: Id
    file_name: str
    height: Number
    width: Number


class Category(TypedDict, total=False):
    """A category; "supercategory" has any type."""

    id: Id
    name: str
    supercategory: Any


# Integers only: panoptic quality stores category ids in arrays.
class PanopticCategory(TypedDict, total=False):
    """A category of the COCO panoptic format."""

    id: int
    name: str
    supercategory: Any
    isthing: bool | int


class Segment(TypedDict, total=False):
    """A segment of the COCO panoptic format."""

    id: int
    category_id: int
    iscrowd: Flag
    area: Area
    bbox: list[float] | None


class Instance(TypedDict, total=False):
    """An annotation of the COCO instance format."""

    id: Id | None
    image_id: Id
    category_id: Id
    segmentation: Mask
    bbox: list[float] | None
    area: Area
    iscrowd: Flag
    ignore: Flag
    segments_info: list[Any]  # belongs to the panoptic format; read so that the error can name it


class PanopticAnnotation(TypedDict, total=False):
    """An annotation of the COCO panoptic format."""

    image_id: Id
    file_name: str | None
    segments_info: list[Segment]


class InstancesFile(TypedDict, total=False):
    """A file in the COCO instance format."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Instance]


class PanopticFile(TypedDict, total=False):
    """A file in the COCO panoptic format."""

    images: list[Image]
    categories: list[PanopticCategory]
    annotations: list[PanopticAnnotation]


class PanopticResult(TypedDict):
    """An annotation of panoptic results."""

    image_id: Id
    file_name: str
    segments_info: list[Segment]


class PanopticResults(TypedDict):
    """A file of panoptic results (https://cocodataset.org/#format-results)."""

    annotations: list[PanopticResult]


def parse(content: bytes, form: type[Document], path: str) -> Document:
    """Parse JSON and check its types.

    Args:
        content: of the file, UTF-8 with or without a byte order mark.
        form: type of the document; keys that it does not have are dropped.
        path: of the file, for messages.

    Raises:
        ValueError: the content is not JSON or has wrong types; the message names the file, the place in it, and what is
            expected.
    """
    try:
        try:
            start = len(BOM) if content.startswith(BOM) else 0
            return msgspec.json.decode(memoryview(content)[start:], type=form)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Python's parser accepts NaN, which many exports have in unused fields, and its errors name the line.
            return msgspec.convert(json.loads(content), form)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(' - at ')
        place = place.strip('`').removeprefix('$').removeprefix('.') or 'the document'
        raise ValueError(f'{path}: {place}: {what[0].lower()}{what[1:]}; correct the file') from error
    except (ValueError, RecursionError) as error:
        if kind := foreign_kind(content[:NUM_BYTES]):
            raise ValueError(f'annotation file {path} {kind}') from error
        raise ValueError(f'annotation file {path} is not valid json ({error}): download or convert it again') from error


def read_instances(
    content: bytes, path: str, *, annotated: bool = True, warn: Callable[[str], None] | None = None
) -> InstancesFile:
    """Read a file in the COCO instance format.

    Masks are converted to one of the two forms of `normalise`. Annotations whose mask has no outline (no polygon of at
    least 3 points) are dropped. Annotations without "segmentation" are kept; a missing "bbox" is computed from the
    mask.

    Args:
        content: of the file.
        path: of the file, for messages.
        annotated: require annotations.
        warn: called with a one-line warning for each kind of dropped or defective masks.

    Raises:
        ValueError: the file breaks a rule of the format or of its masks.
    """
    example = 'the COCO format, such as instances_val2017.json'
    data: InstancesFile = parse(content, InstancesFile, path)
    _need_parts(data, annotated, path, example)
    check_categories(data['categories'], ('id', 'name'), path)
    sizes = check_images(data['images'], path)
    names = {image['id']: image.get('file_name', f'image {image["id"]}') for image in data['images']}
    categories = {category['id'] for category in data['categories']}
    for annotation in data['annotations']:
        if 'segments_info' in annotation:
            raise ValueError(f'{path} is a panoptic json: give one of instances, such as instances_val2017.json')
        _check_instance(annotation, names, categories, path)
    _normalise_masks(data, sizes, names, path, warn)
    return data


def read_panoptic(content: bytes, path: str, *, annotated: bool = True) -> PanopticFile:
    """Read a file in the COCO panoptic format.

    Args:
        content: of the file.
        path: of the file, for messages.
        annotated: require annotations.

    Raises:
        ValueError: the file breaks a rule of the format.
    """
    data: PanopticFile = parse(content, PanopticFile, path)
    _need_parts(data, annotated, path, 'the COCO panoptic format, such as panoptic_val2017.json')
    for annotation in data['annotations']:
        if 'segments_info' not in annotation:
            raise ValueError(
                f'{path} has annotations without "segments_info": this looks like an instances or captions json; '
                'give the panoptic one, such as panoptic_val2017.json'
            )
    check_categories(data['categories'], ('id', 'name', 'isthing'), path)
    images = check_images(data['images'], path)
    check_file_names(data['images'], path)
    _check_panoptic(data['annotations'], images, {category['id'] for category in data['categories']}, path)
    return data


def check_images(images: Iterable[Image], path: str) -> dict[Id, tuple[int, int]]:
    """Check ids and sizes of images, convert sizes to int in place, and return (height, width) by id."""
    sizes: dict[Id, tuple[int, int]] = {}
    for image in images:
        if not {'id', 'height', 'width'} <= image.keys():
            raise ValueError(f'{path}: image {image} needs "id", "file_name", "height" and "width" (pixels)')
        size = check_size(image['height'], image['width'], f'{path}: image {image}')
        image['height'], image['width'] = size
        if image['id'] in sizes:
            raise ValueError(
                f'{path}: ids of images must be unique ({image["id"]!r} occurs twice); renumber them if files '
                'were merged'
            )
        sizes[image['id']] = size
    return sizes


def check_size(height: Number, width: Number, whose: str) -> tuple[int, int]:
    """Check that (height, width) are whole pixels, and return them as integers."""
    for side, value in (('height', height), ('width', width)):
        if not 1 <= value <= MAX_SIDE or value != int(value):
            raise ValueError(f'{whose} has {side} {value}: give whole pixels in [1, {MAX_SIDE}]')
    return int(height), int(width)


def check_file_names(images: Iterable[Image], path: str) -> None:
    """Check that images have file names, which metrics do not need; backslashes in them become slashes."""
    for image in images:
        if not image.get('file_name'):
            raise ValueError(f'{path}: image {image} needs "file_name"')
        image['file_name'] = local_name(image['file_name'])


def local_name(name: str) -> str:
    """Return a file name with slashes in place of the backslashes of Windows."""
    return name.replace('\\', '/')


def check_categories(categories: Iterable[Category | PanopticCategory], needed: Collection[str], path: str) -> None:
    """Check that categories have the needed keys and unique ids."""
    ids: Counter[Id] = Counter()
    for category in categories:
        if not set(needed) <= category.keys():
            keys = ', '.join(f'"{key}"' for key in needed)
            raise ValueError(f'{path}: category {category} needs {keys}')
        ids[category['id']] += 1
    repeated = [id_ for id_, count in ids.items() if count > 1]
    if repeated:
        raise ValueError(f'{path}: ids of categories must be unique; repeated: {repeated}')


def check_segments(segments: Iterable[Segment], image: Id | None, path: str) -> None:
    """Check keys, ids, boxes and areas of the segments of an image."""
    ids: set[int] = set()
    for segment in segments:
        if image is None or not {'id', 'category_id'} <= segment.keys():
            raise ValueError(
                f'{path}: annotation of image {image}: it needs "image_id", segments "id" and "category_id"'
            )
        id_ = segment['id']
        if id_ in ids or not 0 < id_ < NUM_SEGMENTS:
            raise ValueError(
                f'{path}: segment ids of image {image} must be unique and in [1, {NUM_SEGMENTS - 1}]; 0 is void'
            )
        ids.add(id_)
        if problem := _value_problem(segment):
            raise ValueError(f'{path}: segment {id_} of image {image} {problem}')


def _check_panoptic(
    annotations: Iterable[PanopticAnnotation], images: Collection[Id], categories: set[int], path: str
) -> None:
    seen: set[Id] = set()
    for annotation in annotations:
        image, segments = annotation.get('image_id'), annotation['segments_info']
        if image is None or image not in images:
            raise ValueError(f'{path}: an annotation {unknown_id("image_id", image, images, "images")}')
        if image in seen:
            raise ValueError(f'{path}: image {image} has two annotations; keep one')
        seen.add(image)
        if name := annotation.get('file_name'):
            annotation['file_name'] = local_name(name)
        check_segments(segments, image, path)
        unknown = {segment['category_id'] for segment in segments} - categories
        if unknown:
            raise ValueError(
                f'{path}: image {image} has segments of categories {sorted(unknown)}, which are not in "categories": '
                'correct them'
            )


def unknown_id(key: str, value: Any, known: Collection[Any], of_what: str) -> str:
    """Error text for a reference to an id that does not exist; names both types if they differ."""
    types = sorted({type(one).__name__ for one in known})
    kind = type(value).__name__
    differs = f' ({kind}, those are {" or ".join(types)})' if types and kind not in types else ''
    return f'has {key} {value!r}, which none of the {len(known)} {of_what} has{differs}: remove it, or correct the ids'


def _need_parts(data: Any, annotated: bool, path: str, example: str) -> None:
    if not annotated:
        data.setdefault('annotations', [])
    missing = [key for key in ('images', 'categories', 'annotations') if key not in data]
    if missing:
        raise ValueError(f'{path} has no {missing}: give a json in {example}')
    if not data['images']:
        raise ValueError(f'{path} lists no images: give a json in {example}')


def _check_instance(annotation: Instance, names: Mapping[Id, str], categories: Collection[Id], path: str) -> None:
    image, category = annotation.get('image_id'), annotation.get('category_id')
    if image is None or image not in names:
        problem = unknown_id('image_id', image, names, 'images')
    elif category not in categories:
        problem = f'of {names[image]} {unknown_id("category_id", category, categories, "categories")}'
    else:
        found = _value_problem(annotation)
        problem = found and f'of {names[image]} {found}'
    if problem:
        raise ValueError(f'{path}: annotation {annotation.get("id")} {problem}')


def _value_problem(entry: Instance | Segment) -> str:
    """What is wrong with box, area and flags of an annotation or a segment; '' if nothing is."""
    box, area = entry.get('bbox'), entry.get('area')
    if box and not (len(box) == 4 and math.isfinite(sum(box))):
        return f'has bbox {box}: it needs [x, y, width, height] (pixels)'
    if area not in (None, []) and (isinstance(area, list) or not 0 <= area < math.inf):
        return f'has area {area}: give pixels, or leave it out'
    return flag_problem(entry)


def flag_problem(entry: Mapping[str, Any]) -> str:
    """Error text for a flag that is NaN, which Python takes for true; '' if there is none."""
    crowd, ignore = entry.get('iscrowd'), entry.get('ignore')
    if crowd == crowd and ignore == ignore:
        return ''
    return f'has {"iscrowd" if crowd != crowd else "ignore"} NaN: give 0 or 1, or leave it out'


def _normalise_masks(
    data: InstancesFile,
    sizes: Mapping[Id, tuple[int, int]],
    names: Mapping[Id, str],
    path: str,
    warn: Callable[[str], None] | None,
) -> None:
    kept, left_out, defects = [], [], DefectiveMasks(path)
    for annotation in data['annotations']:
        given, image = annotation.get('segmentation'), annotation['image_id']
        if given in (None, []):
            annotation.pop('segmentation', None)
        else:
            whose = f'annotation {annotation.get("id")} of {names[image]}'
            mask, defect = examine(given, sizes[image], f'{path}: {whose}')
            defects.add(defect, whose)
            if mask is None:
                left_out.append(annotation)
                continue
            annotation['segmentation'] = mask  # type: ignore[typeddict-item]
            if not annotation.get('bbox'):
                annotation['bbox'] = box(mask, sizes[image])
        kept.append(annotation)
    if left_out:
        first = left_out[0]
        text = (
            f'{path}: {len(left_out)} of {len(data["annotations"])} annotations have no polygon of 3 or more points, '
            f'such as annotation {first.get("id")} of {names[first["image_id"]]}'
        )
        if not kept:
            raise ValueError(f'{text}: boxes are not enough, export masks')
        if warn is not None:
            warn(f'{text}: they are left out')
    data['annotations'] = kept
    defects.report(warn)


class DefectiveMasks:
    """Count masks without a pixel in their image, and masks whose coordinates seem to be normalised.

    Args:
        path: of the annotation file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._num_masks = 0
        self._found: dict[Defect, list[str]] = {}

    def add(self, defect: Defect, whose: str) -> None:
        """Count a mask; ``whose`` is its annotation, for the message."""
        self._num_masks += 1
        if defect:
            self._found.setdefault(defect, []).append(whose)

    def report(self, warn: Callable[[str], None] | None) -> None:
        """Warn about defective masks.

        Raises:
            ValueError: more than half of all masks have the same defect.
        """
        for defect, found in self._found.items():
            what = 'no pixel in their image'
            hint = 'training does not see them, and evaluation counts them as missed: correct or remove them'
            if defect == NORMALISED:
                what = 'all coordinates between 0 and 1'
                hint = 'where they are normalised, multiply x by the width and y by the height of the image'
            text = f'{self.path}: {len(found)} of {self._num_masks} masks have {what}, such as {found[0]}: {hint}'
            if 2 * len(found) > self._num_masks:
                raise ValueError(text)
            if warn is not None:
                warn(text)
