"""Run inference on image files, folders, arrays or videos; return dictionaries, samples or pictures, or write files."""

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.registry import INFERENCERS
from torch import nn
from tqdm import tqdm

from eomt_mm.apis.calls import ColourOf, Item, Loaded, Predicted, Request, Result, Results, write_files
from eomt_mm.apis.inferencer_parts import (
    INSTANCE_SCORE_THR,
    amp_dtype_of,
    check_compiler,
    check_inferencer,
    class_meta,
    config_of,
    device_of,
    head_settings,
    inferencer_class,
    task_of,
    test_pipeline,
)
from eomt_mm.apis.inputs import ImageInput, Names, Source, count_images, find_sources, images_of, report
from eomt_mm.apis.model import init_model
from eomt_mm.apis.result_files import PictureFiles, PredictionFiles, check_results_apart
from eomt_mm.apis.results import Prediction, prediction_of, summary
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.models.predictions import Sample, Segment, drawn_segments, predicted_segments
from eomt_mm.options import PICTURES, PREDICTIONS
from eomt_mm.visualization import DrawnSegment, draw_segments, with_palette


@INFERENCERS.register_module(name=['EoMTSegmentor', 'EoMTDetector'])
class EoMTInferencer(BaseInferencer):
    """A model with its pre-processing, post-processing and classes, with the interface of mmengine's inferencers.

    The config decides the task. Example::

        inferencer = EoMTInferencer('eomt_dinov2-l_12e_coco-panoptic-640', 'hf://tue-mps/coco_panoptic_eomt_large_640')
        found = inferencer('photos/', batch_size=4, out_dir='results')['predictions']

    :func:`init_inferencer` also takes configs of video models. A project adds the inferencer of its model as a
    subclass, registered under the model's name; it may override any method without a leading underscore.

    Several threads may use an inferencer at the same time: what belongs to a call (thresholds, names, files that were
    skipped) is kept in the call, and the model is not changed.

    Args:
        config: path, name of a shipped config (:func:`~eomt_mm.recipes.names.find_config`), or a config that
            :func:`~eomt_mm.apis.load_config` returned.
        checkpoint: in any format that :func:`~eomt_mm.apis.init_model` reads. None: random weights, and a warning.
        device: such as 'cuda:1'. None: the GPU if there is one, else the CPU.
        task: required task of the model, 'semantic', 'instance' or 'panoptic'. None: any.
        amp_dtype: 'float16' or 'bfloat16' to run the network in mixed precision; the post-processing stays in float32.
        cfg_options: overrides of the config that map dotted keys to values.
        show_progress: show a progress bar on stderr, if that is a terminal.
        compile: compile the network with ``torch.compile`` in the first call. One more compilation follows if both
            single images and larger batches are given; no other batch size and no image size needs another.

    Attributes:
        kind: unit in which results are counted, 'image' or 'video'.
        can_compile: whether the class accepts ``compile``.
        extra_options: further arguments of :meth:`stream` that a subclass accepts, with their defaults.
        skipped: files that the call that started last could not read. With several threads, use the
            :attr:`Results.skipped` of the call.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the model is not an EoMT or has another task, the weights do not fit the model, or ``device``,
            ``amp_dtype`` or ``compile`` is not available.
    """

    kind = 'image'
    can_compile = True
    extra_options: Mapping[str, Any] = {}

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path | None = None,
        device: str | None = None,
        task: str | None = None,
        amp_dtype: str | None = None,
        cfg_options: dict[str, Any] | None = None,
        show_progress: bool = True,
        compile: bool = False,
    ) -> None:
        self.device = device_of(device)
        self.amp_dtype = amp_dtype_of(amp_dtype, self.device)
        if compile and not self.can_compile:
            raise ValueError(f'compile=True: {type(self).__name__} does not compile its network; leave it out')
        cfg = config_of(config, cfg_options)
        check_inferencer(cfg, type(self))
        self.task = task_of(cfg, task)
        self._head = next(head for head in HEADS if head in cfg.model)
        if compile:
            check_compiler(self.device)
        if checkpoint is None:
            warnings.warn('no checkpoint: the weights are random, and so are the results', stacklevel=2)
        super().__init__(cfg, checkpoint, str(self.device), cfg.get('default_scope'), show_progress)
        self._compiled = torch.compile(self.model.extract_feat) if compile else None
        self.meta = with_palette(class_meta(self.model.dataset_meta, self.head.num_classes))
        self.num_things = getattr(self.head, 'num_things_classes', 0)
        self.skipped: list[Path] = []
        self._numbers = count()  # of images without a file, in all calls

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
        """Segment all inputs and return all results at once; :meth:`stream` yields them one at a time.

        Args:
            inputs, return_datasamples, batch_size: see :meth:`stream`.
            print_result: print a line per image.
            **options: further arguments of :meth:`stream`.

        Returns:
            ``predictions``, one per image in input order; ``visualization``, the pictures if ``return_vis`` is set,
            else an empty list; ``skipped``, the files that could not be read.
        """
        stream = self.stream(
            inputs, batch_size, return_datasamples=return_datasamples, print_result=print_result, **options
        )
        results = list(stream)
        pictures = [result.picture for result in results if result.picture is not None]
        predictions = [result.prediction for result in results]
        return dict(predictions=predictions, visualization=pictures, skipped=stream.skipped)

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
        **options: Any,
    ) -> Results:
        """Segment the inputs batch by batch, videos too, in bounded memory, and yield the results.

        Args:
            inputs: image, video, folder, pattern, array, PIL image or a list of these; see
                :func:`~eomt_mm.apis.inputs.find_sources`. Sizes may differ within a batch.
            batch_size: number of images per batch.
            out_dir: folder for pictures (``vis/``, :class:`~eomt_mm.apis.result_files.PictureFiles`) and results
                (``preds/``, :class:`~eomt_mm.apis.result_files.PredictionFiles`). None or '': write no files.
            return_datasamples: return the host's samples instead of dictionaries; semantic samples have ``seg_logits``.
            return_vis: return the pictures.
            no_save_vis, no_save_pred: do not write pictures or results to ``out_dir``.
            print_result: print a line per image.
            pred_score_thr: score threshold in [0, 1]. Instance: for results that are returned, written and drawn; None:
                0.3. Panoptic: the head's ``score_thr``; None: the config's value.
            overlap_thr: panoptic only: the head's ``overlap_thr``; None: the config's value.
            channel_order: channel order of arrays, 'bgr' or 'rgb'.
            on_error: 'raise', or 'skip' to skip files that cannot be read, segmented or written; each is reported by a
                warning and listed in ``skipped`` of the results, as are videos that lack frames.
            **options: arguments named in ``extra_options``.

        Returns:
            iterator of results in input order. Files are complete once it is exhausted.

        Raises:
            FileNotFoundError, TypeError, ValueError: an argument is invalid or a result would replace an input (raised
                immediately), or a file cannot be read (raised during iteration).
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: at least 1')
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error='{on_error}': 'raise' or 'skip'")
        settings = head_settings(self.task, pred_score_thr, overlap_thr, return_datasamples)
        options = self._checked_options(options)
        out = Path(os.path.expanduser(out_dir)) if out_dir else None
        self.skipped = skipped = list[Path]()
        collected = skipped if on_error == 'skip' else None
        numbered, bits = Names(self._numbers), self.load_image.bits
        find = partial(find_sources, inputs, channel_order, numbered, unreadable=collected, bits=bits)
        sources = self.find_sources(find, options)
        files = self.prediction_files(out / PREDICTIONS, options) if out and not no_save_pred else None
        pictures = PictureFiles(out / PICTURES) if out and not no_save_vis else None
        check_results_apart(sources, files, pictures)
        request = Request(
            batch_size=batch_size,
            skipped=collected,
            settings=settings,
            score_thr=INSTANCE_SCORE_THR if pred_score_thr is None else pred_score_thr,
            files=files,
            pictures=pictures,
            return_datasamples=return_datasamples,
            return_vis=return_vis,
            print_result=print_result,
            options=options,
        )
        return Results(self._results(sources, request), skipped)

    def _checked_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the subclass's options and fill in defaults; unknown options must be None or False."""
        unknown = {k: v for k, v in given.items() if k not in self.extra_options and v not in (None, False)}
        if unknown:
            stated = ', '.join(f'{name}={value!r}' for name, value in unknown.items())
            raise ValueError(f'{stated}: {type(self).__name__} has no such option; is it one of video models?')
        return {name: given.get(name, default) for name, default in self.extra_options.items()}

    def _results(self, sources: Sequence[Source], request: Request) -> Generator[Result, None, None]:
        with ExitStack() as stack:
            if request.files:
                stack.enter_context(request.files.opened())
            if request.pictures:
                stack.enter_context(request.pictures)
            shown = None if self.show_progress else True  # None: tqdm shows it only in a terminal
            bar = stack.enter_context(tqdm(total=count_images(sources), desc='segment', unit='image', disable=shown))

            def counted(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
                for image in images:
                    yield image
                    bar.update()

            for loaded, samples, colour_of in self.predict(sources, request, counted):
                found = self.postprocess(samples, request.score_thr)
                drawn: Sequence[np.ndarray | None] = [None] * len(samples)
                if request.pictures or request.return_vis:
                    drawn = self.visualize([pixels for _, pixels in loaded], samples, request.score_thr, colour_of)
                for (image, _), sample, prediction, picture in zip(loaded, samples, found, drawn, strict=True):
                    write_files(image, prediction, picture, request)
                    if request.print_result:
                        bar.write(f'{image.name}: {summary(prediction["segments_info"])}')
                    given = sample if request.return_datasamples else prediction
                    video = image.video.name if image.video and self.kind == 'video' else None
                    yield Result(image.name, given, picture if request.return_vis else None, video)

    # Steps of a call, in order ---------------------------------------------------------------------------------------

    def find_sources(self, find: Callable[..., list[Source]], options: Mapping[str, Any]) -> Sequence[Source]:
        """List the inputs' sources in result order; ``find`` is ``inputs.find_sources`` with its arguments bound."""
        return find()

    def prediction_files(self, folder: Path, options: Mapping[str, Any]) -> PredictionFiles:
        """Create the writer of the result files."""
        return PredictionFiles(folder, self.task, self.meta['classes'], self.num_things)

    def predict(
        self,
        sources: Sequence[Source],
        request: Request,
        counted: Callable[[Iterable[ImageInput]], Iterator[ImageInput]],
    ) -> Iterator[Predicted]:
        """Yield batches of images with their predicted samples, on the CPU; ``counted`` advances the progress bar."""
        images = images_of(sources, request.skipped)
        for loaded, data in self.preprocess(counted(images), request.batch_size, request.skipped):
            yield loaded, self.forward(data, **request.settings), None

    def preprocess(
        self, inputs: Iterable[ImageInput], batch_size: int = 1, skipped: list[Path] | None = None
    ) -> Iterator[tuple[list[Loaded], Item]]:
        """Yield batches for the model, each with its loaded images.

        Images that cannot be read or segmented are listed in ``skipped``, with a warning; None: errors are raised.
        """
        prepared = self.prepared(self.readable(inputs, skipped), skipped)
        while batch := list(islice(prepared, batch_size)):
            loaded = [image for image, _ in batch]
            try:
                data = self.packed([item for _, item in batch])
            except ValueError as error:
                for image, _ in loaded:
                    report(error, image.origin, skipped)
            else:
                yield loaded, data

    def readable(self, inputs: Iterable[ImageInput], skipped: list[Path] | None) -> Iterator[tuple[Loaded, Item]]:
        """Load images and yield each with the dictionary that the pipeline starts from."""
        for image in inputs:
            try:
                if image.pixels is None:
                    item = self.load_image(dict(img_path=str(image.path)))
                else:
                    pixels = image.pixels()
                    size = pixels.shape[:2]
                    item = dict(img=pixels, img_path=image.name, img_shape=size, ori_shape=size)
            except (OSError, ValueError) as error:
                report(error, image.origin, skipped)
            else:
                yield (image, item['img']), item

    def prepared(
        self, readable: Iterable[tuple[Loaded, Item]], skipped: list[Path] | None
    ) -> Iterator[tuple[Loaded, Item]]:
        """Run the pipeline on each image."""
        for (image, pixels), item in readable:
            try:
                prepared = self.pipeline(item)
            except ValueError as error:  # such as a strip
                report(error, image.origin, skipped)
            else:
                yield (image, pixels), prepared

    def packed(self, items: list[Item]) -> Item:
        """Collate items into a batch."""
        return dict(self.collate_fn(items))

    @torch.no_grad()
    def forward(self, inputs: Item, **settings: Any) -> list[Sample]:
        """Predict a batch and return its samples on the CPU; ``settings`` replace some of the head's ``rules``."""
        data = self.model.data_preprocessor(inputs, training=False)
        rules = replace(self.head.rules, **settings)
        samples = self.head.predict_inputs(self._network, data['inputs'], data['data_samples'], rules)
        return [sample.cpu() for sample in samples]

    def _network(self, inputs: torch.Tensor) -> Any:
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            if self._compiled is None:
                return self.model.extract_feat(inputs)
            # Copied, because windows are views, and torch compiles again for other strides. Only the batch is dynamic:
            # a dynamic batch of 3 would be taken for the number of channels, and fixed with it.
            inputs = inputs.clone(memory_format=torch.contiguous_format)
            if len(inputs) > 1:
                torch._dynamo.mark_dynamic(inputs, 0)
            return self._compiled(inputs)

    def segments(self, sample: Any, score_thr: float) -> list[Segment]:
        """Segments of an image; instances with scores of at least ``score_thr``, best first."""
        return predicted_segments(sample, len(self.meta['classes']), score_thr)

    def drawn(self, segments: Sequence[Segment], colour_of: ColourOf | None = None) -> list[DrawnSegment]:
        """Segments with names and colours, in drawing order: the best instance is drawn last, on top."""
        return drawn_segments(segments[::-1] if self.task == 'instance' else segments, self.meta)

    def postprocess(self, preds: Sequence[Any], score_thr: float) -> list[Prediction]:
        """Convert samples to dictionaries; see :func:`~eomt_mm.apis.results.prediction_of`."""
        num_things = None if self.task == 'semantic' else self.num_things
        return [
            prediction_of(
                self.segments(sample, score_thr), sample.ori_shape[:2], self.meta['classes'], num_things,
                with_masks=self.task == 'instance',
            )
            for sample in preds
        ]  # fmt: skip

    def visualize(
        self,
        inputs: Sequence[np.ndarray],
        preds: Sequence[Any],
        score_thr: float,
        colour_of: ColourOf | None = None,
    ) -> list[np.ndarray]:
        """Draw predictions over their images (BGR) and return the pictures, (H, W, 3) uint8 RGB."""
        pictures = []
        for pixels, sample in zip(inputs, preds, strict=True):
            drawn = self.drawn(self.segments(sample, score_thr), colour_of)
            pictures.append(np.asarray(draw_segments(np.ascontiguousarray(pixels[..., ::-1]), drawn)))
        return pictures

    # Methods that mmengine's BaseInferencer calls --------------------------------------------------------------------

    def _init_model(self, cfg: Config, weights: str | Path | None, device: str = 'cpu') -> nn.Module:
        return init_model(cfg, weights, device)

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load_image, pipeline = test_pipeline(cfg)
        return pipeline

    def _init_collate(self, cfg: Config) -> Callable:
        """Collate to lists of images and samples, as our preprocessors expect, because image sizes differ."""
        return pseudo_collate

    def _init_visualizer(self, cfg: Config) -> None:
        """Build no visualizer: :mod:`eomt_mm.visualization` draws the pictures."""


def init_inferencer(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    cfg_options: dict[str, Any] | None = None,
    **options: Any,
) -> EoMTInferencer:
    """Build the inferencer for the model of a config, for images or for videos.

    Args:
        config, checkpoint, cfg_options: see :class:`EoMTInferencer`.
        **options: further arguments of :class:`EoMTInferencer`.

    Raises:
        FileNotFoundError, ValueError: see :class:`EoMTInferencer`; or no inferencer is registered for the model.
    """
    cfg = config_of(config, cfg_options)
    inferencer: EoMTInferencer = inferencer_class(cfg)(cfg, checkpoint, **options)
    return inferencer
