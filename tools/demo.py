"""Segment images, folders of images and videos: write pictures and result files, and print a table of segments.

Examples:
    python tools/demo.py photo.jpg eomt_dinov2-l_12e_coco-panoptic-640 CHECKPOINT --out-dir results
    python tools/demo.py photos/ configs/eomt/ade20k/eomt_dinov2-l_31e_ade20k-semantic-512.py CHECKPOINT \
        --out-dir results --batch-size 4 --device cuda --amp-dtype float16
    python tools/demo.py clip.mp4 eomt_dinov2-s_12e_coco-instance-640 CHECKPOINT --out-dir results --no-results
    python tools/demo.py IMAGES CONFIG CHECKPOINT --out-dir results --score-thr 0.5    # fewer instances, more segments
    python tools/demo.py clip.mp4 projects/videomt/configs/CONFIG.py CHECKPOINT --out-dir results    # tracks
    python tools/demo.py JPEGImages/ VIDEO_CONFIG CHECKPOINT --out-dir results --whole-video --fps 6

CONFIG is a file, or the name of a config of the package; CHECKPOINT is in any supported format, including
hf://owner/name. Files that cannot be read are reported and skipped; the exit code is then 1.

A video model tracks objects through videos. Each video file, each folder of frames, and the frames of a pattern are one
video; its pictures are written as a video. Image models take the frames of a video file one by one.
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from eomt_mm.engine.threads import Load, set_threads
from eomt_mm.options import (
    AMP_DTYPES,
    PICTURES,
    PREDICTIONS,
    TASKS,
    ToolParser,
    add_cfg_options,
    read_options,
    whole_number,
)


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('inputs', help='image, video, folder, or pattern in quotes')
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument('checkpoint', help='checkpoint that training saved, or any that convert_checkpoint.py reads')
    parser.add_argument(
        '--out-dir', required=True, help=f'folder for pictures ({PICTURES}/) and results ({PREDICTIONS}/)'
    )
    parser.add_argument('--device', help='such as cpu or cuda:1; default: the GPU where there is one')
    parser.add_argument('--batch-size', type=whole_number(1), default=1, help='images at once')
    parser.add_argument('--task', choices=TASKS, help='refuse a model of another task')
    parser.add_argument(
        '--score-thr', type=float, help='least score; default: instance 0.3, panoptic as in the config (0.8)'
    )
    parser.add_argument('--amp-dtype', choices=AMP_DTYPES, help='mixed precision; float16 on GPUs only')
    parser.add_argument('--compile', action='store_true', help='compile the network first; for many images')
    parser.add_argument('--no-pictures', action='store_true', help='write results only')
    parser.add_argument('--no-results', action='store_true', help='write pictures only')
    parser.add_argument(
        '--whole-video', action='store_true', help='video models: class scores of all frames, as published; two passes'
    )
    parser.add_argument('--fps', type=float, help='video models: frames per second of videos of frames; default: 10')
    add_cfg_options(parser)
    return parser.parse_args()


if __name__ == '__main__':
    args, load = parse_args(), Load()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.inferencer import Result, init_inferencer  # isort: skip

from eomt_mm.apis.results import summary

ROWS = 20  # of the table


def show_table(results: Iterable[Result], kind: str) -> int:
    """Print the segments of the first images and a summary of all images; return the number of images.

    With video models, a row is a video and counts its distinct ids.
    """
    rows: list[tuple[str, str, str]] = []
    images: Counter[str] = Counter()
    count = 0
    for name, of_image in groupby(results, key=lambda result: result.video or result.name):
        count += 1
        segments = {segment['id']: segment for result in of_image for segment in result.prediction['segments_info']}
        images.update({segment['label'] for segment in segments.values()})
        if count <= ROWS:
            rows.append((name, str(len(segments)), summary(segments.values())))
    width = max([len(kind), *(len(name) for name, _, _ in rows)])
    for name, number, found in [(kind, 'segments', 'found'), *rows] if rows else []:
        print(f'{name:<{width}}  {number:>8}  {found}')
    if count > ROWS:
        top = ', '.join(f'{label} in {number}' for label, number in images.most_common(8))
        print(f'... and {count - ROWS} more {kind}s; in all {count}: {top or "nothing"}')
    return count


def main(args: argparse.Namespace, load: Load) -> None:
    set_threads(load)
    warnings.formatwarning = lambda message, *_: f'demo: {message}\n'
    try:
        inferencer = init_inferencer(
            args.config,
            args.checkpoint,
            read_options(args.cfg_options),
            device=args.device,
            task=args.task,
            amp_dtype=args.amp_dtype,
            compile=args.compile,
        )
        kind = inferencer.kind
        results = inferencer.stream(
            args.inputs, args.batch_size, args.out_dir, no_save_vis=args.no_pictures, no_save_pred=args.no_results,
            pred_score_thr=args.score_thr, on_error='skip', whole_video=args.whole_video, fps=args.fps,
        )  # fmt: skip
        count = show_table(results, kind)
    except KeyboardInterrupt:
        print('demo: interrupted; files that were complete are kept', file=sys.stderr)
        sys.exit(130)
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f'demo: {error}')
    left_out = {PICTURES: args.no_pictures, PREDICTIONS: args.no_results}
    places = ' and '.join(f'{args.out_dir}/{name}' for name in left_out if not left_out[name])
    if count:
        print(f'{kind}s segmented ({inferencer.task}): {count}; written: {places or "nothing"}')
    if inferencer.skipped:
        sys.exit(f'demo: files that could not be read: {len(inferencer.skipped)}')


if __name__ == '__main__':
    main(args, load)
