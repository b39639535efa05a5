"""Segment images and videos with a file of tools/export.py. Needs numpy, pillow and the runtime only, not eomt_mm.

Examples:
    python run_exported.py eomt.onnx street.jpg --out-dir results
    python run_exported.py eomt.xml photos/ --out-dir results --no-pictures --threads 4
    python run_exported.py eomt.xml clip.mp4 --out-dir results --precision bf16    # videos also need opencv-python

Runtimes are onnxruntime (.onnx) and openvino (.xml, with its .bin file beside it). For each image, OUT_DIR gets a
picture with the segments, and a JSON file that lists them: class, score, area, box and mask (COCO's uncompressed run
lengths). For each video it gets a folder, such as clip.mp4, with the same for each frame, named by its number. Segments
without a pixel in the image are left out. Files that cannot be read are reported and skipped; the exit code is then 1.
"""

import argparse
import base64
import importlib
import io
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ImportError as error:
    sys.exit(f'run_exported: {error}: pip install numpy pillow')

Array = np.ndarray
Size = tuple[int, int]  # (height, width) in pixels
Graph = Callable[..., dict[str, Array]]  # from inputs to outputs, by name
Read = tuple[Graph, str, list[int | None], list[set[str]]]  # graph, metadata, shape of the input, names of each output
Reader = Callable[[Path | bytes], Read]  # of a file, or of an ONNX file's content
KEY, FORMAT = 'eomt_mm.json', 2
# As in eomt_mm; docs/inference.md gives the reasons.
MAX_PIXELS, VARIABLE, MAX_ASPECT = 120_000_000, 'EOMT_MM_MAX_PIXELS', 20
BITS_VARIABLE = 'EOMT_MM_IMAGE_BITS'
SETTINGS = {VARIABLE: (MAX_PIXELS, range(1, 10**18)), BITS_VARIABLE: (0, range(9, 17))}  # default and allowed values
FORMATS = ('PNG', 'JPEG', 'TIFF', 'WEBP', 'BMP', 'GIF', 'PPM', 'JPEG2000', 'AVIF')  # Pillow's others run interpreters
IMAGE_SUFFIXES = ('.bmp', '.jfif', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')
EXACT = ('.avi', '.m4v', '.mov', '.mp4')  # these state their number of frames; of others, OpenCV estimates it
PROVIDERS = ('CUDAExecutionProvider', 'CPUExecutionProvider')
STRIP = 2**22  # values that a step computes at once: 16 MB
# Okabe and Ito, "Color Universal Design", 2008: assigned to things in turn.
COLOURS = ((213, 94, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (86, 180, 233), (0, 158, 115), (230, 159, 0))


@dataclass(frozen=True)
class Segment:
    """A segment of the image, without its mask, because the masks of many segments of a large image fill the memory."""

    label: int  # class index
    score: float | None  # in [0, 1], or None (semantic)
    size: Size  # of the image
    counts: Array  # COCO's uncompressed run lengths of the mask: column by column, pixels outside and inside in turns

    @classmethod
    def of(cls, label: int, score: float | None, mask: Array) -> 'Segment':
        """Make one from a mask (H, W), bool."""
        flat = mask.flatten(order='F')
        changes = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
        return cls(label, score, (mask.shape[0], mask.shape[1]), np.diff(changes, prepend=0).astype(np.int32))

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.counts[1::2].sum())

    @property
    def mask(self) -> Array:
        """Mask (H, W), bool."""
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return np.ascontiguousarray(flat.reshape(self.size, order='F'))


def corners(size: Size, window: Size) -> list[tuple[int, int]]:
    """Top and left of each window, row by row: the fewest that cover the image, evenly overlapping along each side."""
    sides = []
    for length, side in zip(size, window, strict=True):
        n = math.ceil(length / side)
        step = side - (n * side - length) / max(1, n - 1)
        sides.append([int(j * step) for j in range(n - 1)] + [max(0, length - side)])
    return [(top, left) for top in sides[0] for left in sides[1]]


def setting(variable: str) -> int:
    """Whole number in an environment variable, or its default."""
    (default, allowed), stated = SETTINGS[variable], os.environ.get(variable)
    if stated and not (re.fullmatch('[0-9]{1,18}', stated) and int(stated) in allowed):
        raise ValueError(f'{variable}={stated}: a whole number from {allowed[0]} to {allowed[-1]}')
    return int(stated or default)


def check_pixels(width: int, height: int) -> None:
    if width * height > (limit := setting(VARIABLE)):
        raise ValueError(f'{width} x {height} pixels; the limit is {limit}, {VARIABLE} raises it')


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB, rotated according to EXIF; reject files with too many pixels before decoding."""
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit differs, and at first only warns
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_pixels(*image.size)
            return to_8_bits(ImageOps.exif_transpose(image), bits_of(image, path)).convert('RGB')
    except Exception as error:  # Pillow passes on its codecs' errors
        raise ValueError(f'image {path} cannot be read ({said(error)})') from error


def bits_of(image: Image.Image, path: Path) -> int:
    """Bits per channel of a file; Pillow's modes do not state them for colour images."""
    content = path.read_bytes()
    if image.format == 'PNG':
        return content[24]
    if image.format == 'TIFF':
        return int(np.max(image.tag_v2.get(258, 1)))  # type: ignore[attr-defined]
    if image.format == 'AVIF':
        return 32 if content[content.find(b'av1C') + 6] & 0x60 else 8
    if image.format == 'JPEG2000':
        return 8 if content[content.find(b'\xff\x4f\xff\x51') + 42] & 0x7F < 8 else 32
    found = re.match(rb'P[2356](?:\s|#[^\n]*\n)+(?:\d+(?:\s|#[^\n]*\n)+){2}(\d+)\s', content[:1000])
    return 8 if found is None or int(found[1]) < 256 else 32  # Pillow rescales the values of deeper ones, too


def to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Reduce an image to 8 bits per channel; reject deeper images unless the number of bits in use is stated."""
    if bits <= 8:
        return image
    used, values = setting(BITS_VARIABLE), np.asarray(image)
    if bits > 16 or not used or values.dtype.kind not in 'iu' or (image.mode == 'RGB' and used < 16):
        raise ValueError(f'it has more than 8 bits per channel: convert it, or set {BITS_VARIABLE} (colours: only 16)')
    # Of colours, Pillow has kept the upper 8 bits of 16.
    return image if image.mode == 'RGB' else Image.fromarray(np.minimum(values >> (used - 8), 255).astype(np.uint8))


def resized(size: Size, meta: dict[str, Any]) -> Size:
    """Size of an image after resizing: inside the input (padding), or covering it (windows)."""
    ratios = [side / old for side, old in zip(meta['input']['size'], size, strict=True)]
    if meta['geometry'] == 'padding':
        factor = min(ratios)
    elif max(size) > MAX_ASPECT * min(size):
        raise ValueError(f'the image has {size[1]} x {size[0]} pixels, more than {MAX_ASPECT} to 1: cut it')
    else:
        factor = max(ratios)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def windows(image: Image.Image, meta: dict[str, Any]) -> Iterator[tuple[int, int, Array]]:
    """Yield top, left and pixels, uint8 (1, 3, *input), of each window, padded with black at the bottom and right."""
    height, width = meta['input']['size']
    h, w = resized((image.height, image.width), meta)
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels = np.pad(pixels, ((0, 0), (0, max(0, height - h)), (0, max(0, width - w))))
    for top, left in corners((h, w), (height, width)):
        yield top, left, np.ascontiguousarray(pixels[None, :, top : top + height, left : left + width])


def bilinear(old: int, new: int) -> Array:
    """Matrix (new, old) that resizes one side bilinearly: half-pixel centres, no antialiasing."""
    place = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = np.minimum(place.astype(int), old - 1)
    part = place - low
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), low] += 1 - part
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += part
    return matrix


def unpadded(masks: Array, size: Size, meta: dict[str, Any]) -> tuple[Array, Array]:
    """Matrices (H, h) and (w, W) that resize logits (..., h, w) of a padded input to the image's size (H, W)."""
    sides = zip(masks.shape[-2:], meta['input']['size'], resized(size, meta), size, strict=True)
    rows, columns = (bilinear(inside, final) @ bilinear(old, full)[:inside] for old, full, inside, final in sides)
    return rows, columns.T


def strips(rows: Array, values: int) -> list[slice]:
    """Slices of ``rows`` that are computed together, for a number of values in each row of the image."""
    step = max(1, STRIP // values)
    return [slice(top, top + step) for top in range(0, len(rows), step)]


@dataclass(frozen=True)
class Model:
    """A file of tools/export.py: its metadata, network, and the steps of its post-processing by name."""

    meta: dict[str, Any]
    network: Graph
    steps: dict[str, Graph]


def nearest(maps: Array, size: Size, meta: dict[str, Any]) -> Array:
    """Resize labels or masks (..., *input) from the graph to the image's size by nearest neighbour."""
    sides = zip(size, resized(size, meta), strict=True)
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in sides)
    return maps[..., rows[:, None], columns]


def semantic(model: Model, image: Image.Image) -> Iterator[Segment]:
    """Semantic segments: one for each class that occurs; scores of overlapping windows are averaged."""
    size, meta = (image.height, image.width), model.meta
    (height, width), (h, w) = meta['input']['size'], resized(size, meta)
    scores = np.zeros((len(meta['classes']), max(h, height), max(w, width)), np.float32)
    coverage = np.zeros(scores.shape[1:], np.float32)
    if meta['postprocess_in_graph'] and coverage.shape != (height, width):
        raise ValueError('the image takes several windows, and they need logits: export it without --with-postprocess')
    for top, left, pixels in windows(image, meta):  # one by one: memory does not grow with their number
        logits = {name: values[0] for name, values in model.network(images=pixels).items()}
        if meta['postprocess_in_graph']:
            labels = nearest(logits['label_map'], size, meta)
            break
        sides = zip(logits['mask_logits'].shape[1:], (height, width), strict=True)
        rows, columns = (bilinear(*pair) for pair in sides)
        place = np.s_[..., top : top + height, left : left + width]
        scores[place] += model.steps['class_scores'](**logits, rows=rows, columns=columns.T)['scores']
        coverage[place] += 1
    else:
        scores /= coverage
        scores, rows, columns = scores[:, :h, :w], bilinear(h, size[0]), bilinear(w, size[1]).T
        parts = [rows[part] for part in strips(rows, len(scores) * max(w, size[1]))]
        strip = model.steps['best_class']
        labels = np.concatenate([strip(scores=scores, rows=part, columns=columns)['label_map'] for part in parts])
    del scores, coverage
    for k in np.bincount(labels.ravel()).nonzero()[0]:
        yield Segment.of(int(k), None, labels == k)


def instance(model: Model, image: Image.Image) -> Iterator[Segment]:
    """Instances: the best pairs of query and class."""
    size, ((_, _, pixels),) = (image.height, image.width), windows(image, model.meta)
    found = model.network(images=pixels)
    if model.meta['postprocess_in_graph']:
        for label, score, mask in zip(*(found[name][0] for name in ('labels', 'scores', 'masks')), strict=True):
            yield Segment.of(int(label), float(score), nearest(mask, size, model.meta))
        return
    pairs, masks = model.steps['best_pairs'](class_logits=found['class_logits'][0]), found['mask_logits'][0]
    rows, columns = unpadded(masks, size, model.meta)
    for prob, query, label in zip(pairs['probs'], pairs['queries'], pairs['labels'], strict=True):  # one by one
        mask = dict(probs=prob[None], mask_logits=masks[query][None], rows=rows, columns=columns)
        one = model.steps['instance_masks'](**mask)
        yield Segment.of(int(label), float(one['scores'][0]), one['masks'][0])


def panoptic_map(model: Model, image: Image.Image) -> tuple[Array, Array, Array, Array]:
    """Segment ids of the pixels (H, W), 0 = void; id of the segment that each query opens, 0 = none; labels; scores."""
    size, ((_, _, pixels),) = (image.height, image.width), windows(image, model.meta)
    found = model.network(images=pixels)
    if model.meta['postprocess_in_graph']:
        opened, labels, scores = (found[name][0] for name in ('segment_ids', 'labels', 'scores'))
        segment_map = nearest(found['segment_map'][0], size, model.meta)
    else:
        chosen = model.steps['choose_queries'](class_logits=found['class_logits'][0])
        scores, labels = (chosen[name][chosen['kept']] for name in ('scores', 'labels'))
        if len(labels) == 0:
            return np.zeros(size, np.int32), labels, labels, scores
        masks = found['mask_logits'][0][chosen['kept']]
        rows, columns = unpadded(masks, size, model.meta)
        codes, counts = np.empty(size, np.int32), np.zeros((3, len(labels)), np.int64)
        for part in strips(rows, len(labels) * size[1]):
            strip = dict(scores=scores, mask_logits=masks, rows=rows[part], columns=columns)
            assigned = model.steps['assign_pixels'](**strip)
            codes[part] = assigned['codes']
            counts += assigned['pixels']
        numbered = model.steps['number_segments'](labels=labels, pixels=counts)
        opened, segment_map = numbered['opened'], np.append(0, numbered['ids']).astype(np.int32)[codes]
    return segment_map, opened, labels, scores


def panoptic(model: Model, image: Image.Image) -> Iterator[Segment]:
    """Panoptic segments without overlap, in the order of queries; all stuff of a class is one segment."""
    segment_map, opened, labels, scores = panoptic_map(model, image)
    for query in opened.nonzero()[0]:
        yield Segment.of(int(labels[query]), float(scores[query]), segment_map == opened[query])


SEGMENTS = dict(semantic=semantic, instance=instance, panoptic=panoptic)


def segment(model: Model, image: Image.Image) -> list[Segment]:
    """Segment an RGB image; instances are sorted, best first. Segments without a pixel in the image are left out."""
    task = model.meta['task']
    found = [one for one in SEGMENTS[task](model, image) if one.area]
    return sorted(found, key=lambda one: -(one.score or 0)) if task == 'instance' else found


def open_model(path: Path, precision: str = 'f32', threads: int = 0) -> Model:
    """Open a file of tools/export.py; 'bf16' is for OpenVINO, 0 threads are the runtime's choice."""
    runtimes = {'.onnx': ('onnxruntime', onnx_reader), '.xml': ('openvino', openvino_reader)}
    if path.suffix not in runtimes:
        raise ValueError(f'model {path}: .onnx and .xml files of tools/export.py are read')
    if not path.is_file():
        raise ValueError(f'model {path} does not exist: tools/export.py writes one')
    name, reader = runtimes[path.suffix]
    # Otherwise both keep an id of the machine and report their use to web services.
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
    sys.modules.setdefault('openvino_telemetry', ModuleType('openvino_telemetry'))
    try:
        read = reader(importlib.import_module(name), precision, threads)
    except ModuleNotFoundError as error:
        raise ValueError(f'{error}: pip install {name}') from error
    try:
        graph, text, shape, outputs = read(path)
        meta = json.loads(text or '{}')
        check(meta, shape[2:], outputs)
        steps = {name: read(base64.b64decode(step['onnx']))[0] for name, step in meta['steps'].items()}
    except Exception as error:  # runtimes' errors have no common class
        raise ValueError(f'model {path} cannot be read here: {said(error)}: export it again') from error
    return Model(meta, graph, steps)


def check(meta: dict[str, Any], size: list[int | None], outputs: list[set[str]]) -> None:
    """Check the metadata of a graph with this (height, width) of the input, None: any, and these names of outputs."""
    if meta.get('format') != FORMAT:
        raise ValueError(f'metadata of format {meta.get("format")}, read is {FORMAT}')
    sides = zip(meta['input']['size'], size, strict=True)
    fits = (
        all(type(side) is int and 0 < side <= 2**13 and fixed in (side, None) for side, fixed in sides)
        and all(name in names for name, names in zip(meta['outputs'], outputs, strict=True))
        and {*map(type, meta['classes'])} <= {str}
        and meta['task'] in SEGMENTS and meta['geometry'] in ('padding', 'windows')
        and all(len(colour) == 3 and {*map(type, colour)} == {int} for colour in meta['palette'])
        and [type(meta[key]) for key in ('classes', 'palette', 'num_things', 'postprocess_in_graph')]
        == [list, list, int, bool]
    )  # fmt: skip
    if not fits:
        raise ValueError('its metadata do not fit its graph')


def said(error: Exception) -> str:
    """What an error says, as one line."""
    return ' '.join((str(error) if isinstance(error, OSError | ValueError) else repr(error)).split())


def named(outputs: list[set[str]], run: Callable[[dict[str, Array]], Iterable[Array]]) -> Graph:
    """Return the results of a runtime by every name of each output."""
    return lambda **inputs: {k: values for names, values in zip(outputs, run(inputs), strict=True) for k in names}


def onnx_reader(onnxruntime: Any, precision: str, threads: int) -> Reader:
    if precision != 'f32':
        raise ValueError(f'--precision {precision} is for OpenVINO: give an .xml file')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about float16 on a CPU
    options.intra_op_num_threads = threads
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]

    def read(source: Path | bytes) -> Read:
        content = source if isinstance(source, bytes) else str(source)
        session = onnxruntime.InferenceSession(content, options, providers=providers)
        text = session.get_modelmeta().custom_metadata_map.get(KEY, '')
        outputs = [{output.name} for output in session.get_outputs()]
        shape = [side if isinstance(side, int) else None for side in session.get_inputs()[0].shape]
        return named(outputs, lambda inputs: session.run(None, inputs)), text, shape, outputs

    return read


def openvino_reader(openvino: Any, precision: str, threads: int) -> Reader:
    if int(openvino.__version__.partition('.')[0]) < 2026:  # 2025.4 computes wrong segments
        raise ValueError(f'openvino {openvino.__version__} is too old: pip install -U openvino')
    core = openvino.Core()
    settings: dict[str, Any] = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT=precision)
    able = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision == 'bf16' and 'BF16' not in able:  # OpenVINO would silently compute in float32
        raise ValueError(f'--precision bf16: this processor does not compute with it, only with {", ".join(able)}')
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads

    def read(source: Path | bytes) -> Read:
        graph = core.read_model(source)
        exact = dict(settings, INFERENCE_PRECISION_HINT='f32') if isinstance(source, bytes) else settings
        compiled = core.compile_model(graph, 'CPU', exact)
        text = graph.get_rt_info(KEY).astype(str) if graph.has_rt_info(KEY) else ''
        shape = [side.get_length() if side.is_static else None for side in compiled.inputs[0].partial_shape]
        outputs = [output.get_names() for output in compiled.outputs]  # an output can have several
        return named(outputs, lambda inputs: compiled(inputs).values()), text, shape, outputs

    return read


def described(found: Segment, meta: dict[str, Any]) -> dict[str, Any]:
    """Convert a segment to JSON types; box (x, y, w, h) in pixels."""
    left, top, right, bottom = Image.fromarray(found.mask).getbbox() or (0, 0, 0, 0)
    return dict(
        label=found.label, class_name=meta['classes'][found.label], score=found.score, area=found.area,
        bbox=[left, top, right - left, bottom - top],
        segmentation=dict(size=list(found.size), counts=found.counts.tolist()),
    )  # fmt: skip


def drawn(image: Image.Image, segments: list[Segment], meta: dict[str, Any]) -> Image.Image:
    """Draw the image with coloured segments, outlines and class names."""
    pixels = np.asarray(image).astype(np.float32)
    for i, found in reversed(list(enumerate(segments))):  # the best on top
        thing = meta['task'] == 'instance' or found.label < meta['num_things']
        own = meta['palette'][found.label : found.label + 1]
        colour = own[0] if own and not thing else COLOURS[i % len(COLOURS)]
        mask = found.mask
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(colour, np.float32)
        around = [np.roll(mask, step, axis) for axis in (0, 1) for step in (-1, 1)]
        pixels[mask & ~np.logical_and.reduce(around)] = colour
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, min(picture.size) // 36))
    for found in segments:
        step = -(-max(found.size) // 1000)  # precise enough for the place of a name
        rows, cols = (step * places for places in found.mask[::step, ::step].nonzero())
        name = meta['classes'][found.label]
        left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
        if len(rows) == 0 or right - left > np.ptp(cols) or bottom - top > np.ptp(rows):
            continue
        centre = ((rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2).argmin()
        x = min(max(0, cols[centre] - (right - left) / 2), image.width - (right - left))
        y = min(max(0, rows[centre] - (bottom - top) / 2), image.height - (bottom - top))
        pen.text((x - left, y - top), name, fill='white', font=font, stroke_width=2, stroke_fill='black')
    return picture


def write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file or folder share; None if there is none."""
    found = os.stat(path) if os.path.exists(path) else None
    return found and (found.st_dev, found.st_ino)


def listed(folder: Path, out_dir: Path) -> Iterator[Path]:
    """Yield images and videos below a folder, without those in ``out_dir``, and subfolders that cannot be read."""
    own, unreadable = identity(out_dir), list[Path]()
    for parent, folders, names in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders[:] = [name for name in folders if own is None or identity(Path(parent, name)) != own]
        for path in (Path(parent, name) for name in folders + names):
            known = path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
            if known and (os.path.isfile(path) or not os.path.exists(path)):  # a broken link fails when it is read
                yield path
            elif path.is_symlink() if os.path.isdir(path) else known:
                print(f'run_exported: {path} is left out: a link to a folder, or no file', file=sys.stderr)
    yield from unreadable


def find_files(given: Iterable[Path], out_dir: Path, ends: Iterable[str]) -> dict[Path, Path]:
    """Find images and videos, in folders in order of their names; map each to its results, without one of ``ends``."""
    wholes: dict[Path, tuple[Path, Path]] = {}
    for path in given:
        files = sorted(listed(path, out_dir)) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise ValueError(f'{path} {"has no image or video" if path.is_dir() else "does not exist"}: name another')
        for file in files:
            whole = out_dir / (file.relative_to(path) if path.is_dir() else file.name)
            wholes.setdefault(file.parent.resolve() / file.name, (file, whole))
    results, used, counts = dict(wholes.values()), set[str](), Counter[Path]()
    videos = {file for file in results if file.suffix.lower() in VIDEO_SUFFIXES}
    for file, whole in sorted(results.items(), key=lambda item: item[0] in videos):  # last: folders that no other has
        end = '/' if file in videos else ''
        name = whole if end else whole.with_suffix('')
        while f'{name}{end}'.casefold() in used or (end and name.is_file()):
            counts[whole] += 1
            name = whole if counts[whole] == 1 else Path(f'{whole}_{counts[whole]}')
        used |= {f'{name}{end}'.casefold(), f'{name.parent}/'.casefold()}
        results[file] = name
    inputs = {identity(file) for file in results} - {None}
    for file, out in results.items():
        for target in out.glob('*') if file in videos else [Path(f'{out}{end}') for end in ends]:
            if target.suffix.lower() in ends and identity(target) in inputs:
                raise ValueError(f'{target} would replace the input: name another folder with --out-dir')
    return results


def images_of(path: Path, out: Path) -> Iterator[tuple[Path, Image.Image]]:
    """Yield an image, or the frames of a video, with the path of its results without suffix; one at a time."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        yield out, read_image(path)
        return
    try:
        cv2: Any = importlib.import_module('cv2')
    except ModuleNotFoundError as error:
        raise ValueError(f'video {path} needs OpenCV: pip install opencv-python') from error
    capture, number = cv2.VideoCapture(str(path)), 0
    facts = cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    try:
        stated, width, height = (int(capture.get(fact)) for fact in facts)
        check_pixels(width, height)
        while (frame := capture.read())[0]:
            yield out / f'{number:06d}', Image.fromarray(np.ascontiguousarray(frame[1][..., ::-1]))
            number += 1
    finally:
        capture.release()
    if number < max(1, stated):
        lost = f'video {path} cannot be read whole, but {number} of {max(0, stated)} frames: convert it (ffmpeg, .mp4)'
        if number == 0 or path.suffix.lower() in EXACT:
            raise ValueError(lost)
        print(f'run_exported: {lost}', file=sys.stderr)


def run(model: Model, path: Path, out: Path, score_thr: float | None) -> int:
    """Segment an image or video; write the results, without pictures if ``score_thr`` is None; count the segments."""
    count, task = 0, model.meta['task']
    for name, image in images_of(path, out):
        segments = segment(model, image)
        count += len(segments)
        if score_thr is not None:
            content, shown = io.BytesIO(), [s for s in segments if task != 'instance' or (s.score or 0) >= score_thr]
            drawn(image, shown, model.meta).save(content, 'PNG')
            write(Path(f'{name}.png'), content.getvalue())
        found = [described(one, model.meta) for one in segments]
        write(Path(f'{name}.json'), json.dumps(dict(image=path.name, task=task, segments=found)).encode())
    return count


def note(line: str) -> None:
    """Print a line; `| head` ends the listing, not the work."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, help='.onnx or .xml file; the files with its weights lie beside it')
    parser.add_argument('inputs', type=Path, nargs='+', help='images, videos and folders')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder of the results')
    parser.add_argument('--score-thr', type=float, default=0.5, help='of the instances that are drawn; all are listed')
    parser.add_argument('--no-pictures', action='store_true', help='write results only')
    parser.add_argument('--precision', choices=['f32', 'bf16'], default='f32', help='bf16: OpenVINO, recent processors')
    parser.add_argument('--threads', type=int, default=0, help="default: the runtime's choice")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1 or args.threads < 0:
        parser.error(f'--score-thr {args.score_thr} is not in [0, 1], or --threads {args.threads} is below 0')
    return args


def main() -> None:
    args = parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # for names of files that are not UTF-8
    try:
        list(map(setting, SETTINGS))  # mistakes in them are one error
        results = find_files(args.inputs, args.out_dir, ('.json',) if args.no_pictures else ('.json', '.png'))
        model = open_model(args.model, args.precision, args.threads)
    except Exception as error:  # runtimes' errors have no common class
        sys.exit(f'run_exported: {said(error)}')
    failed = 0
    for path, out in results.items():
        try:
            count = run(model, path, out, None if args.no_pictures else args.score_thr)
            note(f'{path}: {count} segments; {out}{"/*" if path.suffix.lower() in VIDEO_SUFFIXES else ""}.json')
        except Exception as error:
            failed += 1
            print(f'run_exported: {"" if f" {path} " in str(error) else f"{path}: "}{said(error)}', file=sys.stderr)
    if failed:
        sys.exit(f'run_exported: {failed} of {len(results)} files could not be segmented')


if __name__ == '__main__':
    main()
