"""What metrics of images share: arguments, worker processes, one record per image, the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.evaluation.workers import WorkQueue

Sample = Mapping[str, Any]  # a data sample as a plain dict
Record = dict[str, Any]
Call = tuple[Any, ...]  # a function and its arguments


class ImageMetric(BaseMetric):
    """A metric that compares each image at once and keeps a small record of it.

    Args:
        out_dir: where to write result files; None: nowhere. With several nodes this must be shared storage.
        format_only: write, do not evaluate (test sets); needs ``out_dir``.
        num_workers: number of processes that do the work on images while this one continues; 0 does it here. It pays
            where a GPU predicts faster than one core evaluates.
        collect_device: 'cpu' or 'gpu'; where results of several processes meet.
        prefix: of the keys.
        collect_dir: see mmengine's `BaseMetric`.

    Raises:
        ValueError: ``format_only`` without ``out_dir``, or a negative number of workers.
    """

    def __init__(
        self,
        out_dir: str | None,
        format_only: bool,
        num_workers: int = 0,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.out_dir = folder_of_results(out_dir, format_only)
        self.format_only = format_only
        self._work = WorkQueue(num_workers)

    def work_on(self, sample: Sample, record: Record) -> Call:
        """Function and arguments of the work on an image, whose results join its record.

        Args:
            sample: its data sample.
            record: ``img_id`` and ``img_path``; takes what else is kept.
        """
        raise NotImplementedError

    def keep(self, record: Record) -> Record:
        """What is kept of a record with the results of the work."""
        return record

    def write(self, records: dict[Any, Record]) -> None:
        """Gives result files their names; records by image id."""

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        """Metrics of all images, their records by image id."""
        raise NotImplementedError

    def process(self, data_batch: Any, data_samples: Sequence[Sample]) -> None:
        """Compares a batch.

        Args:
            data_batch: not read.
            data_samples: see the class; each has ``img_id``.

        Raises:
            ValueError: an image has no ground truth, or a prediction that does not fit.
            RuntimeError: an error in a worker process, as soon as it is known.
        """
        for sample in data_samples:
            record = {'img_id': sample['img_id'], 'img_path': sample.get('img_path')}
            function, *args = self.work_on(sample, record)
            self._work.put(record, f'image {record["img_id"]} ({record["img_path"]})', function, *args)
            self._take_results()

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics of all images of all processes; ``size`` is their number."""
        self._take_results(all_of_them=True)
        return super().evaluate(size)

    def _take_results(self, all_of_them: bool = False) -> None:
        for record, found in self._work.results(all_of_them):
            self.results.append(self.keep({**record, **found}))

    def compute_metrics(self, results: list[Record]) -> dict[str, float]:
        """Writes result files and averages over all images; one that comes twice (padded samplers) counts once."""
        records = by_image(results)
        if self.out_dir is not None:
            self.write(records)
        return {} if self.format_only else self.average(records)


def by_image(results: Sequence[Record]) -> dict[Any, Record]:
    """The last record of each image.

    Raises:
        ValueError: two images share an id or, where results are written, ``file_name``.
    """
    records: dict[Any, Record] = {}
    owners: dict[str, Any] = {}
    for record in results:
        image_id, path, name = record['img_id'], record['img_path'], record.get('file_name')
        other = records.get(image_id, record)['img_path']
        if other != path:
            raise ValueError(f'{other} and {path} are both img_id {image_id}: give each image its own')
        if name and owners.setdefault(name, image_id) != image_id:
            raise ValueError(
                f'results of images {owners[name]} and {image_id} are both named {name}: give the images different '
                'file names, or panoptic data a json with "file_name" in its annotations'
            )
        records[image_id] = record
    return records
