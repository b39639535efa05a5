"""What is fuzzed: for each reader of files a small valid one, what damages it, and how the package reads it.

Everything is read through public entry points: `init_model`, the toy configs' data sets with their pipelines and
metrics, and `mmengine.fileio` with ``zip://``.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import numpy as np
import torch
import videomt  # noqa: F401  registers
from damage import BYTES, HEADERS, JSON, ODD_ZIPS, ZIPS, Damage, declare_size, odd_mask, whole_but_large
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pickles import HOSTILE
from PIL import Image
from videomt.datasets.generate import write_youtube_vis

from eomt_mm.apis import init_model, load_config
from eomt_mm.checkpoints.exporting import export_huggingface
from eomt_mm.synthetic.generate import write_ade20k, write_coco
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / 'configs' / 'eomt' / 'toy'
CONFIGS = {
    'panoptic': TOY / 'eomt_tiny_shapes-panoptic-128.py',
    'instance': TOY / 'eomt_tiny_coco-instance-256.py',
    'semantic': TOY / 'eomt_tiny_ade20k-semantic-256.py',
    'video': ROOT / 'projects/videomt/configs/videomt_tiny_500i_shapes-96.py',
}
SIZE = (48, 64)


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: for the table.
        build: writes valid files below a folder.
        files: pattern of those that are damaged, one at a time.
        read: reads them all; what it gives is compared.
        count: of damaged inputs.
        checked: the format carries checksums, so what was damaged is named or gives what the whole file gives.
        damages: what such checksums must show.
        rewrites: others: valid files of other content, which give well-formed results where they are not refused.
    """

    name: str
    build: Callable[[Path], object]
    files: str
    read: Callable[[Path], Any]
    count: int
    checked: bool
    damages: tuple[Damage, ...]
    rewrites: tuple[Damage, ...] = ()


# Checkpoints


@cache
def model_config() -> Config:
    backbone = dict(depth=2, embed_dim=48, num_heads=3, patch_size=16)
    options = {f'model.backbone.{name}': value for name, value in backbone.items()}
    options['model.backbone.model_name'] = 'vit_small_patch14_reg4_dinov2'  # which other formats know
    return load_config(CONFIGS['panoptic'], {'img_size': 64, 'model.panoptic_head.num_queries': 5, **options})


def write_weights(folder: Path, old: bool = False) -> None:
    torch.manual_seed(0)
    content = dict(state_dict=init_model(model_config()).state_dict(), meta=dict(dataset_meta=SHAPES_METAINFO))
    torch.save(content, folder / 'model.pth', _use_new_zipfile_serialization=not old)


def write_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(init_model(model_config()).state_dict(), folder / 'model.safetensors')


def write_shards(folder: Path) -> None:
    """A folder of Hugging Face whose weights are in two files."""
    from safetensors.torch import load_file, save_file

    model = init_model(model_config())
    export_huggingface(model.state_dict(), folder / 'hf', 64, 3, SHAPES_METAINFO['classes'])
    whole = folder / 'hf' / 'model.safetensors'
    state = load_file(whole)
    whole.unlink()
    (folder / 'hf' / 'preprocessor_config.json').unlink()  # which we do not read
    shards: dict[str, dict[str, torch.Tensor]] = {'one.safetensors': {}, 'two.safetensors': {}}
    for index, (name, value) in enumerate(state.items()):
        shards[list(shards)[index % 2]][name] = value
    for name, part in shards.items():
        save_file(part, folder / 'hf' / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    (folder / 'hf' / 'model.safetensors.index.json').write_text(json.dumps(dict(metadata={}, weight_map=weight_map)))


def read_model(folder: Path, name: str) -> Any:
    """Weights and classes of the model."""
    model = init_model(model_config(), folder / name)
    state, classes = model.state_dict(), model.dataset_meta['classes']
    assert all(bool(value.isfinite().all()) for value in state.values()), 'weights that are not finite'
    assert len(classes) == 8 and all(isinstance(name, str) for name in classes), f'classes {classes!r:.80}'
    return state, classes


# Images and annotations


def write_images(folder: Path, suffix: str) -> None:
    """A data set in COCO's formats whose validation image is of another format."""
    write_coco(folder / 'data', num_train=1, num_val=1, size=SIZE, progress=False)
    (path,) = (folder / 'data' / 'val2017').iterdir()
    with Image.open(path) as image:
        image.save(path.with_suffix(suffix), lossless=False)
    if suffix != path.suffix:
        path.unlink()
    ann_file = folder / 'data/annotations/panoptic_val2017.json'
    ann_file.write_text(ann_file.read_text().replace(path.name, path.stem + suffix))


def write_pictures(folder: Path) -> None:
    write_coco(folder / 'data', num_train=1, num_val=4, size=SIZE, progress=False)


def write_maps(folder: Path) -> None:
    write_ade20k(folder / 'data', num_train=1, num_val=1, size=SIZE, progress=False)


def write_videos(folder: Path) -> None:
    write_youtube_vis(folder / 'data', num_videos=1, num_frames=3, size=SIZE)


@cache
def data_config(folder: Path, task: str) -> Config:
    """A toy config whose training reads the validation data too."""
    options: dict[str, Any] = {} if task == 'video' else {'img_size': 64}
    if task == 'instance':
        options['metainfo.classes'] = SHAPES_METAINFO['thing_classes']
    cfg = load_config(CONFIGS[task], options, folder / 'data')
    evaluation, training = cfg.val_dataloader.dataset, cfg.train_dataloader.dataset
    training.update({key: evaluation[key] for key in ('ann_file', 'data_prefix') if key in evaluation})
    return cfg


def read_data(folder: Path, task: str) -> Any:
    """The validation data as training and as evaluation read it, and the metric of a prediction that never changes."""
    cfg, found = data_config(folder, task), []
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for settings in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
            np.random.seed(0)
            torch.manual_seed(0)
            dataset = DATASETS.build(dict(settings, serialize_data=False))
            found.append([dataset[index] for index in range(len(dataset))])
            for item in found[-1]:
                check_item(item, len(dataset.metainfo['classes']))
        metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for item in found[-1]:
        samples = frames(item['data_samples'])
        for sample in samples:
            predict(sample)
        metric.process({}, [dict(video_data_samples=samples) if task == 'video' else samples[0].to_dict()])
    scores = metric.evaluate(len(dataset))
    values = np.array(list(scores.values()), dtype=float)
    assert np.all(np.isnan(values) | ((values >= -1) & (values <= 100))), f'metric {scores}'
    return found, scores


def frames(sample: Any) -> list[Any]:
    return list(sample.video_data_samples) if 'video_data_samples' in sample else [sample]


def check_item(item: dict[str, Any], num_classes: int) -> None:
    """What a model takes for granted."""
    assert item['inputs'].dtype == torch.uint8 and item['inputs'].shape[-3] == 3, 'no image of three channels'
    height, width = item['inputs'].shape[-2:]
    for sample in frames(item['data_samples']):
        if 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.data
            assert bool(((labels < num_classes) | (labels == 255)).all()), 'labels beyond the classes'
            continue
        found = sample.gt_instances
        assert bool(((found.labels >= 0) & (found.labels < num_classes)).all()), 'labels beyond the classes'
        if 'masks' in found:
            masks = found.masks.to_ndarray()
            sizes = {(height, width), tuple(sample.ori_shape)}  # evaluation does not resize what is true
            assert len(masks) == len(found.labels) and masks.shape[1:] in sizes, f'masks {masks.shape}'
            assert masks.max(initial=0) <= 1, 'masks that are neither 0 nor 1'
        if 'gt_panoptic_seg' in sample:
            ids = sample.gt_panoptic_seg.segment_ids
            assert ids.min() >= 0, 'segment ids below 0'


def predict(sample: Any) -> None:
    """The whole image is one thing of the first class."""
    height, width = sample.ori_shape
    labels, mask = torch.zeros(1, dtype=torch.long), torch.ones(1, height, width, dtype=torch.bool)
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, height, width, dtype=torch.long))
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.full((1, height, width), 1000))
    found = InstanceData(masks=mask, labels=labels, scores=torch.ones(1), instances_id=labels)
    sample.pred_instances = sample.pred_track_instances = found


# Zip archives


def write_zips(folder: Path) -> None:
    """Two text files, one of them compressed, and a zip of two in the zip."""
    import zipfile

    rng = np.random.default_rng(0)
    texts = {name: rng.integers(97, 101, 3000).astype(np.uint8).tobytes() for name in ('a.txt', 'b.txt')}
    with zipfile.ZipFile(folder / 'inner.zip', 'w', zipfile.ZIP_DEFLATED) as inner:
        for name, text in texts.items():
            inner.writestr(f'inner/{name}', text)
    with zipfile.ZipFile(folder / 'data.zip', 'w') as outer:
        outer.writestr('stored.txt', texts['a.txt'])
        outer.writestr('folder/packed.txt', texts['b.txt'], zipfile.ZIP_DEFLATED)
        outer.write(folder / 'inner.zip', 'inner.zip', zipfile.ZIP_DEFLATED)
    (folder / 'inner.zip').unlink()


def read_zips(folder: Path) -> list[bytes]:
    """What was written; the listing is read too, but names have no checksums."""
    list(fileio.list_dir_or_file(f'zip://{folder}/data.zip', recursive=True))
    names = ('stored.txt', 'folder/packed.txt', 'inner/a.txt', 'inner/b.txt')
    return [fileio.get(f'zip://{folder}/data.zip/{name}') for name in names]


def leaves(value: Any) -> Iterator[bytes]:
    """Everything in a result, for its digest; paths of files are in it as well."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, BaseDataElement):
        value = value.to_dict()
    if hasattr(value, 'to_ndarray'):  # masks of mmdet and of videomt
        value = value.to_ndarray()
    if isinstance(value, np.ndarray):
        yield f'{value.dtype} {value.shape}'.encode()
        yield value.tobytes()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield repr(key).encode()
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield repr(value).encode()


def _all() -> Iterable[Reader]:
    weights = partial(read_model, name='model.pth')
    yield Reader('.pth', write_weights, 'model.pth', weights, 300, True, (*BYTES, *ZIPS), HOSTILE)
    old = partial(write_weights, old=True)
    yield Reader('.pth, legacy', old, 'model.pth', weights, 150, False, BYTES, HOSTILE)
    safe = partial(read_model, name='model.safetensors')
    yield Reader('.safetensors', write_safetensors, 'model.safetensors', safe, 150, False, BYTES, HEADERS)
    folder = partial(read_model, name='hf')
    yield Reader('Hugging Face json', write_shards, 'hf/*.json', folder, 120, False, BYTES, JSON)
    yield Reader('Hugging Face shards', write_shards, 'hf/*.safetensors', folder, 80, False, BYTES, HEADERS)
    pictures = partial(read_data, task='panoptic')
    for suffix in ('.jpg', '.png', '.bmp', '.webp', '.tiff'):
        large = (declare_size, whole_but_large) if suffix == '.png' else (declare_size,)
        build, files = partial(write_images, suffix=suffix), f'data/val2017/*{suffix}'
        yield Reader(f'image {suffix}', build, files, pictures, 80, suffix == '.png', BYTES, large)
    large = (declare_size, whole_but_large)
    maps = partial(read_data, task='semantic')
    yield Reader('label map', write_maps, 'data/annotations/validation/*.png', maps, 150, True, BYTES, large)
    segments = 'data/annotations/panoptic_val2017/*.png'
    yield Reader('panoptic PNG', write_pictures, segments, pictures, 150, True, BYTES, large)
    instances = 'data/annotations/instances_val2017.json'
    masks = (*JSON, *(4 * (odd_mask,)))
    yield Reader('COCO json', write_pictures, instances, partial(read_data, task='instance'), 250, False, BYTES, masks)
    panoptic = 'data/annotations/panoptic_val2017.json'
    yield Reader('COCO panoptic json', write_pictures, panoptic, pictures, 150, False, BYTES, JSON)
    tracks = partial(read_data, task='video')
    yield Reader('YouTube-VIS json', write_videos, 'data/valid.json', tracks, 200, False, BYTES, masks)
    yield Reader('zip archive', write_zips, 'data.zip', read_zips, 200, True, (*BYTES, *ZIPS), ODD_ZIPS)


READERS = {reader.name: reader for reader in _all()}
