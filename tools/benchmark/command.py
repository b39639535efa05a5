"""Run tools/benchmark.py: check its arguments, build the sides, measure, print and plot."""

import argparse
import tempfile
from dataclasses import fields
from pathlib import Path

import torch

from benchmark.configs import Size, find_config, is_video, side_config
from benchmark.growth import growth_plot, growth_table, measure_growth, parse_axes
from benchmark.inputs import write_image
from benchmark.measure import Result, accuracy, measure
from benchmark.report import caption, environment, plot, table, write_json
from benchmark.sides import Spec
from eomt_mm.apis.config import load_config
from eomt_mm.apis.inferencer_parts import device_of
from eomt_mm.fileio.writing import check_apart, check_free
from eomt_mm.options import read_options

CLIP = 5  # frames, as published in training


def check_args(args: argparse.Namespace) -> None:
    """Check the arguments before anything is built; raises ValueError or OSError."""
    for name in ('batch', 'frames', 'window', 'rounds'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f'--{name} {value}: at least 1')
    if args.whole_video and args.stage != 'full':
        raise ValueError('--whole-video is about results: give --stage full')
    if args.window > 1 and (args.stage == 'train' or (args.stage == 'full' and not args.whole_video)):
        raise ValueError(f'--window {args.window}: for --stage model, and with --whole-video for --stage full')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'--device {args.device}: torch {torch.__version__} finds no CUDA device')
    device_of(args.device)
    if args.checkpoints and len(args.checkpoints) != len(args.configs):
        raise ValueError(f'--checkpoints: {len(args.checkpoints)} files for {len(args.configs)} configs; one each')
    if args.data_root and not args.checkpoints:
        raise ValueError('--data-root is for the accuracy of checkpoints: give --checkpoints')
    if args.image and not Path(args.image).is_file():
        raise FileNotFoundError(f'--image {args.image} does not exist')
    if args.growth is not None and len(args.configs) > 1:
        raise ValueError(f'--growth is of one config, not of {len(args.configs)}')
    for target in filter(None, (args.out, args.plot)):
        check_free(target)
        check_apart([target], filter(None, (args.image, *args.configs, *(args.checkpoints or ()))))


def input_size(args: argparse.Namespace) -> Size:
    """Input size: as given, else from the first config that states one, else 640."""
    if args.size:
        return tuple(args.size)
    for config in args.configs:
        size = load_config(find_config(config), args.cfg_options).get('img_size')
        if size is not None:
            return (size, size) if isinstance(size, int) else tuple(size)
    return 640, 640


def number_of_frames(args: argparse.Namespace) -> int:
    """Number of frames: as given, else that of a published training clip if a config is for videos, else 1."""
    videos = any(is_video(side_config(config)) for config in args.configs)
    if not videos and (args.window > 1 or args.whole_video):
        raise ValueError('--window and --whole-video: none of the configs is for videos')
    return args.frames or (CLIP if videos else 1)


def make_specs(args: argparse.Namespace, size: Size, image: Path) -> list[Spec]:
    """Make a spec for each config; the command's options have the names of Spec's fields."""
    given = {field.name: vars(args)[field.name] for field in fields(Spec) if field.name in vars(args)}
    given.update(size=size, image=str(image), frames=number_of_frames(args))
    given.update(options=dict(args.cfg_options or {}), compile_mode=args.compile)
    checkpoints = args.checkpoints or [None] * len(args.configs)
    return [
        Spec(config=config, checkpoint=checkpoint, **given)
        for config, checkpoint in zip(args.configs, checkpoints, strict=True)
    ]


def run(args: argparse.Namespace, specs: list[Spec]) -> None:
    env, results = environment(args.device), list[Result]()
    if args.growth is not None:
        growth = measure_growth(specs[0], parse_axes(args.growth), args.rounds, not args.no_memory)
        results = [result for points in growth.values() for result in points.values()]
        title = f'{specs[0].name}: {caption(specs[0], results[0].task, args.rounds, env)}'
        print(f'{title}\n\n{growth_table(growth)}')
        if args.plot:
            growth_plot(args.plot, growth, title)
    else:
        results = measure(specs, args.rounds, not args.no_memory)
        if args.data_root:
            for result in results:
                result.accuracy = accuracy(result.spec, args.data_root)
        title = caption(specs[0], results[0].task, args.rounds, env)
        print(f'{title}\n\n{table(results)}')
        if args.plot:
            plot(args.plot, results, title)
    if args.out:
        write_json(args.out, env, results)


def main(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Run the comparison; errors end with a usage line."""
    args.cfg_options = read_options(args.cfg_options)
    try:
        check_args(args)
        if args.growth is not None:
            parse_axes(args.growth)
        size = input_size(args)
        with tempfile.TemporaryDirectory() as folder:
            # Smaller than the input, like COCO's images, so that the result is resized.
            image = Path(args.image or write_image(Path(folder) / 'image.jpg', (size[0] * 3 // 4, size[1] * 3 // 4)))
            run(args, make_specs(args, size, image))
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
