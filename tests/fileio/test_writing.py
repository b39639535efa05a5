"""Files and folders that appear whole or not at all; for what mmengine adds see tests/hosts/test_local_backend.py."""

from pathlib import Path

import pytest

from eomt_mm.fileio.writing import check_apart, write_whole, written_aside


def test_write_whole_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    with pytest.raises(OSError, match='folder'):
        write_whole(tmp_path / 'folder', b'content')
    assert [file.name for file in tmp_path.iterdir()] == ['folder']
    write_whole(tmp_path / 'a.json', b'old')
    write_whole(tmp_path / 'a.json', b'new')
    assert (tmp_path / 'a.json').read_bytes() == b'new'
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.json', 'folder']


@pytest.mark.parametrize('folder', [False, True])
def test_failed_writing_leaves_nothing_and_keeps_the_old(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / 'target'
    target.mkdir() if folder else target.write_text('old')
    with pytest.raises(RuntimeError, match='full'), written_aside(target, folder) as aside:
        (aside / 'x' if folder else aside).write_text('half')
        raise RuntimeError('disk is full')
    assert [path.name for path in tmp_path.iterdir()] == ['target']
    assert list(target.iterdir()) == [] if folder else target.read_text() == 'old'


def test_writing_replaces_files_and_fills_folders(tmp_path: Path) -> None:
    for _ in range(2):
        with written_aside(tmp_path / 'new' / 'file.pth') as aside:
            aside.write_text('x')
    with written_aside(tmp_path / 'folder', folder=True) as aside:
        (aside / 'y').write_text('y')
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')) == [
        'folder', 'folder/y', 'new', 'new/file.pth',
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match='name a new folder or empty it'), written_aside(tmp_path / 'new', True):
        pass
    with pytest.raises(FileExistsError, match='name a file'), written_aside(tmp_path / 'new'):
        pass
    with pytest.raises(FileExistsError, match='name a folder'), written_aside(tmp_path / 'folder' / 'y', True):
        pass


def test_targets_are_no_inputs(tmp_path: Path) -> None:
    own, link, other = tmp_path / 'own.png', tmp_path / 'link.png', tmp_path / 'other.png'
    own.write_bytes(b'own')
    other.write_bytes(b'other')
    link.symlink_to(own)
    for target in (own, link, tmp_path / 'x' / '..' / 'own.png'):
        (tmp_path / 'x').mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r'\.png would replace the input .*own.png: write to another place'):
            check_apart([tmp_path / 'new.png', target], [other, own, 'hf://owner/name'])
    check_apart([other, tmp_path / 'new.png'], [own, tmp_path / 'missing.png', 'hf://owner/name'])
    assert own.read_bytes() == b'own'
