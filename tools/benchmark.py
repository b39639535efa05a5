"""Compare speed, operations and memory of EoMT's and the hosts' models side by side, in one run.

Every CONFIG is a path, the name of one of our configs or the hosts', or mmdet::FOLDER/NAME, mmseg::FOLDER/NAME. All
sides get the same image at the same size; weights are random unless checkpoints are given. Sides are timed in turns,
round by round. Speed is the first side's time divided by each side's, as the median over rounds; brackets show the
quartiles.

Video models take --frames frames and pass their state from frame to frame. Image models in the same comparison take as
many images, one by one, or in training as one batch. Times and operations are then per frame.

Stages:
    model   normalised input to logits
    full    image file to the result at the image's own size: test pipeline, preprocessing, network, post-processing.
            In panoptic models with random weights, --kept queries predict a class with certainty, the others "no
            object". A video gives one result with each frame, or with --whole-video all results at the end
    train   one step on generated images and targets, with AdamW; masked attention in all joint blocks

Operations are torch's count for every side (a multiply-add counts as two; elementwise operations and sampling as none).
Peak memory is weights, optimiser states and what a call adds: measured by the allocator on CUDA, elsewhere by the
resident set of a fresh process for each side.

Examples:
    python tools/benchmark.py eomt_dinov2-s_24e_coco-panoptic-640 eomt_dinov2-b_24e_coco-panoptic-640 \\
        mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic --stage full --out full.json --plot full.png
    python tools/benchmark.py CONFIG CONFIG --device cuda --amp bfloat16 --compile max-autotune --batch 8 --rounds 50
    python tools/benchmark.py CONFIG CONFIG --checkpoints A.pth B.pth --data-root data/coco      # with accuracy
    python tools/benchmark.py videomt_dinov2-s_40k_ytvis2019-448 eomt_dinov2-s_12e_coco-instance-640 --frames 5
    python tools/benchmark.py CONFIG --growth                       # vary size, batch and number of queries
    python tools/benchmark.py CONFIG --growth size=320,640 batch
"""

from benchmark.arguments import make_parser

if __name__ == '__main__':
    parser = make_parser(__doc__)
    args = parser.parse_args()  # before torch is imported

from benchmark.command import main

if __name__ == '__main__':
    main(parser, args)
