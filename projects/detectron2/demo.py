"""Segment images with EoMT on detectron2, and draw the results with detectron2's visualiser.

    python projects/detectron2/demo.py --config-file CONFIG --input photos/*.jpg --output out train.init_checkpoint=FILE

CONFIG and the KEY=VALUE options at the end: as of train_net.py.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import eomt_mm.detectron2  # noqa: F401
except ImportError as missing:  # detectron2 is missing or too old: one line says what to do
    sys.exit(f'demo.py: {missing}')

import torch
from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import nn

from eomt_mm.detectron2 import (
    apply_overrides,
    build_checkpointer,
    lazy_config,
    read_image,
    register,
    split_files,
    split_options,
)
from eomt_mm.fileio import write_whole


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config-file', required=True, help='name or path of a config')
    parser.add_argument('--input', required=True, nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--output', required=True, type=Path, help='folder of the drawn images')
    parser.add_argument('--score-thr', type=float, default=0.5, help='minimum score of drawn instances; default 0.5')
    parser.add_argument('opts', nargs=argparse.REMAINDER, help='KEY=VALUE, such as train.init_checkpoint=FILE')
    args = parser.parse_args()
    args.input, options = split_files(args.input)  # --input takes all that follows it
    args.opts = [*options, *args.opts]
    return args


def targets_of(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return the file to write for each image.

    Raises:
        ValueError: two images have one name, or a result would replace an input.
    """
    targets = {image: folder / f'{image.stem}.png' for image in images}
    if len(set(targets.values())) < len(images):
        raise ValueError('--input: two images have the same name; segment them into different folders')
    replaced = {path.resolve() for path in targets.values()} & {image.resolve() for image in images}
    if replaced:
        raise ValueError(f'--output {folder}: {replaced.pop()} is an input; choose another folder')
    return targets


def draw(image: Any, output: Mapping[str, Any], metadata: Metadata, score_thr: float) -> bytes:
    """Draw the results of an image (H, W, 3), RGB; return the PNG."""
    visualizer = Visualizer(image, metadata)
    if 'panoptic_seg' in output:
        segment_map, segments = output['panoptic_seg']
        drawn = visualizer.draw_panoptic_seg(segment_map.cpu(), segments)
    elif 'instances' in output:
        instances = output['instances'].to('cpu')
        drawn = visualizer.draw_instance_predictions(instances[instances.scores >= score_thr])
    else:
        drawn = visualizer.draw_sem_seg(output['sem_seg'].argmax(0).cpu())
    buffer = io.BytesIO()
    Image.fromarray(drawn.get_image()).save(buffer, 'png')
    return buffer.getvalue()


def load_model(cfg: Any) -> tuple[nn.Module, Metadata]:
    """Build the model in eval mode with its weights, and the metadata of the data it was configured for."""
    if not cfg.train.init_checkpoint:
        raise ValueError('which weights? Add train.init_checkpoint=FILE')
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    build_checkpointer(cfg, model).load(cfg.train.init_checkpoint)
    return model, MetadataCatalog.get(register(cfg.dataloader.test.dataset))


def main(args: argparse.Namespace) -> None:
    options, overrides = split_options(args.opts)
    cfg = apply_overrides(lazy_config(args.config_file, options), overrides)
    targets = targets_of(args.input, args.output)
    model, metadata = load_model(cfg)
    mapper = instantiate(cfg.dataloader.test.mapper)
    for image, target in targets.items():
        item = dict(file_name=str(image))
        with torch.no_grad():
            (output,) = model([mapper(item)])
        write_whole(target, draw(read_image(item)[..., ::-1], output, metadata, args.score_thr))
        print(target)


if __name__ == '__main__':
    try:
        main(parse_args())
    except (OSError, SyntaxError, ValueError) as error:
        sys.exit(f'demo.py: {error}')
