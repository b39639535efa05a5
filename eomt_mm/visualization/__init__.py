"""Pictures of segmentations: masks with outlines and names, panels side by side, palettes. Knows no host."""

from eomt_mm.visualization.drawing import DrawnSegment, draw_segments, outline
from eomt_mm.visualization.palettes import class_colours, distinct_palette, shade
from eomt_mm.visualization.panels import side_by_side

__all__ = [
    'DrawnSegment',
    'class_colours',
    'distinct_palette',
    'draw_segments',
    'outline',
    'shade',
    'side_by_side',
]
