"""Names of result files: paths below the images' folder, and never one for two images."""

import pytest

from eomt_mm.fileio import ResultNames, name_below


@pytest.mark.parametrize(
    ('path', 'folder', 'name'),
    [
        ('data/img/cam0/a.v2.jpg', 'data/img/', 'cam0/a.v2'),
        ('data/img/../img/cam0/a.jpg', './data/img', 'cam0/a'),
        ('data/img/cam0/a.jpg', None, 'a'),
        ('data/img/cam0/a.jpg', 'elsewhere', 'a'),
        ('cam0/a.jpg', '', 'cam0/a'),
        ('s3://bucket/img/cam0/a.jpg', 's3://bucket/img', 'cam0/a'),
    ],
)
def test_names_keep_the_path_below_the_folder(path: str, folder: str | None, name: str) -> None:
    assert name_below(path, folder) == name


def test_a_name_belongs_to_one_image() -> None:
    names = ResultNames()
    assert names.claim('a', 'x/a.jpg') == names.claim('a', 'x/a.jpg') == 'a'
    with pytest.raises(ValueError, match='results of x/a.jpg and y/a.jpg would both be named a: rename'):
        names.claim('a', 'y/a.jpg')
    other = ResultNames()
    other.claim('a', 'x/a.png')
    with pytest.raises(ValueError, match='x/a.jpg and x/a.png would both be named a'):
        names.merge([other])
    assert [names.unique('a', image) for image in ('x/a.jpg', 'y/a.jpg', 'z/a.jpg', 'y/a.jpg')] == [
        'a', 'a_2', 'a_3', 'a_2',
    ]  # fmt: skip


@pytest.mark.parametrize('name', ['/etc/a.png', '../a.png', 'cam0/../../a.png'])
def test_names_stay_in_the_folder(name: str) -> None:
    with pytest.raises(ValueError, match='outside of the folder of results: correct "file_name"'):
        ResultNames().claim(name, '1')
