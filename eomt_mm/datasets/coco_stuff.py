"""COCO-Stuff 164k: what the values of its raw label maps mean.

Semantic: mmseg's ``COCOStuffDataset`` with ``seg_map_suffix='.png'`` and ``LoadSemanticMap(label_ids=LABEL_IDS)``; no
conversion is needed.
"""

# Values in 0 .. 181 without a class: ids of COCO, less one, that its images never show. 255 is void. As in mmseg's
# tools/dataset_converters/coco_stuff164k.py.
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
# Values of the 171 classes, in mmseg's order.
LABEL_IDS = tuple(value for value in range(182) if value not in UNUSED)
