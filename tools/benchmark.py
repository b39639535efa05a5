"""Speed, operations and memory of models side by side: EoMT's and the hosts', in one run, taking turns.

Every CONFIG is a path, the name of one of our configs or of the hosts', or mmdet::FOLDER/NAME, mmseg::FOLDER/NAME.
All sides see the same image at the same size; weights are random unless checkpoints are given. Speed is the first
side's time over each side's, the median of the rounds' ratios; brackets hold quartiles.

Models for videos take --frames of them, each frame's state from the one before; beside them models for images take as
many images one by one, in training as one batch. Times and operations are then per frame.

Stages:
    model   normalised input to the logits
    full    image file to the result at the image's own size: test pipeline, preprocessing, network, post-processing;
            in panoptic models with random weights --kept queries are made certain of a class, the others of none;
            of a video one result with each frame, or with --whole-video all in the end
    train   one step on generated images and targets, with AdamW; the masks of EoMT's joint blocks are on

Operations are torch's count for every side (a product and its sum are two; elementwise operations and sampling none).
Peak memory is weights, optimiser states and what a call adds: by the allocator on CUDA, elsewhere by the resident set
of a fresh process for each side.

Examples:
    python tools/benchmark.py eomt_dinov2-s_24e_coco-panoptic-640 eomt_dinov2-b_24e_coco-panoptic-640 \\
        mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic --stage full --out full.json --plot full.png
    python tools/benchmark.py CONFIG CONFIG --device cuda --amp bfloat16 --compile max-autotune --batch 8 --rounds 50
    python tools/benchmark.py CONFIG CONFIG --checkpoints A.pth B.pth --data-root data/coco      # with accuracy
    python tools/benchmark.py videomt_dinov2-s_40k_ytvis2019-448 eomt_dinov2-s_12e_coco-instance-640 --frames 5
    python tools/benchmark.py CONFIG --growth                       # over sizes, batches and numbers of queries
    python tools/benchmark.py CONFIG --growth size=320,640 batch
"""

from benchmark.arguments import make_parser

if __name__ == '__main__':
    parser = make_parser(__doc__)
    args = parser.parse_args()  # before torch is imported

from benchmark.command import main

if __name__ == '__main__':
    main(parser, args)
