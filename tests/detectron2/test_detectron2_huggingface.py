"""transformers as a third witness: from a folder of Hugging Face, both hosts compute its logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_samples import relative_difference
from contract import tiny
from detectron2.config import instantiate
from detectron2_models import CONFIGS, HEADS, small_lazy
from random_weights import randomise
from transformers import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation

from eomt_mm.apis import init_model, load_config
from eomt_mm.checkpoints.exporting import export_huggingface
from eomt_mm.detectron2 import build_checkpointer

DINOV2 = ('vit_small_patch14_reg4_dinov2', EomtForUniversalSegmentation)
DINOV3 = ('vit_small_patch16_dinov3_qkvb', EomtDinov3ForUniversalSegmentation)


@pytest.mark.parametrize(
    ('task', 'family'),
    [('panoptic', DINOV2), ('instance', DINOV2), ('semantic', DINOV2), ('panoptic', DINOV3)],
    ids=['panoptic', 'instance', 'semantic', 'panoptic DINOv3'],
)
def test_three_programs_give_the_same_logits(task: str, family: tuple[str, Any], tmp_path: Path) -> None:
    name, peer = family
    mm_cfg = load_config(CONFIGS[task], tiny(HEADS[task]) | {'model.backbone.model_name': name})
    source = init_model(mm_cfg)
    randomise(source)
    folder = tmp_path / 'folder'
    classes = source.dataset_meta['classes']
    export_huggingface(source.state_dict(), folder, 64, num_heads=3, classes=classes, semantic=task == 'semantic')

    theirs = peer.from_pretrained(folder).eval()
    mm = init_model(mm_cfg, folder)
    cfg = small_lazy(CONFIGS[task], f'model.backbone.model_name={name}', f'train.output_dir={tmp_path}')
    d2 = instantiate(cfg.model).eval()
    assert build_checkpointer(cfg, d2).load(str(folder)) == {}

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(pixel_values=images)
        expected = (found.class_queries_logits, found.masks_queries_logits)
        for ours, host, witness in zip(d2.network(images), mm(images, mode='tensor'), expected, strict=True):
            assert torch.equal(ours[-1], host[-1])
            assert witness.std() > 0.1, 'too flat an output to show errors'
            assert relative_difference(ours[-1], witness) < 1e-5
