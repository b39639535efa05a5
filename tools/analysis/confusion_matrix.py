"""Draw the confusion matrix of a semantic model, and list the most confused pairs of classes.

Predictions are written by tools/test.py: the folder of label maps of --out, or the pickle of --dump. With a folder, the
ground truth is read through the config's test data set.

Examples:
    python tools/test.py CONFIG CHECKPOINT --out results
    python tools/analysis/confusion_matrix.py CONFIG results --data-root data/ade/ADEChallengeData2016 --out matrix.png
    python tools/analysis/confusion_matrix.py CONFIG predictions.pkl --out matrix.png --pairs 40
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from eomt_mm.options import ToolParser, add_cfg_options, file_to_write, read_options, whole_number


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config file of the semantic model, or its name')
    parser.add_argument('results', type=Path, help='folder of --out, or pickle of --dump')
    parser.add_argument('--data-root', help='folder of the data set, in place of the one in the config')
    parser.add_argument(
        '--out', type=file_to_write, required=True, help='picture (PNG); a .npy of the counts goes beside it'
    )
    parser.add_argument(
        '--pairs', type=whole_number(0), default=20, help='how many of the most confused pairs are listed'
    )
    add_cfg_options(parser, 'overrides')
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.config import image_folder, load_config  # isort: skip
import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from tqdm import tqdm

from eomt_mm.annotations.segments import read_map
from eomt_mm.apis.classes import config_meta
from eomt_mm.checkpoints.pickles import NUMBERS, read_pickle
from eomt_mm.core import geometry
from eomt_mm.fileio.result_names import name_below
from eomt_mm.fileio.writing import check_apart, write_whole
from eomt_mm.visualization.figures import new_figure, save_picture

VOID = 255
# Besides maps and plain values, samples hold the geometry of the network's input.
DUMPED = {**NUMBERS, **{(geometry.__name__, kind.__name__): kind for kind in (geometry.Padding, geometry.Windows)}}

Maps = tuple[np.ndarray, np.ndarray]  # ground truth and prediction (H, W), class indices


def maps_of_folder(cfg: Config, folder: Path) -> Iterator[Maps]:
    """Yield ground truth of the config's test data with predictions from a folder of label maps, as class indices.

    Raises:
        FileNotFoundError: an image has no label map in the folder.
    """
    init_default_scope(cfg.default_scope)
    dataset, images = DATASETS.build(cfg.test_dataloader.dataset), image_folder(cfg)
    table = labels_of_values(cfg)
    for k in tqdm(range(len(dataset)), desc='images', unit=''):
        sample = dataset[k]['data_samples']
        file = folder / f'{name_below(sample.img_path, images)}.png'
        if not file.is_file():
            raise FileNotFoundError(f'{file} does not exist: let tools/test.py write it with --out {folder}')
        values = read_map(str(file), ('L',), 'a label map of 8 bits is')
        labels = values - np.uint8(1) if sample.get('reduce_zero_label') and table is None else values
        yield sample.gt_sem_seg.data[0].numpy(), labels if table is None else table[values]


def labels_of_values(cfg: Config) -> np.ndarray | None:
    """Class index of each value in result files, (256,), if the metric has ``label_ids``; else None."""
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    label_ids = next((metric['label_ids'] for metric in metrics if metric.get('label_ids')), None)
    if label_ids is None:
        return None
    table = np.full(VOID + 1, VOID, np.uint8)
    table[list(label_ids)] = np.arange(len(label_ids))
    return table


def maps_of_dump(path: Path) -> Iterator[Maps]:
    """Yield ground truth and predictions from a pickle of samples.

    Raises:
        ValueError: the samples are not those of a semantic test with ground truth, or the pickle holds other types.
    """
    for sample in tqdm(read_pickle(path, DUMPED), desc='images', unit=''):
        if 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
            raise ValueError(f'{path} has samples with {sorted(sample)}: pred_sem_seg and gt_sem_seg are needed')
        yield sample['gt_sem_seg']['data'][0].numpy(), sample['pred_sem_seg']['data'][0].numpy()


def count(pairs: Iterator[Maps], num_classes: int) -> np.ndarray:
    """Count pixels (K, K) by class of the ground truth (rows) and of the prediction, except void in the ground truth.

    Raises:
        ValueError: the maps of an image differ in size, or contain labels beyond the classes.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for truth, predicted in pairs:
        if truth.shape != predicted.shape:
            raise ValueError(f'ground truth {truth.shape}, prediction {predicted.shape}: of different images?')
        known = truth != VOID
        rows, cols = truth[known].astype(np.int64), predicted[known].astype(np.int64)
        if max(rows.max(initial=0), cols.max(initial=0)) >= num_classes:
            raise ValueError(
                f'labels up to {rows.max(initial=0)} in the ground truth, {cols.max(initial=0)} in a prediction, and '
                f'{num_classes} classes: are results and config of the same data set?'
            )
        matrix += np.bincount(rows * num_classes + cols, minlength=num_classes**2).reshape(matrix.shape)
    return matrix


def worst_pairs(matrix: np.ndarray, classes: Sequence[str], limit: int) -> list[str]:
    """Describe the most confused pairs: the largest shares of a class's pixels that are predicted as another class."""
    shares = normalised(matrix)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind='stable')[:limit]
    places = [divmod(int(place), len(classes)) for place in order]
    return [f'{classes[a]} as {classes[b]}: {shares[a, b]:.1%}' for a, b in places if shares[a, b] > 0]


def normalised(matrix: np.ndarray) -> np.ndarray:
    """Divide each row by its sum, to shares in [0, 1]; zeros for classes without a pixel."""
    shares: np.ndarray = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    return shares


def draw(matrix: np.ndarray, classes: Sequence[str], pairs: Sequence[str]) -> Figure:
    """Draw each row's shares as a matrix, without classes that lack ground truth, and the worst pairs beside it."""
    present = np.flatnonzero(matrix.sum(axis=1)).tolist()
    shares = normalised(matrix)[np.ix_(present, present)]
    names = [classes[k] for k in present]
    side = min(22, 3 + 0.28 * max(8, len(names)))
    figure = new_figure(1.35 * side + 2, side)
    axes, beside = figure.subplots(1, 2, width_ratios=[1.18 * side, 0.17 * side + 2])
    # Square roots make errors of a few percent visible beside a diagonal of nearly 1.
    shown = axes.imshow(np.sqrt(shares), cmap='cividis', vmin=0, vmax=1)
    font = min(9, 43 * side / max(1, len(names)))  # names at most as high as rows
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=font)
    axes.set_yticks(range(len(names)), names, fontsize=font)
    axes.set_xlabel('predicted')
    axes.set_ylabel('ground truth')
    if len(names) <= 20:
        for (row, col), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = 'black' if share > 0.4 else 'white'
                axes.text(col, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=7, color=colour)
    ticks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    bar = figure.colorbar(
        shown, ax=axes, ticks=np.sqrt(ticks).tolist(), fraction=0.03, aspect=35, label="share of a class's pixels"
    )
    bar.ax.set_yticklabels([f'{tick:.0%}' for tick in ticks])
    beside.set_axis_off()
    text = '\n'.join(['most confused', '', *pairs] if pairs else ['nothing confused'])
    beside.text(0, 1, text, va='top', fontsize=max(9, 0.65 * side), transform=beside.transAxes)
    return figure


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, read_options(args.cfg_options), args.data_root)
    if 'decode_head' not in cfg.model:
        make_parser().error(
            f'{args.config} is not a semantic model: instances and panoptic segments have no confusion matrix'
        )
    if not args.results.exists():
        make_parser().error(f'{args.results} does not exist: write it with tools/test.py --out or --dump')
    check_apart([args.out, args.out.with_suffix('.npy')], [args.config, args.results])
    classes = config_meta(cfg)['classes']
    found = maps_of_folder(cfg, args.results) if args.results.is_dir() else maps_of_dump(args.results)
    matrix = count(found, len(classes))
    pairs = worst_pairs(matrix, classes, args.pairs)
    save_picture(draw(matrix, classes, pairs), args.out)
    counts = io.BytesIO()
    np.save(counts, matrix)
    write_whole(args.out.with_suffix('.npy'), counts.getvalue())
    print('\n'.join(pairs))
    print(f'wrote {args.out}: {matrix.trace() / max(1, matrix.sum()):.1%} of {matrix.sum()} pixels are right')


if __name__ == '__main__':
    main(args)
