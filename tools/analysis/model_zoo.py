"""Write docs/model_zoo.md from the configs' docstrings and the metafiles.

Example:
    python tools/analysis/model_zoo.py        # after adding or changing a config; a test checks the page
"""

import ast
import re
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser

if __name__ == '__main__':  # before torch is imported
    ToolParser(__doc__).parse_args()

from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'model_zoo.md'
DATA = {'coco': 'COCO', 'ade20k': 'ADE20K', 'cityscapes': 'Cityscapes'}
TASKS = ('panoptic', 'instance', 'semantic')
TITLE = re.compile(r'(?P<model>EoMT-\w DINOv\d), (?P<data>.+?) (?P<task>\w+), (?P<px>\d+) px: (?P<note>.+)')
RESULT = re.compile(r'((?:PQ|AP|mIoU) [\d.]+) \((.+?)\)')
HEAD = """# Model zoo

Pick a config; run the command of its row. `python tools/analysis/model_zoo.py` writes this page.

**No number was reproduced here**: this project has neither the data sets nor the GPU time. Numbers marked "EoMT" are
from the authors' model zoo. Those marked "LightlyTrain" are from its documentation (January 2026): it trained the same
model at the same input size with recipes of its own, so a training with our config may give another number. A dash
means that nobody published the combination; the config's docstring names the rule that its schedule follows. All
configs train with 16 images per step (4 processes with 4). Weights are the authors' files; see
[checkpoints](checkpoints.md).

Parameters in millions: S 23 to 25, B 92 to 95, L 315 to 322, g 1,164 to 1,171. DINOv2 learns one position embedding
per patch, so its models have more parameters at larger inputs.
"""


def rows() -> list[dict[str, str]]:
    """Read one row per config in configs/eomt/{coco,ade20k,cityscapes}."""
    released = weights()
    found = []
    for path in sorted((ROOT / 'configs' / 'eomt').glob('*/*.py')):
        if path.parent.name not in DATA:
            continue
        text = ast.get_docstring(ast.parse(path.read_text())) or ''
        title = TITLE.match(' '.join(text.splitlines()[:1]))
        if not title:
            raise ValueError(f'{path}: the docstring must begin as "EoMT-L DINOv2, COCO panoptic, 640 px: ..."')
        result = RESULT.search(title['note'])
        source = result[2].split(',')[0].replace('EoMT model zoo', 'EoMT') if result else ''
        found.append(
            dict(
                title.groupdict(),
                folder=path.parent.name,
                command=f'python tools/train.py {path.relative_to(ROOT)}',
                published=f'{result[1]} ({source})' if result else '-',
                weights=released.get(path.stem, ''),
            )
        )
    return found


def weights() -> dict[str, str]:
    """Map configs to the addresses of their released weights."""
    entries: dict[str, Any] = {}
    for file in (ROOT / 'configs' / 'eomt').glob('*/metafile.yml'):
        for model in load(file)['Models']:
            entries[model['Name']] = model['Weights'].split('#')[0]
    return entries


def page() -> str:
    """Build the page's text."""
    lines = [HEAD]
    found = rows()
    for folder, name in DATA.items():
        for task in TASKS:
            lines += [
                f'## {name}, {task}',
                '',
                '| model | px | published | weights | command |',
                '|---|---|---|---|---|',
            ]
            chosen = [row for row in found if (row['folder'], row['task']) == (folder, task)]
            for row in sorted(
                chosen, key=lambda row: (row['model'][-1], 'SBLg'.index(row['model'][5]), int(row['px']))
            ):
                link = f'[file]({row["weights"]})' if row['weights'] else ''
                lines.append(f'| {row["model"]} | {row["px"]} | {row["published"]} | {link} | `{row["command"]}` |')
            lines.append('')
    return '\n'.join(lines).rstrip() + '\n'


def main() -> None:
    PAGE.write_text(page())
    print(f'{PAGE.relative_to(ROOT)}: {len(rows())} configs')


if __name__ == '__main__':
    main()
