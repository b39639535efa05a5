"""eomt_mm/evaluation/workers.py, and the metrics that use it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.evaluation import workers
from eomt_mm.evaluation.instance_ap import InstanceAP
from eomt_mm.evaluation.panoptic_quality import PanopticQuality
from eomt_mm.evaluation.workers import WorkQueue

META = dict(classes=('cat', 'sky'))


@pytest.fixture(autouse=True, scope='module')
def own_workers() -> Iterator[None]:
    yield
    workers.end_workers()


def test_results_come_back_in_order() -> None:
    for num_workers in (0, 2):
        queue = WorkQueue(num_workers)
        found = []
        for number in range(20):
            queue.put(number, f'image {number}', divmod, number, 3)
            found += queue.results()
        found += queue.results(all_of_them=True)
        assert found == [(number, divmod(number, 3)) for number in range(20)]


def test_no_more_calls_wait_than_allowed() -> None:
    queue = WorkQueue(1)
    for number in range(7):
        queue.put(number, '', time.sleep, 0.05)
    taken = len(list(queue.results()))
    assert taken >= 3 and len(queue._waiting) <= workers.CALLS_PER_WORKER
    assert taken + len(list(queue.results(all_of_them=True))) == 7


def test_an_error_names_the_image_and_leaves_workers_alive() -> None:
    queue = WorkQueue(2)
    queue.put(None, 'image 7 (cat.jpg)', divmod, 1, 0)
    queue.put(None, 'image 8', divmod, 7, 2)
    with pytest.raises(RuntimeError, match=r'(?s)image 7 \(cat.jpg\): error in a worker.*ZeroDivisionError'):
        list(queue.results(all_of_them=True))
    assert list(queue.results(all_of_them=True)) == [(None, (3, 1))]
    with pytest.raises(ZeroDivisionError):
        WorkQueue(0).put(None, '', divmod, 1, 0)


def test_a_killed_worker_is_told_and_the_next_queue_has_new_ones() -> None:
    queue = WorkQueue(1)
    queue.put(None, 'image 3', os._exit, 9)
    with pytest.raises(RuntimeError, match='image 3: the worker process of the metric ended.*num_workers=0'):
        list(queue.results(all_of_them=True))
    queue.put(None, 'image 4', divmod, 7, 2)
    assert list(queue.results(all_of_them=True)) == [(None, (3, 1))]


def test_signals_to_all_processes_leave_workers_at_work() -> None:
    queue = WorkQueue(1)
    queue.put(None, '', os.getpid)
    [(_, pid)] = queue.results(all_of_them=True)
    assert pid != os.getpid()
    for name in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, name)
    queue.put(None, '', os.getpid)
    assert list(queue.results(all_of_them=True)) == [(None, pid)]


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match='num_workers=-1'):
        PanopticQuality(num_workers=-1)


PARENT = """
import os, sys, time
from eomt_mm.evaluation.workers import WorkQueue
if __name__ == '__main__':
    queue = WorkQueue(2)
    for _ in range(2):
        queue.put(None, '', os.getpid)
    print(*{pid for _, pid in queue.results(all_of_them=True)}, flush=True)
    if sys.argv[1] == 'wait':
        time.sleep(60)
    if sys.argv[1] == 'raise':
        raise KeyboardInterrupt
"""


def is_alive(pid: int) -> bool:
    """Whether it runs; what has ended and waits to be collected does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize('end', ['return', 'raise', 'wait'])
def test_no_worker_outlives_its_parent(end: str, tmp_path: Path) -> None:
    script = tmp_path / 'parent.py'
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(script), end], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids and parent.pid not in pids
        if end == 'wait':
            parent.kill()
        parent.wait(30)
    for _ in range(200):
        if not any(map(is_alive, pids)):
            break
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


# Metrics


def panoptic_files(folder: Path, rng: np.random.Generator) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Arguments of the metric, and samples with predictions that are partly right."""
    annotations, samples = [], []
    for number in range(6):
        ids = np.kron(rng.integers(0, 5, (5, 6)), np.ones((6, 7), int))
        segments = [dict(id=k, category_id=10 + k % 2, iscrowd=int(k == 4)) for k in np.unique(ids).tolist() if k]
        write_panoptic_png(folder / f'{number}.png', ids)
        annotations.append(dict(image_id=number, file_name=f'{number}.png', segments_info=segments))
        predicted = torch.from_numpy(np.roll(np.where(ids == 0, 2, 1000 * ids + ids % 2), number, 1))
        samples.append(dict(img_id=number, img_path=f'{number}.jpg', pred_panoptic_seg=dict(sem_seg=predicted)))
    categories = [dict(id=10, name='cat', isthing=1), dict(id=11, name='sky', isthing=0)]
    images = [dict(id=number, file_name=f'{number}.jpg', height=30, width=42) for number in range(6)]
    file = folder / 'panoptic.json'
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return dict(ann_file=str(file), seg_prefix=str(folder)), samples


def instance_samples(rng: np.random.Generator) -> list[dict[str, Any]]:
    """With ground truth as id maps; widths that are no multiple of eight."""
    samples = []
    for number in range(6):
        ids = torch.from_numpy(np.kron(rng.integers(0, 4, (5, 6)), np.ones((6, 7), int)))
        masks = (ids == torch.arange(1, 4)[:, None, None]).roll(number, -1)
        labels = torch.tensor([0, 1, 0])
        found = dict(masks=masks, labels=labels, scores=torch.from_numpy(rng.random(3)))
        truth = dict(gt_panoptic_seg=dict(segment_ids=ids[None]), gt_instances=dict(labels=labels))
        samples.append(dict(img_id=number, img_path=f'{number}.jpg', pred_instances=found, **truth))
    return samples


def written(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


def evaluated(metric: Any, samples: list[dict[str, Any]]) -> dict[str, float]:
    metric.dataset_meta = META
    for sample in samples:
        metric.process(None, [sample])
    return metric.evaluate(len(samples))


def test_panoptic_quality_is_equal_with_workers(tmp_path: Path) -> None:
    arguments, samples = panoptic_files(tmp_path / 'data', np.random.default_rng(0))
    found = {}
    for num_workers in (0, 2):
        out = tmp_path / f'out{num_workers}'
        metric = PanopticQuality(**arguments, num_workers=num_workers, out_dir=str(out))
        found[num_workers] = evaluated(metric, samples), written(out)
        assert evaluated(metric, samples) == found[num_workers][0]  # a second evaluation
    assert found[0] == found[2] and len(found[0][1]) == 7
    assert 0 < found[0][0]['coco_panoptic/PQ'] < 100


def test_mask_ap_is_equal_with_workers(tmp_path: Path) -> None:
    samples = instance_samples(np.random.default_rng(0))
    found = {}
    for num_workers in (0, 2):
        out = tmp_path / f'out{num_workers}'
        found[num_workers] = evaluated(InstanceAP(num_workers=num_workers, out_dir=str(out)), samples), written(out)
    assert found[0] == found[2] and len(found[0][1]) == 1
    assert 0 < found[0][0]['coco/segm_mAP'] < 1


def test_workers_read_zip_files(tmp_path: Path) -> None:
    arguments, samples = panoptic_files(tmp_path / 'data' / 'png', np.random.default_rng(0))
    expected = evaluated(PanopticQuality(**arguments), samples)
    shutil.make_archive(str(tmp_path / 'data' / 'png'), 'zip', tmp_path / 'data', 'png')
    arguments['ann_file'] = shutil.move(arguments['ann_file'], tmp_path)
    shutil.rmtree(tmp_path / 'data' / 'png')
    arguments['seg_prefix'] = f'zip://{tmp_path}/data/png'
    assert evaluated(PanopticQuality(**arguments, num_workers=1), samples) == expected


def test_a_damaged_png_is_named(tmp_path: Path) -> None:
    arguments, samples = panoptic_files(tmp_path, np.random.default_rng(0))
    (tmp_path / '2.png').write_bytes(b'no PNG')
    with pytest.raises(RuntimeError, match=r'(?s)image 2 \(2.jpg\): error in a worker.*2.png is not a PNG'):
        evaluated(PanopticQuality(**arguments, num_workers=1), samples)
