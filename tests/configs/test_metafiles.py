"""The model index: each entry names a config, its own released file, and the number that config and docs state."""

import ast
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from paths import ROOT

METRICS = {'Panoptic Segmentation': 'PQ', 'Instance Segmentation': 'mask AP', 'Semantic Segmentation': 'mIoU'}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding='utf-8'))


METAFILES = [ROOT / path for path in load(ROOT / 'model-index.yml')['Import']]
COLLECTIONS = {entry['Name'] for path in METAFILES for entry in load(path).get('Collections', [])}
ENTRIES = [(path, entry) for path in METAFILES for entry in load(path)['Models']]
each_entry = pytest.mark.parametrize(('metafile', 'entry'), ENTRIES, ids=[entry['Name'] for _, entry in ENTRIES])


def published(entry: dict[str, Any]) -> str:
    """Metric and number as configs and docs write them, ``PQ 56.0``."""
    (result,) = entry['Results']
    ((metric, value),) = result['Metrics'].items()
    assert metric == METRICS[result['Task']]
    return f'{metric.split()[-1]} {value:.1f}'


def summary(config: Path) -> str:
    """First line of a config's docstring."""
    docstring = ast.get_docstring(ast.parse(config.read_text(encoding='utf-8')))
    return docstring.splitlines()[0] if docstring else ''


def zoo() -> dict[str, tuple[str, str, str]]:
    """Of the table in docs/checkpoints.md: config -> (hub id, base, published)."""
    text = (ROOT / 'docs' / 'checkpoints.md').read_text(encoding='utf-8')
    row = re.compile(r'^\| `(\w+)` \| `(.+)` \| (?:`(.+)`)? ?\| (.*?) \|$', re.MULTILINE)
    return {config: (hub, base, number) for hub, config, base, number in row.findall(text)}


def test_index_imports_every_metafile() -> None:
    assert sorted(METAFILES) == sorted((ROOT / 'configs').rglob('metafile.yml'))


def test_entries_are_the_configs_with_a_number_of_the_model_zoo() -> None:
    leaves = {path for path in (ROOT / 'configs' / 'eomt').rglob('eomt_*.py') if '(EoMT model zoo' in summary(path)}
    assert {ROOT / entry['Config'] for _, entry in ENTRIES} == leaves


def test_names_and_files_on_disk_are_unique() -> None:
    assert len({entry['Name'] for _, entry in ENTRIES}) == len(ENTRIES)
    # mim saves by what follows the last slash, and passes over a file that is there already.
    assert len({entry['Weights'].rpartition('/')[2] for _, entry in ENTRIES}) == len(ENTRIES)
    assert len({urlsplit(entry['Weights']).path for _, entry in ENTRIES}) == len(ENTRIES)


@each_entry
def test_entry_names_its_config(metafile: Path, entry: dict[str, Any]) -> None:
    config = ROOT / entry['Config']
    assert config.is_file() and config.stem == entry['Name']
    assert config.parent == metafile.parent
    assert entry['In Collection'] in COLLECTIONS


@each_entry
def test_number_is_that_of_the_config(metafile: Path, entry: dict[str, Any]) -> None:
    zoo_page = 'DINOv3' if 'dinov3' in entry['Name'] else 'DINOv2'
    assert f': {published(entry)} (EoMT model zoo, {zoo_page}).' in summary(ROOT / entry['Config'])
    assert entry['Metadata']['Metric Source'] == (
        f'EoMT model zoo ({zoo_page}), published by the authors, not reproduced here'
    )


@each_entry
def test_task_and_data_are_those_of_the_name(metafile: Path, entry: dict[str, Any]) -> None:
    found = re.fullmatch(r'eomt_(dinov[23])-[sblg]_(\d+)e_([a-z0-9]+)-([a-z]+)-(\d+)', entry['Name'])
    assert found
    backbone, epochs, data, task, size = found.groups()
    (result,) = entry['Results']
    assert result['Task'] == f'{task.capitalize()} Segmentation'
    assert result['Dataset'].lower() == entry['Metadata']['Training Data'].lower() == data
    assert (entry['Metadata']['Epochs'], entry['Metadata']['Input Size']) == (int(epochs), int(size))
    assert entry['In Collection'] == {'dinov2': 'EoMT', 'dinov3': 'EoMT-DINOv3'}[backbone]


@each_entry
def test_weights_are_the_released_file_under_the_name_of_the_config(metafile: Path, entry: dict[str, Any]) -> None:
    address = urlsplit(entry['Weights'])
    assert (address.scheme, address.netloc, address.query) == ('https', 'huggingface.co', '')
    assert re.fullmatch(r'/tue-mps/\w+/resolve/main/pytorch_model\.bin', address.path)
    # Not .pth, which our tools take for our own format.
    assert address.fragment == f'/{entry["Name"]}.bin'


@each_entry
def test_docs_state_the_same_release(metafile: Path, entry: dict[str, Any]) -> None:
    config = (ROOT / entry['Config']).relative_to(ROOT / 'configs' / 'eomt').as_posix()
    assert config in zoo(), f'docs/checkpoints.md has no row of the model zoo for {config}'
    hub, base, number = zoo()[config]
    assert urlsplit(entry['Weights']).path.split('/')[2] == hub
    assert number == published(entry)
    # DINOv3 files are differences: the entry says to what, and that the base has a licence of its own.
    weights_format = entry['Metadata'].get('Weights Format', '')
    assert re.findall(r'facebook/([\w-]+)', weights_format) == ([base] if base else [])
    assert ('DINOv3 License' in entry['Metadata']['Weights License']) is bool(base)


def test_the_table_of_the_docs_is_read() -> None:
    assert 'coco/eomt_dinov2-l_12e_coco-panoptic-640.py' in zoo()
    assert zoo()['coco/eomt_dinov3-s_24e_coco-panoptic-640.py'][1] == 'dinov3-vits16-pretrain-lvd1689m'
