"""Registrations: classes in our order, the same files as in mm, and the same errors for broken data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2_sets import forget_test_sets
from PIL import Image

from eomt_mm.annotations.class_tables import COCO_STUFF_LABEL_IDS
from eomt_mm.checkpoints.class_names import difference
from eomt_mm.datasets.coco_instance import CocoInstance
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.datasets.label_maps import LabelMaps
from eomt_mm.detectron2.class_names import metainfo_of
from eomt_mm.detectron2.data_items import KINDS
from eomt_mm.detectron2.data_sets import (
    BUILTIN,
    register_builtin,
    register_config,
    register_own_instances,
    register_own_label_maps,
    register_own_panoptic,
)
from eomt_mm.registry import DATASETS

CLASSES = ('circle', 'square')


@pytest.fixture(autouse=True)
def empty_catalogs() -> Iterator[None]:
    yield
    forget_test_sets()
    for name in [name for name in DatasetCatalog.list() if name.startswith('eomt_')]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'LabelMaps'])
def test_classes_are_those_of_mm_in_the_same_order(kind: str) -> None:
    ours, theirs = metainfo_of(kind), DATASETS.get(kind if 'Dataset' in kind else f'eomt_mm.{kind}')
    if theirs is None or 'Dataset' in kind:
        import mmseg.datasets

        theirs = getattr(mmseg.datasets, kind)
    meta = theirs.METAINFO
    assert difference(ours['classes'], meta['classes']) is None
    for key in ('thing_classes', 'stuff_classes'):
        assert len(ours.get(key, ())) == len(meta.get(key, ())) or kind.endswith('Instance')
    if 'category_ids' in meta:
        assert tuple(ours['category_ids']) == tuple(meta['category_ids'])
    if kind == 'COCOStuffDataset':
        assert ours['classes'] == tuple(meta['classes'])
        assert len(ours['classes']) == len(COCO_STUFF_LABEL_IDS)


def test_public_data_sets(ade20k_root: Path, tmp_path: Path) -> None:
    (tmp_path / 'ADEChallengeData2016').symlink_to(ade20k_root)
    names = register_builtin(str(tmp_path))
    assert names == register_builtin(str(tmp_path)), 'twice is harmless'
    assert len(names) == 2 * len(BUILTIN)
    for name in ('ade20k_panoptic', 'ade20k_instance', 'ade20k_semantic'):
        assert len(DatasetCatalog.get(f'eomt_{name}_train')) >= 4
        assert len(DatasetCatalog.get(f'eomt_{name}_val')) == 4
    assert MetadataCatalog.get('eomt_ade20k_panoptic_val').task == 'panoptic'
    with pytest.raises(FileNotFoundError, match='cityscapes/leftImg8bit/train does not exist; it should hold'):
        DatasetCatalog.get('eomt_cityscapes_panoptic_train')
    with pytest.raises(ValueError, match="'eomt_coco_panoptic_train' is already registered"):
        register_builtin(str(tmp_path / 'other'))


def test_metadata_for_detectron2(tmp_path: Path) -> None:
    image(tmp_path / 'a.png')
    segments = [
        dict(id=1, category_id=1, area=3),
        dict(id=2, category_id=200, area=3),
        dict(id=3, category_id=7, area=0),  # the area is not read
    ]
    content = dict(
        images=[dict(id=1, file_name='a.png', height=8, width=10)],
        categories=COCO_CATEGORIES,
        annotations=[dict(image_id=1, file_name='a.png', segments_info=segments)],
    )
    (tmp_path / 'x.json').write_text(json.dumps(content))
    files = dict(data_root=str(tmp_path), ann_file='x.json', data_prefix=dict(img='', seg=''))
    register_config('test_coco', dict(type='eomt_mm.CocoPanoptic', test_mode=True, **files))
    (item,) = DatasetCatalog.get('test_coco')
    assert set(item) >= {'file_name', 'image_id', 'height', 'width', 'pan_seg_file_name'}
    assert item['segments_info'] == [
        dict(id=1, category_id=0, isthing=True, iscrowd=0),
        dict(id=2, category_id=132, isthing=False, iscrowd=0),
        dict(id=3, category_id=6, isthing=True, iscrowd=0),
    ]
    standard, meta = MetadataCatalog.get('coco_2017_val_panoptic'), MetadataCatalog.get('test_coco')
    same = ('thing_classes', 'stuff_classes', 'evaluator_type', 'ignore_label', 'label_divisor')
    same += ('thing_dataset_id_to_contiguous_id', 'stuff_dataset_id_to_contiguous_id', 'stuff_colors')
    assert [meta.get(key) for key in same] == [standard.get(key) for key in same]


# The same errors as in mm ------------------------------------------------------------------------------------------

Write = Callable[[Path], dict[str, Any]]  # writes broken files, and returns the arguments of both hosts' data sets


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(path)


def instances(root: Path, **changes: Any) -> dict[str, Any]:
    image(root / 'images' / 'a.png')
    content: dict[str, Any] = dict(
        images=[dict(id=1, file_name='a.png', height=8, width=10)],
        categories=[dict(id=5, name='circle'), dict(id=7, name='square')],
        annotations=[dict(id=1, image_id=1, category_id=5, segmentation=[[1, 1, 6, 1, 6, 6]], bbox=[1, 1, 5, 5])],
    )
    for key, value in changes.items():
        content[key] = [{**content[key][0], **value}] if isinstance(value, dict) else value
    (root / 'x.json').write_text(json.dumps(content))
    return dict(ann_file='x.json', data_root=str(root), data_prefix=dict(img='images'))


BROKEN_INSTANCES: dict[str, dict[str, Any]] = {
    'unknown image': dict(annotations=dict(image_id='1')),
    'no mask': dict(annotations=dict(segmentation=None)),
    'point far outside': dict(annotations=dict(segmentation=[[1, 1, 600, 1, 6, 6]])),
    'class missing': dict(categories=[dict(id=5, name='circle')]),
    'only crowds': dict(annotations=dict(iscrowd=1)),
    'no annotation': dict(annotations=[]),
    'no image file': dict(images=dict(file_name='b.png')),
    'no size': dict(images=dict(height=0)),
    'normalised': dict(annotations=dict(segmentation=[[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]])),
    'no json': dict(images='nothing'),
}


def message(build: Callable[[], Any]) -> tuple[str, str]:
    """Kind and text of the error."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        build()
    return type(caught.value).__name__, str(caught.value)


@pytest.mark.parametrize('name', BROKEN_INSTANCES)
def test_broken_instances(name: str, tmp_path: Path) -> None:
    given = instances(tmp_path, **BROKEN_INSTANCES[name])
    metainfo, filter_cfg = dict(classes=CLASSES), dict(filter_empty_gt=True)
    expected = message(lambda: CocoInstance(metainfo=metainfo, filter_cfg=filter_cfg, **given))
    register_own_instances('test_own', classes=CLASSES, **given)
    assert message(lambda: DatasetCatalog.get('test_own')) == expected


def test_files_that_do_not_exist(tmp_path: Path) -> None:
    given = dict(data_root=str(tmp_path), ann_file='y.json', data_prefix=dict(img='images', seg='pngs'))
    names = dict(thing_classes=CLASSES[:1], stuff_classes=CLASSES[1:])
    expected = message(lambda: CocoPanoptic(metainfo=dict(classes=CLASSES, **names), **given))
    register_own_panoptic('test_pan', **names, **given)
    assert message(lambda: DatasetCatalog.get('test_pan')) == expected
    (tmp_path / 'pngs').mkdir()
    expected = message(lambda: CocoPanoptic(metainfo=dict(classes=CLASSES, **names), **given))
    assert 'y.json does not exist' in expected[1]
    assert message(lambda: DatasetCatalog.get('test_pan')) == expected


@pytest.mark.parametrize('files', [(), ('images/a.png',), ('images/a.gif',), ('images/a.png', 'labels/b.png')])
def test_broken_label_maps(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        image(tmp_path / name)
    given = dict(data_root=str(tmp_path), data_prefix=dict(img_path='images', seg_map_path='labels'))
    expected = message(lambda: LabelMaps(metainfo=dict(classes=CLASSES), **given))
    register_own_label_maps('test_labels', classes=CLASSES, **given)
    assert message(lambda: DatasetCatalog.get('test_labels')) == expected


@pytest.mark.parametrize(
    'dataset, text',
    [
        (dict(type='CocoDataset'), 'dataset.type=CocoDataset: detectron2 reads CocoPanoptic'),
        (dict(type='eomt_mm.CocoInstance', indices=5), r"\['indices'\] of CocoInstance are read on the mm side only"),
        (dict(type='LabelMaps', data_prefix={}), r'semantic segmentation needs classes='),
        (dict(type='CocoPanoptic', metainfo=dict(classes=('a',))), 'needs thing_classes=.* and stuff_classes='),
        (dict(type='CocoInstance', metainfo=dict(classes='cell')), r"metainfo.classes='cell': a tuple of names"),
        (dict(type='CocoInstance', metainfo=dict(classes=('a', 'a'))), r"class names repeat: \['a'\]"),
        (dict(type='CocoInstance', ann_file='x.json'), r'name its json with ann_file, and the folder of images'),
        (dict(type='LabelMaps', metainfo=dict(classes=CLASSES), img_suffix=''), "img_suffix='': the end of"),
        (dict(type='LabelMaps', metainfo=dict(classes=CLASSES), label_ids=(1,)), '1 values for 2 classes'),
        (dict(type='ADE20KDataset', metainfo=dict(classes=('wall',))), 'a selection of the classes of ADE20KDataset'),
        (dict(type='CocoInstance', data_root='s3://x', data_prefix=dict(img='i')), 's3://x/i is no local path'),
        (
            dict(type='LabelMaps', metainfo=dict(classes=CLASSES), label_ids=(1, 1)),
            'a tuple of different whole numbers',
        ),
    ],
)
def test_what_only_mm_reads_is_refused(dataset: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        register_config('test_x', dataset)


def test_a_data_set_of_another_task() -> None:
    files = dict(ann_file='x.json', data_prefix=dict(img='i'))
    with pytest.raises(ValueError, match='for instance segmentation, the model for semantic'):
        register_config('test_x', dict(type='CocoInstance', **files), 'semantic')


def test_a_selection_of_classes(ade20k_root: Path) -> None:
    prefix = dict(img='images/validation', seg='annotations/validation', instances='annotations_instance/validation')
    chosen = metainfo_of('ADE20KPanoptic')['classes'][98:102]
    given = dict(type='ADE20KPanoptic', data_root=str(ade20k_root), data_prefix=prefix, metainfo=dict(classes=chosen))
    register_config('test_some', given)
    meta = MetadataCatalog.get('test_some')
    assert meta.stuff_classes == list(chosen)
    assert (meta.dataset_meta['thing_classes'], meta.dataset_meta['stuff_classes']) == (chosen[:2], chosen[2:])
    assert len(DatasetCatalog.get('test_some')[0]['category_ids']) == 4
