"""Checkpointer that reads every file that `eomt_mm.checkpoints` reads, and writes files that both hosts load."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from eomt_mm.checkpoints.class_names import check_names, difference, stated_meta
from eomt_mm.checkpoints.class_order import class_order_for
from eomt_mm.checkpoints.files import local_path
from eomt_mm.checkpoints.fit import listed_names
from eomt_mm.checkpoints.importing import ClassHead, ImportReport, import_checkpoint
from eomt_mm.checkpoints.pretrained import pretrained_address
from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.fileio.leftovers import remove_unfinished
from eomt_mm.fileio.writing import write_whole, written_aside

logger = logging.getLogger(__name__)

# In detectron2's files the weights are 'model'; mmengine looks for 'state_dict' and 'meta'.
WEIGHTS = ('model', 'state_dict')
META = 'meta'
SHOWN = 3  # lines of a list of differences
# Options of the mm side in messages.
OPTIONS = {
    'model.panoptic_head.': 'model.head.',
    'model.decode_head.': 'model.head.',
    '--no-class-head (class_head=False)': 'train.class_head=False',
}
LAST = 'last_checkpoint'  # fvcore's record of the newest file


class EoMTCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with our reader and writer.

    Reads official EoMT (absolute, or differences to a pretrained backbone), Lightning, Hugging Face, mmengine's files
    and our own: a file, a folder, ``hf://owner/name[@revision]`` or ``http(s)://``. Nothing in a file is executed.
    Weights that do not fit are an error; detectron2 itself continues with random ones. Files are written completely or
    not at all, and hold the weights once, under the names that both hosts look for.

    Args:
        model: the model.
        save_dir: folder of the checkpoints.
        save_to_disk: None: on the main process.
        data_set: name of a registered data set. Its class names are written into checkpoints and compared with those of
            a file.
        base: pretrained backbone, for files that hold differences to it; None: timm's for ``model.backbone``.
        class_head: whether a training starts with the class predictor of a file. False: no, to train on other classes;
            'auto': only if number and names of the classes agree. Resuming and evaluation always load everything.
        **checkpointables: other objects to save and load, such as the optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = '',
        *,
        save_to_disk: bool | None = None,
        data_set: str | None = None,
        base: str | None = None,
        class_head: ClassHead = True,
        **checkpointables: Any,
    ) -> None:
        if class_head not in (True, False, 'auto'):
            raise ValueError(f"class_head={class_head!r}: True, False or 'auto'")
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.data_set = data_set
        self.base = base
        self.class_head = class_head

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """Classes of the data set, as checkpoints hold them; empty if it states none."""
        if self.data_set is None:
            return {}
        meta = MetadataCatalog.get(self.data_set)
        names = meta.get('stuff_classes') or meta.get('thing_classes')
        stated: dict[str, Any] = meta.get('dataset_meta') or (dict(classes=tuple(names)) if names else {})
        return stated

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: file, folder or address; '' loads nothing.
            checkpointables: names of further objects to load; None: all that the file holds (to resume or evaluate),
                and all weights must be there. [], which `resume_or_load` gives without ``resume``, starts a training:
                the file may hold a backbone alone, and ``class_head`` applies.

        Returns:
            what else the file holds.

        Raises:
            FileNotFoundError: there is no such file.
            ConnectionError: the download failed.
            ValueError: the file is damaged, would execute code, does not fit the model, or is for other classes.
        """
        if not path:
            logger.info('No checkpoint is given: the model keeps its initial weights')
            return {}
        starts = checkpointables is not None and not checkpointables
        state, report = self._import(path, self.class_head if starts else True)
        if report.missing and not starts:
            raise ValueError(
                f'checkpoint {path} is not a complete model: it lacks {len(report.missing)} weights, such as '
                f'{", ".join(report.missing[:3])}. Start a training from it (checkpointables=[])'
            )
        logger.info(report.text())
        if report.missing:
            logger.warning(
                f'{path} lacks {len(report.missing)} weights, which keep their initial values: '
                f'{listed_names(report.missing)}'
            )
        self.model.load_state_dict({**self.model.state_dict(), **state})
        rest = {} if starts else _rest(path)
        for name in self.checkpointables if checkpointables is None else checkpointables:
            if name in rest:
                logger.info(f'Loading {name} from {path}')
                self.checkpointables[name].load_state_dict(rest.pop(name))
        return rest

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth``, with the objects to save and ``kwargs``; see the class."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = self.model.state_dict()
        content: dict[str, Any] = dict.fromkeys(WEIGHTS, state)  # torch saves shared tensors once
        content[META] = dict(dataset_meta=self.dataset_meta)
        content.update({key: one.state_dict() for key, one in self.checkpointables.items()})
        content.update(kwargs)
        file = Path(self.save_dir) / f'{name}.pth'
        if file.name != f'{name}.pth':
            raise ValueError(f'name={name!r}: a file name without folders')
        logger.info(f'Saving checkpoint to {file}')
        with written_aside(file) as aside:
            torch.save(content, aside)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the newest file, for `resume_or_load`; a process that is killed here leaves the record whole."""
        write_whole(Path(self.save_dir) / LAST, last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Remove what killed processes left unfinished, and load the newest checkpoint or, without one, ``path``.

        See :meth:`load`, which starts a training from ``path`` and resumes from a checkpoint of its own.
        """
        if self.save_dir and self.save_to_disk:
            remove_unfinished(self.save_dir)
        found: dict[str, Any] = super().resume_or_load(path, resume=resume)
        return found

    def _import(self, path: str, class_head: ClassHead) -> tuple[dict[str, Tensor], ImportReport]:
        """Read the weights for the model; leave the class predictor out as ``class_head`` says."""
        own = self.dataset_meta
        state, report = self._read(path, class_head)
        rows = any('.class_predictor.' in name for name in state)
        if rows and class_head == 'auto' and difference(_names(stated_meta(report, own)), _names(own)):
            return self._read(path, False)
        if rows:
            check_names(report, own, f'data set {self.data_set}')
        return state, report

    def _read(self, path: str, class_head: ClassHead) -> tuple[dict[str, Tensor], ImportReport]:
        own = self.dataset_meta
        things = own.get('thing_classes')
        order = class_order_for(own.get('classes'), None if things is None else len(things))
        base = self.base or self._default_base()
        try:
            return import_checkpoint(
                path, self.model.state_dict(), default_base=base, class_head=class_head, class_order=order
            )
        except ValueError as error:
            raise ValueError(_in_one_line(str(error))) from error

    def _default_base(self) -> str | None:
        name = getattr(getattr(self.model, 'backbone', None), 'model_name', None)
        return None if name is None else pretrained_address(name)


def _in_one_line(text: str) -> str:
    """Shorten an error of the import to one line that names the options of detectron2's side."""
    for theirs, ours in OPTIONS.items():
        text = text.replace(theirs, ours)
    first, *others = (line.strip() for line in text.splitlines())
    left_out = [f'{len(others) - SHOWN} more differences'] if len(others) > SHOWN else []
    return ' '.join([first, '; '.join([*others[:SHOWN], *left_out])]).strip()


def _names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(meta.get('classes') or ())


def _rest(path: str) -> dict[str, Any]:
    """What a file that detectron2 saved holds beside the weights; nothing for files of other programs."""
    file = local_path(path)
    if not file.is_file() or file.suffix == '.safetensors':
        return {}
    content = read_torch(file)
    if not isinstance(content, Mapping) or WEIGHTS[0] not in content:
        return {}
    return {key: value for key, value in content.items() if key not in (*WEIGHTS, META)}
