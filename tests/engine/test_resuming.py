"""The checkpoint to resume from: the newest one that is whole."""

import os
from pathlib import Path

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
import torch.distributed.checkpoint as dcp

from eomt_mm.engine.resuming import check_whole, damage, latest_whole_checkpoint


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('eomt_mm.engine.resuming.print_log', lambda line, **_: lines.append(line))
    return lines


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Checkpoints after 900, 1000 and 2000 steps, written in this order, and a best one."""
    for age, name in enumerate(['best_score_iter_2000', 'iter_2000', 'iter_1000', 'iter_900']):
        torch.save(dict(weights=torch.arange(20_000.0), meta=dict(name=name)), tmp_path / f'{name}.pth')
        os.utime(tmp_path / f'{name}.pth', (10**9 - age, 10**9 - age))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2000.pth'))
    return tmp_path


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def test_highest_number_counts_and_not_the_alphabet(work_dir: Path, said: list[str]) -> None:
    (work_dir / 'last_checkpoint').unlink()
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_2000.pth')
    (work_dir / 'iter_2000.pth').unlink()
    assert latest_whole_checkpoint(str(work_dir)) == str(work_dir / 'iter_1000.pth')
    assert said == []


def test_no_folder_and_no_checkpoint(tmp_path: Path, said: list[str]) -> None:
    assert latest_whole_checkpoint(tmp_path / 'nowhere') is None
    assert latest_whole_checkpoint(tmp_path) is None
    assert said == []


@pytest.mark.parametrize('share', [0, 0.001, 0.3, 0.7, 0.99, 0.999])
def test_truncated_checkpoint_is_named_and_skipped(share: float, work_dir: Path, said: list[str]) -> None:
    cut(work_dir / 'iter_2000.pth', share)
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_1000.pth')
    assert len(said) == 1
    assert said[0].startswith(f'checkpoint {work_dir}/iter_2000.pth is cut short')
    assert said[0].endswith(f'; using {work_dir}/iter_1000.pth')
    assert (work_dir / 'iter_2000.pth').exists()


def test_last_byte_missing(work_dir: Path) -> None:
    os.truncate(work_dir / 'iter_2000.pth', (work_dir / 'iter_2000.pth').stat().st_size - 1)
    assert damage(work_dir / 'iter_2000.pth') is not None


@pytest.mark.parametrize('share', [0.2, 0.5, 0.9])
def test_flipped_bit_is_found(share: float, work_dir: Path, said: list[str]) -> None:
    with (work_dir / 'iter_2000.pth').open('r+b') as file:
        file.seek(int((work_dir / 'iter_2000.pth').stat().st_size * share))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_1000.pth')
    assert 'bad checksum of iter_2000/data/0' in said[0]


def test_no_flipped_byte_raises_anything_else(tmp_path: Path) -> None:
    torch.save(dict(a=torch.ones(2), b='text'), tmp_path / 'iter_1.pth')
    data = (tmp_path / 'iter_1.pth').read_bytes()
    assert damage(tmp_path / 'iter_1.pth') is None
    found = 0
    for place in range(0, len(data), 3):
        (tmp_path / 'iter_1.pth').write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        found += damage(tmp_path / 'iter_1.pth') is not None
    assert found > len(data) / 30  # what is not found is padding, or a second copy of what is right


def test_all_are_damaged(work_dir: Path, said: list[str]) -> None:
    for name in ('iter_2000.pth', 'iter_1000.pth', 'iter_900.pth'):
        cut(work_dir / name, 0.5)
    assert latest_whole_checkpoint(work_dir) is None
    assert [line.split(' is ')[0] for line in said] == [
        f'checkpoint {work_dir}/iter_{n}.pth' for n in (2000, 1000, 900)
    ]
    assert all('there is no whole one' in line for line in said)


def test_newer_one_than_the_pointer_says_is_taken(work_dir: Path) -> None:
    """Killed between the checkpoint and the pointer."""
    (work_dir / 'last_checkpoint').write_text('iter_1000.pth')
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_2000.pth')


def test_earlier_run_in_the_same_folder_comes_last(work_dir: Path) -> None:
    (work_dir / 'last_checkpoint').write_text('iter_1000.pth')
    os.utime(work_dir / 'iter_2000.pth', (0, 0))
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_1000.pth')
    cut(work_dir / 'iter_1000.pth', 0.5)
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_900.pth')
    cut(work_dir / 'iter_900.pth', 0.5)
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_2000.pth')


@pytest.mark.parametrize('text', [b'', b'\n', b'\xff\xfe', b'gone/iter_3000.pth', b'\0'])
def test_pointer_that_points_nowhere(text: bytes, work_dir: Path) -> None:
    (work_dir / 'last_checkpoint').write_bytes(text)
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_2000.pth')


def test_pointer_to_another_name_or_folder(work_dir: Path) -> None:
    (work_dir / 'mine').mkdir()
    os.rename(work_dir / 'iter_2000.pth', work_dir / 'mine' / 'step-2000-final.pth')
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'mine' / 'step-2000-final.pth'))
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'mine' / 'step-2000-final.pth')


def test_folder_of_a_sharded_checkpoint(work_dir: Path, said: list[str]) -> None:
    folder = work_dir / 'iter_3000.dcp'
    folder.mkdir()
    assert damage(folder) == 'lacks its index (.metadata)'
    (folder / '.metadata').touch()
    assert 'cannot be read' in (damage(folder) or '')
    dcp.save(dict(weights=torch.arange(9.0)), checkpoint_id=folder, no_dist=True)
    assert damage(folder) is None
    torch.save(dict(meta=1), folder / 'runner.pth')
    assert latest_whole_checkpoint(work_dir) == str(folder)
    cut(folder / 'runner.pth', 0.5)
    assert latest_whole_checkpoint(work_dir) == str(work_dir / 'iter_2000.pth')
    assert 'iter_3000.dcp holds runner.pth, which is cut short' in said[0]


def test_named_checkpoint_is_checked(work_dir: Path) -> None:
    check_whole(work_dir / 'iter_2000.pth')
    with pytest.raises(ValueError, match="'s3://bucket/iter_2000.pth': addresses of checkpoints begin with"):
        check_whole('s3://bucket/iter_2000.pth')
    cut(work_dir / 'iter_2000.pth', 0.5)
    with pytest.raises(ValueError, match=r'iter_2000\.pth is cut short .* last whole one there is .*iter_1000\.pth'):
        check_whole(work_dir / 'iter_2000.pth')
    with pytest.raises(FileNotFoundError, match=r'iter_1\.pth does not exist: .*iter_1000\.pth'):
        check_whole(work_dir / 'iter_1.pth')
    with pytest.raises(FileNotFoundError, match='no whole one'):
        check_whole(work_dir / 'elsewhere' / 'iter_1.pth')
