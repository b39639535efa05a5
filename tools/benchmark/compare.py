"""Time one part of EoMT and its peers side by side, on the same inputs, in one run.

The results of all sides are compared before timing. Sides are then timed in turns, round by round. Ratios are medians
over rounds, with quartiles in brackets. Memory is a side's peak in two calls beyond libraries and inputs, in a fresh
process (Linux).
`compare.py SUBJECT --help` lists a subject's options.

Examples:
    python tools/benchmark/compare.py forward eomt_dinov2-b_24e_coco-panoptic-640 --base timm
    python tools/benchmark/compare.py training --rounds 3
    python tools/benchmark/compare.py criterion --forward-only
    python tools/benchmark/compare.py postprocess --task instance
    python tools/benchmark/compare.py file_to_panoptic eomt_dinov2-s_24e_coco-panoptic-640
    python tools/benchmark/compare.py pq --panopticapi-python ENV/bin/python
    python tools/benchmark/compare.py instance_ap
    python tools/benchmark/compare.py pipeline --data-root data/coco --split val2017
    python tools/benchmark/compare.py video --frames 2
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder, whose modules belong to a package

if __name__ == '__main__' and sys.argv[1:2] and sys.argv[1].startswith('-'):
    # Help, or a mistake: answered without the subjects, which import torch.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('subject', metavar='SUBJECT', help='part to compare, see the examples')
    parser.parse_args(sys.argv[1:2])

from benchmark.subject import main

if __name__ == '__main__':
    main(__doc__)
