"""Generated data packed as the official downloads are. Imports no host but mmengine: spawned workers start sooner."""

import io
import zipfile
from pathlib import Path

from mmengine import fileio
from torch.utils.data import Dataset

from eomt_mm.hosts.zip_backend import register_zip_backend

register_zip_backend()


def pack(zip_path: Path, root: Path, *folders: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Zips the files of folders (or single files) of ``root`` under their paths relative to it."""
    zip_path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(zip_path, 'w', method) as file:
        for folder in folders:
            inside = [root / folder, *(root / folder).rglob('*')]
            for path in sorted(path for path in inside if path.is_file()):
                file.write(path, path.relative_to(root))
    return zip_path


def write_zip(path: Path, *names: str, content: str = 'content') -> Path:
    """A zip whose members, of these names, all have the same text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as file:
        for name in names:
            file.writestr(name, content)
    return path


def pack_coco(root: Path, to: Path) -> Path:
    """The five COCO downloads; of the panoptic zips nested there, one is stored and one deflated."""
    for split in ('train', 'val'):
        pack(to / f'{split}2017.zip', root, f'{split}2017', method=zipfile.ZIP_STORED)
    annotations = [f'annotations/instances_{split}2017.json' for split in ('train', 'val')]
    pack(to / 'annotations_trainval2017.zip', root, *annotations)
    with zipfile.ZipFile(to / 'panoptic_annotations_trainval2017.zip', 'w') as outer:
        for split, method in (('train', zipfile.ZIP_STORED), ('val', zipfile.ZIP_DEFLATED)):
            name = f'panoptic_{split}2017'
            outer.write(root / f'annotations/{name}.json', f'annotations/{name}.json', zipfile.ZIP_DEFLATED)
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, 'w', zipfile.ZIP_DEFLATED) as file:
                for path in sorted((root / 'annotations' / name).iterdir()):
                    file.write(path, f'{name}/{path.name}')
                file.writestr(f'__MACOSX/{name}/._{path.name}', 'rubbish')
            outer.writestr(f'annotations/{name}.zip', inner.getvalue(), method)
        outer.writestr('__MACOSX/annotations/._panoptic_train2017.zip', 'rubbish')
    return to


def pack_ade20k(root: Path, to: Path) -> Path:
    """The two ADE20K downloads, each with its top folder."""
    pack(to / 'annotations_instance.zip', root, 'annotations_instance')
    with zipfile.ZipFile(to / 'ADEChallengeData2016.zip', 'w', zipfile.ZIP_DEFLATED) as file:
        for path in sorted([*root.glob('images/*/*.jpg'), *root.glob('annotations/*/*.png')]):
            file.write(path, Path('ADEChallengeData2016') / path.relative_to(root))
        file.writestr('ADEChallengeData2016/.DS_Store', 'rubbish')
        file.writestr('.DS_Store', 'rubbish')
        file.writestr('__MACOSX/._ADEChallengeData2016', 'rubbish')
    return to


def pack_cityscapes(root: Path, to: Path) -> Path:
    """The two Cityscapes downloads, with the files that lie beside their top folders."""
    for name in ('leftImg8bit', 'gtFine'):
        with zipfile.ZipFile(pack(to / f'{name}_trainvaltest.zip', root, name), 'a') as file:
            file.writestr('README', 'text')
            file.writestr('license.txt', 'text')
    return to


class Contents(Dataset):
    """Bytes of files by path, as a data set that a spawned worker can import."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        return fileio.get(self.paths[index])
