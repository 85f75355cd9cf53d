"""Any image classification set of tensorflow-datasets, without TensorFlow.

Sets stored as ArrayRecord are read through tensorflow-datasets' ``data_source``; its
own feature description says which feature is the image and which the label. Nothing
here touches the network: the directory is looked up first, and a set that is not
there is an error at once. tensorflow-datasets itself is imported only to read records,
so that a set whose decoded images are cached is ready without it.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.data import cache
from dal_jax.data.images import EncodedImages, fingerprint_of_files
from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError

_CHUNK = 1000  # records read at a time when only their labels are wanted


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImages(EncodedImages):
    """The images of one split, still encoded as they are stored."""

    directory: str  # that of one version, holding dataset_info.json
    split: str
    image_key: str
    size: int
    stored_shape: tuple[int, ...] | None = None  # None where sizes differ

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, where the set declares it without decoding."""
        if self.image_size is None and self.stored_shape is not None:
            return (*self.stored_shape[:2], self.channels)
        return super().shape

    def __len__(self) -> int:
        return self.size

    @functools.cached_property
    def records(self) -> Any:
        """The open data source; every process opens its own."""
        return _open(_builder(Path(self.directory)), self.split, self.image_key)

    def read(self, positions: np.ndarray) -> list[bytes]:
        """Returns the encoded images."""
        records = _read(self.records, positions.tolist(), self.directory)
        return [record[self.image_key] for record in records]

    def name(self, position: int) -> str:
        """Returns the position in the split."""
        return f"{self.directory} {self.split}[{position}]"

    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest of the set's files and the split."""
        return f"{_fingerprint(Path(self.directory))} {self.split}"

    def __getstate__(self) -> dict:
        return {name: x for name, x in vars(self).items() if name != "records"}


def load(
    tfds_name: str | None,
    *,
    data_dir: str | None,
    train_split: str,
    test_split: str,
    channels: int | None = None,
    image_size: int | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """Returns a set of tensorflow-datasets; labels are read, images not yet decoded.

    Args:
      tfds_name: ``name``, ``name:version``, ``name/config`` or
        ``name/config:version``; without a version the newest one there is.
      data_dir: the directory that holds it; default ``$TFDS_DATA_DIR``, otherwise
        ``~/tensorflow_datasets``.
      train_split: in tensorflow-datasets' notation, e.g. ``"train[:90%]"``.
      test_split: likewise.
      channels: 1 or 3; None keeps what the set declares.
      image_size: see :func:`dal_jax.data.decode.decode`.
      cache_dir: where labels are kept, so that they are read once.

    Returns:
      The data set. ``index`` comes from the ``id`` feature where every id is the
      split's name and a number within it (``train_16399``); otherwise it is the
      position in storage and ``index_is_original`` is False. Clean labels are the
      labels.

    Raises:
      InputError: if the set is not there, is stored in another format, or is not one
        of images with one class each.
    """
    if not tfds_name:
        raise InputError(
            "dataset.name=tfds needs dataset.tfds_name, the name of a "
            "tensorflow-datasets set, e.g. cifar10"
        )
    directory = find(tfds_name, data_dir)
    splits = {
        label: _load_split(directory, split, channels, image_size, cache_dir)
        for label, split in (("train", train_split), ("test", test_split))
    }
    (train, class_names), (test, _) = splits["train"], splits["test"]
    return Dataset(f"tfds/{tfds_name}", train, test, class_names)


def find(tfds_name: str, data_dir: str | None) -> Path:
    """Returns the directory of one prepared version of a set.

    Args:
      tfds_name: see :func:`load`.
      data_dir: see :func:`load`.

    Returns:
      The directory that holds its ``dataset_info.json``.

    Raises:
      InputError: if it is not there or not stored as ArrayRecord; the line says how
        to prepare it.
    """
    name, _, version = tfds_name.partition(":")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = Path(data_dir or default).expanduser()
    prepare = (
        "prepare it once, where TensorFlow is installed, with: tfds build "
        f"{name} --data_dir={root} --file_format=array_record"
    )
    versions = {
        path.parent.name: path.parent
        for path in (root / name).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if not versions:
        configs = {path.parent.parent.name for path in (root / name).glob("*/*/*.json")}
        if configs:
            raise InputError(
                f"the set {name!r} in {root} has configs, expected one of them: set "
                f"dataset.tfds_name to {name}/" + f" or {name}/".join(sorted(configs))
            )
        others = sorted(path.name for path in root.glob("*") if path.is_dir())
        there = f"it holds {', '.join(others)}" if others else "nothing is there"
        raise InputError(f"no data set {name!r} in {root} ({there}): {prepare}")
    if version and version not in versions:
        raise InputError(
            f"no version {version} of {name!r} in {root}, expected one of "
            f"{', '.join(versions)}: change dataset.tfds_name, or {prepare}"
        )
    newest = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    directory = versions[version or newest]
    stored = json.loads((directory / "dataset_info.json").read_text()).get("fileFormat")
    if stored != "array_record":
        raise InputError(
            f"{directory} is stored as {stored or 'tfrecord'}, expected array_record: "
            "convert it, where TensorFlow is installed, with: tfds convert_format "
            f"--dataset_version_dir={directory} --out_file_format=array_record"
        )
    return directory


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


def _load_split(
    directory: Path,
    split: str,
    channels: int | None,
    image_size: int | None,
    cache_dir: Path | None,
) -> tuple[Split, tuple[str, ...]]:
    entry = cache.key(tfds=_fingerprint(directory), split=split)
    found = cache.read(cache_dir, entry)
    if found is None:
        found = _read_labels(directory, split)
        cache.write(cache_dir, entry, *found)
    arrays, notes = found
    images = TfdsImages(
        channels=channels or notes["channels"],
        image_size=image_size,
        directory=str(directory),
        split=split,
        image_key=notes["image_key"],
        stored_shape=notes["shape"],
        size=len(arrays["labels"]),
    )
    labels = np.array(arrays["labels"])
    return Split(
        images=images,
        labels=labels,
        index=np.array(arrays["index"]),
        clean_labels=labels,
        index_is_original=notes["index_is_original"],
        source_size=notes["source_size"],
    ), tuple(notes["class_names"])


def _read_labels(directory: Path, split: str) -> tuple[dict[str, np.ndarray], Any]:
    builder = _builder(directory)
    image_key, label_key = _feature_keys(builder.info, directory)
    records = _open(builder, split, image_key)
    size = len(records)
    labels, ids = np.empty(size, np.int32), []
    has_id = "id" in builder.info.features
    for start in range(0, size, _CHUNK):
        positions = list(range(start, min(start + _CHUNK, size)))
        for position, record in zip(
            positions, _read(records, positions, str(directory)), strict=True
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


def _feature_keys(info: Any, directory: Path) -> tuple[str, str]:
    """Returns the keys of the image and of the label that supervised learning uses."""
    import tensorflow_datasets as tfds

    # In the order of names: their own changes from one process to the next.
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


def _read(records: Any, positions: list[int], directory: str) -> list[dict[str, Any]]:
    try:
        return records.__getitems__(positions)
    except (RuntimeError, OSError) as error:
        reason = ";".join(str(error).split(";")[:2])
        raise InputError(
            f"{directory} is incomplete or damaged ({reason}): expected every file "
            "that its dataset_info.json names; remove it and prepare it again"
        ) from None


def _as_bytes(identifier: Any) -> bytes:
    return identifier if isinstance(identifier, bytes) else str(identifier).encode()


def _fingerprint(directory: Path) -> str:
    return fingerprint_of_files([str(path) for path in sorted(directory.iterdir())])
