"""The parts of EoMT that have peers."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmark import problems
from benchmark.peers import hugging_face, mmdet_parts, ours, panopticapi_process, plain_vit
from benchmark.subject import SUBJECTS, Results, Subject, check_maps, check_tensors

LEAF = 'eomt_dinov2-s_24e_coco-panoptic-640'


def integer(default: int, help: str) -> dict[str, Any]:
    return dict(type=int, default=default, help=help)


CONFIG = dict(config=dict(nargs='?', default=LEAF, help='path or name of a config of EoMT'))
OPTIONS = {'--cfg-options': dict(nargs='+', help='overrides in the config')}
SIZE = {'--size': integer(640, 'side of the input')}
SHAPE = {'--ori-size': dict(type=int, nargs=2, default=(480, 640), metavar=('H', 'W'), help='of the image')}

SUBJECTS['forward'] = Subject(
    help='network, masks off, beside the ViT inside it and the model of transformers with equal weights',
    problem=problems.network_problem,
    sides=dict(eomt_mm=ours.forward, timm=plain_vit.forward, transformers=hugging_face.forward),
    check=check_tensors,
    options=CONFIG | SIZE | {'--batch': integer(1, 'images')} | OPTIONS,
    small=dict(size=64),
)
SUBJECTS['training'] = Subject(
    help='training step, all masks on: forward, matching, losses, backward, AdamW; beside the model and loss of '
    'transformers with equal weights (each draws its own points)',
    problem=problems.network_problem,
    sides=dict(eomt_mm=ours.training, transformers=hugging_face.training),
    check=check_tensors,
    options=CONFIG | SIZE | {'--batch': integer(2, 'images'), '--targets': integer(15, 'per image')} | OPTIONS,
    rounds=3,
    small=dict(size=64),
)

SUBJECTS['criterion'] = Subject(
    help="matching, losses and gradients of the logits, beside mmdet's Mask2FormerHead.loss_by_feat; compared on one "
    'layer, where both draw the same points',
    problem=problems.criterion_problem,
    sides=dict(eomt_mm=ours.criterion, mmdet=mmdet_parts.criterion),
    check=check_tensors,
    options=SIZE
    | {
        '--batch': integer(4, 'images'),
        '--targets': integer(40, 'per image'),
        '--layers': integer(5, 'predictions'),
        '--queries': integer(200, 'per image'),
        '--points': integer(12544, 'per mask'),
        '--forward-only': dict(action='store_true', help='no gradients'),
    },
    rounds=5,
    exact=dict(layers=1),
    small=dict(size=64, batch=1, targets=3, points=112),
)

SUBJECTS['postprocess'] = Subject(
    help="logits to the result at the image's size, upsampling included, beside mmdet's fusion head and, for panoptic "
    'maps, the processor of transformers',
    problem=problems.postprocess_problem,
    sides=dict(eomt_mm=ours.postprocess, mmdet=mmdet_parts.postprocess, transformers=hugging_face.postprocess),
    check=check_maps,
    options={'--task': dict(choices=['panoptic', 'instance'], default='panoptic', help='of the result')}
    | SIZE
    | SHAPE
    | {
        '--queries': integer(200, 'per image'),
        '--kept': integer(25, 'queries with a class probability above 0.8'),
        '--max-per-image': integer(100, 'instances'),
    },
    rounds=15,
    small=dict(size=64, ori_size=(48, 64), queries=20, kept=5, max_per_image=5),
)

SUBJECTS['file_to_panoptic'] = Subject(
    help='image file to panoptic map, beside processor, model and post-processing of transformers with equal weights',
    problem=problems.file_problem,
    sides=dict(eomt_mm=ours.file_to_panoptic, transformers=hugging_face.file_to_panoptic),
    check=check_maps,
    options=CONFIG
    | SHAPE
    | {
        '--image': dict(type=Path, help='default: one is drawn'),
        '--kept': integer(25, 'queries that are certain of a class; the others see no object'),
    }
    | OPTIONS,
)


def check_qualities(results: Results) -> str:
    """PQ, SQ and RQ of all categories, which are NaN with us and 0 with panopticapi where nothing was counted."""
    mine, other = (results[side] for side in ('eomt_mm', 'panopticapi'))
    if mine.keys() != other.keys():
        raise RuntimeError(f'{len(mine)} categories with eomt_mm, {len(other)} with panopticapi')
    worst = max(float(np.abs(np.nan_to_num(mine[id_]) - other[id_]).max()) for id_ in mine)
    mean = np.nanmean([qualities[0] for qualities in mine.values()])
    return f'PQ {mean:.4f}; with SQ and RQ of all classes it differs from panopticapi by {worst:.1e} at most'


SUBJECTS['pq'] = Subject(
    help='panoptic quality of files of random maps with crowds and void, beside panopticapi in a process of its own '
    "(python -m venv ENV; ENV/bin/pip install panopticapi-lite 'numpy<2')",
    problem=problems.pq_problem,
    sides=dict(eomt_mm=ours.pq, panopticapi=panopticapi_process.pq),
    check=check_qualities,
    options={'--panopticapi-python': dict(required=True, help='interpreter of an environment with panopticapi-lite')}
    | SHAPE
    | {
        '--num-images': integer(500, 'images'),
        '--num-segments': integer(20, 'per image, void among them'),
        '--in-memory': dict(action='store_true', help='maps are decoded before the time is taken'),
    },
    rounds=3,
    threads=1,
)


def check_numbers(results: Results) -> str:
    """mAP of each side; mmdet rounds it to three digits."""
    text = 'mAP: ' + ', '.join(f'{name} {value:.3f}' for name, value in results.items())
    if max(results.values()) - min(results.values()) > 1e-3:
        raise RuntimeError(f'{text}: they differ')
    return text


SUBJECTS['instance_ap'] = Subject(
    help="mask AP of random masks of 80 classes, beside mmdet's CocoMetric",
    problem=problems.InstanceResults,
    sides=dict(eomt_mm=ours.instance_ap, mmdet=mmdet_parts.instance_ap),
    check=check_numbers,
    options=SHAPE | {'--num-images': integer(2000, 'images'), '--num-predictions': integer(100, 'per image')},
    rounds=1,
    threads=1,
    exact=dict(num_images=50),
    small=dict(num_images=2, num_predictions=3),
)

SUBJECTS['pipeline'] = Subject(
    help="loading, large-scale jitter and crop of COCO panoptic samples, one a round, beside mmdet's pipeline for "
    'Mask2Former; in one process, without workers',
    problem=problems.pipeline_problem,
    sides=dict(eomt_mm=ours.pipeline, mmdet=mmdet_parts.pipeline),
    check=lambda results: '',
    options=CONFIG
    | {'--data-root': dict(default='data/coco', help='folder in the layout of COCO')}
    | {'--split': dict(default='train2017', help='of the data set')}
    | SIZE
    | {'--shapes': dict(action='store_true', help='classes of generated data, in place of those of COCO')},
    rounds=100,
)
