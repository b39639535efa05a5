"""A thousand damaged files, each read in a process under limits: a named error, or a result that is as it must be.

`python -m pytest -m slow tests/fuzz -s` prints the table of docs/security.md. Where the format carries checksums, a
result equals that of the whole file; where it does not, it is well-formed: finite weights under the model's names,
images of three channels, masks of the image's size, labels within the classes, finite scores.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from canaries import CANARIES, VERDICTS
from child import GROWTH, Keeper, Outcome
from damage import MARK
from readers import READERS, Reader

COLUMNS = ('named error', 'equal', 'well-formed', 'failed')


@pytest.fixture(scope='module')
def table() -> Iterator[dict[str, Counter[str]]]:
    """Counts by reader, printed in the end."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    counts['all'] = sum(counts.values(), Counter())
    print('\n| files | inputs |', ' | '.join(COLUMNS), '|\n|---|', '---:|' * (1 + len(COLUMNS)), sep='')
    for name, row in counts.items():
        print('|', name, '|', ' | '.join(str(number) for number in (row.total(), *(row[c] for c in COLUMNS))), '|')


@pytest.mark.slow
@pytest.mark.parametrize('name', READERS)
def test_damaged_files(name: str, tmp_path: Path, table: dict[str, Counter[str]]) -> None:
    count = READERS[name].count
    failures = fuzz(READERS[name], tmp_path, range(count), table.setdefault(name, Counter()))
    if failures:
        pytest.fail('\n'.join([f'{len(failures)} of {count}', *failures]), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize('read', VERDICTS, ids=list(CANARIES))
def test_harness_notices(read: Callable[..., Any], tmp_path: Path) -> None:
    (failure,) = fuzz(CANARIES[read.__name__], tmp_path, range(1), Counter())
    assert re.search(VERDICTS[read], failure)


def test_the_inputs_are_a_thousand() -> None:
    assert sum(reader.count for reader in READERS.values()) >= 1000


def fuzz(reader: Reader, folder: Path, seeds: Iterable[int], counts: Counter[str]) -> list[str]:
    """Reads a damaged file per seed; adds to ``counts``, and says what failed: seed, file, damage, what happened."""
    reader.build(folder)
    files = sorted(folder.glob(reader.files))
    whole = [path.read_bytes() for path in files]
    keeper = Keeper(reader.name, folder)
    expected = keeper.read('')
    assert expected.kind == 'result', expected
    failures = []
    try:
        for seed in seeds:
            rng = Random(f'{reader.name} {seed}')
            damage = rng.choice((reader.damages, reader.rewrites or reader.damages)[seed % 2])
            index = rng.randrange(len(files))
            place(damage(whole[index], rng), files[index])
            outcome = keeper.read(files[index].name)
            place(whole[index], files[index])
            verdict = verdict_of(outcome, expected, reader.checked and damage in reader.damages)
            if (folder / MARK).exists():
                verdict = 'CODE WAS EXECUTED'
                (folder / MARK).rmdir() if (folder / MARK).is_dir() else (folder / MARK).unlink()
            counts[verdict if verdict in COLUMNS else 'failed'] += 1
            if verdict not in COLUMNS:
                which = f'{reader.name}, seed {seed}, {files[index].name}, {damage.__name__}'
                failures.append(f'{which}: {verdict}: {" ".join(outcome.text.split())[:300]}')
    finally:
        keeper.stop()
    return failures


def place(content: bytes, path: Path) -> None:
    """A new file under the name: what is still open keeps its content."""
    aside = path.with_name('aside')
    aside.write_bytes(content)
    os.replace(aside, path)


def verdict_of(outcome: Outcome, expected: Outcome, checked: bool) -> str:
    """One of `COLUMNS`, or what is wrong."""
    if outcome.growth > GROWTH:
        return f'{outcome.growth >> 20} MB of memory'
    if outcome.kind == 'result':
        if outcome.text == expected.text:
            return 'equal'
        return 'another result' if checked else 'well-formed'
    return 'named error' if outcome.kind == 'named' else outcome.kind
