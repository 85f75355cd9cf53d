"""Inputs and labels that are arrays or tables already.

``.npz``: one file with ``images`` or ``inputs``, ``labels`` and, if known,
``clean_labels`` and ``class_names``. ``.npy``: the file of the inputs, and that of the
labels (``.npy``, ``.npz`` or ``.csv``). Without the latter the inputs' file has
``images`` or ``inputs`` in its name, and the others are in the same directory with that
word replaced (``train_images.npy``, ``train_labels.npy``, ``train_clean_labels.npy``,
``train_class_names.npy``). ``.parquet``: a column of lists, or columns of numbers, and
a column of labels.

``images`` are uint8; ``inputs`` are anything else that a network takes, e.g. float
features ``[N, D]``, and are used as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dal_jax.data import listing
from dal_jax.data.array_files import KINDS, Columns, read
from dal_jax.data.blocks import check_finite, check_numbers
from dal_jax.data.images import ArrayImages, with_channel_axis
from dal_jax.data.split import Dataset, InputSource, Split
from dal_jax.errors import InputError


def load(
    train_path: str | None,
    test_path: str | None,
    *,
    train_labels: str | None = None,
    test_labels: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 (a tuple)
    channels: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Returns a data set of array files.

    Args:
      train_path: ``.npz``, ``.parquet``, or the ``.npy`` of the inputs: ``images`` are
        uint8 ``[N, H, W]`` or ``[N, H, W, C]`` with C 1 or 3, ``inputs`` numbers
        ``[N, ...]``; labels are integers ``[N]``.
      test_path: likewise; None for no test split.
      train_labels: a file of labels alone; None if ``train_path`` leads to them.
      test_labels: likewise.
      columns: what tables call theirs.
      channels: of images, 1 or 3; None keeps those of the arrays.
      image_size: of images, see :func:`dal_jax.data.decode.decode`.

    Returns:
      The data set. Clean labels are the arrays' ``clean_labels``, or unknown. Labels of
      tables may be text, and name the classes. Otherwise a class is named by
      ``class_names``, or by its number, and the largest label given in training says
      how many there are.

    Raises:
      InputError: if a file is missing, is no array file, or its arrays do not fit, or
        if a value is not finite.
    """
    if train_path is None:
        raise InputError(
            "dataset.name=arrays needs dataset.train_path, an .npz with images or "
            "inputs and labels, an .npy of images or inputs, or a .parquet"
        )
    if test_path is None and test_labels is not None:
        raise InputError(
            f"dataset.test_labels={test_labels} without dataset.test_path: expected "
            "both; set it or leave test_labels out"
        )
    train = read(train_path, train_labels, columns)
    class_names = _class_names(train, train_path)
    # Where the training set has certain columns, the test set needs the same.
    columns = columns._replace(inputs=train.get("columns"))
    options = (class_names, columns.label, channels, image_size)
    test = None
    if test_path is not None:
        test = _split(read(test_path, test_labels, columns), test_path, *options)
    return Dataset(
        name="arrays",
        train=_split(train, train_path, *options),
        test=test,
        class_names=class_names,
        columns=train.get("columns", ()),
    )


def _kind(arrays: Mapping[str, Any]) -> str:
    return next(kind for kind in KINDS if kind in arrays)


def _class_names(arrays: Mapping[str, Any], path: str) -> tuple[str, ...]:
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"])
    given, clean = arrays["labels"], arrays.get("clean_labels")
    if isinstance(given, list):
        clean = None if clean is None else [str(label) for label in clean]
        return listing.class_names_of(given, clean)
    labels = _labels(arrays, "labels", path, None)
    largest = max(int(labels.max(initial=0)), 0)
    if "clean_labels" in arrays:
        clean = _labels(arrays, "clean_labels", path, None)
        largest = max(largest, int(clean.max(initial=0)))
    return tuple(str(label) for label in range(largest + 1))


def _labels(
    arrays: Mapping[str, Any],
    key: str,
    path: str,
    class_names: Sequence[str] | None,
    column: str = "label",
) -> np.ndarray:
    labels = arrays[key]
    if isinstance(labels, list):
        labels = listing.numbers_of(labels, class_names or (), column, path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {key} are {labels.dtype} {list(labels.shape)}, expected integers "
            "[N]; convert them"
        )
    kind = _kind(arrays)
    if len(labels) != len(arrays[kind]):
        raise InputError(
            f"{path}: {len(arrays[kind])} {kind} and {len(labels)} {key}, expected as "
            "many of each; check which belong together"
        )
    wrong = labels < 0
    if class_names is not None:
        wrong |= labels >= len(class_names)
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        bound = "at least 0" if class_names is None else f"0 to {len(class_names) - 1}"
        raise InputError(
            f"{path}: {key}[{position}] is {labels[position]}, expected {bound}; fix "
            "the label or name all classes in class_names"
        )
    return np.asarray(labels, np.int32)


def _split(
    arrays: Mapping[str, Any],
    path: str,
    class_names: Sequence[str],
    label_column: str,
    channels: int | None,
    image_size: int | None,
) -> Split:
    if _kind(arrays) == "images":
        inputs = _images(arrays["images"], path, channels, image_size)
    else:
        if channels is not None or image_size is not None:
            raise InputError(
                f"{path}: dataset.channels and dataset.image_size are for images, and "
                "inputs are used as they are; leave both out"
            )
        inputs = arrays["inputs"]
        check_numbers(inputs, f"{path}: inputs")
        check_finite(inputs, f"{path}: inputs")
    clean = None
    if "clean_labels" in arrays:
        clean = _labels(arrays, "clean_labels", path, class_names, label_column)
    labels = _labels(arrays, "labels", path, class_names, label_column)
    return Split(inputs, labels, clean_labels=clean, names=arrays.get("names"))


def _images(
    images: np.ndarray, path: str, channels: int | None, image_size: int | None
) -> InputSource:
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[-1] not in (1, 3))
    ):
        raise InputError(
            f"{path}: images are {images.dtype} {list(images.shape)}, expected uint8 "
            "[N, H, W] or [N, H, W, C] with C 1 or 3 and values 0 to 255; convert "
            "them, or call them inputs to use them as they are"
        )
    if len(images) == 0:
        raise InputError(f"{path} holds no image: expected at least one; add images")
    images = with_channel_axis(images)
    return ArrayImages(
        channels=channels or images.shape[-1],
        image_size=image_size,
        array=images,
        path=path if path.endswith(".npy") else None,
    )
