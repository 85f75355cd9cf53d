"""The records of a tensorflow-datasets set: labels, ids and encoded images.

Only this module needs tensorflow-datasets. It is imported only to read records, so a
set whose decoded images are cached is ready without it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.errors import InputError

_CHUNK = 1000  # records read at a time when only their labels are wanted


def read_labels(
    directory: Path, split: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns everything about every example except its image.

    Args:
      directory: of one version, holding ``dataset_info.json``.
      split: in tensorflow-datasets' notation.

    Returns:
      The arrays ``labels`` (int32 ``[N]``) and ``index`` (int64 ``[N]``, the position
      where no id proves the original one), and notes: ``class_names``, ``image_key``,
      ``channels``, ``shape`` (None where sizes differ), ``index_is_original`` and
      ``source_size``.

    Raises:
      InputError: if the set is not one of images with one class each.
    """
    builder = _builder(directory)
    image_key, label_key = _feature_keys(builder.info, directory)
    records = _open(builder, split, image_key)
    size = len(records)
    labels, ids = np.empty(size, np.int32), []
    has_id = "id" in builder.info.features
    for start in range(0, size, _CHUNK):
        positions = list(range(start, min(start + _CHUNK, size)))
        for position, record in zip(
            positions, read(records, positions, str(directory)), strict=True
        ):
            labels[position] = record[label_key]
            if has_id:
                ids.append(_as_bytes(record["id"]))
    class_names = list(builder.info.features[label_key].names)
    shape = builder.info.features[image_key].shape
    unlabelled = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
    if len(unlabelled):
        raise InputError(
            f"split {split!r} of {directory} has label {labels[unlabelled[0]]} at "
            f"{unlabelled[0]}, expected 0 to {len(class_names) - 1}: it may have no "
            "labels, choose another split"
        )
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    index = original_index(ids, sizes) if has_id else None
    base = re.match(r"\w+", split)
    notes = {
        "class_names": class_names,
        "image_key": image_key,
        "channels": 1 if shape[-1] == 1 else 3,
        "shape": None if None in shape else list(shape),
        "index_is_original": index is not None,
        "source_size": sizes.get(base[0] if base else "", size),
    }
    index = np.arange(size) if index is None else index
    return {"labels": labels, "index": index}, notes


def original_index(ids: Sequence[bytes], sizes: dict[str, int]) -> np.ndarray | None:
    """Returns the original index of every example, or None if ids do not prove it.

    Args:
      ids: of the examples read, e.g. ``b"train_16399"``.
      sizes: how many examples each split of the set has.

    Returns:
      int64 ``[N]``; or None unless every id is the name of one and the same split, an
      underscore and a number below that split's size, with no number twice.

    Example:
      >>> original_index([b"train_2", b"train_00"], {"train": 3}).tolist()
      [2, 0]
      >>> original_index([b"train_2", b"train_3"], {"train": 3}) is None
      True
    """
    matches = [re.fullmatch(rb"(.+)_(\d+)", text) for text in ids]
    split_names = {match[1].decode() if match else None for match in matches}
    if len(split_names) != 1:
        return None
    numbers = [int(match[2]) for match in matches if match]
    size = sizes.get(split_names.pop() or "", 0)
    if not numbers or max(numbers) >= size or len(set(numbers)) < len(numbers):
        return None
    return np.array(numbers, np.int64)


def open_split(directory: Path, split: str, image_key: str) -> Any:
    """Returns random access to the records of a split, their images still encoded.

    Args:
      directory: of one version, holding ``dataset_info.json``.
      split: in tensorflow-datasets' notation.
      image_key: the feature that is the image.

    Raises:
      InputError: if there is no such split.
    """
    return _open(_builder(directory), split, image_key)


def read(records: Any, positions: list[int], directory: str) -> list[dict[str, Any]]:
    """Returns some records; a damaged set, known by its directory, is an InputError."""
    try:
        return records.__getitems__(positions)
    except (RuntimeError, OSError) as error:
        reason = ";".join(str(error).split(";")[:2])
        raise InputError(
            f"{directory} is incomplete or damaged ({reason}): expected every file "
            "that its dataset_info.json names; remove it and prepare it again"
        ) from None


def _feature_keys(info: Any, directory: Path) -> tuple[str, str]:
    """Returns the keys of the image and of the label that supervised learning uses."""
    import tensorflow_datasets as tfds

    # Sorted by name, because their own order changes from one process to the next.
    features = dict(sorted(info.features.items()))
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    supervised = info.supervised_keys or ()
    image = next((k for k in (*supervised, "image", *images) if k in images), None)
    label = next((k for k in (*supervised, "label", *labels) if k in labels), None)
    if image is None or label is None:
        raise InputError(
            f"{directory} has the features {', '.join(features)}: expected an Image "
            "and a ClassLabel among them; choose a set for image classification"
        )
    return image, label


def _builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(directory)


def _open(builder: Any, split: str, image_key: str) -> Any:
    import tensorflow_datasets as tfds

    skip = {image_key: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(split=split, decoders=skip)
    except ValueError:
        raise InputError(
            f"no split {split!r} in {builder.info.full_name}, expected one of "
            f"{', '.join(builder.info.splits)} or a part of one like train[:90%]: set "
            "dataset.train_split and dataset.test_split"
        ) from None


def _as_bytes(identifier: Any) -> bytes:
    return identifier if isinstance(identifier, bytes) else str(identifier).encode()
