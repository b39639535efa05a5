"""The demo as `make demo` starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


@pytest.mark.slow
def test_ctrl_c_saves_the_training_and_ends_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, 'tools/make_demo.py', '--max-iters', '500', '--num-train', '16', '--num-val', '4']
    process = subprocess.Popen(
        [*command, '--work-dir', str(tmp_path)], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = ''
    for line in process.stdout:
        said += line
        if '[  1/500]' in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(60) == 130, said
    assert 'ended by SIGINT; saved as' in said
    assert said.count('\n$ python ') == 2, said  # the data and the training; no test follows
    assert Path((tmp_path / 'train' / 'last_checkpoint').read_text()).is_file()
