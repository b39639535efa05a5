"""Convert checkpoints of other programs to our format, or ours to theirs. The format of SRC is detected.

Examples:
    python tools/convert_checkpoint.py pytorch_model.bin eomt.pth --config CONFIG
    python tools/convert_checkpoint.py hf://tue-mps/coco_panoptic_eomt_large_640 eomt.pth --config CONFIG
    python tools/convert_checkpoint.py dinov3.bin eomt.pth --config CONFIG --base hf://facebook/dinov3-vitl16-pretrain-lvd1689m
    python tools/convert_checkpoint.py work_dirs/mine/iter_88692.pth my_eomt/ --config CONFIG --to hf

Without --config, the model is derived from the weights, --head names the head of another program's file, and the output
lists the assumptions.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.options import ToolParser, add_cfg_options, read_options


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('src', help='file, folder of Hugging Face, hf://owner/name[@revision] or http(s)://')
    parser.add_argument('dst', help='file; with --to hf a new folder')
    parser.add_argument('--config', help='config of the model; the weights are checked against it')
    parser.add_argument(
        '--head', choices=HEADS, help='of a file of another program, where there is no --config: panoptic_head is of '
        'instance and panoptic, decode_head of semantic segmentation'
    )  # fmt: skip
    add_cfg_options(parser, 'overrides of the config, as in training')
    parser.add_argument('--base', help='pretrained backbone, for official DINOv3 files, which hold differences to it')
    parser.add_argument(
        '--weights', choices=['auto', 'absolute', 'delta'], default='auto', help='what SRC holds; auto: detect it'
    )
    parser.add_argument('--no-class-head', action='store_true', help='leave the class rows out, for other classes')
    parser.add_argument('--to', choices=['eomt_mm', 'official', 'hf'], default='eomt_mm', help='format of DST')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.classes import config_meta, dataset_meta, plain_meta  # isort: skip
from eomt_mm.apis.config import load_config  # isort: skip
from eomt_mm.apis.model import init_model  # isort: skip
import torch
from torch import Tensor
from tqdm import tqdm

from eomt_mm.checkpoints.class_names import check_names, stated_meta
from eomt_mm.checkpoints.class_order import class_order_for, is_ade20k_panoptic
from eomt_mm.checkpoints.describe import PUBLISHED
from eomt_mm.checkpoints.exporting import export_huggingface, export_official
from eomt_mm.checkpoints.files import weights_file
from eomt_mm.checkpoints.importing import STAGES as IMPORT_STAGES, ImportReport, import_checkpoint
from eomt_mm.core.geometry import Size
from eomt_mm.fileio.writing import check_apart, check_free, written_aside
from eomt_mm.hosts.install import install

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'eomt'
# Data sets of the published models, the source of class names without a config.
DATASET_OF = {
    'coco-panoptic': ('mmdet', 'CocoPanopticDataset'),
    'coco-instance': ('mmdet', 'CocoDataset'),
    'ade20k-panoptic': ('mmdet', 'ADE20KPanopticDataset'),
    'ade20k-semantic': ('mmseg', 'ADE20KDataset'),
    'cityscapes-semantic': ('mmseg', 'CityscapesDataset'),
}
DEFAULT_SIZE = 640
STAGES = ('building the model', *IMPORT_STAGES, 'writing')


def recovered_meta(report: ImportReport) -> dict[str, Any]:
    """Class names without a config: the file's own, or the published model's with these numbers of classes, queries."""
    found = report.description
    task = PUBLISHED.get((found.num_classes or 0, found.num_queries or 0))
    if task and task.endswith('semantic') != (report.head == 'decode_head'):
        task = None
    scope, kind = DATASET_OF[task] if task else ('', '')
    published = dataset_meta(dict(type=kind), scope) if task else {}
    meta = stated_meta(report, published)
    if meta == published and task:
        report.notes.append(f'assumed without a config: classes of {task}')
    elif not meta:
        report.notes.append('class names are not known: give --config, or the results will show numbers or wrong names')
    elif not report.meta.get('dataset_meta'):
        report.notes.append('class names taken from config.json')
    return plain_meta(meta)


def num_things(meta: dict[str, Any]) -> int | None:
    return len(meta['thing_classes']) if 'thing_classes' in meta else None


def suggest_config(report: ImportReport) -> None:
    pattern = report.description.config_pattern
    leaves = sorted(str(path.relative_to(CONFIGS.parent.parent)) for path in CONFIGS.glob(pattern)) if pattern else []
    if leaves:
        report.notes.append(f'configs that fit: {", ".join(leaves)}')
    elif report.whole:
        report.notes.append('no config of the package fits by name; adapt the nearest one to what is listed above')


def write(
    args: argparse.Namespace, state: dict[str, Tensor], report: ImportReport, meta: dict[str, Any],
    size: int | Size | None,
    num_heads: int | None,
) -> None:  # fmt: skip
    """Write DST in the requested format."""
    classes = meta.get('classes')
    ade20k = is_ade20k_panoptic(classes, num_things(meta)) if classes else report.reordered
    ade20k = ade20k and report.head == 'panoptic_head'
    if args.to == 'official':
        export_official(state, args.dst, ade20k)
    elif args.to == 'hf':
        size = size or report.description.img_size
        if size is None:
            size = DEFAULT_SIZE
            report.notes.append(f'assumed without a config: inputs of {size} pixels')
        semantic = report.head == 'decode_head'
        export_huggingface(state, args.dst, size, num_heads, classes, semantic, ade20k)
    else:
        with written_aside(args.dst) as aside:
            torch.save(dict(meta=dict(dataset_meta=meta), state_dict=state), aside)


def check_target(args: argparse.Namespace) -> None:
    """Reject arguments early that would otherwise fail only after the conversion."""
    dst = Path(args.dst)
    if any(src.exists() and dst.exists() and dst.samefile(src) for src in (Path(args.src), weights_file(args.src))):
        raise ValueError(f'DST {dst} is SRC: name another one')
    check_apart([dst], [weights_file(name) for name in (args.base, args.config) if name])
    if args.to != 'hf' and dst.suffix == '.safetensors':
        raise ValueError(f'DST {dst}: --to {args.to} writes a file of torch; name it *.pth or pytorch_model.bin')
    check_free(dst, folder=args.to == 'hf')


def convert(args: argparse.Namespace, progress: Callable[[str], object]) -> ImportReport:
    """Convert SRC to DST; ``progress`` is called with each of ``STAGES`` when it begins."""
    install()  # checkpoints of our trainings contain mmengine's log
    check_target(args)
    progress(STAGES[0])
    expected, size, num_heads = None, None, None
    meta: dict[str, Any] = {}
    if args.config and args.head:
        raise ValueError(f'--head {args.head}: the config names the head; leave --head or --config out')
    if args.config:
        cfg = load_config(args.config, read_options(args.cfg_options))
        model: Any = init_model(cfg)
        expected = model.state_dict()
        num_heads = model.backbone.vit.blocks[0].attn.num_heads
        size, meta = cfg.get('img_size'), config_meta(cfg)
    state, report = import_checkpoint(
        args.src, expected, args.base, args.weights, not args.no_class_head, args.head,
        class_order=class_order_for(meta.get('classes'), num_things(meta)), progress=progress,
    )  # fmt: skip
    stored_size = report.description.img_size
    if size and stored_size and report.whole and size != stored_size:
        report.notes.append(f'made for inputs of {stored_size} pixels, the config has {size}: results will differ')
    if args.config and report.whole and not args.no_class_head:
        check_names(report, meta, args.config)
    if not args.config:
        meta = recovered_meta(report) if report.whole and not args.no_class_head else {}
        suggest_config(report)
    progress(STAGES[-1])
    write(args, state, report, meta, size, num_heads)
    return report


def main(args: argparse.Namespace) -> None:
    bar = tqdm(total=len(STAGES), bar_format='{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]')
    begun: list[str] = []

    def progress(stage: str) -> None:
        bar.update(len(begun) - bar.n)  # the stages before it are done
        begun.append(stage)
        bar.set_description(stage)

    try:
        with bar:
            report = convert(args, progress)
            bar.update(len(STAGES) - bar.n)
    except (ValueError, OSError) as error:
        sys.exit(f'convert_checkpoint: {error}')
    print(report.text(table=True))
    print(f'written: {args.dst} ({args.to})')


if __name__ == '__main__':
    main(args)
