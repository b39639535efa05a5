"""Class tables of data sets: which classes are things, and the value of each class in files."""

# ADE20K, scene parsing: the stuff classes among the 150 (indices in ADE20K's order), as listed in the official configs.
# The others are things.
ADE20K_NUM_CLASSES = 150
ADE20K_NUM_THINGS = 100
# fmt: off
ADE20K_STUFF = (
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77, 79,
    84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
)
# fmt: on
# mmdet's order of the panoptic classes, things first: its class k is class ADE20K_THINGS_FIRST[k] of ADE20K.
ADE20K_THINGS_FIRST = (*(c for c in range(ADE20K_NUM_CLASSES) if c not in ADE20K_STUFF), *ADE20K_STUFF)

# Cityscapes: labelId of the 19 classes in the order of train ids (helpers/labels.py of mcordts/cityscapesScripts).
CITYSCAPES_LABEL_IDS = {
    'road': 7,
    'sidewalk': 8,
    'building': 11,
    'wall': 12,
    'fence': 13,
    'pole': 17,
    'traffic light': 19,
    'traffic sign': 20,
    'vegetation': 21,
    'terrain': 22,
    'sky': 23,
    'person': 24,
    'rider': 25,
    'car': 26,
    'truck': 27,
    'bus': 28,
    'train': 31,
    'motorcycle': 32,
    'bicycle': 33,
}
# "hasInstances" and not "ignoreInEval" in that table: person .. bicycle.
CITYSCAPES_THINGS = tuple(CITYSCAPES_LABEL_IDS)[11:]
# "ignoreInEval" in that table, except the licence plate (-1), which label maps do not contain: unlabeled, ego vehicle,
# rectification border, out of roi, static, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, polegroup,
# caravan, trailer.
CITYSCAPES_VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)

# COCO-Stuff 164k: values from 0 to 181 that mean no class in raw label maps, because COCO never used their ids
# (value + 1); 255 is void. As in mmseg's tools/dataset_converters/coco_stuff164k.py.
COCO_STUFF_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
# Values of the 171 classes, in mmseg's order.
COCO_STUFF_LABEL_IDS = tuple(value for value in range(182) if value not in COCO_STUFF_UNUSED)
# Names of the 91 stuff classes among the 171 (labels.txt of nightrome/cocostuff); the first 80 are COCO's things.
# fmt: off
COCO_STUFF_NAMES = (
    'banner', 'blanket', 'branch', 'bridge', 'building-other', 'bush', 'cabinet', 'cage', 'cardboard', 'carpet',
    'ceiling-other', 'ceiling-tile', 'cloth', 'clothes', 'clouds', 'counter', 'cupboard', 'curtain', 'desk-stuff',
    'dirt', 'door-stuff', 'fence', 'floor-marble', 'floor-other', 'floor-stone', 'floor-tile', 'floor-wood', 'flower',
    'fog', 'food-other', 'fruit', 'furniture-other', 'grass', 'gravel', 'ground-other', 'hill', 'house', 'leaves',
    'light', 'mat', 'metal', 'mirror-stuff', 'moss', 'mountain', 'mud', 'napkin', 'net', 'paper', 'pavement', 'pillow',
    'plant-other', 'plastic', 'platform', 'playingfield', 'railing', 'railroad', 'river', 'road', 'rock', 'roof',
    'rug', 'salad', 'sand', 'sea', 'shelf', 'sky-other', 'skyscraper', 'snow', 'solid-other', 'stairs', 'stone',
    'straw', 'structural-other', 'table', 'tent', 'textile-other', 'towel', 'tree', 'vegetable', 'wall-brick',
    'wall-concrete', 'wall-other', 'wall-panel', 'wall-stone', 'wall-tile', 'wall-wood', 'water-other', 'waterdrops',
    'window-blind', 'window-other', 'wood',
)
# fmt: on
