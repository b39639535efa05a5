"""The config that a run writes to its work dir never replaces one that a user wrote."""

from pathlib import Path

import pytest
from mmengine.config import Config

from eomt_mm.engine import console


@pytest.mark.parametrize('text', ['"""Mine."""\na = 1\n', 'a = 1  # mine\n', "_base_ = './base.py'\na = 1\n"])
def test_what_was_written_by_hand_is_kept(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.TerseConsole, 'from_cfg', lambda cfg: cfg)
    (tmp_path / 'base.py').write_text('b = 1\n')
    own = tmp_path / 'own.py'
    own.write_text(text)
    cfg = Config.fromfile(own)
    cfg.work_dir = str(tmp_path / '..' / tmp_path.name)
    with pytest.raises(ValueError, match=r'own.py lies in the work dir, .*: give another --work-dir'):
        console.build_runner(cfg)
    cfg.work_dir = str(tmp_path / 'work')
    assert console.build_runner(cfg) is cfg
    # as when a run is resumed with the config that it wrote
    Path(cfg.work_dir).mkdir()
    cfg.dump(tmp_path / 'work' / 'own.py')
    written = Config.fromfile(tmp_path / 'work' / 'own.py')
    assert console.build_runner(written) is written and written.work_dir == cfg.work_dir
