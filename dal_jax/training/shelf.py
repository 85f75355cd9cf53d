"""Checkpoints as directories: which there are, and moves that never lose one.

Beside ``checkpoints`` there are ``damaged_checkpoints``, and for moments
``replaced_checkpoints``, with the old copy of a step that is being saved again. Only
the main process calls these.
"""

import shutil
from pathlib import Path

from dal_jax.files import sync_directory

DAMAGED = "damaged_checkpoints"
REPLACED = "replaced_checkpoints"


def newest(directory: Path) -> int:
    """Returns the newest step, -1 if there is none."""
    if not directory.exists():
        return -1
    names = [path.name for path in directory.iterdir()]
    return max((int(name) for name in names if name.isdigit()), default=-1)


def put_away(directory: Path, step: int) -> None:
    """Makes room for a step to be saved again; :func:`settle` comes after that."""
    replaced = directory.with_name(REPLACED)
    replaced.mkdir(exist_ok=True)
    _move(directory / str(step), replaced / str(step))


def settle(directory: Path) -> None:
    """Removes old copies where the new one is whole, and takes back the others.

    A checkpoint has its name only when it is whole, so that this is right after a kill
    at any moment, too.
    """
    replaced = directory.with_name(REPLACED)
    if not replaced.exists():
        return
    for old in replaced.iterdir():
        if not (directory / old.name).exists():
            _move(old, directory / old.name)
    shutil.rmtree(replaced)


def set_aside(directory: Path, step: int) -> None:
    """Moves a damaged checkpoint out of the way, for somebody to look at."""
    damaged = directory.with_name(DAMAGED)
    damaged.mkdir(exist_ok=True)
    taken = sum(1 for _ in damaged.iterdir())
    _move(directory / str(step), damaged / f"{step}_{taken}")


def _move(source: Path, target: Path) -> None:
    shutil.move(source, target)
    sync_directory(target.parent)
    sync_directory(source.parent)
