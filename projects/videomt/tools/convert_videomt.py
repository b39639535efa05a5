"""Convert checkpoints to our format, or ours to a folder for transformers. The format of SRC is detected.

Examples, in projects/videomt:
    python tools/convert_videomt.py model_final.pth videomt.pth --config CONFIG
    python tools/convert_videomt.py hf://tue-mps/videomt-dinov2-small-ytvis2019 videomt.pth --config CONFIG
    python tools/convert_videomt.py eomt_segmenter.pth start.pth --config CONFIG --no-class-head
    python tools/convert_videomt.py work_dirs/mine/iter_40000.pth my_videomt/ --config CONFIG --to hf

Weights that SRC lacks, such as the query updater in an EoMT, are not written to DST: a training that starts from it
(load_from) keeps its own initial values for them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser, add_cfg_options, read_options


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('src', help='file, folder of Hugging Face, hf://owner/name[@revision] or http(s)://')
    parser.add_argument('dst', help='file; with --to hf a new folder')
    parser.add_argument('--config', help='config of the model; the weights are checked against it')
    add_cfg_options(parser, 'overrides of the config, as in training')
    parser.add_argument('--base', help='pretrained backbone, for EoMT files of DINOv3 that hold differences to it')
    parser.add_argument(
        '--weights', choices=['auto', 'absolute', 'delta'], default='auto', help='what an EoMT file holds'
    )
    parser.add_argument('--no-class-head', action='store_true', help='leave the class rows out, for other classes')
    parser.add_argument('--to', choices=['eomt_mm', 'hf'], default='eomt_mm', help='format of DST')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before torch is imported, so that -h and errors are fast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # isort: skip
from eomt_mm.apis.config import load_config  # isort: skip
from eomt_mm.apis.model import init_model  # isort: skip
import torch
from videomt.checkpoints import export_huggingface, import_videomt

from eomt_mm.checkpoints.class_names import check_names
from eomt_mm.checkpoints.files import weights_file
from eomt_mm.fileio.writing import check_apart, check_free, written_aside
from eomt_mm.hosts.install import install


def convert(args: argparse.Namespace) -> str:
    """Convert SRC to DST; return the report to print.

    Raises:
        ValueError: the weights do not fit the model, or the format cannot store them.
        OSError: a file is missing, or DST already exists.
    """
    install()  # checkpoints of our trainings contain mmengine's log
    check_free(args.dst, folder=args.to == 'hf')
    check_apart([args.dst], [weights_file(args.src), weights_file(args.base or ''), args.config or ''])
    model: Any = init_model(load_config(args.config, read_options(args.cfg_options))) if args.config else None
    expected = model.state_dict() if model else None
    state, report = import_videomt(args.src, expected, not args.no_class_head, args.base, args.weights)
    own = model.dataset_meta if model else {}
    meta = own if args.no_class_head or not report.whole else check_names(report, own, args.config)
    if args.to == 'hf':
        options: dict[str, Any] = {}
        if model:
            options['num_heads'] = model.backbone.vit.blocks[0].attn.num_heads
            options['norm_queries'] = getattr(model, report.head).norm_queries
        export_huggingface(state, args.dst, classes=meta.get('classes'), **options)
    else:
        with written_aside(args.dst) as aside:
            torch.save(dict(meta=dict(dataset_meta=meta), state_dict=state), aside)
    return f'{report.text(table=True)}\nwritten: {args.dst} ({args.to})'


def main(args: argparse.Namespace) -> None:
    try:
        print(convert(args))
    except (ValueError, OSError) as error:
        sys.exit(f'convert_videomt: {error}')


if __name__ == '__main__':
    main(args)
