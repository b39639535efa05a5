"""What every run of the tools sets up."""

from pathlib import Path
from typing import Any

import pytest
from inferencer_models import small_config

from eomt_mm.engine.console import build_runner


@pytest.mark.parametrize('stated', [None, True, False])
def test_semantic_runs_keep_no_scores_unless_the_config_states_it(stated: bool | None, tmp_path: Path) -> None:
    """Metrics read labels; the scores of all classes of a large image would fill the memory."""
    cfg = small_config('semantic')
    cfg.work_dir = str(tmp_path)
    if stated is not None:
        cfg.model.decode_head.keep_scores = stated
    model: Any = build_runner(cfg).model
    assert model.decode_head.keep_scores is (stated or False)
