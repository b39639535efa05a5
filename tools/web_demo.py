"""Segment images in the browser: choose an image, a model and thresholds; view picture, segment table and times.

Examples:
    python tools/web_demo.py eomt_dinov2-l_12e_coco-panoptic-640 CHECKPOINT --device cuda
    python tools/web_demo.py PANOPTIC_CONFIG CHECKPOINT SEMANTIC_CONFIG CHECKPOINT --samples photos/ --port 8000
    python tools/web_demo.py configs/eomt/toy/eomt_tiny_shapes-panoptic-128.py work_dirs/demo/train/iter_250.pth \\
        --samples work_dirs/demo/data/val2017                         # what `make demo` trained

CONFIG is a file, or the name of a config of the package; CHECKPOINT is in any supported format, including
hf://owner/name. The page is served to this computer only, needs no internet, and sends no data anywhere. To open it
from another computer: ssh -L 7860:localhost:7860 THIS_COMPUTER. If its port differs, as in 8080:localhost:7860, add
--allow-host localhost:8080. Uploaded files are deleted at the end. docs/security.md states what the page allows.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

from eomt_mm.options import ToolParser, whole_number
from eomt_mm.web.limits import MAX_PIXELS, TIME_LIMIT

MAX_SAMPLES = 40


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('models', nargs='+', metavar='CONFIG CHECKPOINT', help='one or more models, of any task')
    parser.add_argument('--device', help='such as cpu or cuda:1; default: the GPU where there is one')
    parser.add_argument('--port', type=whole_number(1, 65535), help='default: 7860, or the first free one after it')
    parser.add_argument('--samples', type=Path, help=f'folder of images to pick from, at most {MAX_SAMPLES}')
    parser.add_argument(
        '--allow-host', action='append', default=[], type=address, metavar='NAME:PORT',
        help="another name and port by which browsers ask for the page, such as a tunnel's; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        '--max-pixels', type=whole_number(1), default=MAX_PIXELS, help='of an image; default: %(default)s'
    )
    parser.add_argument('--max-upload', type=whole_number(1), default=50, help='of a file, in MB; default: %(default)s')
    parser.add_argument(
        '--time-limit',
        type=whole_number(1),
        default=int(TIME_LIMIT),
        help='of an image, in seconds; default: %(default)s',
    )
    args = parser.parse_args()
    if len(args.models) % 2:
        parser.error(f'{args.models[-1]} is left over: give pairs of a config and a checkpoint')
    return args


def address(text: str) -> str:
    """Check a NAME:PORT, or NAME for port 80."""
    if not re.fullmatch(r'[\w.-]+(:\d+)?', text):
        raise argparse.ArgumentTypeError(f"'{text}': give NAME:PORT, such as localhost:8080")
    return text


if __name__ == '__main__':
    args = parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.inputs import Video, find_sources  # isort: skip
from eomt_mm.web.results import load_models


def list_samples(folder: Path) -> list[Path]:
    """List the images that the page offers.

    Raises:
        FileNotFoundError: the folder has no images.
    """
    found = [file for source in find_sources(folder) if not isinstance(source, Video) for file in source.files]
    if len(found) > MAX_SAMPLES:
        print(f'web_demo: {MAX_SAMPLES} of the {len(found)} images of {folder} are offered')
    return found[:MAX_SAMPLES]


def main(args: argparse.Namespace) -> None:
    if find_spec('gradio') is None:
        sys.exit("web_demo: the page needs gradio, of the extra [web]: pip install 'eomt_mm[web]'")
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with Ctrl-C, with clean-up
    with tempfile.TemporaryDirectory() as uploads:
        os.environ['GRADIO_TEMP_DIR'] = uploads  # gradio would leave them in /tmp
        from eomt_mm.web.page import build_page, launch  # imports gradio, which reads these variables

        warnings.formatwarning = lambda message, *_: f'web_demo: {message}\n'

        try:
            samples = list_samples(args.samples) if args.samples else []
            models = load_models(list(zip(args.models[::2], args.models[1::2], strict=True)), args.device)
            page = build_page(models, samples, args.max_pixels, args.time_limit)
            address = launch(page, args.port, args.allow_host, args.max_upload * 2**20)
        except KeyboardInterrupt:
            sys.exit(130)
        except (OSError, TypeError, ValueError) as error:
            sys.exit(f'web_demo: {error}')
        print(f'web_demo: {address} (Ctrl-C ends it)', flush=True)
        page.block_thread()


if __name__ == '__main__':
    main(args)
