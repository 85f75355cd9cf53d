"""Any image classification set of tensorflow-datasets, without TensorFlow.

Sets stored as ArrayRecord are read through tensorflow-datasets' ``data_source``, see
``tfds_records.py``. The set's own description says which feature is the image and which
is the label. Nothing here touches the network: a set that is missing is an error at
once.
"""

import dataclasses
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.data import cache, tfds_records
from dal_jax.data.images import EncodedImages, fingerprint_of_files
from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsImages(EncodedImages):
    """The images of one split, still encoded as they are stored."""

    directory: str  # of one version, with its dataset_info.json
    split: str
    image_key: str
    size: int
    stored_shape: tuple[int, ...] | None = None  # None if sizes differ

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, if the set declares it without decoding."""
        if self.image_size is None and self.stored_shape is not None:
            return (*self.stored_shape[:2], self.channels)
        return super().shape

    def __len__(self) -> int:
        return self.size

    @functools.cached_property
    def records(self) -> Any:
        """The open data source."""
        directory = Path(self.directory)
        return tfds_records.open_split(directory, self.split, self.image_key)

    def read(self, positions: np.ndarray) -> list[bytes]:
        """Returns the encoded images."""
        records = tfds_records.read(self.records, positions.tolist(), self.directory)
        return [record[self.image_key] for record in records]

    def name(self, position: int) -> str:
        """Returns the position in the split."""
        return f"{self.directory} {self.split}[{position}]"

    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest of the set's files and the split."""
        return f"{_fingerprint(Path(self.directory))} {self.split}"


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
    """Returns a tensorflow-datasets set with labels read and images not yet decoded.

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
      The data set. ``index`` comes from the ``id`` feature if every id is the split's
      name and a number within it (``train_16399``); otherwise it is the position in
      storage and ``index_is_original`` is False. The labels count as clean labels.

    Raises:
      InputError: if the set is missing, is stored in another format, or does not hold
        images with one class each.
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
      InputError: if it is missing or not stored as ArrayRecord; the line says how to
        prepare it.
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
        found = tfds_records.read_labels(directory, split)
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
        inputs=images,
        labels=labels,
        index=np.array(arrays["index"]),
        clean_labels=labels,
        index_is_original=notes["index_is_original"],
        source_size=notes["source_size"],
    ), tuple(notes["class_names"])


def _fingerprint(directory: Path) -> str:
    return fingerprint_of_files([str(path) for path in sorted(directory.iterdir())])
