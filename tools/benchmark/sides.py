"""A side of a comparison: a model from anyone's config, and the call of each stage."""

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

from benchmark.configs import Size, is_video, side_config, task_of, test_pipeline, without_targets
from benchmark.harness import Call
from benchmark.inputs import blank_samples, make_batch
from benchmark.models import build_model, class_counts, is_ours, keep_queries, make_optimizer

RESULTS = dict(
    panoptic='pred_panoptic_seg', instance='pred_instances', semantic='pred_sem_seg', detection='pred_instances'
)
SMALL = 64  # side in pixels of an input that loads libraries and starts threads


@dataclass(frozen=True)
class Spec:
    """What makes a side; travels to other processes.

    Attributes:
        config: path or name, see :func:`~benchmark.configs.find_config`.
        stage: 'model' (normalised input to logits), 'full' (image file to the result at the image's own size, on the
            CPU) or 'train' (uint8 images and targets to the optimiser's step, the masks of EoMT's joint blocks on).
        size: height and width of the network's input.
        batch: images per call.
        device: such as 'cpu', 'cuda'.
        amp: 'float16' or 'bfloat16' for mixed precision.
        compile_mode: of ``torch.compile``; None: eager.
        options: overrides of the config.
        num_queries: None: the config's own.
        image: file of the full stage.
        checkpoint: None: random weights.
        kept: with random weights, the number of queries in the full stage of panoptic models that are made certain of
            a class. The others say "no object", as do most queries of a trained model; random logits keep none.
        frames: of a call, over which times and operations are divided. Video models take them as a clip, image models
            one by one; a training step of image models takes them as one batch.
        window: frames that go through the first blocks of a video model together, in the model stage and with
            ``whole_video``.
        whole_video: a video model's results of the full stage wait for all frames; False: one comes with each frame.
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
    """A built side of images.

    Attributes:
        spec: of it.
        cfg: its config.
        task: see :func:`~benchmark.configs.task_of`.
        model: with random weights or the checkpoint's.
        call: runs the stage once.
        input_size: height and width of what the network read in its first call, None before.
        optimizer: AdamW with its states, in the training stage.
    """

    @staticmethod
    def takes(cfg: Config) -> bool:
        """Whether sides of this class run the model of a config."""
        return not is_video(cfg)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.cfg = side_config(spec.config, spec.size, spec.options, spec.num_queries)
        self.task = task_of(self.cfg)
        if self.task == 'panoptic' and 'test_cfg' in self.cfg.model and self.cfg.model.test_cfg:
            self.cfg.model.test_cfg.instance_on = False  # stock Mask2Former would predict instances as well
        torch.manual_seed(0)
        self.model = build_model(self.cfg, spec.checkpoint, spec.device)
        self.input_size: Size | None = None
        self._hook = self.model.backbone.register_forward_pre_hook(self._note_size)
        self.optimizer: torch.optim.Optimizer | None = None
        self.call: Call = dict(model=self._model, full=self._full, train=self._train)[spec.stage]()

    def _note_size(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.input_size = (int(args[0].shape[-2]), int(args[0].shape[-1]))
        self._hook.remove()  # once: torch.compile need not see it

    def autocast(self) -> AbstractContextManager[Any]:
        if self.spec.amp is None:
            return nullcontext()
        return torch.autocast(torch.device(self.spec.device).type, getattr(torch, self.spec.amp))

    def forward(self, images: Tensor, samples: list[Any]) -> Any:
        """Logits of normalised images (B, 3, H, W)."""
        with torch.no_grad(), self.autocast():
            head = getattr(self.model, 'decode_head', None)
            if isinstance(head, Mask2FormerHead):  # mmseg's 'tensor' mode leaves out the samples that it asks for
                return head(self.model.extract_feat(images), samples)
            return self.model(images, samples, mode='tensor')

    def forward_small(self) -> None:
        """Runs the network on a small image."""
        self.model.eval()
        size = (SMALL, SMALL)
        self.forward(torch.zeros(1, 3, *size, device=self.spec.device), blank_samples(self.task, size, 1))

    def _model(self) -> Call:
        spec = self.spec
        images = torch.randn(spec.batch, 3, *spec.size, device=spec.device)
        samples = blank_samples(self.task, spec.size, spec.batch)
        return repeated(lambda: self.forward(images, samples), spec.frames)

    def prepare_full(self) -> Compose:
        """The test pipeline from image files on; certain queries, where the spec has them."""
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
        """What a loader gives to the data preprocessor."""
        spec = self.spec
        return make_batch(self.task, spec.size, spec.batch * spec.frames, *class_counts(self.cfg))

    def _train(self) -> Call:
        spec, model = self.spec, self.model
        batch = self.training_batch()
        optimizer = self.optimizer = make_optimizer(model)
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
        """Compiles the network with ``torch.compile``, where the spec has a mode; losses and results stay eager."""
        mode = self.spec.compile_mode
        if mode is None:
            return
        if is_ours(self.cfg):  # all of the network; the head only scores
            self.model.extract_feat = torch.compile(self.model.extract_feat, mode=mode)
            return
        for name in ('backbone', 'neck', 'panoptic_head', 'decode_head'):
            part = getattr(self.model, name, None)
            if part is not None:
                part.compile(mode=mode)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def resident_bytes(self) -> int:
        """Parameters, buffers and, in training, the optimiser's states."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if self.optimizer is not None:
            tensors += [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


PROJECT_SIDES: list[type[Side]] = []  # what projects' adapters add; asked in this order


def repeated(call: Call, times: int) -> Call:
    """``call`` so many times, with the last result: earlier ones are not kept in memory."""

    def run() -> Any:
        for _ in range(times - 1):
            call()
        return call()

    return run
