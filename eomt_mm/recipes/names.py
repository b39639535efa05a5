"""Find configs by name, in a checkout or in the installed package; names are unique."""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PLACES = (PACKAGE.parent, PACKAGE / '.mim')  # a checkout, an installed package
HOME = next((place for place in PLACES if (place / 'configs' / 'eomt').is_dir()), PACKAGE.parent)
PROJECTS = HOME / 'projects'  # with the projects' packages in a checkout only; otherwise they are installed


def find_config(config: str | Path) -> Path:
    """Find a config file by path or name.

    Args:
        config: path, or name of a config of the package or of a project, with or without ``.py``, such as
            'eomt_dinov2-l_12e_coco-panoptic-640'.

    Raises:
        FileNotFoundError: there is no such file or name; the message suggests similar names.
    """
    path = Path(config).expanduser()
    if path.is_file():
        return path
    known = {file.stem: file for file in [*shipped_configs(), *project_configs()]}
    name = path.name.removesuffix('.py')
    if name in known and path.parent == Path():
        return known[name]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f'; did you mean {" or ".join(close)}?' if close else f'; {len(known)} are in configs/eomt and projects'
    raise FileNotFoundError(f"config '{config}' is no file, nor the name of a config{hint}")


def shipped_configs() -> list[Path]:
    """List the configs that the package ships with, without the ``_base_`` fragments."""
    return sorted(file for file in HOME.glob('configs/eomt/*/*.py') if file.parent.name != '_base_')


def project_configs() -> list[Path]:
    """List the projects' configs, without the ``_base_`` fragments."""
    return sorted(path for path in PROJECTS.glob('*/configs/**/*.py') if '_base_' not in path.parts)
