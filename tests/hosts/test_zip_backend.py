"""What ``zip://`` paths mean, and the interface that mmengine expects of a file backend."""

import copy
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from mmengine import fileio
from zip_samples import pack_ade20k, pack_coco, write_zip

import eomt_mm  # noqa: F401
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.hosts import zip_backend
from eomt_mm.hosts.zip_backend import ZipBackend, missing_folder, zip_root


@pytest.fixture(scope='module')
def coco_zips(coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_coco(coco_root, tmp_path_factory.mktemp('zips') / 'coco')


@pytest.fixture(scope='module')
def ade20k_zips(ade20k_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_ade20k(ade20k_root, tmp_path_factory.mktemp('zips') / 'ade')


# Which file a path means


def test_real_files_and_folders_win(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'a/1.txt', 'a/2.txt', 'a/b/3.txt', content='zipped')
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/1.txt').write_text('real')
    root = f'zip://{tmp_path}/a'
    assert [fileio.get_text(f'{root}/{name}.txt') for name in ('1', '2', 'b/3')] == ['real', 'zipped', 'zipped']
    assert list(fileio.list_dir_or_file(root)) == ['1.txt']
    assert list(fileio.list_dir_or_file(f'{root}/b')) == ['3.txt']


def test_zip_named_like_a_folder_of_the_path_comes_first(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'b/1.txt', content='a')
    write_zip(tmp_path / 'b.zip', 'b/1.txt', content='b')
    (tmp_path / 'broken.zip').write_text('junk')
    assert fileio.get_text(f'zip://{tmp_path}/b/1.txt') == 'b'


@pytest.mark.parametrize(
    ('member', 'path'),
    [
        ('1.txt', 'a/1.txt'),  # zipped without a top folder
        ('1.txt', 'a.zip/1.txt'),
        ('1.txt', '1.txt'),
        ('a/1.txt', '1.txt'),
        ('root/b/1.txt', 'b/1.txt'),  # the top folder is that which the zip lies in
        ('b/1.txt', 'a.zip/b/1.txt'),
        ('b/1.txt', 'c/../b//1.txt'),
    ],
)
def test_ways_to_name_a_member(tmp_path: Path, member: str, path: str) -> None:
    write_zip(tmp_path / 'root/a.zip', member)
    url = f'zip://{tmp_path / "root"}/{path}'
    assert fileio.get_text(url) == 'content'
    assert fileio.isfile(url) and fileio.exists(url) and not fileio.isdir(url)
    # the folder of one of them is real, and has no such file
    listed = list(fileio.list_dir_or_file(os.path.dirname(url), list_dir=False, suffix='.txt'))
    assert listed == ([] if path == '1.txt' else ['1.txt'])


@pytest.mark.parametrize('path', ['c/1.txt', 'a.zip/c/1.txt', 'a/c/1.txt', '2.txt', 'b/1.txt/c', '1.txt'])
def test_other_names_are_not_found(tmp_path: Path, path: str) -> None:
    write_zip(tmp_path / 'root/a.zip', 'b/1.txt', 'a/2.txt')  # two top folders
    url = f'zip://{tmp_path / "root"}/{path}'
    assert not (fileio.exists(url) or fileio.isfile(url) or fileio.isdir(url))
    with pytest.raises(FileNotFoundError) as error:
        fileio.get(url)
    assert url in str(error.value) and str(tmp_path / 'root/a.zip') in str(error.value)
    with pytest.raises(FileNotFoundError, match='^zip://'), fileio.get_local_path(url):
        pass
    with pytest.raises(FileNotFoundError, match='^folder zip://'):
        list(fileio.list_dir_or_file(url))


@pytest.mark.parametrize(
    ('member', 'path'),
    [
        ('other/b/1.txt', 'b/1.txt'),
        ('other/b/1.txt', 'a.zip/b/1.txt'),
        ('other/1.txt', 'a/1.txt'),  # 'a' is what the folder should have been named
        ('./other/./b/1.txt', 'b/1.txt'),
        ('other\\b\\1.txt', 'b/1.txt'),
    ],
)
@pytest.mark.parametrize('beside', [(), ('README',)])
def test_top_folder_of_another_name(tmp_path: Path, member: str, path: str, beside: tuple[str, ...]) -> None:
    write_zip(tmp_path / 'root/a.zip', member, *beside)
    url = f'zip://{tmp_path / "root"}/{path}'
    assert fileio.get_text(url) == 'content'
    assert fileio.isfile(url) and fileio.isdir(os.path.dirname(url))


def test_top_folder_of_another_name_comes_last(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'other/b/1.txt', 'other/b/2.txt', content='guessed')
    write_zip(tmp_path / 'c.zip', 'b/1.txt', content='exact')
    assert [fileio.get_text(f'zip://{tmp_path}/b/{i}.txt') for i in (1, 2)] == ['exact', 'guessed']
    assert list(fileio.list_dir_or_file(f'zip://{tmp_path}/b')) == ['1.txt']


@pytest.mark.parametrize('member', ['1.txt', 'masks/1.txt', 'inside\\1.txt'])
@pytest.mark.parametrize('folder', ['', 'other/'])
def test_nested_zip_with_top_folders_of_other_names(tmp_path: Path, folder: str, member: str) -> None:
    inner = write_zip(tmp_path / 'masks.zip', member)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.write(inner, f'{folder}masks.zip')
    inner.unlink()
    assert fileio.get_text(f'zip://{tmp_path}/masks/1.txt') == 'content'


def test_message_lists_what_the_zips_hold(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'images/1.jpg', 'labels/1.png', 'README')
    write_zip(tmp_path / 'b.zip')
    with pytest.raises(FileNotFoundError) as error:
        fileio.get(f'zip://{tmp_path}/train/1.jpg')
    held = f'{tmp_path}/a.zip holds README, images/, labels/, first file: images/1.jpg; {tmp_path}/b.zip is empty'
    missing = f'zip://{tmp_path}/train/1.jpg does not exist, neither unpacked nor in a zip file'
    assert str(error.value) == f'{missing}: check the path ({held})'
    with pytest.raises(FileNotFoundError, match='no zip there'):
        fileio.get(f'zip://{tmp_path}/a.zip.d/none'.replace(str(tmp_path), '/proc/self'))


def test_relative_paths_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('first', 'second'):
        write_zip(tmp_path / name / 'data/a.zip', 'a/1.txt', content=name)
        monkeypatch.chdir(tmp_path / name)
        assert fileio.get_text('zip://data/a/1.txt') == name
        assert list(fileio.list_dir_or_file('zip://data/a')) == ['1.txt']


def test_zips_further_up_are_left_alone(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'b/c/1.txt', 'b/c/d/2.txt')
    (tmp_path / 'b/c/d').mkdir(parents=True)
    assert fileio.isfile(f'zip://{tmp_path}/b/c/1.txt')
    assert not fileio.isfile(f'zip://{tmp_path}/b/c/d/2.txt')


def test_zips_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    url = f'zip://{tmp_path}/a/1.txt'
    write_zip(tmp_path / 'other.zip', '2.txt')
    os.utime(tmp_path, (1, 1))  # long ago: the listing of the folder is kept
    assert not fileio.exists(url)
    assert str(tmp_path) in zip_backend._listings
    write_zip(tmp_path / 'a.zip', 'a/1.txt', content='old')
    assert fileio.get_text(url) == 'old'
    write_zip(tmp_path / 'new.zip.part', 'a/1.txt', content='new')
    os.replace(tmp_path / 'new.zip.part', tmp_path / 'a.zip')
    assert fileio.get_text(url) == 'new'
    (tmp_path / 'a.zip').unlink()
    assert not fileio.exists(url)


def test_mac_rubbish_is_no_part_of_the_data(ade20k_zips: Path) -> None:
    root = f'zip://{ade20k_zips}/ADEChallengeData2016.zip'
    assert list(fileio.list_dir_or_file(root)) == ['ADEChallengeData2016']
    assert list(fileio.list_dir_or_file(f'{root}/ADEChallengeData2016')) == ['annotations', 'images']


# Broken zips


def test_broken_zip_matters_only_where_nothing_is_found(tmp_path: Path) -> None:
    write_zip(tmp_path / 'b.zip', 'b/1.txt')
    (tmp_path / 'a.zip').write_bytes((tmp_path / 'b.zip').read_bytes()[:-30])
    assert fileio.get_text(f'zip://{tmp_path}/b/1.txt') == 'content'
    assert fileio.isdir(f'zip://{tmp_path}/b') and fileio.exists(f'zip://{tmp_path}/b')
    for ask in (fileio.get, fileio.exists, fileio.isfile, fileio.isdir, lambda url: list(fileio.list_dir_or_file(url))):
        with pytest.raises(ValueError, match='/a/2.txt was not found, .*/a.zip is not a complete zip file .*download'):
            ask(f'zip://{tmp_path}/a/2.txt')


def test_damaged_member_is_named_and_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / 'a.zip', 'a/1.json')
    path.write_bytes(path.read_bytes().replace(b'content', b'CONTENT'))
    (tmp_path / 'copies').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'copies'))
    with pytest.raises(ValueError, match='a.zip: member a/1.json is damaged'):
        fileio.get(f'zip://{tmp_path}/a/1.json')
    with (
        pytest.raises(ValueError, match='a.zip: member a/1.json is damaged'),
        fileio.get_local_path(f'zip://{tmp_path}/a/1.json'),
    ):
        pass
    assert os.listdir(tmp_path / 'copies') == []


# The interface of mmengine


def test_listing_is_that_of_the_unpacked_folder(tmp_path: Path) -> None:
    names = ['b.txt', 'a/1.png', 'a/2.txt', 'a/.hidden', 'a/c/3.txt', '.config/4.txt', '.hidden']
    path = write_zip(tmp_path / 'zips/data.zip', *(f'data/{name}' for name in names))
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr('data/empty/', '')
        file.extractall(tmp_path)
    for recursive in (False, True):
        for kind in ({}, {'list_dir': False}, {'list_file': False}, {'list_dir': False, 'suffix': ('.txt', '.jpg')}):
            for folder in ('data', 'data/a', 'data/empty'):
                found = list(fileio.list_dir_or_file(f'zip://{tmp_path}/zips/{folder}', recursive=recursive, **kind))
                real = fileio.list_dir_or_file(tmp_path / folder, recursive=recursive, **kind)
                assert found == sorted(real)
                assert found == list(ZipBackend().list_dir_or_file(tmp_path / folder, recursive=recursive, **kind))


def test_listing_checks_its_arguments(coco_zips: Path) -> None:
    with pytest.raises(TypeError, match='`suffix` should be None'):
        list(fileio.list_dir_or_file(f'zip://{coco_zips}/train2017', suffix='.jpg'))
    with pytest.raises(TypeError, match='`suffix` must be a string'):
        list(fileio.list_dir_or_file(f'zip://{coco_zips}/train2017', list_dir=False, suffix=['.jpg']))


def test_folders_are_listed_over_all_zips(coco_zips: Path) -> None:
    assert list(fileio.list_dir_or_file(f'zip://{coco_zips}/annotations', suffix='.json', list_dir=False)) == [
        f'{kind}_{split}2017.json' for kind in ('instances', 'panoptic') for split in ('train', 'val')
    ]
    assert fileio.isdir(f'zip://{coco_zips}/annotations/panoptic_train2017')
    assert fileio.isdir(f'zip://{coco_zips}/annotations/panoptic_val2017.zip/')


def test_zip_is_a_file_and_a_folder(coco_zips: Path) -> None:
    url = f'zip://{coco_zips}/val2017.zip'
    assert fileio.isfile(url) and fileio.isdir(url) and fileio.isdir(f'{url}/') and fileio.exists(url)
    assert fileio.get(url) == (coco_zips / 'val2017.zip').read_bytes()
    assert list(fileio.list_dir_or_file(f'{url}/')) == ['val2017']


def test_local_path_of_a_member_is_a_copy_with_its_name(coco_root: Path, coco_zips: Path) -> None:
    name = 'annotations/instances_val2017.json'
    with fileio.get_local_path(f'zip://{coco_zips}/{name}') as path:
        assert Path(path).read_bytes() == (coco_root / name).read_bytes()
        assert Path(path).name == 'instances_val2017.json'
    assert not Path(path).parent.exists()
    with fileio.get_local_path(f'zip://{coco_root}/{name}') as path:
        assert path == str(coco_root / name)
    assert Path(path).exists()


def test_folder_is_no_file(coco_zips: Path, coco_root: Path) -> None:
    for root in (coco_zips, coco_root):
        with pytest.raises(IsADirectoryError):
            fileio.get(f'zip://{root}/train2017')


def test_text_and_json(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'a/1.json', content='{"name": "Zürich"}')
    assert fileio.load(f'zip://{tmp_path}/a/1.json') == {'name': 'Zürich'}
    assert fileio.get_text(f'zip://{tmp_path}/a/1.json', encoding='latin-1') == '{"name": "ZÃ¼rich"}'


def test_backend_by_name_takes_paths_without_prefix(tmp_path: Path) -> None:
    write_zip(tmp_path / 'a.zip', 'a/1.txt')
    assert fileio.get_text(tmp_path / 'a' / '1.txt', backend_args=dict(backend='eomt_mm.zip')) == 'content'


def test_paths_are_joined() -> None:
    assert fileio.join_path('zip://data/coco/', 'train2017', 'a.jpg') == 'zip://data/coco/train2017/a.jpg'
    assert fileio.join_path('zip://data/coco', '/abs/a.jpg') == '/abs/a.jpg'
    assert fileio.join_path('zip://data/coco', 'zip://other', 'a.jpg') == 'zip://other/a.jpg'
    assert fileio.join_path('zip://data/coco', '') == 'zip://data/coco/'


def test_writing_is_refused(tmp_path: Path) -> None:
    url = f'zip://{tmp_path}/a.txt'
    for refused in (
        lambda: fileio.put(b'', url),
        lambda: fileio.put_text('', url),
        lambda: fileio.remove(url),
        lambda: fileio.rmtree(url),
        lambda: fileio.copyfile(url, url),
        lambda: fileio.copyfile_from_local(str(tmp_path), url),
        lambda: ZipBackend().copytree_to_local(url, str(tmp_path)),  # mmengine asks the backend of the target
    ):
        with pytest.raises(io.UnsupportedOperation, match=r'a.txt.*: zip:// paths can only be read'):
            refused()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('root', 'expected'),
    [
        ('zips', 'zip://zips/'),
        ('zips/', 'zip://zips/'),
        ('zips/A.ZIP', 'zip://zips/A.ZIP/'),
        ('zips/A.ZIP/', 'zip://zips/A.ZIP/'),
        ('zips/none.zip/', 'zips/none.zip/'),
        ('plain', 'plain'),
        ('plain/', 'plain/'),
        ('missing/', 'missing/'),
        ('', ''),
        ('zip://zips/', 'zip://zips/'),
        ('s3://zips/A.ZIP', 's3://zips/A.ZIP'),
    ],
)
def test_data_root_becomes_a_zip_path_where_zips_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, expected: str
) -> None:
    write_zip(tmp_path / 'zips/A.ZIP', '1.txt')
    (tmp_path / 'plain/folder.zip').mkdir(parents=True)
    (tmp_path / 'plain/1.txt').touch()
    monkeypatch.chdir(tmp_path)
    assert zip_root(root) == expected
    absolute = str(tmp_path / 'zips')
    assert zip_root(absolute) == f'zip://{absolute}/'


def test_folder_of_pngs_that_is_in_no_zip_is_told_at_build_time(coco_zips: Path) -> None:
    root = f'zip://{coco_zips}'
    with pytest.raises(FileNotFoundError, match=r'data_prefix\["seg"\]: folder zip://.*/annotations/masks'):
        CocoPanoptic(
            data_root=root,
            ann_file='annotations/panoptic_train2017.json',
            data_prefix=dict(img='train2017/', seg='annotations/masks'),
        )
    assert not missing_folder(f'{root}/annotations/panoptic_val2017/')
    assert not missing_folder('http://host/annotations/panoptic_val2017/')
    assert not missing_folder(str(coco_zips))
    assert not missing_folder(str(coco_zips / 'annotations'), dict(backend='eomt_mm.zip'))
    assert missing_folder(str(coco_zips / 'annotations'))


def test_backend_can_be_pickled_and_copied(coco_zips: Path) -> None:
    backend = ZipBackend()
    assert backend.isdir(f'zip://{coco_zips}/train2017')
    for other in (pickle.loads(pickle.dumps(backend)), copy.deepcopy(backend)):
        assert other.isdir(f'zip://{coco_zips}/train2017')
