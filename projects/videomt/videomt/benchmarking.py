"""VidEoMT in tools/benchmark: a side that passes its state from frame to frame. Importing it registers the side."""

import copy
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from mmdet.structures import TrackDataSample
from mmengine.dataset import pseudo_collate
from torch import Tensor
from transformers import VideomtConfig, VideomtForUniversalSegmentation

from benchmark.configs import Size, class_counts, is_ours, is_video, side_config
from benchmark.harness import Call
from benchmark.inputs import blank_samples, instances, segments
from benchmark.models import build_model
from benchmark.sides import RESULTS, VIDEO_SIDES, Side
from benchmark.subject import OPTIONS, SUBJECTS, Results, Subject, check_tensors
from eomt_mm.checkpoints.describe import describe
from eomt_mm.checkpoints.rules import map_to_theirs
from eomt_mm.core.network import eomt_forward
from eomt_mm.options import whole_number
from videomt.formats import HUGGING_FACE

FRAME_RESULTS = RESULTS | dict(instance='pred_track_instances')


class VideoSide(Side):
    """A built side of a video model; a call takes the spec's frames as one clip.

    Its model has ``stream(frames, state)``, which returns predictions and the next state, and ``window_size``, the
    number of frames that go together through its first blocks in evaluation.

    In the model stage, frames come in the spec's windows. In the full stage, each frame's result is complete before the
    next frame is read; with ``whole_video``, all results are made at the end. A training step uses the whole clip.

    Raises:
        ValueError: the full stage does not support the spec.
    """

    @cached_property
    def network(self) -> Callable[..., Any]:
        """Function from frames (B, T, 3, H, W) and a state to predictions and the next state."""
        found: Callable[..., Any] = self.model.stream
        return found

    def stream(self, clips: Tensor) -> Any:
        """Run normalised clips (B, T, 3, H, W) window by window; keep and return only the last window's predictions."""
        *earlier, last = clips.split(self.spec.window, dim=1)
        state = None
        with torch.no_grad(), self.autocast():
            for window in earlier:
                state = self.network(window, state)[1]
            return self.network(last, state)[0]

    def _model(self) -> Call:
        spec = self.spec
        clips = torch.randn(spec.batch, spec.frames, 3, *spec.size, device=spec.device)
        return lambda: self.stream(clips)

    def _full(self) -> Call:
        spec = self.spec
        if spec.batch > 1:
            raise ValueError(f'batch {spec.batch}: from files, videos are segmented one at a time')
        if spec.compile_mode is not None:
            raise ValueError('from files, videos are segmented without torch.compile')
        pipeline, length = self.prepare_full(), spec.frames if spec.whole_video else 1
        self.model.window_size = spec.window

        def call() -> list[Any]:
            results = []
            for frame_ids in torch.arange(spec.frames).split(length):
                item = pipeline(self._files(frame_ids.tolist()))
                with torch.no_grad(), self.autocast():
                    (video,) = self.model.test_step(pseudo_collate([item]))
                results += [frame.get(FRAME_RESULTS[self.task]).cpu() for frame in video.video_data_samples]
            return results

        return call

    def _files(self, frame_ids: list[int]) -> dict[str, list[Any]]:
        """List frames of a video like a data set, each with the spec's image."""
        every = dict(img_path=self.spec.image, img_id=0, video_id=0, video_length=self.spec.frames)
        return {key: [value] * len(frame_ids) for key, value in every.items()} | dict(frame_id=frame_ids)

    def training_batch(self) -> dict[str, Any]:
        spec = self.spec
        return make_clips(self.task, spec.size, spec.batch, spec.frames, *class_counts(self.cfg))

    def compile(self) -> None:
        mode = self.spec.compile_mode
        if mode is not None and self.spec.stage == 'model':
            self.network = torch.compile(self.network, mode=mode)
        else:
            super().compile()


def make_clips(task: str, size: Size, batch: int, frames: int, num_things: int, num_stuff: int) -> dict[str, Any]:
    """Generate clips with tracks, as a loader passes them to a data preprocessor; arguments as for ``make_batch``.

    Returns:
        ``inputs``: uint8 (frames, 3, H, W) each; ``data_samples``: :func:`~benchmark.inputs.segments`, the same in all
        frames, each with an id; all classes of a semantic model are stuff.
    """
    if task == 'semantic':
        num_things, num_stuff = 0, num_things + num_stuff
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.integers(0, 256, (frames, 3, *size), dtype=np.uint8)) for _ in range(batch)]
    samples = []
    for _ in clips:
        (frame,) = blank_samples('instance', size, 1)
        frame.gt_instances = instances(*segments(rng, size, num_things, num_stuff))
        frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances))
        samples.append(TrackDataSample(video_data_samples=[copy.deepcopy(frame) for _ in range(frames)]))
    return dict(inputs=clips, data_samples=samples)


VIDEO_SIDES['eomt_mm.VidEoMTDetector'] = VideoSide


# Clips, each network with the same weights ------------------------------------------------------------------------


def clip_problem(args: Namespace) -> Namespace:
    """Make the input of all sides: a config and normalised frames (1, T, 3, H, W).

    Raises:
        ValueError: the config is not for videos.
    """
    height, width = args.size
    img_size = height if height == width else 640  # position embeddings are stored for squares and interpolated
    cfg = side_config(args.config, options={'model.backbone.img_size': img_size, **(args.cfg_options or {})})
    if not (is_video(cfg) and is_ours(cfg)):
        raise ValueError(f"{args.config} is none of VidEoMT's configs; tools/benchmark.py compares any configs")
    frames = torch.randn(1, args.frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    return Namespace(cfg=cfg, frames=frames.to(args.device), device=args.device, dtype=getattr(torch, args.dtype))


def check_clips(results: Results) -> str:
    """Compare the results of all frames; for EoMT only the first frame, as EoMT has no state from earlier frames."""
    check_tensors({name: [logits[:1] for logits in found] for name, found in results.items()})
    return check_tensors({name: found for name, found in results.items() if name != 'eomt'})


VIDEO = SUBJECTS['video'] = Subject(
    help="VidEoMT's network on a clip, beside EoMT on its frames and the model of transformers, with equal weights",
    problem=clip_problem,
    check=check_clips,
    options={
        'config': dict(nargs='?', default='videomt_dinov2-s_40k_ytvis2019-448', help='path or name of one of VidEoMT'),
        '--size': dict(type=whole_number(1), nargs=2, default=(640, 640), metavar=('H', 'W'), help='of the frames'),
        '--frames': dict(type=whole_number(1), default=5, help='of the clip'),
        '--device': dict(default='cpu', help='such as cuda'),
        '--dtype': dict(choices=['float32', 'float16', 'bfloat16'], default='float32', help='of autocast'),
        **OPTIONS,
    },
    exact=dict(dtype='float32'),
)


def clip_model(problem: Namespace) -> Any:
    torch.manual_seed(0)
    return build_model(problem.cfg, None, problem.device)


def logits_call(problem: Namespace, parts: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> Call:
    """Make a call that joins the logits of parts: classes (T, Q, K + 1) and masks (T, Q, H/4, W/4) of all frames."""

    @torch.no_grad()
    def call() -> tuple[Tensor, ...]:
        with torch.autocast(problem.frames.device.type, problem.dtype, enabled=problem.dtype != torch.float32):
            found = list(parts())
        return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))

    return call


@VIDEO.side('eomt')
def eomt_clip(problem: Namespace) -> Call:
    """EoMT on the frames one by one, that is, VidEoMT without its state."""
    model = clip_model(problem)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for frame in problem.frames[0].split(1):
            class_logits, mask_logits = eomt_forward(model.backbone, model.panoptic_head, frame)
            yield class_logits[-1], mask_logits[-1]

    return logits_call(problem, parts)


def videomt_clip(problem: Namespace, window: int | None = None) -> Call:
    """VidEoMT on windows of ``window`` frames; None: on all frames at once."""
    model = clip_model(problem)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        state = None
        for frames in problem.frames.split(window or problem.frames.shape[1], dim=1):
            predictions, state = model.stream(frames, state)
            yield predictions.class_logits[-1][0], predictions.mask_logits[-1][0]

    return logits_call(problem, parts)


VIDEO.sides.update(videomt=partial(videomt_clip, window=1), videomt_whole=videomt_clip)


@VIDEO.side('transformers')
def transformers_clip(problem: Namespace) -> Call | None:
    """transformers' VidEoMT (sdpa), which supports DINOv2 with registers and square frames only."""
    ours, size = clip_model(problem), problem.frames.shape[-1]
    if problem.frames.shape[-2] != size or describe(ours.state_dict()).family != 'dinov2':
        return None
    vit, head = ours.backbone, ours.panoptic_head
    if vit.vit.reg_token is None:
        return None
    config: Any = VideomtConfig  # its fields are not all typed
    theirs: Any = VideomtForUniversalSegmentation(
        config(
            hidden_size=vit.embed_dim, num_hidden_layers=vit.depth,
            num_attention_heads=vit.vit.blocks[0].attn.num_heads, image_size=size, num_blocks=head.num_blocks,
            num_queries=head.num_queries, num_labels=head.num_classes, attn_implementation='sdpa',
        )
    )  # fmt: skip
    # strict=False: theirs also has a mask token and the loss's class weights, which are not used here
    weights = {name.replace('panoptic_head.', 'head.'): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(map_to_theirs(weights, HUGGING_FACE.rules(False)), strict=False)
    theirs = theirs.eval().to(problem.device)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        output = theirs(pixel_values_videos=problem.frames)
        yield output.class_queries_logits, output.masks_queries_logits

    return logits_call(problem, parts)
