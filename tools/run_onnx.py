"""Segment an image with a file of tools/export.py. Needs only numpy, onnxruntime and pillow, not eomt_mm.

    python run_onnx.py eomt.onnx street.jpg --out street.png

OUT shows the image with its segments. The JSON file beside it lists them: class, score, area, box and mask (COCO's
uncompressed run lengths). Preprocessing and post-processing follow the metadata of the ONNX file. Segments without a
pixel in the image are left out.

The post-processing repeats eomt_mm/core/postprocess.py in numpy, because this file runs without the package, and
because results in the graph (--with-postprocess) cover one input only: not an image of several windows, nor masks at
the image's own size. tests/export/test_runner_rules.py compares both on random outputs.
"""

import argparse
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ImportError as error:
    sys.exit(f'run_onnx: {error}: pip install numpy onnxruntime pillow')

Array = np.ndarray
Size = tuple[int, int]  # (height, width) in pixels
KEY = 'eomt_mm.json'
FORMAT = 1
# As in eomt_mm; docs/inference.md gives the reasons.
MAX_PIXELS, VARIABLE, MAX_ASPECT = 120_000_000, 'EOMT_MM_MAX_PIXELS', 20
BITS_VARIABLE = 'EOMT_MM_IMAGE_BITS'
PROVIDERS = ('CUDAExecutionProvider', 'CPUExecutionProvider')
# Okabe and Ito, "Color Universal Design", 2008: assigned to things in turn.
COLOURS = ((213, 94, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (86, 180, 233), (0, 158, 115), (230, 159, 0))


@dataclass(frozen=True)
class Segment:
    """A segment of the image, without its mask, because the masks of many segments of a large image fill the memory.

    Attributes:
        label: class index.
        score: in [0, 1], or None (semantic).
        size: (H, W) of the image.
        counts: of the mask in COCO's uncompressed run lengths: column by column, pixels outside and inside in turns.
    """

    label: int
    score: float | None
    size: Size
    counts: Array

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


def read_image(path: Path) -> Image.Image:
    """Read an image file as RGB, rotated according to EXIF; reject files with too many pixels before decoding."""
    limit = int(os.environ.get(VARIABLE) or MAX_PIXELS)
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit differs, and at first only warns
    try:
        with Image.open(path) as image:
            if image.width * image.height > limit:
                raise ValueError(f'{image.width} x {image.height} pixels; the limit is {limit}, {VARIABLE} raises it')
            return to_8_bits(ImageOps.exif_transpose(image), bits_of(image, path)).convert('RGB')
    except FileNotFoundError as error:
        raise ValueError(f'image {path} does not exist') from error
    except Exception as error:  # Pillow passes on its codecs' errors
        raise ValueError(f'image {path} cannot be read ({error})') from error


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
    found = re.match(rb'P[2356](?:\s+|#[^\n]*\n)+(?:\d+(?:\s+|#[^\n]*\n)+){2}(\d+)\s', content[:1000])
    return 8 if found is None or int(found[1]) < 256 else 32  # Pillow rescales the values of deeper ones, too


def to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Reduce an image to 8 bits per channel; reject deeper images unless the number of bits in use is stated."""
    if bits <= 8:
        return image
    used, values = int(os.environ.get(BITS_VARIABLE) or 0), np.asarray(image)
    if bits > 16 or not 8 < used <= 16 or values.dtype.kind not in 'iu' or (image.mode == 'RGB' and used < 16):
        raise ValueError(
            f'it has more than 8 bits per channel: convert it, or state how many bits its pixels use '
            f'in the environment variable {BITS_VARIABLE} (9 to 16; of colours only 16)'
        )
    if image.mode == 'RGB':  # Pillow keeps the upper 8 of 16
        return image
    return Image.fromarray(np.minimum(values >> (used - 8), 255).astype(np.uint8))


def inputs(image: Image.Image, meta: dict[str, Any]) -> tuple[Array, Size]:
    """Return the windows, uint8 (n, 3, *input), padded with black at the bottom and right, and the resized size."""
    window = tuple(meta['input']['size'])
    if meta['geometry'] != 'padding' and max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f'the image has {image.width} x {image.height} pixels, more than {MAX_ASPECT} to 1: cut it')
    ratios = window[0] / image.height, window[1] / image.width
    factor = min(ratios) if meta['geometry'] == 'padding' else max(ratios)  # inside the input, or covering it
    h, w = max(1, round(image.height * factor)), max(1, round(image.width * factor))
    pixels = np.asarray(image.resize((w, h), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels = np.pad(pixels, ((0, 0), (0, max(0, window[0] - h)), (0, max(0, window[1] - w))))
    cut = [pixels[:, top : top + window[0], left : left + window[1]] for top, left in corners((h, w), window)]
    return np.stack(cut), (h, w)


def bilinear(maps: Array, size: Size) -> Array:
    """Resize maps (..., h, w) to (..., *size) bilinearly: half-pixel centres, no antialiasing."""
    h, w = maps.shape[-2:]
    return maps if (h, w) == size else weights(h, size[0]) @ maps @ weights(w, size[1]).T


def weights(old: int, new: int) -> Array:
    """Matrix (new, old) that resizes one side bilinearly."""
    place = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
    low = np.minimum(place.astype(int), old - 1)
    part = place - low
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), low] += 1 - part
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += part
    return matrix


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(np.minimum(-x, 88)))  # larger exponents overflow float32


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@dataclass(frozen=True)
class Run:
    """Outputs of the network by name, and the sizes needed to map them back to the image."""

    outputs: dict[str, Array]
    meta: dict[str, Any]
    resized_size: Size
    image_size: Size

    def to_image(self, logits: Array) -> Array:
        """Resize mask logits (h, w) of a padded input to the image's size (H, W)."""
        h, w = self.resized_size
        return bilinear(bilinear(logits, tuple(self.meta['input']['size']))[:h, :w], self.image_size)

    def labels_to_image(self, maps: Array) -> Array:
        """Resize labels or masks (..., *input) from the graph to the image's size, by nearest neighbour."""
        sides = zip(self.image_size, self.resized_size, strict=True)
        rows, cols = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in sides)
        return maps[..., rows[:, None], cols]


def label_map(run: Run) -> Array:
    """Class with the highest score, sum over queries of p(class) * p(mask), of every pixel: (H, W)."""
    if run.meta['postprocess_in_graph']:
        return run.labels_to_image(run.outputs['label_map'][0])
    window, size = tuple(run.meta['input']['size']), run.resized_size
    total = np.zeros((len(run.meta['classes']), *np.maximum(size, window)), np.float32)
    coverage = np.zeros(total.shape[1:], np.float32)
    found = zip(run.outputs['class_logits'], run.outputs['mask_logits'], corners(size, window), strict=True)
    for class_logits, mask_logits, (top, left) in found:
        place = np.s_[..., top : top + window[0], left : left + window[1]]
        masks = sigmoid(bilinear(mask_logits, window))
        total[place] += np.tensordot(softmax(class_logits)[:, :-1].T, masks, 1)
        coverage[place] += 1
    best, labels = np.full(run.image_size, -1, np.float32), np.zeros(run.image_size, np.int32)
    for k, scores in enumerate(total):  # class by class: an image may be large
        value = bilinear((scores / coverage)[: size[0], : size[1]], run.image_size)
        labels[value > best] = k
        best = np.maximum(value, best)
    return labels


def semantic(run: Run) -> Iterator[Segment]:
    """Semantic segments: one for each class that occurs."""
    labels = label_map(run)
    for k in np.bincount(labels.ravel()).nonzero()[0]:
        yield Segment.of(int(k), None, labels == k)


def instance(run: Run) -> Iterator[Segment]:
    """Instances: the best (query, class) pairs. Score: p(class) times mean p(mask) inside the mask."""
    if run.meta['postprocess_in_graph']:
        for label, score, mask in zip(*(run.outputs[name][0] for name in ('labels', 'scores', 'masks')), strict=True):
            yield Segment.of(int(label), float(score), run.labels_to_image(mask))
        return
    probs = softmax(run.outputs['class_logits'][0])[:, :-1]
    for pair in np.argsort(-probs, axis=None, kind='stable')[: run.meta['max_per_image']]:
        query, label = divmod(int(pair), probs.shape[1])
        logits = run.to_image(run.outputs['mask_logits'][0, query])
        inside = logits > 0
        quality = sigmoid(logits)[inside].sum() / (inside.sum() + 1e-6)
        yield Segment.of(label, float(probs[query, label] * quality), inside)


def panoptic(run: Run) -> Iterator[Segment]:
    """Panoptic segments without overlap, in the order of queries; all stuff of a class is one segment."""
    if run.meta['postprocess_in_graph']:
        ids, labels, scores = (run.outputs[name][0] for name in ('segment_ids', 'labels', 'scores'))
        segment_map = run.labels_to_image(run.outputs['segment_map'][0])
        for q in ids.nonzero()[0]:
            yield Segment.of(int(labels[q]), float(scores[q]), segment_map == ids[q])
        return
    probs = softmax(run.outputs['class_logits'][0])
    labels, scores = probs.argmax(-1), probs.max(-1)
    kept = ((labels < probs.shape[1] - 1) & (scores > run.meta['score_thr'])).nonzero()[0]
    best, winner = np.full(run.image_size, -1, np.float32), np.zeros(run.image_size, np.int16)
    inside = np.zeros(len(scores), int)
    for q in kept:
        masks = sigmoid(run.to_image(run.outputs['mask_logits'][0, q]))
        inside[q] = (masks >= 0.5).sum()
        masks *= scores[q]
        winner[masks > best] = q
        np.maximum(masks, best, out=best)
    won = np.bincount(winner.ravel(), minlength=len(scores))
    winner[best < (scores / 2)[winner]] = -1  # p(mask) of the winner is below one half
    final = np.bincount(winner.ravel() + 1, minlength=len(scores) + 1)[1:]
    found: dict[tuple[int, int], list[int]] = {}  # queries of each segment
    for q in kept:
        if final[q] and won[q] / inside[q] >= run.meta['overlap_thr']:
            is_thing = labels[q] < run.meta['num_things']
            found.setdefault((int(labels[q]), int(q) if is_thing else -1), []).append(int(q))
    for (label, _), queries in found.items():
        yield Segment.of(label, float(scores[queries[0]]), np.isin(winner, queries))


SEGMENTS = dict(semantic=semantic, instance=instance, panoptic=panoptic)
Network = Callable[[Array], dict[str, Array]]  # from images (1, 3, H, W) to outputs by name


def open_onnx(path: Path) -> tuple[Network, dict[str, Any]]:
    """Open an ONNX file; return its network and metadata."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about float16 on a CPU
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    inputs, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]

    def network(images: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(None, {inputs: images}), strict=True))

    return network, json.loads(text) if text else {}


def open_model(path: Path) -> tuple[Network, dict[str, Any]]:
    """Open a file of tools/export.py; return its network and metadata."""
    if not path.is_file():
        raise ValueError(f'model {path} does not exist: tools/export.py writes one')
    network, meta = open_onnx(path)
    if meta.get('format') != FORMAT:
        raise ValueError(f'model {path} has metadata of format {meta.get("format")}, read is {FORMAT}: export it again')
    return network, meta


def segment(network: Network, meta: dict[str, Any], image: Image.Image) -> list[Segment]:
    """Segment an RGB image; instances are sorted, best first. Segments without a pixel in the image are left out."""
    windows, resized_size = inputs(image, meta)
    if len(windows) > 1 and meta['postprocess_in_graph']:
        raise ValueError(
            f'an image of {image.width} x {image.height} pixels takes {len(windows)} windows, and their scores are '
            f'not in the outputs of this file: export it without --with-postprocess'
        )
    # one by one, so that memory does not grow with the number of windows
    outputs = [network(window[None]) for window in windows]
    joined = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
    found = SEGMENTS[meta['task']](Run(joined, meta, resized_size, (image.height, image.width)))
    return sorted((one for one in found if one.area), key=lambda one: -(one.score or 0) * (meta['task'] == 'instance'))


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


def check_arguments(args: argparse.Namespace) -> None:
    """Reject arguments that would otherwise fail, or replace the input, only after the network has run."""
    if args.out.suffix != '.png':
        raise ValueError(f'--out {args.out}: a .png file is written; name it {args.out.stem}.png')
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f'--score-thr {args.score_thr}: in [0, 1]')
    for target in (args.out, args.out.with_suffix('.json')):
        if target.is_dir():
            raise ValueError(f'{target} is a folder: name another file with --out')
        if any(target.exists() and path.exists() and target.samefile(path) for path in (args.image, args.model)):
            raise ValueError(f'{target} would replace the input: name another file with --out')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', type=Path, help='.onnx file; its .data file, where there is one, lies beside it')
    parser.add_argument('image', type=Path)
    parser.add_argument('--out', type=Path, required=True, help='.png file; the .json file gets the same name')
    parser.add_argument('--score-thr', type=float, default=0.5, help='of the instances that are drawn; all are listed')
    args = parser.parse_args()
    try:
        check_arguments(args)
        network, meta = open_model(args.model)
        image = read_image(args.image)
        segments = segment(network, meta, image)
        picture = io.BytesIO()
        drawn(image, [s for s in segments if s.score is None or s.score >= args.score_thr], meta).save(picture, 'PNG')
        result = dict(image=args.image.name, task=meta['task'], segments=[described(s, meta) for s in segments])
        write(args.out, picture.getvalue())
        write(args.out.with_suffix('.json'), json.dumps(result).encode())
    except Exception as error:  # onnxruntime's errors have no common class
        sys.exit(f'run_onnx: {error}')
    print(f'{len(segments)} segments: {args.out}, {args.out.with_suffix(".json")}')


if __name__ == '__main__':
    main()
