"""Plot a metric per class as bars, from the table that a test or a validation logged.

mIoU always logs this table; PQ and mask AP log it with --cfg-options test_evaluator.classwise=True (or val_evaluator).

Examples:
    python tools/test.py CONFIG CHECKPOINT --cfg-options test_evaluator.classwise=True
    python tools/analysis/plot_classes.py work_dirs/NAME --out classes.png           # from the latest log
    python tools/analysis/plot_classes.py LOG --metric AP50 --sort --out classes.png
"""

import argparse
import math
import re
from pathlib import Path

from eomt_mm.options import ToolParser, file_to_write


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('log', type=Path, help='log (.log), or the work dir of a test or a training')
    parser.add_argument('--metric', help='column of the table; default: the first')
    parser.add_argument('--sort', action='store_true', help='best class first, instead of the order of classes')
    parser.add_argument('--out', type=file_to_write, required=True, help='picture (PNG)')
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

from matplotlib.figure import Figure

from eomt_mm.fileio.writing import check_apart
from eomt_mm.visualization.figures import LINE_COLOURS, new_figure, save_picture

# Heading of a table of classes in logs of mmseg's metric, PanopticQuality, InstanceAP and CityscapesAP.
HEADING = re.compile(r'per class( results)?:\s*$', re.IGNORECASE)
NOT_METRICS = ('categories', 'instances')
ROWS_PER_COLUMN = 50

Table = dict[str, dict[str, float]]  # class to metric to value; NaN: no value


def find_log(path: Path) -> Path:
    """Return a log file, or find the latest log with a table of classes in a work dir.

    Raises:
        FileNotFoundError: there is no such log.
    """
    if path.is_file():
        return path
    logs = [log for log in path.glob('*/*.log') if read_table(log)]
    if not logs:
        raise FileNotFoundError(
            f'no log in {path}/*/ has a table of classes: test with --cfg-options test_evaluator.classwise=True'
        )
    return max(logs, key=lambda log: log.stat().st_mtime)


def read_table(log: Path) -> Table:
    """Read the last table of classes in a log; empty if there is none."""
    lines = log.read_text(errors='replace').splitlines()
    headings = [k for k, line in enumerate(lines) if HEADING.search(line)]
    if not headings:
        return {}
    rows: list[list[str]] = []
    for line in lines[headings[-1] + 1 :]:
        if line.startswith('|'):
            rows.append([cell.strip() for cell in line.strip().strip('|').split('|')])
        elif rows and not line.startswith('+'):
            break
    head, *body = rows or [[]]
    return {
        name: {
            metric: number(value) for metric, value in zip(head[1:], values, strict=True) if metric not in NOT_METRICS
        }
        for name, *values in body
    }


def number(text: str) -> float:
    """Parse a cell; '-' means NaN."""
    return math.nan if text == '-' else float(text)


def draw(table: Table, metric: str, by_value: bool) -> Figure:
    """Draw horizontal bars in columns of 50 classes, with the mean; classes without a value get a dash."""
    values = {name: of_class[metric] for name, of_class in table.items()}
    known = [value for value in values.values() if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    names = sorted(values, key=lambda name: (math.isnan(values[name]), -values[name])) if by_value else list(values)
    num_columns = -(-len(names) // ROWS_PER_COLUMN)
    num_rows = -(-len(names) // num_columns)
    figure = new_figure(1 + 4.5 * num_columns, 1.2 + 0.22 * num_rows)
    columns = figure.subplots(1, num_columns, squeeze=False, sharex=True)[0]
    for k, axes in enumerate(columns):
        part = names[k * num_rows : (k + 1) * num_rows]
        axes.barh(part, [0 if math.isnan(values[name]) else values[name] for name in part], color=LINE_COLOURS[0])
        for row, name in enumerate(part):
            text = '-' if math.isnan(values[name]) else f' {values[name]:.3g}'
            axes.text(max(0, values[name]) if text != '-' else 0, row, text, va='center', fontsize='x-small')
        axes.axvline(mean, color=LINE_COLOURS[1], linestyle='--', linewidth=1)
        axes.set_ylim(num_rows - 0.4, -0.6)  # the first class on top; the same scale in all columns
        axes.set_xlabel(metric)
        axes.tick_params(axis='y', labelsize='small')
        axes.set_xlim(0, 1.12 * max([*known, 1e-6]))
    figure.suptitle(f'{metric} of {len(known)} classes, mean {mean:.3g}' + _without(len(names) - len(known)))
    return figure


def _without(count: int) -> str:
    return f'; {count} without ground truth' if count else ''


def main(args: argparse.Namespace) -> None:
    log = find_log(args.log)
    check_apart([args.out], [log])
    table = read_table(log)
    if not table:
        raise ValueError(f'{log} has no table of classes: test with --cfg-options test_evaluator.classwise=True')
    metrics = list(next(iter(table.values())))
    metric = args.metric or metrics[0]
    if metric not in metrics:
        make_parser().error(f'--metric {metric}: the table in {log} has {", ".join(metrics)}')
    save_picture(draw(table, metric, args.sort), args.out)
    print(f'wrote {args.out}: {metric} of {len(table)} classes from {log}')


if __name__ == '__main__':
    main(args)
