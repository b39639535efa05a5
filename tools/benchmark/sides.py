"""A side of a comparison: a model from any config, and the call of each stage."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmdet.models.dense_heads import Mask2FormerHead
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from benchmark.adapters import import_adapters
from benchmark.configs import (
    Size,
    class_counts,
    is_ours,
    is_video,
    side_config,
    task_of,
    test_pipeline,
    without_targets,
)
from benchmark.harness import Call
from benchmark.inputs import blank_samples, make_batch
from benchmark.kept import keep_queries
from benchmark.models import build_model

RESULTS = dict(
    panoptic='pred_panoptic_seg', instance='pred_instances', semantic='pred_sem_seg', detection='pred_instances'
)
SMALL = (64, 64)  # input size that is enough to load libraries and start threads


@dataclass(frozen=True)
class Spec:
    """Settings of a side, picklable for other processes. ``tools/benchmark.py --help`` describes stages and frames.

    Attributes:
        config: path or name; see :func:`~benchmark.configs.find_config`.
        size: height and width of the network's input.
        amp, compile_mode: None: float32, eager.
        options: overrides of the config.
        num_queries: None: the config's own.
        image: image file for the full stage.
        checkpoint: None: random weights.
        kept: with random weights, number of queries of panoptic models in the full stage that predict a class with
            certainty. The others predict "no object", as do most queries of a trained model; with random logits, no
            query would be kept.
        frames: number of frames of a call, by which times and operations are divided.
        window: number of frames that go through the first blocks of a video model together.
        whole_video: in the full stage, a video model returns all results after the last frame; False: one per frame.
    """

    config: str
    stage: str = 'model'
    size: Size = (640, 640)
    batch: int = 1
    device: str = 'cpu'
    amp: str | None = None
    compile_mode: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    num_queries: int | None = None
    image: str | None = None
    checkpoint: str | None = None
    kept: int = 25
    frames: int = 1
    window: int = 1
    whole_video: bool = False

    @property
    def name(self) -> str:
        """Base name of the config."""
        return Path(self.config.rpartition('::')[2]).name.removesuffix('.py')


class Side:
    """A built side of an image model; see :func:`build_side`.

    Attributes:
        spec: its spec.
        cfg: its config.
        task: see :func:`~benchmark.configs.task_of`.
        model: with random weights or the checkpoint's.
        call: runs the stage once.
        input_size: height and width of the network's input in its first call; None before.
    """

    def __init__(self, spec: Spec, cfg: Config) -> None:
        self.spec, self.cfg, self.task = spec, cfg, task_of(cfg)
        if self.task == 'panoptic' and cfg.model.get('test_cfg'):
            cfg.model.test_cfg.instance_on = False  # otherwise mmdet's Mask2Former also predicts instances
        torch.manual_seed(0)
        self.model = build_model(self.cfg, spec.checkpoint, spec.device)
        self.input_size: Size | None = None
        self._hook = self.model.backbone.register_forward_pre_hook(self._note_size)
        self.call: Call = dict(model=self._model, full=self._full, train=self._train)[spec.stage]()

    def _note_size(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.input_size = (int(args[0].shape[-2]), int(args[0].shape[-1]))
        self._hook.remove()  # only once, so that torch.compile does not see it

    def autocast(self) -> AbstractContextManager[Any]:
        if self.spec.amp is None:
            return nullcontext()
        return torch.autocast(torch.device(self.spec.device).type, getattr(torch, self.spec.amp))

    def forward(self, images: Tensor, samples: list[Any]) -> Any:
        """Compute the logits of normalised images (B, 3, H, W)."""
        with torch.no_grad(), self.autocast():
            head = getattr(self.model, 'decode_head', None)
            if isinstance(head, Mask2FormerHead):  # mmseg's 'tensor' mode does not pass the samples that it needs
                return head(self.model.extract_feat(images), samples)
            return self.model(images, samples, mode='tensor')

    def _model(self) -> Call:
        spec = self.spec
        images = torch.randn(spec.batch, 3, *spec.size, device=spec.device)
        samples = blank_samples(self.task, spec.size, spec.batch)
        return repeated(lambda: self.forward(images, samples), spec.frames)

    def prepare_full(self) -> Compose:
        """Build the test pipeline, from image files on; set up :func:`keep_queries` if the spec needs it."""
        if self.task == 'panoptic' and self.spec.checkpoint is None:
            keep_queries(self.model.panoptic_head, self.spec.kept)
        with DefaultScope.overwrite_default_scope(self.cfg.default_scope):
            return Compose(without_targets(test_pipeline(self.cfg)))

    def _full(self) -> Call:
        spec, pipeline = self.spec, self.prepare_full()

        def call() -> list[Any]:
            items = [pipeline(dict(img_path=spec.image, img_id=0)) for _ in range(spec.batch)]
            with torch.no_grad(), self.autocast():
                samples = self.model.test_step(pseudo_collate(items))
            return [sample.get(RESULTS[self.task]).cpu() for sample in samples]

        return repeated(call, spec.frames)

    def training_batch(self) -> dict[str, Any]:
        """Generate a training batch, as a loader passes it to the data preprocessor."""
        spec = self.spec
        return make_batch(self.task, spec.size, spec.batch * spec.frames, *class_counts(self.cfg))

    def _train(self) -> Call:
        spec, model = self.spec, self.model
        batch = self.training_batch()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        scaler = torch.amp.GradScaler(torch.device(spec.device).type, enabled=spec.amp == 'float16')
        model.train()

        def call() -> None:
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            with self.autocast():
                loss, _ = model.parse_losses(model(**data, mode='loss'))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

        return call

    def compile(self) -> None:
        """Compile the network with ``torch.compile``, if the spec has a mode; losses and post-processing stay eager."""
        mode = self.spec.compile_mode
        if mode is None:
            return
        if is_ours(self.cfg):  # this is the whole network
            self.model.extract_feat = torch.compile(self.model.extract_feat, mode=mode)
            return
        for name in ('backbone', 'neck', 'panoptic_head', 'decode_head'):
            part = getattr(self.model, name, None)
            if part is not None:
                part.compile(mode=mode)


VIDEO_SIDES: dict[str, type[Side]] = {}  # by the model's type in the config; projects add theirs


def build_side(spec: Spec) -> Side:
    """Build the side of a spec: a project's side for its video model, else a :class:`Side`.

    Raises:
        ValueError: the model is a host's video model, or the config is invalid.
    """
    cfg = side_config(spec.config, spec.size, spec.options, spec.num_queries)
    if not is_video(cfg):
        return Side(spec, cfg)
    import_adapters()
    if cfg.model.type not in VIDEO_SIDES:
        raise ValueError(f"{cfg.model.type} is a host's model for videos: of these only the projects' own are timed")
    return VIDEO_SIDES[cfg.model.type](spec, cfg)


def repeated(call: Call, times: int) -> Call:
    """Repeat ``call``, returning only the last result, so that earlier ones are not kept in memory."""

    def run() -> Any:
        for _ in range(times - 1):
            call()
        return call()

    return run
