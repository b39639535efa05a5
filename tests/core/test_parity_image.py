"""From image file to final map: our pipeline, preprocessor, model and post-processing against transformers'.

The weights are equal (ours, exported). Every stop on the way was compared alone; these are all the differences:

1. Decoding (OpenCV here, PIL there): none.
2. Size after resizing: we round as the official program does, transformers truncates. The long side is then a pixel
   shorter there, on some 4 % of panoptic and half of semantic sizes.
3. Resampling (PIL here, as in the official program; torchvision there): at most one level of 255.
4. Network and post-processing: rounding (test_parity.py, test_parity_postprocess.py).

With 2 and 3 made equal, maps are equal; with 2 equal, by nature or made so, they are in at least 99.5 % of the pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from paths import ROOT
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.transforms.v2 import functional as torchvision
from transformers import EomtForUniversalSegmentation, EomtImageProcessor
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil

from eomt_mm.apis import init_model, load_config
from eomt_mm.checkpoints.exporting import export_huggingface
from eomt_mm.datasets.transforms import ResizeToInput
from eomt_mm.synthetic.generate import write_coco

CONFIGS = {
    'panoptic': ROOT / 'configs' / 'eomt' / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py',
    'semantic': ROOT / 'configs' / 'eomt' / 'ade20k' / 'eomt_dinov2-s_31e_ade20k-semantic-512.py',
}
SCOPES = dict(panoptic='mmdet', semantic='mmseg')
HEADS = dict(panoptic='panoptic_head', semantic='decode_head')
S, DEPTH, QUERIES, NUM_HEADS = 128, 4, 20, 6
THINGS, PANOPTIC_CLASSES = 80, 133
VOID = -1

# Real photographs where the repository lies beside a folder of them; generated pictures always.
REAL = {path.stem: path for path in sorted((ROOT.parent / 'shared' / 'data' / 'coco').glob('val2017/*.jpg'))}
# (height, width) that is asked of the generator, which varies the width, and the pictures' numbers. transformers makes
# a panoptic input of 127 x 80 from 161 x 100, and a semantic one of 128 x 129 from 150 x 152: 1 pixel less than we.
GENERATED = {(150, 190): ('101', '201', '301'), (150, 152): ('101',), (161, 100): ('101', '201', '301')}
IMAGES = [f'{h}-{w}-{number}' for (h, w), numbers in GENERATED.items() for number in numbers] + list(REAL)

Labels = dict[int, int]
Result = tuple[np.ndarray, Labels]  # map (H, W) of region numbers, VOID where there is none, and their classes


@dataclass
class Pair:
    """Our model with its config, and transformers' with its processors."""

    task: str
    cfg: Config
    ours: nn.Module
    theirs: nn.Module
    processor: EomtImageProcessor
    pil_processor: EomtImageProcessorPil


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = dict(REAL)
    for (h, w), numbers in GENERATED.items():
        root = tmp_path_factory.mktemp('pictures') / 'root'
        write_coco(root, num_train=0, num_val=len(numbers), size=(h, w), progress=False)
        found |= {f'{h}-{w}-{number}': root / 'val2017' / f'{int(number):012d}.jpg' for number in numbers}
    return found


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(request.param, S, DEPTH, tmp_path_factory.mktemp('exported') / 'model')


def make_pair(task: str, side: int, depth: int, folder: Path, seed: int = 7) -> Pair:
    torch.manual_seed(seed)  # of those tried, one of which several segments survive in most pictures
    small = {'img_size': side, 'model.backbone.depth': depth, f'model.{HEADS[task]}.num_queries': QUERIES}
    cfg = load_config(CONFIGS[task], small)
    ours = init_model(cfg)
    make_lifelike(ours, getattr(ours, HEADS[task]), side)
    export_huggingface(ours.state_dict(), folder, img_size=side, num_heads=NUM_HEADS, semantic=task == 'semantic')
    theirs = EomtForUniversalSegmentation.from_pretrained(folder).eval()
    processors = EomtImageProcessor.from_pretrained(folder), EomtImageProcessorPil.from_pretrained(folder)
    return Pair(task, cfg, ours, theirs, *processors)


@torch.no_grad()
def make_lifelike(model: Any, head: Any, side: int) -> None:
    """Random weights, but such that masks are smooth, decided and mostly apart, and classes confident.

    White noise for patch kernels and scale blocks would make a mask's edge of every fourth pixel, and segments that
    all overlap, so that none survives.
    """
    vit = model.backbone.vit
    kernel, positions = torch.randn(vit.embed_dim, 3, 2, 2), 0.5 * torch.randn(1, vit.embed_dim, 4, 4)
    vit.patch_embed.proj.weight.copy_(F.interpolate(kernel, (16, 16), mode='bicubic') / 256)
    positions = F.interpolate(positions, (side // 16, side // 16), mode='bicubic')
    vit.pos_embed.copy_(positions.flatten(2).transpose(1, 2))
    for block in vit.blocks:
        block.ls1.gamma.fill_(0.5)
        block.ls2.gamma.fill_(0.5)
    for block in head.upscale:
        block.up.weight.copy_(2 * block.up.weight.mean((2, 3), keepdim=True).expand_as(block.up.weight))
        block.conv.weight.fill_(1 / 9)
    head.class_predictor.weight.mul_(30)
    last, direction = head.mask_mlp[-1], F.normalize(torch.randn(vit.embed_dim), dim=0)
    last.weight.mul_(3)
    last.bias.copy_(3 * last.bias - 0.4 * direction)  # times the next: 4 less for every mask logit
    head.upscale[-1].norm.bias.copy_(10 * direction)


def their_size(task: str, size: tuple[int, int]) -> tuple[int, int]:
    height, width = get_size_with_aspect_ratio(size, S, S if task == 'panoptic' else None)
    return height, width


def our_size(task: str, size: tuple[int, int]) -> tuple[int, int]:
    resize = ResizeToInput(S, 'inside' if task == 'panoptic' else 'cover')
    height, width = resize(dict(img=np.zeros((*size, 3), np.uint8)))['img'].shape[:2]
    return height, width


class TheirSize(ResizeToInput):
    """Our transform, at transformers' size."""

    def __init__(self, task: str) -> None:
        super().__init__(S, 'inside')
        self.task = task

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        size = their_size(self.task, results['img'].shape[:2])
        results['img'] = mmcv.imresize(results['img'], size[::-1], interpolation='bilinear', backend='pillow')
        return dict(results, img_shape=size, scale_factor=(1.0, 1.0), keep_ratio=True)


def our_result(pair: Pair, path: Path, at_their_size: bool = False) -> Result:
    """The configuration's own test pipeline, but for the ground truth, which pictures of users do not have."""
    pipeline = [step for step in pair.cfg.test_dataloader.dataset.pipeline if 'eomt_mm.Load' not in step['type']]
    assert [step['type'] for step in pipeline[:2]] == ['LoadImageFromFile', 'eomt_mm.ResizeToInput']
    with DefaultScope.overwrite_default_scope(SCOPES[pair.task]):
        steps = Compose([pipeline[0], TheirSize(pair.task), *pipeline[2:]] if at_their_size else pipeline)
        data: Any = steps(dict(img_path=str(path), img_id=0))
        with torch.no_grad():
            sample: Any = pair.ours.test_step({key: [value] for key, value in data.items()})[0]
    if pair.task == 'semantic':
        labels = sample.pred_sem_seg.data[0].numpy()
        return labels, {k: k for k in np.unique(labels).tolist()}
    codes = sample.pred_panoptic_seg.sem_seg[0].numpy()  # label + 1000 * number
    found = {code: code % 1000 for code in np.unique(codes).tolist() if code != PANOPTIC_CLASSES}
    return np.where(codes == PANOPTIC_CLASSES, VOID, codes), found


def their_result(pair: Pair, path: Path, processor: Any, swap_channels: bool = False) -> Result:
    image = Image.open(path).convert('RGB')
    if swap_channels:
        image = Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    inputs = processor(images=image, return_tensors='pt')
    sizes = [image.size[::-1]]
    with torch.no_grad():
        outputs = pair.theirs(**inputs)
    if pair.task == 'semantic':
        labels = processor.post_process_semantic_segmentation(outputs, sizes)[0].numpy()
        return labels, {k: k for k in np.unique(labels).tolist()}
    stuff = list(range(THINGS, PANOPTIC_CLASSES))
    found = processor.post_process_panoptic_segmentation(outputs, sizes, stuff_classes=stuff)[0]
    return found['segmentation'].numpy(), {s['id']: s['label_id'] for s in found['segments_info']}


def equal_share(one: Result, other: Result) -> float:
    """Share of the pixels in the same region of the same class, the regions' numbers matched for the best; or void."""
    (map_1, labels_1), (map_2, labels_2) = one, other
    assert map_1.shape == map_2.shape
    common = np.zeros((len(labels_1), len(labels_2)))
    for i, (region_1, label_1) in enumerate(labels_1.items()):
        for j, (region_2, label_2) in enumerate(labels_2.items()):
            if label_1 == label_2:
                common[i, j] = ((map_1 == region_1) & (map_2 == region_2)).sum()
    matched = common[linear_sum_assignment(-common)].sum()
    return float(matched + ((map_1 == VOID) & (map_2 == VOID)).sum()) / map_1.size


@pytest.fixture(scope='module')
def results(pair: Pair, files: dict[str, Path]) -> dict[str, Result]:
    """Ours of every picture."""
    return {name: our_result(pair, path) for name, path in files.items()}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name.endswith('-101') else pytest.mark.slow) for name in IMAGES]
)
def test_raw_file_to_final_map(pair: Pair, files: dict[str, Path], results: dict[str, Result], name: str) -> None:
    path = files[name]
    size = Image.open(path).size[::-1]
    same_size = our_size(pair.task, size) == their_size(pair.task, size)
    ours, adapted = results[name], our_result(pair, path, at_their_size=True)
    theirs, with_pil = (their_result(pair, path, x) for x in (pair.processor, pair.pil_processor))
    whole, size_equal, all_equal = (equal_share(*x) for x in ((ours, theirs), (adapted, theirs), (adapted, with_pil)))
    print(
        f'{pair.task} {size} -> {our_size(pair.task, size)}, there {their_size(pair.task, size)}, {len(ours[1])} '
        f'regions: {whole:.3%} equal; at their size {size_equal:.3%}; resampled alike as well {all_equal:.3%}'
    )
    assert size_equal >= 0.995
    assert all_equal >= 0.9999  # a pixel between two masks may be decided by rounding
    # With another size the patch grid shifts by up to a pixel, and with it the edges: a random network's lie on that
    # grid, a trained one's on the picture's edges. A segment that is near the overlap threshold may also be lost (seen
    # for 161 x 100: 0.822 of its area against 0.793).
    assert whole >= (0.995 if same_size else 0.8)


@pytest.mark.slow
@pytest.mark.parametrize('task', CONFIGS)
def test_photographs_at_the_published_size(task: str, tmp_path: Path, files: dict[str, Path]) -> None:
    """The processor of transformers as it comes; without the folder of photographs, on generated pictures."""
    pair = make_pair(task, 640 if task == 'panoptic' else 512, 2, tmp_path / 'model', seed=4)
    for name in list(REAL) or ['150-190-101']:
        ours, theirs = our_result(pair, files[name]), their_result(pair, files[name], pair.processor)
        share = equal_share(ours, theirs)
        print(f'{task} {name}: {len(ours[1])} regions, {share:.3%} equal')
        assert len(ours[1]) > 0
        assert share >= 0.995


@pytest.mark.slow
def test_the_comparison_can_fail(pair: Pair, files: dict[str, Path], results: dict[str, Result]) -> None:
    """There are regions, and they depend on the picture: with red and blue exchanged they are others."""
    ours = [results[name] for name in files]
    swapped = [their_result(pair, path, pair.processor, swap_channels=True) for path in files.values()]
    counts = [len(labels) for _, labels in ours]
    shares = [equal_share(*x) for x in zip(ours, swapped, strict=True)]
    covered = float(np.mean([(regions != VOID).mean() for regions, _ in ours]))
    print(
        f'{pair.task}: {counts} regions, {covered:.0%} covered; equal with red and blue exchanged {np.mean(shares):.1%}'
    )
    assert min(counts) > 0 and np.mean(counts) >= 3 and covered > 0.2
    assert np.mean(shares) < 0.9


@pytest.mark.parametrize('name', IMAGES)
def test_decoding(files: dict[str, Path], name: str) -> None:
    ours = mmcv.imread(files[name])[..., ::-1].astype(int)
    assert np.abs(ours - np.asarray(Image.open(files[name]).convert('RGB'))).max() == 0


@pytest.mark.parametrize('name', IMAGES)
def test_resampling(files: dict[str, Path], name: str) -> None:
    """At most one level; OpenCV, whose resizing does not smooth, differs by far more."""
    image = np.asarray(Image.open(files[name]).convert('RGB'))
    size = their_size('panoptic', image.shape[:2])
    ours = mmcv.imresize(image, size[::-1], interpolation='bilinear', backend='pillow').astype(int)
    theirs = torchvision.resize(torch.from_numpy(image.copy()).permute(2, 0, 1), list(size), antialias=True)
    differences = np.abs(ours - theirs.permute(1, 2, 0).numpy())
    unsmoothed = np.abs(ours - mmcv.imresize(image, size[::-1], interpolation='bilinear', backend='cv2'))
    print(f'{name}: {differences.max()} level(s) on {(differences > 0).mean():.2%}; OpenCV {unsmoothed.max()} levels')
    assert differences.max() <= 1
    assert unsmoothed.max() > 1


@pytest.mark.parametrize(('task', 'low', 'high'), [('panoptic', 0.01, 0.1), ('semantic', 0.4, 0.6)])
def test_sizes(task: str, low: float, high: float) -> None:
    """transformers truncates the long side, by one pixel at most; the short side is the same."""
    differing = []
    sizes = [(h, w) for h in range(100, 240, 3) for w in range(101, 240, 3)]
    for size in sizes:
        ours, theirs = our_size(task, size), their_size(task, size)
        difference = ours[0] - theirs[0], ours[1] - theirs[1]
        assert difference in ((0, 0), (1, 0) if size[0] > size[1] else (0, 1))
        differing.append(difference != (0, 0))
    print(f'{task}: {np.mean(differing):.1%} of {len(sizes)} sizes differ by one pixel')
    assert low < np.mean(differing) < high
