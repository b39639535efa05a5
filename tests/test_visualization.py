"""Pictures: what is drawn, where names go, and that small images stay legible."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from eomt_mm.visualization import DrawnSegment, draw_segments, outline, side_by_side

RED = (255, 0, 0)


def disc(size: int, radius: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return x**2 + y**2 <= radius**2


def test_colour_covers_the_mask_only() -> None:
    image = np.full((400, 400, 3), 100, np.uint8)
    drawn = np.asarray(draw_segments(image, [DrawnSegment(disc(400, 100), 'x' * 90, RED)], opacity=0.5))
    assert (drawn[0] == 100).all()
    inner = drawn[200 - 40, 200]
    assert inner.tolist() == [178, 50, 50]
    assert drawn[100, 200].tolist() == list(RED)  # the outline is opaque


@pytest.mark.parametrize('side, expected', [(10, 320), (128, 384), (319, 638), (320, 320), (1000, 1000)])
def test_small_images_are_enlarged(side: int, expected: int) -> None:
    assert draw_segments(np.zeros((side, side, 3), np.uint8), []).size == (expected, expected)


def names_drawn(segments: list[DrawnSegment], size: int) -> bool:
    """Whether a caption was written: its box is black, on a grey image."""
    return bool((np.asarray(draw_segments(np.full((size, size, 3), 99, np.uint8), segments)) == 0).all(-1).any())


def test_names_are_written_where_they_fit() -> None:
    assert names_drawn([DrawnSegment(disc(400, 80), 'cat', RED, 0.9)], 400)
    assert not names_drawn([DrawnSegment(disc(400, 3), 'hippopotamus', RED)], 400)
    assert not names_drawn([DrawnSegment(np.zeros((400, 400), bool), 'cat', RED)], 400)


def test_caption_has_the_score() -> None:
    assert DrawnSegment(disc(8, 2), 'cat', RED, 0.876).caption == 'cat 0.88'
    assert DrawnSegment(disc(8, 2), 'cat', RED).caption == 'cat'


def test_outline_is_the_border_inside_the_mask() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    assert outline(mask).sum() == 8
    assert not outline(mask)[2, 2]
    assert outline(np.ones((2, 2), bool)).all()


def test_panels_stand_side_by_side() -> None:
    panel = draw_segments(np.full((400, 500, 3), 7, np.uint8), [])
    joined = np.asarray(side_by_side([('a', panel), ('b', panel)]))
    assert joined.shape[1] == 2 * 500 + 8
    assert joined.shape[0] > 400
    assert (joined[-1, [0, 499, 508, 1007]] == 7).all()
    assert (joined[-1, 503] == 255).all()


def test_curves_of_a_resumed_run(tmp_path: Path) -> None:
    tool = runpy.run_path(str(Path(__file__).resolve().parent.parent / 'tools/analysis/plot_curves.py'))
    with pytest.raises(FileNotFoundError, match=r'scalars\.json'):
        tool['read_scalars'](tmp_path)
    for run, steps in (('1', (10, 20, 30)), ('2', (30, 40))):  # step 30 was repeated after the resume
        folder = tmp_path / run / 'vis_data'
        folder.mkdir(parents=True)
        records = [dict(loss=100.0 * int(run) + s, loss_cls=1.0, mask_prob_0=0.5, lr=1e-4, step=s) for s in steps]
        records.append({'coco_panoptic/PQ': 3.0, 'step': 40})
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))
    scalars = tool['read_scalars'](tmp_path)
    assert scalars['loss'] == [(10, 110.0), (20, 120.0), (30, 230.0), (40, 240.0)]
    tool['plot'](scalars, tmp_path / 'out' / 'curves.png')
    assert (tmp_path / 'out' / 'curves.png').stat().st_size > 10_000
