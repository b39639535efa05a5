"""Draw how masks form: mask and class of some queries before each joint block and after the last one.

One row per query, the best of the final prediction or those of --queries; one column per prediction. Masked attention
is off, as in any evaluation.

Examples:
    python tools/analysis/mask_evolution.py IMAGE CONFIG CHECKPOINT --out evolution.png
    python tools/analysis/mask_evolution.py IMAGE CONFIG CHECKPOINT --out evolution.png --queries 3 17
"""

import argparse
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser, add_cfg_options, file_to_write, read_options, whole_number


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument('checkpoint', help='checkpoint that training saved, or any that convert_checkpoint.py reads')
    parser.add_argument('--out', type=file_to_write, required=True, help='picture (PNG)')
    parser.add_argument('--queries', nargs='+', type=whole_number(0), help='numbers of queries; default: the best')
    parser.add_argument('--num-queries', type=whole_number(1), default=5, help='how many of the best')
    parser.add_argument('--window', type=whole_number(0), default=0, help='semantic: which window of the image, from 0')
    parser.add_argument('--device', default='cpu', help='such as cuda:0')
    add_cfg_options(parser)
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis import init_model, load_config  # isort: skip
import numpy as np
import torch
from matplotlib.figure import Figure
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from eomt_mm.apis.inferencer_parts import device_of
from eomt_mm.core.geometry import resize
from eomt_mm.engine.mask_annealing import find_head
from eomt_mm.fileio.writing import check_apart
from eomt_mm.visualization.figures import new_figure, save_picture

CELL = 2.4  # inches


def prepare(cfg: Config, model: Any, path: str) -> dict[str, Any]:
    """Prepare an image file with the config's test pipeline: model inputs (N, 3, H, W) and samples.

    Raises:
        FileNotFoundError: there is no such image.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'image {path} does not exist')
    init_default_scope(cfg.default_scope)
    item = Compose(cfg.test_dataloader.dataset.pipeline)(dict(img_path=path, img_id=0))
    return model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), training=False)


@torch.no_grad()
def evolution(model: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Compute class (L, Q, K + 1) and mask probabilities (L, Q, H, W) of the L predictions for one input."""
    head = find_head(model)
    head.predict_intermediate = True
    class_logits, mask_logits = model(inputs[None], mode='tensor')
    size = (inputs.shape[-2], inputs.shape[-1])
    masks = torch.stack([resize(masks[0], size).sigmoid() for masks in mask_logits])
    return torch.cat(class_logits).softmax(-1), masks


def best_queries(class_probs: Tensor, mask_probs: Tensor, count: int) -> list[int]:
    """Find the queries with the best final score: class probability times mean probability inside the mask."""
    masks = mask_probs[-1]
    inside = masks >= 0.5
    quality = (masks * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    scores: Tensor = class_probs[-1, :, :-1].max(-1).values * quality
    return scores.argsort(descending=True)[:count].tolist()


def denormalised(model: Any, inputs: Tensor) -> np.ndarray:
    """Convert a normalised input (3, H, W) to an image (H, W, 3), uint8 RGB."""
    preprocessor = model.data_preprocessor
    image = inputs * preprocessor.std + preprocessor.mean
    pixels: np.ndarray = image.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def draw(
    image: np.ndarray, class_probs: Tensor, mask_probs: Tensor, queries: list[int], classes: tuple[str, ...]
) -> Figure:
    """Draw a row per query, a column per prediction: grey image, mask probability, contour at 0.5, class, score."""
    num_layers, (h, w) = len(class_probs), image.shape[:2]
    names = [*classes, 'no object']
    titles = [f'before joint block {layer}' for layer in range(num_layers - 1)] + ['final']
    figure = new_figure(CELL * (num_layers + 1) * w / max(h, w) + 1, (CELL + 0.3) * len(queries) * h / max(h, w) + 0.5)
    cells = figure.subplots(len(queries), num_layers + 1, squeeze=False)
    grey = image.mean(-1)
    for r, (row, query) in enumerate(zip(cells, queries, strict=True)):
        row[0].imshow(image)
        row[0].set_title(f'query {query}', fontsize='small')
        for layer, axes in enumerate(row[1:]):
            probs, label = class_probs[layer, query], int(class_probs[layer, query].argmax())
            mask = mask_probs[layer, query].cpu().numpy()
            axes.imshow(grey, cmap='gray', vmin=0, vmax=255)
            shown = axes.imshow(mask, cmap='viridis', vmin=0, vmax=1, alpha=0.75 * mask)
            if mask.min() < 0.5 <= mask.max() and min(mask.shape) > 1:  # a strip has no contour
                axes.contour(mask, levels=[0.5], colors='white', linewidths=1)
            above = f'{titles[layer]}\n' if r == 0 else ''
            axes.set_title(f'{above}{names[label]} {probs[label]:.2f}', fontsize='small')
    for axes in cells.flat:
        axes.set_axis_off()
    figure.colorbar(shown, ax=cells[:, -1].tolist(), label='probability of the mask', fraction=0.08)
    return figure


def main(args: argparse.Namespace) -> None:
    try:
        run(args)
    except (OSError, ValueError) as error:
        make_parser().error(str(error))


def run(args: argparse.Namespace) -> None:
    """Draw and write the picture; raises ValueError or OSError."""
    device = device_of(args.device)
    check_apart([args.out], [args.image, args.config, args.checkpoint])
    cfg = load_config(args.config, read_options(args.cfg_options))
    model: Any = init_model(cfg, args.checkpoint, str(device))
    batch = prepare(cfg, model, args.image)
    inputs, geometry = batch['inputs'], batch['data_samples'][0].geometry
    if not 0 <= args.window < len(inputs):
        raise ValueError(f'--window {args.window}: {args.image} has {len(inputs)} window(s), counted from 0')
    class_probs, mask_probs = evolution(model, inputs[args.window])
    num_queries = class_probs.shape[1]
    queries = args.queries or best_queries(class_probs, mask_probs, args.num_queries)
    if not all(0 <= query < num_queries for query in queries) or not queries:
        raise ValueError(f'--queries {queries}, --num-queries {args.num_queries}: the model has {num_queries}, from 0')
    h, w = (min(a, b) for a, b in zip(geometry.resized_size, geometry.input_size, strict=True))  # without padding
    image = denormalised(model, inputs[args.window])[:h, :w]
    figure = draw(image, class_probs, mask_probs[..., :h, :w], queries, model.dataset_meta['classes'])
    save_picture(figure, args.out)
    print(f'wrote {args.out}: queries {", ".join(map(str, queries))}')


if __name__ == '__main__':
    main(args)
