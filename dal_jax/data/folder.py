"""One directory of images per class.

Examples are in the order of their paths: class directories sorted by name, then the
files below each sorted by path. That order is the original one, which a label file
refers to.
"""

import os
from pathlib import Path

import numpy as np

from dal_jax.data.images import FileImages
from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError

# Files with another suffix are ignored.
_FORMATS = "bmp gif j2k jp2 jpe jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = tuple(f".{name}" for name in _FORMATS.split())


def load(
    train_path: str | None,
    test_path: str | None,
    *,
    data_dir: str | None = None,
    channels: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Returns a data set of directories; images are listed, not yet decoded.

    Args:
      train_path: the directory that holds the classes' directories, below
        ``data_dir`` if that is given; default ``train``.
      test_path: likewise; by default ``test`` if ``data_dir`` has one, otherwise
        there is no test split. Its classes are those of training, or some of them.
      data_dir: the directory above both.
      channels: 1 or 3; default 3.
      image_size: see :func:`dal_jax.data.decode.decode`.

    Returns:
      The data set; its clean labels are unknown. Classes are named by their
      directories.

    Raises:
      InputError: if a directory is missing or empty, or if a class to be tested is
        not one of training.
    """
    if train_path is None and data_dir is None:
        raise InputError(
            "dataset.name=folder needs dataset.train_path, a directory that holds one "
            "directory per class, or dataset.data_dir, which holds train and test"
        )
    root = Path(data_dir or "").expanduser()
    train_dir = root / Path(train_path or "train").expanduser()
    test_dir = root / Path(test_path or "test").expanduser()
    class_names = _class_directories(train_dir)
    test = None
    if test_path is not None or (data_dir is not None and test_dir.is_dir()):
        unknown = sorted(set(_class_directories(test_dir)) - set(class_names))
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} of {test_dir} is not in {train_dir}, which has "
                f"{', '.join(class_names[:10])}: expected classes of training alone; "
                "rename or remove the directory"
            )
        test = _split(test_dir, class_names, channels, image_size)
    train = _split(train_dir, class_names, channels, image_size)
    return Dataset("folder", train, test, class_names)


def _class_directories(directory: Path) -> tuple[str, ...]:
    if not directory.is_dir():
        raise InputError(
            f"no directory {directory}: expected one directory per class in it; check "
            "the path"
        )
    names = sorted(
        entry.name
        for entry in directory.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise InputError(
            f"{directory} holds no directory: expected one per class, with its images; "
            "check the path"
        )
    return tuple(names)


def _split(
    directory: Path,
    class_names: tuple[str, ...],
    channels: int | None,
    image_size: int | None,
) -> Split:
    paths, labels = [], []
    for label, name in enumerate(class_names):
        found = images_below(directory / name)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise InputError(
            f"{directory} holds no image: expected files in its directories "
            f"with one of the suffixes {_FORMATS}"
        )
    return Split(
        inputs=FileImages(channels or 3, image_size, tuple(paths)),
        labels=np.array(labels, np.int32),
        index=np.arange(len(paths)),
        clean_labels=None,
        source_size=len(paths),
        names=np.array(paths, object),
    )


def images_below(directory: Path) -> list[str]:
    """Returns the paths of all image files below a directory, sorted."""
    # Text throughout: a Path for each file would cost more than the listing.
    return sorted(
        f"{parent}{os.sep}{name}"
        for parent, _, files in os.walk(directory)
        for name in files
        if not name.startswith(".") and name.lower().endswith(SUFFIXES)
    )
