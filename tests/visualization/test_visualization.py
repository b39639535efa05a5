"""Pictures: what is drawn, where names go, and that small images stay legible."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from eomt_mm.visualization import (
    DrawnSegment,
    class_colours,
    distinct_palette,
    draw_segments,
    outline,
    shade,
    side_by_side,
)
from eomt_mm.visualization.captions import thickest_point
from eomt_mm.visualization.figures import new_figure, save_picture
from eomt_mm.visualization.palettes import OKABE_ITO, as_seen

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


@pytest.mark.parametrize(
    'size, max_side, expected',
    [
        ((100, 4000), None, (100, 4000)),
        ((8, 3000), None, (8, 3000)),
        ((1, 4000), None, (1, 4000)),
        ((10, 500), None, (40, 2000)),
        ((10, 500), 400, (40, 2000)),
        ((100, 4000), 1600, (40, 1600)),
        ((20, 10), 100, (640, 320)),
    ],
)
def test_enlarged_pictures_are_bounded(size: tuple[int, int], max_side: int | None, expected: tuple[int, int]) -> None:
    segments = [DrawnSegment(np.ones(size, bool), 'a long name', RED)]
    drawn = draw_segments(np.zeros((*size, 3), np.uint8), segments, max_side=max_side)
    assert drawn.size == expected[::-1]
    joined = side_by_side([('a title', drawn)] * 2, [('a long name', RED)] * 9)
    assert joined.width < 2 * drawn.width + 400 and joined.height < drawn.height + 600


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


def test_legend_stands_below() -> None:
    panel = draw_segments(np.full((400, 500, 3), 7, np.uint8), [])
    plain, one = side_by_side([('a', panel)]), side_by_side([('a', panel)], [('cat', RED)])
    many = side_by_side([('a', panel)], [(f'class {k}', RED) for k in range(60)])
    assert plain.height < one.height < many.height
    assert (np.asarray(one)[plain.height :] == RED).all(-1).sum() > 50
    assert (np.asarray(many)[plain.height :] == RED).all(-1).sum() > 60 * 50  # none is cut off


def test_thick_outlines() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    assert outline(mask, 2).sum() == 49 - 9
    thin = DrawnSegment(np.ones((1000, 1000), bool), 'x' * 900, RED)
    drawn = np.asarray(draw_segments(np.zeros((1000, 1000, 3), np.uint8), [thin]))
    assert drawn[500, :4].tolist() == [[255, 0, 0], [255, 0, 0], [140, 0, 0], [140, 0, 0]]


def test_void_is_hatched_where_no_segment_is() -> None:
    image = np.full((400, 400, 3), 100, np.uint8)
    segment = DrawnSegment(disc(400, 100), 'x' * 90, RED)
    plain, hatched = (np.asarray(draw_segments(image, [segment], hatch_void=on)) for on in (False, True))
    assert (plain[segment.mask] == hatched[segment.mask]).all()
    changed = (plain != hatched).any(-1)[~segment.mask].mean()
    assert 0.2 < changed < 0.5
    assert (np.asarray(draw_segments(image, [], hatch_void=True)) != 100).any()


def test_large_images_are_shrunk() -> None:
    mask = np.zeros((300, 900), bool)
    mask[100:200, 300:600] = True
    drawn = draw_segments(np.zeros((300, 900, 3), np.uint8), [DrawnSegment(mask, 'x' * 90, RED)], max_side=450)
    assert drawn.size == (3 * 450, 3 * 150)  # 450 x 150, enlarged
    assert (np.asarray(drawn).any(-1).nonzero()[0][[0, -1]] == [150, 299]).all()
    assert draw_segments(np.zeros((400, 900, 3), np.uint8), [], max_side=900).size == (900, 400)


def test_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"'cat' is \(8, 8\), the image \(8, 9\)"):
        draw_segments(np.zeros((8, 9, 3), np.uint8), [DrawnSegment(disc(8, 2), 'cat', RED)])


def test_names_do_not_cover_each_other() -> None:
    segment = DrawnSegment(disc(400, 150), 'cat', RED)
    image = np.full((400, 400, 3), 99, np.uint8)
    black = [
        int((np.asarray(draw_segments(image, [segment] * n)) == 0).all(-1).sum())
        for n in (1, 2, 3, 9)
    ]  # fmt: skip
    assert black[1] > 1.5 * black[0]
    assert black[2] > 2.5 * black[0]
    assert black[3] == black[2]  # centre, above, below: there is room for three


def test_crowded_pictures_show_outlines_and_the_best_names(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(
        'eomt_mm.visualization.drawing.write_captions',
        lambda _, captions, __: named.extend(caption[0] for caption in captions),
    )
    discs = [np.roll(disc(400, 60), 8 * k, axis=1) for k in range(20)]
    image = np.full((400, 400, 3), 99, np.uint8)
    for scores in ([k / 100 for k in range(20)], [None] * 20):
        segments = [DrawnSegment(mask, f'n{k}', RED, scores[k]) for k, mask in enumerate(discs)]
        drawn = np.asarray(draw_segments(image, segments))
        edges = np.any([outline(mask, 2) for mask in discs], axis=0)
        assert (drawn[edges] == RED).all()
        assert (drawn[~edges] == 99).all()
    assert named[:15] == [f'n{k} {k / 100:.2f}' for k in range(5, 20)]
    apart = [DrawnSegment(np.roll(disc(400, 10), (k % 8 * 40, k // 8 * 40), (0, 1)), f'n{k}', RED) for k in range(20)]
    assert (np.asarray(draw_segments(image, apart))[200, 200] != 99).all()  # many alone are not crowded


def test_thickest_point_lies_in_the_mask() -> None:
    ring = disc(601, 300) & ~disc(601, 200)
    assert ring[thickest_point(ring)]
    thin = np.zeros((1, 900), bool)
    thin[0, 1] = True
    assert thickest_point(thin) == (0, 1)


def test_distinct_palette() -> None:
    assert distinct_palette(0) == ()
    assert distinct_palette(3) == OKABE_ITO[:3]
    assert distinct_palette(20)[:7] == OKABE_ITO
    for count, least in ((20, 15), (150, 5)):
        palette = distinct_palette(count)
        assert len(set(palette)) == count
        seen = as_seen(np.array(palette, np.uint8))
        distance = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1) + 1000 * np.eye(count)
        assert distance.min() > least  # in the colour vision that separates them least


def test_as_seen() -> None:
    black, white, red, green = as_seen(np.array([(0,) * 3, (255,) * 3, (255, 0, 0), (0, 138, 0)], np.uint8))[
        :3
    ].swapaxes(0, 1)
    assert black == pytest.approx(np.zeros((3, 3)), abs=0.5)
    assert white == pytest.approx(np.array([[100, 0, 0]] * 3), abs=0.5)
    normal, _, deuteranope = np.linalg.norm(red - green, axis=-1)
    assert normal > 2 * deuteranope


def test_colours_of_classes() -> None:
    meta = dict(classes=('a', 'b'), palette=[[1, 2, 3], [4, 5, 6]])
    assert class_colours(meta) == [(1, 2, 3), (4, 5, 6)]
    assert class_colours(meta, 'distinct') == list(OKABE_ITO[:2])
    assert class_colours(dict(classes=('a', 'b'))) == list(OKABE_ITO[:2])
    with pytest.raises(ValueError, match="palette='bright'.*distinct"):
        class_colours(meta, 'bright')


def test_instances_have_shades() -> None:
    shades = [shade((200, 100, 0), k) for k in range(5)]
    assert shades[0] == (200, 100, 0)
    assert len(set(shades)) == 5
    assert shade((200, 100, 0), 5) == shades[0]


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    figure = new_figure(3, 2)
    figure.subplots().plot([1, 2])
    save_picture(figure, tmp_path / 'new' / 'a.png', dpi=50)
    assert Image.open(tmp_path / 'new' / 'a.png').size == (150, 100)
    assert not pyplot.get_fignums()  # nothing global
    target = tmp_path / 'b.png'
    target.mkdir()
    with pytest.raises(OSError):
        save_picture(Image.new('RGB', (4, 4)), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['b.png', 'new']
