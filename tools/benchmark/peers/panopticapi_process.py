"""panopticapi's side. It needs numpy below 2, so this file runs itself with the Python of another environment."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def pq(problem: argparse.Namespace) -> Any:
    """Make a call that lets the other process count once and returns PQ, SQ and RQ of each category."""
    memory = ['--in-memory'] if problem.in_memory else []
    threads = dict(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')  # more threads would compete with the timed process
    process = subprocess.Popen(
        [problem.python, __file__, str(problem.path), *memory],
        env=dict(os.environ, **threads),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def call() -> dict[str, list[float]]:
        try:
            stdin.write('\n')
            stdin.flush()
        except BrokenPipeError:
            pass
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f'{problem.python} cannot run panopticapi-lite, see above: is it installed there?')
        return json.loads(answer)

    return call


class DecodedMap:
    """Stand-in for an image file whose ids are already in memory."""

    def __init__(self, ids: Any) -> None:
        self.ids = ids

    def __array__(self, dtype: Any = None) -> Any:
        return self.ids


def decode_before(evaluation: Any, folder: Path) -> None:
    """Make panopticapi read the maps from memory."""
    np: Any = importlib.import_module('numpy')
    image, rgb2id = evaluation.Image, evaluation.rgb2id
    maps = {
        str(path): DecodedMap(rgb2id(np.array(image.open(path), dtype=np.uint32))) for path in folder.glob('*/*.png')
    }
    evaluation.Image = argparse.Namespace(open=maps.__getitem__)
    evaluation.rgb2id = lambda ids: ids


def count(evaluation: Any, folder: Path) -> dict[str, list[float]]:
    """Compute PQ, SQ and RQ of each category with panopticapi's own single-process function."""
    data = {side: json.loads((folder / f'{side}.json').read_text()) for side in ('gt', 'pred')}
    categories = {category['id']: category for category in data['gt']['categories']}
    pairs = list(zip(data['gt']['annotations'], data['pred']['annotations']))  # noqa: B905 Python of any age
    stat = evaluation.pq_compute_single_core(0, pairs, str(folder / 'gt'), str(folder / 'pred'), categories)
    per_class = stat.pq_average(categories, isthing=None)[1]
    return {str(id_): [float(one[key]) for key in ('pq', 'sq', 'rq')] for id_, one in per_class.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--in-memory', action='store_true')
    args = parser.parse_args()
    evaluation: Any = importlib.import_module('panopticapi.evaluation')
    if args.in_memory:
        decode_before(evaluation, args.folder)
    answers, sys.stdout = sys.stdout, sys.stderr  # panopticapi prints its progress
    for _ in sys.stdin:
        print(json.dumps(count(evaluation, args.folder)), file=answers, flush=True)


if __name__ == '__main__':
    main()
else:  # the other environment lacks the package benchmark
    from benchmark.subjects.metrics import PQ

    PQ.sides['panopticapi'] = pq
