"""Base class of image metrics: one small record per image, work in other processes, result files at the end."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from terminaltables import AsciiTable

from eomt_mm.annotations.categories import CLASSES_HINT, absent_classes_text
from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.evaluation.samples import Sample, name_of
from eomt_mm.evaluation.workers import WorkQueue
from eomt_mm.fileio.result_names import ResultNames

Record = dict[str, Any]
Call = tuple[Any, ...]  # a function and its arguments


class WarnOnce:
    """Log each kind of warning only once, not in every validation."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def __call__(self, kind: str, text: str) -> None:
        if kind not in self._kinds:
            print_log(text, logger='current', level=logging.WARNING)
        self._kinds.add(kind)

    def absent_classes(
        self,
        classes: Sequence[str],
        num_true: Sequence[int],
        number: int,
        unit: str = 'images',
        hint: str = CLASSES_HINT,
    ) -> None:
        """Warn about classes without ground truth; arguments are those of `absent_classes_text`."""
        text = absent_classes_text(classes, num_true, number, unit, hint)
        if text:
            self('absent classes', text)


class ImageMetric(BaseMetric):
    """A metric that evaluates each image immediately and keeps a small record of it.

    Args:
        out_dir: folder of result files, shared by all nodes; None: write none.
        format_only: write result files, do not evaluate (test sets); needs ``out_dir``.
        num_workers: number of worker processes that evaluate images in parallel to this one; 0: evaluate in this
            process. Use workers if a GPU predicts faster than one core evaluates.
        collect_device, prefix, collect_dir: see mmengine's `BaseMetric`.

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
        self._names = ResultNames()
        self._warn_once = WarnOnce()

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict | None) -> None:
        """Meta information of the data set; raises errors if it lacks what the metric needs."""
        if not meta or not meta.get('classes'):
            raise ValueError('dataset_meta has no "classes": metrics find categories by the names of classes')
        self._dataset_meta = meta
        self.take_meta(meta)

    def take_meta(self, meta: Mapping[str, Any]) -> None:
        """Read what the metric needs from the data set's meta information."""
        raise NotImplementedError

    def work_on(self, sample: Sample, record: Record) -> Call:
        """Return a function and its arguments; the function returns a dict that is added to the image's record.

        Args:
            sample: the data sample of the image.
            record: holds ``img_id`` and ``img_path``; entries added here are kept. ``file_name`` is the name of the
                image's result file.
        """
        raise NotImplementedError

    def keep(self, record: Record) -> Record:
        """Reduce a record, with the results of the work, to what is kept."""
        return record

    def write(self, records: dict[Any, Record]) -> None:
        """Complete the result files; records by image id."""

    def average(self, records: dict[Any, Record]) -> dict[str, float]:
        """Compute the metrics over all images; records by image id."""
        raise NotImplementedError

    def process(self, data_batch: Any, data_samples: Sequence[Sample]) -> None:
        """Evaluate a batch; samples have ``img_id`` and what the metric's class docstring states.

        Raises:
            ValueError: an image has no ground truth, or its prediction does not fit.
            RuntimeError: an error occurred in a worker process; raised as soon as it is known.
        """
        for sample in data_samples:
            record = {'img_id': sample['img_id'], 'img_path': sample.get('img_path')}
            function, *args = self.work_on(sample, record)
            if 'file_name' in record:
                self._names.claim(record['file_name'], name_of(sample))
            self._work.put(record, name_of(sample), function, *args)
            self._take_results()

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics over the images of all processes; ``size`` is their number."""
        self._take_results(all_of_them=True)
        return super().evaluate(size)

    def _take_results(self, all_of_them: bool = False) -> None:
        for record, found in self._work.results(all_of_them):
            self.results.append(self.keep({**record, **found}))

    def compute_metrics(self, results: list[Record]) -> dict[str, float]:
        """Write result files and average over all images; duplicates (from padded samplers) count once."""
        records = by_image(results)
        if self.out_dir is not None:
            self.write(records)
        return {} if self.format_only else self.average(records)


def table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Format a table of names and numbers; NaN and negative numbers, which mean "no value", are shown as '-'."""

    def cell(value: str | float) -> str:
        if isinstance(value, float):
            return f'{value:.3f}' if value >= 0 else '-'
        return str(value)

    return str(AsciiTable([header, *([cell(value) for value in row] for row in rows)]).table)


def by_image(results: Sequence[Record]) -> dict[Any, Record]:
    """Map image ids to records, the last if there are several; raises ValueError if images share an id or file name."""
    records: dict[Any, Record] = {}
    names = ResultNames()
    for record in results:
        image_id, path = record['img_id'], record['img_path']
        other = records.get(image_id, record)['img_path']
        if other != path:
            raise ValueError(f'{other} and {path} are both img_id {image_id}: give each image its own')
        if 'file_name' in record:
            names.claim(record['file_name'], name_of(record))
        records[image_id] = record
    return records
