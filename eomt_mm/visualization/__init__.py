"""Pictures of segmentations: masks with outlines and names, panels side by side, palettes. Knows no host."""

from eomt_mm.visualization.drawing import DrawnSegment, class_segments, draw_segments, outline
from eomt_mm.visualization.palettes import PALETTES, Colour, class_colours, distinct_palette, shade, with_palette
from eomt_mm.visualization.panels import legend_of, side_by_side

__all__ = [
    'PALETTES',
    'Colour',
    'DrawnSegment',
    'class_colours',
    'class_segments',
    'distinct_palette',
    'draw_segments',
    'legend_of',
    'outline',
    'shade',
    'side_by_side',
    'with_palette',
]
