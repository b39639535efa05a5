"""Contract of every architecture in the repository, as a test class that each inherits.

A subclass names a config and the overrides that make it tiny; what it shares with others, it does not test itself::

    class TestMyArchitecture(ArchitectureContract):
        config = ROOT / 'configs' / 'eomt' / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py'
        options = tiny('panoptic_head')
        task = 'panoptic'
"""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.apis import init_model, load_config
from eomt_mm.apis.exporting import network_of
from eomt_mm.export.program import export_program

Size = tuple[int, int]
SIDE, NUM_QUERIES = 64, 10
TINY_VIT: dict[str, Any] = {
    'model.backbone.depth': 2,
    'model.backbone.embed_dim': 48,
    'model.backbone.num_heads': 3,
    'model.backbone.patch_size': 16,
}
CROP, ORIGINAL = (40, 60), (80, 120)  # an image as pipelines resize it, and its file


def tiny(head: str) -> dict[str, Any]:
    """Overrides of an EoMT's config: a plain block, a joint block, 10 queries."""
    own = {'num_blocks': 1, 'num_queries': NUM_QUERIES, 'criterion.num_points': 64}
    return TINY_VIT | {'img_size': SIDE} | {f'model.{head}.{key}': value for key, value in own.items()}


class ArchitectureContract:
    """Tests that every architecture passes.

    Attributes:
        config: path of a leaf config.
        options: overrides for a tiny model with inputs of 64 x 64 pixels.
        task: 'semantic', 'instance' or 'panoptic'.
        original: size of the file of an :meth:`example`.
        rounding: largest relative difference between a batch and single images.
        exports: whether :func:`~eomt_mm.export.metadata.network_of` takes the model.
    """

    config: Path
    options: ClassVar[dict[str, Any]]
    task: str
    original: Size = ORIGINAL
    rounding = 1e-5
    exports = True

    # ---- what a subclass may replace

    def example(self, seed: int = 0) -> tuple[Tensor, Any]:
        """An image uint8 (3, 40, 60) and its sample, as the training pipeline gives them."""
        ids = torch.zeros(1, *CROP, dtype=torch.int32)  # 0 is void
        ids[0, :20, :20], ids[0, 20:] = 1, 2
        meta = dict(img_shape=CROP, ori_shape=ORIGINAL)
        if self.task == 'semantic':
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.where(ids == 0, 255, ids - 1))
        else:
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(labels=torch.tensor([0, 1]))
            if self.task == 'instance':
                sample.gt_instances.masks = ids == torch.tensor([1, 2])[:, None, None]
            else:
                sample.gt_panoptic_seg = PixelData(segment_ids=ids)
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(256, (3, *CROP), dtype=torch.uint8, generator=generator), sample

    def images(self, batch: int, size: Size) -> Tensor:
        """Normalised inputs of the network."""
        return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))

    def shapes(self, batch: int, size: Size, num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the final class logits and mask logits."""
        return (batch, NUM_QUERIES, num_classes + 1), (batch, NUM_QUERIES, size[0] // 4, size[1] // 4)

    def result(self, sample: Any) -> Tensor:
        """What is predicted for an image, (..., H, W)."""
        if self.task == 'instance':
            return sample.pred_instances.masks
        return (sample.pred_sem_seg.data if self.task == 'semantic' else sample.pred_panoptic_seg.sem_seg)[0]

    # ---- building

    @classmethod
    def load(cls, checkpoint: Path | None = None) -> Any:
        """The model in eval mode."""
        return init_model(load_config(cls.config, cls.options), checkpoint)

    @classmethod
    def build(cls) -> Any:
        """A model with every parameter off its initial value, where errors could hide."""
        torch.manual_seed(0)
        model = cls.load()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    @pytest.fixture(scope='class')
    @classmethod
    def model(cls) -> Any:
        """Shared by the tests that do not change it."""
        return cls.build()

    def batch(self, num: int = 1) -> dict[str, Any]:
        images, samples = zip(*(self.example(seed) for seed in range(num)), strict=True)
        return dict(inputs=list(images), data_samples=list(samples))

    def logits(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class and mask logits of the final layer."""
        with torch.no_grad():
            class_logits, mask_logits = model(images, mode='tensor')
        return class_logits[-1], mask_logits[-1]

    # ---- the contract

    @pytest.mark.parametrize('size', [(SIDE, SIDE), (SIDE, 96), (96, SIDE)])
    def test_builds_and_takes_any_size(self, model: Any, size: Size) -> None:
        assert not model.training
        found = self.logits(model, self.images(2, size))
        assert tuple(tuple(x.shape) for x in found) == self.shapes(2, size, len(model.dataset_meta['classes']))
        assert all(x.isfinite().all() for x in found)

    def test_batch_equals_single(self, model: Any) -> None:
        images = self.images(3, (SIDE, 96))
        together = self.logits(model, images)
        for n in range(3):
            for one, many in zip(self.logits(model, images[n : n + 1]), together, strict=True):
                assert relative(one[0], many[n]) < self.rounding

    def test_result_has_the_size_of_the_file(self, model: Any) -> None:
        with torch.no_grad():
            samples = model.test_step(self.batch(2))
        assert [tuple(self.result(sample).shape[-2:]) for sample in samples] == [self.original] * 2

    def test_a_step_changes_every_parameter(self) -> None:
        model = self.build().train()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        # Adam's step does not depend on the size of a gradient: only what has none stays.
        log = model.train_step(self.batch(2), OptimWrapper(torch.optim.Adam(model.parameters(), lr=0.01)))
        losses = {name: value for name, value in log.items() if 'loss' in name}
        assert all(value.isfinite() and value > 0 for value in losses.values()), losses
        assert {'loss', 'loss_cls', 'loss_mask', 'loss_dice'} <= set(losses)
        assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []

    def test_saved_and_loaded(self, model: Any, tmp_path: Path) -> None:
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), tmp_path / 'x.pth')
        loaded, images = self.load(tmp_path / 'x.pth'), self.images(1, (SIDE, SIDE))
        for found, expected in zip(self.logits(loaded, images), self.logits(model, images), strict=True):
            assert torch.equal(found, expected)
        assert loaded.dataset_meta['classes'] == model.dataset_meta['classes']

    def test_exported_program_agrees(self, model: Any) -> None:
        if not self.exports:
            pytest.skip('has no export')
        program = export_program(network_of(model, (SIDE, 96))).module()
        images = torch.randint(256, (1, 3, SIDE, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        normalised = (images - model.data_preprocessor.mean) / model.data_preprocessor.std
        with torch.no_grad():
            outputs = program(images)
        for found, expected in zip(outputs, self.logits(model, normalised), strict=True):
            assert relative(found, expected) < 1e-5


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()
