"""Segments images: from files, folders, arrays or videos to samples, dictionaries, pictures and result files."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.infer import BaseInferencer
from torch import nn
from tqdm import tqdm

from eomt_mm.apis.config import load_config
from eomt_mm.apis.config_names import find_config
from eomt_mm.apis.inferencer_parts import (
    amp_dtype_of,
    changed,
    class_meta,
    device_of,
    head_settings,
    task_of,
    test_pipeline,
)
from eomt_mm.apis.inputs import ImageInput, Names, Source, count_images, find_sources, images_of
from eomt_mm.apis.model import init_model
from eomt_mm.apis.picture_files import PictureFiles
from eomt_mm.apis.prediction_files import PredictionFiles
from eomt_mm.apis.results import Prediction, prediction_of, summary
from eomt_mm.engine.pictures import Sample, coloured, predicted_segments
from eomt_mm.models.heads import EoMTDetHead, EoMTSegHead
from eomt_mm.visualization import draw_segments

INSTANCE_SCORE_THR = 0.3  # as in mmdet's inferencer
PICTURES, PREDICTIONS = 'vis', 'preds'
Loaded: TypeAlias = tuple[ImageInput, np.ndarray]  # pixels (H, W, 3), uint8, BGR


class Result(NamedTuple):
    """What was found in an image.

    Attributes:
        name: of the image, see :class:`~eomt_mm.apis.inputs.ImageInput`.
        prediction: dictionary, see :func:`~eomt_mm.apis.results.prediction_of`, or with ``return_datasamples`` the
            host's sample, on the CPU.
        picture: (H, W, 3) uint8 RGB, with ``return_vis``; else None.
    """

    name: str
    prediction: Any
    picture: np.ndarray | None


class EoMTInferencer(BaseInferencer):
    """A model with its pre-processing, post-processing and classes, on the conventions of mmengine's inferencers.

    The task is the config's. In two lines::

        inferencer = EoMTInferencer('eomt_dinov2-l_12e_coco-panoptic-640', 'hf://tue-mps/coco_panoptic_eomt_large_640')
        found = inferencer('photos/', batch_size=4, out_dir='results')['predictions']

    Args:
        config: path, name of a config that comes along (:func:`~eomt_mm.apis.config_names.find_config`), or what
            :func:`~eomt_mm.apis.load_config` returned.
        checkpoint: in any format that :func:`~eomt_mm.apis.init_model` reads. None: random weights, and a warning.
        device: such as 'cuda:1'. None: the GPU where there is one, else the CPU.
        task: 'semantic', 'instance' or 'panoptic', where the model must be one of that. None: whatever it is.
        amp_dtype: 'float16' or 'bfloat16': runs the network in mixed precision, the post-processing in float32.
        cfg_options: overrides of the config, dotted keys to values.
        show_progress: progress bar on stderr, where that is a terminal.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the model is none of EoMT or of another task, the weights are not this model's, or ``device`` or
            ``amp_dtype`` cannot be had.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path | None = None,
        device: str | None = None,
        task: str | None = None,
        amp_dtype: str | None = None,
        cfg_options: dict[str, Any] | None = None,
        show_progress: bool = True,
    ) -> None:
        self.device = device_of(device)
        self.amp_dtype = amp_dtype_of(amp_dtype, self.device)
        if isinstance(config, Config) and cfg_options:
            raise ValueError('cfg_options with a config that is loaded already: give them to load_config')
        cfg = config if isinstance(config, Config) else load_config(find_config(config), cfg_options)
        self.task = task_of(cfg, task)
        if checkpoint is None:
            warnings.warn('no checkpoint: the weights are random, and so will be what is found', stacklevel=2)
        super().__init__(cfg, checkpoint, str(self.device), cfg.get('default_scope'), show_progress)
        self.meta = coloured(class_meta(self.model.dataset_meta, self.head.num_classes))
        self.num_things = getattr(self.head, 'num_things_classes', 0)
        self._num_unnamed = 0

    @property
    def head(self) -> EoMTSegHead | EoMTDetHead:
        """The model's head, which holds the thresholds."""
        return self.model.decode_head if self.task == 'semantic' else self.model.panoptic_head

    def __call__(
        self,
        inputs: Any,
        return_datasamples: bool = False,
        batch_size: int = 1,
        print_result: bool = False,
        **options: Any,
    ) -> dict[str, list[Any]]:
        """Segments everything, and holds all results in memory; :meth:`stream` has them one at a time.

        Args:
            inputs, return_datasamples, batch_size: see :meth:`stream`.
            print_result: print a line per image.
            **options: further arguments of :meth:`stream`.

        Returns:
            ``predictions``, one per image in their order, and ``visualization``, the pictures with ``return_vis``, else
            an empty list.
        """
        found: dict[str, list[Any]] = dict(predictions=[], visualization=[])
        for result in self.stream(
            inputs, return_datasamples=return_datasamples, batch_size=batch_size, print_result=print_result, **options
        ):
            found['predictions'].append(result.prediction)
            if result.picture is not None:
                found['visualization'].append(result.picture)
        return found

    def stream(
        self,
        inputs: Any,
        batch_size: int = 1,
        out_dir: str | Path | None = None,
        return_datasamples: bool = False,
        return_vis: bool = False,
        no_save_vis: bool = False,
        no_save_pred: bool = False,
        print_result: bool = False,
        pred_score_thr: float | None = None,
        overlap_thr: float | None = None,
        channel_order: str = 'bgr',
        on_error: str = 'raise',
    ) -> Iterator[Result]:
        """Segments image after image, in bounded memory: a batch of images at a time, of videos too.

        Args:
            inputs: image, video, folder, pattern, array, PIL image or a list of these; see
                :func:`~eomt_mm.apis.inputs.find_sources`. Sizes may differ within a batch.
            batch_size: images at once.
            out_dir: folder for pictures (``vis/``, :class:`~eomt_mm.apis.picture_files.PictureFiles`) and results
                (``preds/``, :class:`~eomt_mm.apis.prediction_files.PredictionFiles`). None or '': none are written.
            return_datasamples: give the host's samples in place of dictionaries; semantic ones with ``seg_logits``.
            return_vis: give the pictures.
            no_save_vis, no_save_pred: leave pictures or results out of ``out_dir``.
            print_result: print a line per image.
            pred_score_thr: least score, in [0, 1]. Instance: of what is given, written and drawn; None: 0.3. Panoptic:
                the head's ``score_thr``; None: as in the config.
            overlap_thr: panoptic: the head's; None: as in the config.
            channel_order: of arrays, 'bgr' or 'rgb'.
            on_error: 'raise', or 'skip' to go on after a file that cannot be read; a warning names it, and so does
                ``skipped`` afterwards.

        Returns:
            results in the order of images. Files are complete when it is exhausted.

        Raises:
            FileNotFoundError, TypeError, ValueError: at once for arguments, and during the iteration for files that
                cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: at least 1')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error='{on_error}': 'raise' or 'skip'")
        settings = head_settings(self.task, pred_score_thr, overlap_thr, return_datasamples)
        out = Path(out_dir).expanduser() if out_dir else None
        names = Names(self._num_unnamed)
        sources = find_sources(inputs, channel_order, names, [out / PICTURES, out / PREDICTIONS] if out else [])
        self._num_unnamed = names.number
        self.skipped: list[Path] = []
        files = None
        if out and not no_save_pred:
            files = PredictionFiles(out / PREDICTIONS, self.task, self.meta['classes'], self.num_things)
        pictures = PictureFiles(out / PICTURES) if out and not no_save_vis else None
        score_thr = INSTANCE_SCORE_THR if pred_score_thr is None else pred_score_thr
        asked = _Asked(
            batch_size, on_error, settings, score_thr, files, pictures, return_datasamples, return_vis, print_result
        )
        return self._results(sources, asked)

    def _results(self, sources: list[Source], asked: '_Asked') -> Iterator[Result]:
        with ExitStack() as stack:
            if asked.files:
                stack.enter_context(asked.files.opened())
            if asked.pictures:
                stack.enter_context(asked.pictures)
            shown = None if self.show_progress else True  # tqdm's None: where stderr is a terminal
            bar = stack.enter_context(tqdm(total=count_images(sources), desc='segment', unit='image', disable=shown))
            for loaded, data in self.preprocess(images_of(sources), asked.batch_size, asked.on_error):
                samples = self.forward(data, **asked.settings)
                found = self.postprocess(samples, asked.score_thr)
                drawn: Sequence[np.ndarray | None] = [None] * len(samples)
                if asked.pictures or asked.return_vis:
                    drawn = self.visualize([pixels for _, pixels in loaded], samples, asked.score_thr)
                for (image, _), sample, prediction, picture in zip(loaded, samples, found, drawn, strict=True):
                    if asked.files:
                        asked.files.add(image, prediction)
                    if asked.pictures and picture is not None:
                        asked.pictures.add(image, picture)
                    if asked.print_result:
                        bar.write(f'{image.name}: {summary(prediction["segments_info"])}')
                    bar.update()
                    given = sample if asked.return_datasamples else prediction
                    yield Result(image.name, given, picture if asked.return_vis else None)

    def preprocess(
        self, inputs: Iterable[ImageInput], batch_size: int = 1, on_error: str = 'raise'
    ) -> Iterator[tuple[list[Loaded], dict[str, Any]]]:
        """Batches of images as the model takes them, each with what was loaded."""
        readable = (item for image in inputs if (item := self._load(image, on_error)) is not None)
        while batch := list(islice(readable, batch_size)):
            packed = [self.pipeline(item) for _, item in batch]
            yield [loaded for loaded, _ in batch], self.collate_fn(packed)

    def _load(self, image: ImageInput, on_error: str) -> tuple[Loaded, dict[str, Any]] | None:
        """An image, and the item that the pipeline begins with; None for a bad file that is skipped."""
        if image.pixels is not None:
            pixels = image.pixels()
            size = pixels.shape[:2]
            return (image, pixels), dict(img=pixels, img_path=image.name, img_shape=size, ori_shape=size)
        try:
            item = self.load_image(dict(img_path=str(image.path)))
        except (OSError, ValueError) as error:
            if on_error == 'raise':
                raise
            warnings.warn(f'skipped: {error}', stacklevel=2)
            self.skipped.append(Path(str(image.path)))
            return None
        return (image, item['img']), item

    @torch.no_grad()
    def forward(self, inputs: dict[str, Any], **settings: Any) -> list[Sample]:
        """Samples with predictions, on the CPU; ``settings`` are attributes of the head for this batch."""
        data = self.model.data_preprocessor(inputs, training=False)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            predictions = self.model.extract_feat(data['inputs'])
        with changed(self.head, settings):
            samples = self.head.predict(predictions, data['data_samples'])
        return [sample.cpu() for sample in samples]

    def visualize(self, inputs: Sequence[np.ndarray], preds: Sequence[Sample], score_thr: float) -> list[np.ndarray]:
        """Pictures (H, W, 3) uint8 RGB of samples over their images, BGR."""
        drawn = []
        for pixels, sample in zip(inputs, preds, strict=True):
            segments = predicted_segments(sample, self.meta, score_thr)
            drawn.append(np.asarray(draw_segments(np.ascontiguousarray(pixels[..., ::-1]), segments)))
        return drawn

    def postprocess(self, preds: Sequence[Sample], score_thr: float) -> list[Prediction]:
        """Dictionaries of samples, see :func:`~eomt_mm.apis.results.prediction_of`."""
        return [prediction_of(sample, self.meta['classes'], self.num_things, score_thr) for sample in preds]

    def _init_model(self, cfg: Config, weights: str | Path | None, device: str = 'cpu') -> nn.Module:
        return init_model(cfg, weights, device)

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load_image, pipeline = test_pipeline(cfg)
        return pipeline

    def _init_collate(self, cfg: Config) -> Callable:
        """Lists of images and samples, as our preprocessors take them: sizes differ."""
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> None:
        """None: pictures are drawn by :mod:`eomt_mm.visualization`."""


@dataclass(frozen=True)
class _Asked:
    """Arguments of :meth:`EoMTInferencer.stream`, checked."""

    batch_size: int
    on_error: str
    settings: dict[str, Any]
    score_thr: float
    files: PredictionFiles | None
    pictures: PictureFiles | None
    return_datasamples: bool
    return_vis: bool
    print_result: bool
