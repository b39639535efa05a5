"""Segments images: from files, folders, arrays or videos to samples, dictionaries, pictures and result files."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import INFERENCERS
from torch import nn
from tqdm import tqdm

from eomt_mm.apis.image_loading import ImageLoading, Loaded
from eomt_mm.apis.inferencer_parts import (
    amp_dtype_of,
    changed,
    check_inferencer,
    class_meta,
    config_of,
    device_of,
    head_settings,
    inferencer_class,
    task_of,
)
from eomt_mm.apis.inferencer_request import Request, Result
from eomt_mm.apis.inputs import ImageInput, Names, Source, count_images, find_sources, images_of
from eomt_mm.apis.model import init_model
from eomt_mm.apis.picture_files import PictureFiles
from eomt_mm.apis.prediction_files import PredictionFiles
from eomt_mm.apis.results import Prediction, prediction_of, summary
from eomt_mm.checkpoints.formats import HEADS
from eomt_mm.engine.pictures import Sample, coloured, predicted_segments
from eomt_mm.visualization import draw_segments

INSTANCE_SCORE_THR = 0.3  # as in mmdet's inferencer
PICTURES, PREDICTIONS = 'vis', 'preds'
Predicted: TypeAlias = tuple[list[Loaded], list[Any]]  # images and their samples


@INFERENCERS.register_module(name=['EoMTSegmentor', 'EoMTDetector'])
class EoMTInferencer(ImageLoading):
    """A model with its pre-processing, post-processing and classes, on the conventions of mmengine's inferencers.

    The task is the config's. In two lines::

        inferencer = EoMTInferencer('eomt_dinov2-l_12e_coco-panoptic-640', 'hf://tue-mps/coco_panoptic_eomt_large_640')
        found = inferencer('photos/', batch_size=4, out_dir='results')['predictions']

    :func:`init_inferencer` takes configs of video models, too.

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

    follows_videos = False  # whether frames of a video are segmented together, as subclasses may

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
        cfg = config_of(config, cfg_options)
        check_inferencer(cfg, type(self))
        self.task = task_of(cfg, task)
        self._head = next(head for head in HEADS if head in cfg.model)
        if checkpoint is None:
            warnings.warn('no checkpoint: the weights are random, and so will be what is found', stacklevel=2)
        super().__init__(cfg, checkpoint, str(self.device), cfg.get('default_scope'), show_progress)
        self.meta = coloured(class_meta(self.model.dataset_meta, self.head.num_classes))
        self.num_things = getattr(self.head, 'num_things_classes', 0)
        self._num_unnamed = 0

    @property
    def head(self) -> Any:
        """The model's head, which holds the thresholds."""
        return getattr(self.model, self._head)

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
        whole_video: bool = False,
        fps: float | None = None,
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
            whole_video, fps: of video models, see their inferencer; others refuse them.

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
        if not self.follows_videos and (whole_video or fps is not None):
            raise ValueError(
                f'whole_video={whole_video}, fps={fps}: for video models; this one segments every image on its own'
            )
        settings = head_settings(self.task, pred_score_thr, overlap_thr, return_datasamples)
        out = Path(out_dir).expanduser() if out_dir else None
        names = Names(self._num_unnamed)
        ignored = [out / PICTURES, out / PREDICTIONS] if out else []
        self.skipped: list[Path] = []
        find = partial(
            find_sources, inputs, channel_order, names, ignored,
            unreadable=self.skipped if on_error == 'skip' else None,
        )  # fmt: skip
        sources = self._find_sources(find, fps)
        self._num_unnamed = names.number
        request = Request(
            batch_size=batch_size,
            on_error=on_error,
            settings=settings,
            score_thr=INSTANCE_SCORE_THR if pred_score_thr is None else pred_score_thr,
            files=self._prediction_files(out / PREDICTIONS, whole_video) if out and not no_save_pred else None,
            pictures=PictureFiles(out / PICTURES) if out and not no_save_vis else None,
            return_datasamples=return_datasamples,
            return_vis=return_vis,
            print_result=print_result,
            whole_video=whole_video,
        )
        return self._results(sources, request)

    def _results(self, sources: Sequence[Source], request: Request) -> Iterator[Result]:
        with ExitStack() as stack:
            if request.files:
                stack.enter_context(request.files.opened())
            if request.pictures:
                stack.enter_context(request.pictures)
            shown = None if self.show_progress else True  # tqdm's None: where stderr is a terminal
            bar = stack.enter_context(tqdm(total=count_images(sources), desc='segment', unit='image', disable=shown))

            def counted(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
                for image in images:
                    yield image
                    bar.update()

            for loaded, samples in self._predict(sources, request, counted):
                found = self.postprocess(samples, request.score_thr)
                drawn: Sequence[np.ndarray | None] = [None] * len(samples)
                if request.pictures or request.return_vis:
                    drawn = self.visualize([pixels for _, pixels in loaded], samples, request.score_thr)
                for (image, _), sample, prediction, picture in zip(loaded, samples, found, drawn, strict=True):
                    if request.files:
                        request.files.add(image, prediction)
                    if request.pictures and picture is not None:
                        request.pictures.add(image, picture)
                    if request.print_result:
                        bar.write(f'{image.name}: {summary(prediction["segments_info"])}')
                    given = sample if request.return_datasamples else prediction
                    video = image.video.name if image.video and self.follows_videos else None
                    yield Result(image.name, given, picture if request.return_vis else None, video)

    def _find_sources(self, find: Callable[..., list[Source]], fps: float | None) -> Sequence[Source]:
        """What was given, in the order of the results; ``find`` is ``find_sources`` with its other arguments."""
        return find()

    def _prediction_files(self, folder: Path, whole_video: bool) -> PredictionFiles:
        """What writes the results."""
        return PredictionFiles(folder, self.task, self.meta['classes'], self.num_things)

    def _predict(
        self,
        sources: Sequence[Source],
        request: Request,
        counted: Callable[[Iterable[ImageInput]], Iterator[ImageInput]],
    ) -> Iterator[Predicted]:
        """Images with their samples, on the CPU; ``counted`` tells the progress bar of the images that it hands on."""
        for loaded, data in self.preprocess(counted(images_of(sources)), request.batch_size, request.on_error):
            yield loaded, self.forward(data, **request.settings)

    @torch.no_grad()
    def forward(self, inputs: dict[str, Any], **settings: Any) -> list[Sample]:
        """Samples with predictions, on the CPU; ``settings`` are attributes of the head for this batch."""
        data = self.model.data_preprocessor(inputs, training=False)
        with changed(self.head, settings):
            samples = self.head.predict_inputs(self._network, data['inputs'], data['data_samples'])
        return [sample.cpu() for sample in samples]

    def _network(self, inputs: torch.Tensor) -> Any:
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            return self.model.extract_feat(inputs)

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

    def _init_visualizer(self, cfg: Config) -> None:
        """None: pictures are drawn by :mod:`eomt_mm.visualization`."""


def init_inferencer(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    cfg_options: dict[str, Any] | None = None,
    **options: Any,
) -> EoMTInferencer:
    """The inferencer of a config's model, of images or of videos.

    Args:
        config, checkpoint, cfg_options: see :class:`EoMTInferencer`.
        **options: its further arguments.

    Raises:
        FileNotFoundError, ValueError: as the class; no inferencer knows the model.
    """
    cfg = config_of(config, cfg_options)
    inferencer: EoMTInferencer = inferencer_class(cfg)(cfg, checkpoint, **options)
    return inferencer
