"""Subject of the training pipeline: from files of COCO panoptic to samples."""

from argparse import Namespace
from typing import Any

from mmengine.registry import DATASETS, DefaultScope

from benchmark.configs import side_config
from benchmark.harness import Call
from benchmark.subject import CONFIG, SIZE, SUBJECTS, Subject
from eomt_mm.synthetic.shapes import SHAPES_METAINFO


def pipeline_problem(args: Namespace) -> Namespace:
    """Locate the files of COCO panoptic from which both sides make samples."""
    cfg = side_config(args.config, (args.size, args.size), data_root=args.data_root)
    files = dict(
        data_root=cfg.data_root,
        ann_file=f'annotations/panoptic_{args.split}.json',
        data_prefix=dict(img=f'{args.split}/', seg=f'annotations/panoptic_{args.split}/'),
        filter_cfg=dict(filter_empty_gt=True),
        metainfo=SHAPES_METAINFO if args.shapes else None,
    )
    return Namespace(files=files, size=args.size, pipeline=cfg.train_dataloader.dataset.pipeline)


PIPELINE = SUBJECTS['pipeline'] = Subject(
    help="loading, large-scale jitter and crop of COCO panoptic samples, one a round, beside mmdet's pipeline for "
    'Mask2Former; in one process, without workers',
    problem=pipeline_problem,
    check=lambda results: '',
    options=CONFIG
    | {'--data-root': dict(default='data/coco', help='folder in the layout of COCO')}
    | {'--split': dict(default='train2017', help='of the data set')}
    | SIZE
    | {'--shapes': dict(action='store_true', help='classes of generated data, in place of those of COCO')},
    rounds=100,
)


def one_by_one(dataset_config: dict[str, Any]) -> Call:
    """Make a call that returns the next sample of a data set."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(dataset_config)
    indices = iter(range(10**9))
    return lambda: dataset[next(indices) % len(dataset)]


@PIPELINE.side('eomt_mm')
def pipeline(problem: Namespace) -> Call:
    return one_by_one(dict(problem.files, type='eomt_mm.CocoPanoptic', pipeline=problem.pipeline))
