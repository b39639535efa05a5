"""Register data sets in detectron2's catalogs: public ones, those of the mm configs, and your own.

Files are read when a data set is first asked for (``DatasetCatalog.get``), with the checks and errors of the mm data
sets. Classes are in the order of our models; panoptic data have the things first.
"""

import os
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from eomt_mm.annotations.categories import choose_classes
from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, COCO_STUFF_LABEL_IDS
from eomt_mm.annotations.label_values import VOID
from eomt_mm.detectron2.class_names import metainfo_of
from eomt_mm.detectron2.data_items import KINDS, DataSpec
from eomt_mm.detectron2.ground_truth import Item
from eomt_mm.recipes.classes import complete_metainfo, plain_meta
from eomt_mm.recipes.label_files import check_ids, check_suffix

# Keys of a config's data set that say nothing here: the mapper takes the pipeline's place.
UNREAD = ('type', 'pipeline', 'lazy_init', 'serialize_data', 'return_classes')
# Fields of `DataSpec` under the same names.
FIELDS = ('filter_cfg', 'test_mode', 'img_suffix', 'seg_map_suffix', 'reduce_zero_label')
READ = ('data_root', 'ann_file', 'data_prefix', 'metainfo', 'label_ids', *FIELDS)
# What the hosts' own types of semantic data state, and our configs do not.
SEMANTIC: dict[str, dict[str, Any]] = {
    'ADE20KDataset': dict(img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True),
    'CityscapesDataset': dict(img_suffix='_leftImg8bit.png', seg_map_suffix='_gtFine_labelTrainIds.png'),
    'COCOStuffDataset': dict(img_suffix='.jpg', seg_map_suffix='_labelTrainIds.png'),
}
# Public data sets below detectron2's root of data sets: type, split to annotation file, split to folders.
COCO_SPLITS, ADE_SPLITS = ('train2017', 'val2017'), ('training', 'validation')
ADE20K, COCO, CITYSCAPES, STUFF = 'ADEChallengeData2016', 'coco', 'cityscapes', 'coco_stuff164k'
BUILTIN: dict[str, dict[str, Any]] = {
    'eomt_coco_panoptic': dict(
        type='CocoPanoptic', data_root=COCO, ann_file='annotations/panoptic_{coco}.json',
        data_prefix=dict(img='{coco}', seg='panoptic_{coco}'),
    ),
    'eomt_coco_instance': dict(
        type='CocoInstance', data_root=COCO, ann_file='annotations/instances_{coco}.json',
        data_prefix=dict(img='{coco}'),
    ),
    'eomt_coco_semantic': dict(
        type='COCOStuffDataset', data_root=STUFF, seg_map_suffix='.png', label_ids=COCO_STUFF_LABEL_IDS,
        data_prefix=dict(img_path='images/{coco}', seg_map_path='annotations/{coco}'),
    ),
    'eomt_ade20k_panoptic': dict(
        type='ADE20KPanoptic', data_root=ADE20K,
        data_prefix=dict(img='images/{ade}', seg='annotations/{ade}', instances='annotations_instance/{ade}'),
    ),
    'eomt_ade20k_instance': dict(
        type='ADE20KInstance', data_root=ADE20K,
        data_prefix=dict(img='images/{ade}', seg='annotations/{ade}', instances='annotations_instance/{ade}'),
    ),
    'eomt_ade20k_semantic': dict(
        type='ADE20KDataset', data_root=ADE20K,
        data_prefix=dict(img_path='images/{ade}', seg_map_path='annotations/{ade}'),
    ),
    'eomt_cityscapes_panoptic': dict(
        type='CityscapesPanoptic', data_root=CITYSCAPES,
        data_prefix=dict(img='leftImg8bit/{split}', seg='gtFine/{split}'),
    ),
    'eomt_cityscapes_instance': dict(
        type='CityscapesInstance', data_root=CITYSCAPES,
        data_prefix=dict(img='leftImg8bit/{split}', seg='gtFine/{split}'),
    ),
    'eomt_cityscapes_semantic': dict(
        type='CityscapesDataset', data_root=CITYSCAPES, seg_map_suffix='_gtFine_labelIds.png',
        label_ids=tuple(CITYSCAPES_LABEL_IDS.values()),
        data_prefix=dict(img_path='leftImg8bit/{split}', seg_map_path='gtFine/{split}'),
    ),
}  # fmt: skip


def register_config(name: str, dataset: Mapping[str, Any], task: str | None = None) -> None:
    """Register the data set of an mm config.

    Args:
        name: under which detectron2 finds it; registering the same data again has no effect.
        dataset: ``train_dataloader.dataset`` or ``val_dataloader.dataset`` of the config. The value of each class in
            label maps (``label_ids``) is read from its pipeline, or given here.
        task: of the model; None: not checked.

    Raises:
        ValueError: the data are for another task, the type is unknown here, a key is read on the mm side only, classes
            are missing or wrong, or the name belongs to other data.
    """
    register(name, check_task(dataset, task))


def register_builtin(root: str | None = None) -> list[str]:
    """Register COCO, ADE20K and Cityscapes, each for training (``_train``) and evaluation (``_val``).

    Args:
        root: detectron2's folder of data sets; None: the environment variable DETECTRON2_DATASETS, or ``datasets``.
            It holds coco, coco_stuff164k, ADEChallengeData2016 (with annotations_instance) and cityscapes.

    Returns:
        the names.
    """
    root = osp.expanduser(os.getenv('DETECTRON2_DATASETS', 'datasets')) if root is None else root
    names = []
    for base, layout in BUILTIN.items():
        for split, coco, ade in zip(('train', 'val'), COCO_SPLITS, ADE_SPLITS, strict=True):
            filled = {key: _filled(value, split=split, coco=coco, ade=ade) for key, value in layout.items()}
            filled['data_root'] = osp.join(root, layout['data_root'])
            filled['test_mode'] = split == 'val'
            if split == 'train' and layout['type'].startswith('Coco'):
                filled['filter_cfg'] = dict(filter_empty_gt=True)
            names.append(f'{base}_{split}')
            register_config(names[-1], filled)
    return names


def register_own_instances(
    name: str,
    ann_file: str,
    data_prefix: Mapping[str, str],
    classes: Sequence[str],
    data_root: str = '',
    test_mode: bool = False,
) -> None:
    """Register your own data in the COCO instance format.

    Args:
        name: under which detectron2 finds it.
        ann_file: JSON, relative to ``data_root``.
        data_prefix: ``img``, folder of the images, relative to ``data_root``.
        classes: names of the categories, in the order of labels.
        data_root: folder of the data.
        test_mode: for evaluation: keep images without annotations. In training they are left out.
    """
    _register_own('CocoInstance', name, dict(classes=classes), data_root, ann_file, data_prefix, test_mode)


def register_own_panoptic(
    name: str,
    ann_file: str,
    data_prefix: Mapping[str, str],
    thing_classes: Sequence[str],
    stuff_classes: Sequence[str],
    data_root: str = '',
    test_mode: bool = False,
) -> None:
    """Register your own data in the COCO panoptic format.

    Args:
        name, ann_file, data_root, test_mode: see `register_own_instances`.
        data_prefix: ``img``, folder of the images, and ``seg``, folder of the PNGs.
        thing_classes, stuff_classes: names of the categories; the things have the first labels.
    """
    metainfo = dict(thing_classes=thing_classes, stuff_classes=stuff_classes)
    _register_own('CocoPanoptic', name, metainfo, data_root, ann_file, data_prefix, test_mode)


def register_own_label_maps(
    name: str,
    data_prefix: Mapping[str, str],
    classes: Sequence[str],
    data_root: str = '',
    test_mode: bool = False,
    label_ids: Sequence[int] | None = None,
    img_suffix: str | None = None,
    seg_map_suffix: str | None = None,
    ann_file: str = '',
) -> None:
    """Register your own images and label maps.

    Args:
        name, data_root, test_mode: see `register_own_instances`.
        data_prefix: ``img_path`` and ``seg_map_path``, the folders of images and label maps of the same names.
        classes: names, in the order of labels.
        label_ids: value of each class in the label maps; None: class k has value k, and 255 is void.
        img_suffix, seg_map_suffix: exact ends of the file names; None: any suffix.
        ann_file: text file that selects images, one name per line.
    """
    more = dict(label_ids=label_ids, img_suffix=img_suffix, seg_map_suffix=seg_map_suffix)
    _register_own('LabelMaps', name, dict(classes=classes), data_root, ann_file, data_prefix, test_mode, **more)


def _register_own(
    kind: str,
    name: str,
    metainfo: Mapping[str, Any],
    data_root: str,
    ann_file: str,
    data_prefix: Mapping[str, str],
    test_mode: bool,
    **more: Any,
) -> None:
    if kind != 'LabelMaps' and not test_mode:
        more['filter_cfg'] = dict(filter_empty_gt=True)
    given = {key: value for key, value in more.items() if value is not None}
    files = dict(data_root=data_root, ann_file=ann_file, data_prefix=data_prefix)
    register_config(name, dict(type=kind, metainfo=metainfo, test_mode=test_mode, **files, **given))


def check_task(dataset: Mapping[str, Any], task: str | None) -> DataSpec:
    """Convert the data set of an mm config for a model of ``task``; arguments and errors: see `register_config`."""
    spec = spec_of(dataset)
    if task not in (None, KINDS[spec.kind][0]):
        raise ValueError(
            f'dataset.type={dataset["type"]} is for {KINDS[spec.kind][0]} segmentation, the model for {task}: take '
            f'data and model of one task'
        )
    return spec


def spec_of(dataset: Mapping[str, Any]) -> DataSpec:
    """Convert the data set of an mm config; arguments and errors: see `register_config`."""
    kind = str(dataset['type']).rpartition('.')[2]
    if kind not in KINDS:
        raise ValueError(f'dataset.type={dataset["type"]}: detectron2 reads {", ".join(KINDS)}; train it with mm')
    unknown = sorted(set(dataset) - {*UNREAD, *READ})
    if unknown:
        raise ValueError(f'dataset: {unknown} of {kind} are read on the mm side only: leave them out for detectron2')
    root, metainfo = str(dataset.get('data_root') or ''), _metainfo(kind, dataset.get('metainfo') or {})
    for key in ('img_suffix', 'seg_map_suffix'):
        if dataset.get(key) is not None:
            check_suffix(key, dataset[key])
    given = {**SEMANTIC.get(kind, {}), **{key: dataset[key] for key in FIELDS if key in dataset}}
    if KINDS[kind][0] != 'semantic':
        given.pop('reduce_zero_label', None)
    spec = DataSpec(
        kind=kind,
        data_prefix={key: _below(root, folder) for key, folder in (dataset.get('data_prefix') or {}).items()},
        metainfo=metainfo,
        ann_file=_below(root, dataset['ann_file']) if dataset.get('ann_file') else '',
        label_ids=_label_ids(dataset, metainfo['classes']),
        **given,
    )
    if kind.startswith('Coco') and not (spec.ann_file and 'img' in spec.data_prefix):
        raise ValueError(
            f'dataset of {kind}: name its json with ann_file, and the folder of images with data_prefix=dict(img=...)'
        )
    return spec


def _below(root: str, path: str) -> str:
    joined = osp.join(root, path)
    if '://' in joined:
        raise ValueError(f'data_root, data_prefix: {joined} is no local path; detectron2 reads unpacked local files')
    return joined


def _label_ids(dataset: Mapping[str, Any], classes: Sequence[str]) -> tuple[int, ...] | None:
    """Value of each class in label maps, from the data set's pipeline."""
    stated = [dataset, *(one for one in dataset.get('pipeline') or () if str(one['type']).endswith('LoadSemanticMap'))]
    found = [one['label_ids'] for one in stated if one.get('label_ids') is not None]
    if not found:
        return None
    check_ids(found[0], classes)
    return tuple(found[0])


def _metainfo(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the classes that a config states by those of the data set's type."""
    known, task = metainfo_of(kind), KINDS[kind][0]
    states_own = 'classes' in given or 'thing_classes' in given
    if not known or (states_own and kind in ('CocoPanoptic', 'CocoInstance')):
        return complete_metainfo(dict(given), task)
    stated = {**known, **{key: tuple(value) for key, value in given.items()}}
    if 'category_ids' in known and task != 'semantic':
        return {**stated, **choose_classes(known, stated, set(given))}
    if stated['classes'] != known['classes']:
        raise ValueError(f'dataset.metainfo: a selection of the classes of {kind} works on the mm side only')
    return stated


def register(name: str, spec: DataSpec) -> None:
    """Register a data set; registering the same data again has no effect.

    Raises:
        ValueError: the name belongs to other data.
    """
    meta = MetadataCatalog.get(name)
    if name in DatasetCatalog.list():
        if meta.get('spec') != spec:
            raise ValueError(
                f'data set {name!r} is already registered with other files or classes: choose another name'
            )
        return
    DatasetCatalog.register(name, lambda: _load(name, spec))
    meta.set(spec=spec, task=KINDS[spec.kind][0], ignore_label=VOID, dataset_meta=_dataset_meta(spec), **_names(spec))


def _load(name: str, spec: DataSpec) -> list[Item]:
    """Load the data set dicts, and state the files' category ids, which detectron2's own evaluators ask for."""
    items, category_ids = KINDS[spec.kind][1](spec)
    num_things = len(spec.metainfo.get('thing_classes', category_ids))
    places = list(enumerate(category_ids))
    if places:
        MetadataCatalog.get(name).set(
            thing_dataset_id_to_contiguous_id={id_: label for label, id_ in places[:num_things]},
            stuff_dataset_id_to_contiguous_id={id_: label for label, id_ in places[num_things:]},
        )
    return items


def _dataset_meta(spec: DataSpec) -> dict[str, Any]:
    """What checkpoints store of the classes, as on the mm side."""
    return plain_meta(dict(spec.metainfo))


def _names(spec: DataSpec) -> dict[str, Any]:
    """Metadata for detectron2's visualiser and evaluators; panoptic classes are things and stuff, as for its COCO."""
    task = KINDS[spec.kind][0]
    names, colours = list(spec.classes), spec.metainfo.get('palette')
    meta: dict[str, Any] = {}
    for part in {'panoptic': ('thing', 'stuff'), 'instance': ('thing',), 'semantic': ('stuff',)}[task]:
        meta[f'{part}_classes'] = names
        if colours:
            meta[f'{part}_colors'] = [list(colour) for colour in colours]
    if spec.kind == 'CocoPanoptic':
        meta.update(evaluator_type='coco_panoptic_seg', panoptic_json=spec.ann_file, label_divisor=1000)
        meta.update(panoptic_root=spec.data_prefix.get('seg'), image_root=spec.data_prefix['img'])
    elif spec.kind == 'CocoInstance':
        meta.update(evaluator_type='coco', json_file=spec.ann_file, image_root=spec.data_prefix['img'])
    elif task == 'semantic':
        meta.update(evaluator_type='sem_seg')
    return meta


def _filled(value: Any, **words: str) -> Any:
    """Fill the names of a split into a value of `BUILTIN`."""
    if isinstance(value, str):
        return value.format(**words)
    return {key: _filled(one, **words) for key, one in value.items()} if isinstance(value, dict) else value
