"""The page of tools/web_demo.py, made with gradio (extra [web]). It loads nothing from other servers."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.middleware import Middleware

from eomt_mm.apis.inferencer import EoMTInferencer
from eomt_mm.web.guard import REFUSED, Guard, check_payload, file_within
from eomt_mm.web.limits import MAX_PIXELS, TIME_LIMIT
from eomt_mm.web.results import (
    Found,
    find_segments,
    line,
    picture,
    table,
    thresholds,
)

HINT = 'Choose an image, then press <b>Segment</b>.'
OPACITY = 0.55
SESSIONS = 4  # whose last result is kept in memory, to be drawn with another opacity; up to 50 MB each
MAX_UPLOAD = 50 * 2**20  # bytes
MAX_WAITING = 16  # requests in the queue
CSS = """
#segments table, #segments tr { border: 0; }
#segments table { width: 100%; border-collapse: collapse; font-size: var(--text-md); }
#segments :is(th, td) { padding: 5px 10px; border: 0; border-bottom: 1px solid var(--border-color-primary);
                        text-align: right; font-variant-numeric: tabular-nums; }
#segments :is(th, td):nth-child(2) { text-align: left; width: 50%; }
#segments i { display: block; width: 18px; height: 18px; border: 1px solid #0008; border-radius: 3px; }
#status { padding: 4px; } :is(#status, #segments) .html-container { padding: 0; }
#status .error { color: #dc2626; font-weight: 600; }
"""


class Page:
    """Actions of the page; each returns (result to keep, picture, status line, table).

    Args:
        models: by the names that the page offers.
        folder: of the uploads and samples; files elsewhere are refused.
        max_pixels: of an image.
        time_limit: of a request, in seconds.
    """

    def __init__(
        self,
        models: Mapping[str, EoMTInferencer],
        folder: str | Path,
        max_pixels: int = MAX_PIXELS,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.models = models
        self.folder = folder
        self.max_pixels = max_pixels
        self.time_limit = time_limit

    def segment(
        self, path: str | None, model: str, score_thr: float, overlap_thr: float, opacity: float
    ) -> tuple[Found | None, Image.Image | None, str, str]:
        """Segment the chosen image; errors are shown in the status line."""
        if path is None:
            return self.cleared()
        try:
            found = find_segments(
                self.models[model], file_within(self.folder, path), score_thr, overlap_thr, self.max_pixels,
                self.time_limit,
            )  # fmt: skip
        except (TimeoutError, ValueError) as error:
            return None, None, f'<span class="error">{escape(str(error))}</span>', ''
        return found, picture(found, opacity), line(found), table(found)

    def cleared(self) -> tuple[None, None, str, str]:
        """Empty answer, after another image or model was chosen."""
        return None, None, HINT, ''

    def redrawn(self, found: Found | None, opacity: float) -> Image.Image | None:
        """Draw the last result again with another opacity."""
        return None if found is None else picture(found, opacity)

    def sliders(self, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Updates of the sliders of score and overlap for a model: its config's values; hidden if it has none."""
        score, overlap = (
            gr.update(visible=False) if value is None else gr.update(visible=True, value=value)
            for value in thresholds(self.models[model])
        )
        return score, overlap


class GuardedBlocks(gr.Blocks):
    """Blocks that check the paths in every request, whatever its address, before gradio uses them.

    gradio downloads addresses and hashes files of inputs of every kind, sliders too.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            check_payload(inputs, get_upload_folder())
        except ValueError as error:
            raise gr.Error(REFUSED, print_exception=False) from error
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def build_page(
    models: Mapping[str, EoMTInferencer],
    samples: Sequence[Path] = (),
    max_pixels: int = MAX_PIXELS,
    time_limit: float = TIME_LIMIT,
) -> gr.Blocks:
    """The page.

    Args:
        models: at least one, by the names that the page offers.
        samples: images to pick from; copied to gradio's upload folder, which the environment variable GRADIO_TEMP_DIR
            names.
        max_pixels: of an image.
        time_limit: of a request, in seconds; see :func:`~eomt_mm.web.results.find_segments`.
    """
    page, names = Page(models, get_upload_folder(), max_pixels, time_limit), list(models)
    with GuardedBlocks(title='EoMT', analytics_enabled=False) as blocks:
        found = gr.State()
        gr.Markdown('## EoMT segmentation')
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                image = gr.Image(label='Image', height=220, sources=['upload', 'clipboard'], elem_id='image')
                # gradio would decode the file itself, and fail with a traceback. (It writes a file beside the module of
                # every subclass.)
                image.preprocess = _path_of  # type: ignore[method-assign]
                button = gr.Button('Segment', variant='primary', elem_id='run')
                if samples:
                    gr.Examples([str(file) for file in samples], image, label='Samples', examples_per_page=8)
                model = gr.Dropdown(names, value=names[0], label='Model', interactive=len(names) > 1, elem_id='model')
                with gr.Row():
                    score, overlap = map(_threshold, ('Least score', 'Least overlap'), thresholds(models[names[0]]))
            with gr.Column(scale=7, min_width=480):
                result = gr.Image(
                    label='Segments', height=430, format='png', interactive=False, buttons=['download', 'fullscreen'],
                    elem_id='result',
                )  # fmt: skip
                with gr.Row(equal_height=True):
                    with gr.Column(scale=3):
                        status = gr.HTML(HINT, elem_id='status')
                    with gr.Column(scale=2):
                        opacity = gr.Slider(0, 1, value=OPACITY, step=0.05, label='Opacity', buttons=[])
                segments = gr.HTML(elem_id='segments', max_height=420)
        shown = [found, result, status, segments]
        # one at a time: images in parallel would not be faster, but share the memory and the time limit
        alone: dict[str, Any] = dict(concurrency_id='models', concurrency_limit=1, api_visibility='private')
        plain: dict[str, Any] = dict(show_progress='hidden', api_visibility='private')
        button.click(page.segment, [image, model, score, overlap, opacity], shown, show_progress_on=result, **alone)
        gr.on([image.change, model.change], page.cleared, None, shown, **plain)
        opacity.release(page.redrawn, [found, opacity], result, **plain)
        model.change(page.sliders, model, [score, overlap], **plain)
    return blocks.queue(max_size=MAX_WAITING, api_open=False)


def launch(
    page: gr.Blocks, port: int | None = None, allowed_hosts: Collection[str] = (), max_upload: int = MAX_UPLOAD
) -> str:
    """Serve the page on this computer only, in the background, and return its address.

    Args:
        page: what :func:`build_page` made.
        port: None: 7860, or the first free one after it.
        allowed_hosts: ``NAME:PORT`` by which browsers may ask for the page, beside its own port of 127.0.0.1 and
            localhost.
        max_upload: bytes of an uploaded file.

    Raises:
        OSError: the port cannot be used.
        ValueError: there is no such port.
    """
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError(f'port={port}: from 1 to 65535')
    guard = Middleware(Guard, Path(get_upload_folder()), max_upload, allowed_hosts)
    font = ('system-ui', 'sans-serif')  # no web font
    theme = gr.themes.Default(primary_hue='blue', font=font, font_mono=('monospace',))
    try:
        _, address, _ = page.launch(
            server_name='127.0.0.1', server_port=port, prevent_thread_lock=True, quiet=True, show_error=False,
            share=False, ssr_mode=False, run_history=False, footer_links=[], state_session_capacity=SESSIONS,
            css=CSS, theme=theme, max_file_size=max_upload, app_kwargs={'middleware': [guard]},
        )  # fmt: skip
    except OSError as error:
        wanted = 'the ports from 7860 to 7959 are' if port is None else f'port {port} is'
        raise OSError(f'{wanted} taken, or not allowed to you: give another with --port') from error
    return address


def _path_of(payload: Any) -> str | None:
    """The path of the chosen image; None for nothing."""
    return None if payload is None else payload.path


def _threshold(label: str, value: float | None) -> gr.Slider:
    """A slider; hidden without a value."""
    return gr.Slider(
        0, 1, value=value or 0, step=0.01, label=label, visible=value is not None, buttons=[], min_width=150
    )
