"""Models built under torch.inference_mode, and models whose weights have another type than float32."""

from typing import Any

import numpy as np
import pytest
import torch
from inferencer_models import saved_model, small_config
from mmengine.registry import MODELS

from eomt_mm.apis import EoMTInferencer, init_model
from eomt_mm.apis.exporting import network_of

TASKS = ('panoptic', 'instance', 'semantic')
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
BATCH: dict[str, Any] = dict(inputs=[torch.from_numpy(IMAGE).permute(2, 0, 1)])


def logits(model: Any) -> torch.Tensor:
    return model(torch.ones(1, 3, 64, 64), mode='tensor')[1][-1]


@pytest.mark.parametrize('task', TASKS)
def test_model_built_in_inference_mode_is_like_any_other(task: str, tmp_path: Any) -> None:
    files = saved_model(task, tmp_path)
    expected: Any = init_model(*files)
    with torch.inference_mode():
        models: list[Any] = [init_model(*files), MODELS.build(small_config(task).model)]
        inferencer = EoMTInferencer(*files, device='cpu')
    models[1].load_state_dict(expected.state_dict())
    for model in models:
        model.to(torch.float64).float().eval()
        assert torch.equal(logits(model), logits(expected))
        logits(model.train()).sum().backward()
        assert model.backbone.vit.patch_embed.proj.weight.grad.any()
        with torch.inference_mode():
            assert len(model.eval().test_step(dict(BATCH))) == 1
            model.to(torch.bfloat16)
        network_of(model)
    assert inferencer(IMAGE)['predictions'][0]['segmentation'].shape == (50, 60)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('task', TASKS)
def test_weights_of_another_type(task: str, dtype: torch.dtype, tmp_path: Any) -> None:
    inferencer = EoMTInferencer(*saved_model(task, tmp_path), device='cpu')
    model = inferencer.model
    expected = logits(model)
    model.to(dtype)
    found = logits(model)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))
    with torch.no_grad():
        (sample,) = model.test_step(dict(BATCH))
        assert len(model(torch.ones(1, 3, 64, 64, dtype=torch.float32), mode='predict')) == 1
    assert sample is not None
    assert inferencer(IMAGE)['predictions'][0]['segmentation'].shape == (50, 60)
