"""From a :class:`DatasetConfig` to a data set, for every source.

A source lists its examples. This module decides for all sources what is left out,
whether images live in memory, and what is cached.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from dal_jax.data import annotators, arrays, cache, digits, folder, listing, tfds
from dal_jax.data.array_files import Columns
from dal_jax.data.images import MOST_PIXELS, ArrayImages
from dal_jax.data.materialize import materialize
from dal_jax.data.split import Dataset, Split
from dal_jax.data.subsets import first_classes, fixed_subset
from dal_jax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from dal_jax.config import DatasetConfig


def _load_tfds(config: "DatasetConfig") -> Dataset:
    return tfds.load(
        config.tfds_name,
        data_dir=config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        cache_dir=cache.directory(config.cache_dir),
        channels=config.channels,
        image_size=config.image_size,
    )


def _load_list(config: "DatasetConfig") -> Dataset:
    return listing.load(
        config.train_path,
        config.test_path,
        data_dir=config.data_dir,
        label_column=config.label_column,
        clean_label_column=config.clean_label_column,
        label_columns=(
            ()
            if config.label_columns is None
            else annotators.columns_of(config.label_columns)
        ),
        annotators=config.annotators,
        channels=config.channels,
        image_size=config.image_size,
    )


def _load_arrays(config: "DatasetConfig") -> Dataset:
    chosen = config.input_columns
    return arrays.load(
        config.train_path,
        config.test_path,
        train_labels=config.train_labels,
        test_labels=config.test_labels,
        columns=Columns(
            label=config.label_column,
            clean_label=config.clean_label_column,
            inputs=None if chosen is None else tuple(chosen.split(",")),
        ),
        channels=config.channels,
        image_size=config.image_size,
    )


_SOURCES: dict[str, Callable[["DatasetConfig"], Dataset]] = {
    "digits": lambda config: digits.load(),
    "tfds": _load_tfds,
    "arrays": _load_arrays,
    "folder": lambda config: folder.load(
        config.train_path,
        config.test_path,
        data_dir=config.data_dir,
        channels=config.channels,
        image_size=config.image_size,
    ),
    "list": _load_list,
}


def names() -> tuple[str, ...]:
    """Returns the name of every data source."""
    return tuple(_SOURCES)


def load(config: "DatasetConfig") -> Dataset:
    """Returns the data set that a configuration describes.

    Args:
      config: the source's name and options, see ``docs/data.md``.

    Returns:
      The data set, its inputs in memory or streamed; every image was decoded once.
      ``test`` is None if there are no test examples.

    Raises:
      InputError: if the configuration or the data cannot be used; the line says what
        is wrong, what was expected and what to do.

    Example:
      >>> from dal_jax.config import DatasetConfig
      >>> dataset = load(DatasetConfig(name="digits", train_size=100))
      >>> len(dataset.train), dataset.class_names[:3]
      (100, ('0', '1', '2'))
    """
    dataset = listed(config)
    train, skipped = _prepare(dataset.train, "train", config.train_size, config)
    test = dataset.test
    if test is not None:
        test, more_skipped = _prepare(test, "test", config.test_size, config)
        skipped += more_skipped
        _check_same(train, test)
    elif config.test_size is not None:
        raise InputError(
            f"dataset.test_size={config.test_size} without test examples: expected "
            "dataset.test_path; set it or leave test_size out"
        )
    return dataclasses.replace(dataset, train=train, test=test, skipped=skipped)


def listed(config: "DatasetConfig") -> Dataset:
    """Returns all examples of the requested classes, with nothing decoded.

    Args:
      config: the source's name and options.

    Raises:
      InputError: see :func:`load`.

    Example:
      >>> from dal_jax.config import DatasetConfig
      >>> len(listed(DatasetConfig(name="digits", train_size=100)).train)
      1297
    """
    _check(config)
    dataset = _SOURCES[config.name](config)
    if config.annotators_path is not None:
        dataset = _annotated(dataset, config.annotators_path, config.annotators)
    if config.max_classes is not None:
        dataset = first_classes(dataset, config.max_classes)
    return dataset


def _annotated(dataset: Dataset, path: str, way: str) -> Dataset:
    where = f"dataset.annotators_path={path}"
    given = annotators.rows_of(annotators.read(path), dataset.train, where)
    annotators.check(given, dataset.num_classes, where)
    train, line = annotators.annotated(dataset.train, given, dataset.num_classes, way)
    return dataclasses.replace(dataset, train=train, notes=(*dataset.notes, line))


def _prepare(
    split: Split, label: str, size: int | None, config: "DatasetConfig"
) -> tuple[Split, tuple[str, ...]]:
    if size is not None:
        split = fixed_subset(split, size, f"{label}_size")
    changed = config.image_size is not None or config.channels is not None
    if isinstance(split.inputs, np.ndarray) and changed:
        pixels = split.inputs
        channels = config.channels or pixels.shape[-1]
        images = ArrayImages(channels, config.image_size, pixels)
        split = dataclasses.replace(split, inputs=images)
    return materialize(
        split,
        label,
        storage=config.storage,
        on_unreadable=config.on_unreadable,
        cache_dir=cache.directory(config.cache_dir),
    )


def _check(config: "DatasetConfig"):
    if config.name not in _SOURCES:
        raise unknown_name("dataset", config.name, names())
    for field, known in (
        ("storage", ("auto", "memory", "stream")),
        ("on_unreadable", ("stop", "skip")),
        ("channels", (None, 1, 3)),
    ):
        value = getattr(config, field)
        if value not in known:
            raise InputError(
                f"dataset.{field}={value}: expected "
                f"{' or '.join(str(x) for x in known if x is not None)}"
            )
    annotators.check_way(config.annotators)
    if config.label_columns is not None and config.name != "list":
        raise InputError(
            "dataset.label_columns is for dataset.name=list: expected "
            "dataset.annotators_path for other sources; set that"
        )
    if config.label_columns is not None and config.annotators_path is not None:
        raise InputError(
            "dataset.label_columns and dataset.annotators_path are both given: "
            "expected the annotators' labels in one place; leave one out"
        )
    several = config.label_columns is not None or config.annotators_path is not None
    if config.annotators == "distribution" and not several:
        raise InputError(
            "dataset.annotators=distribution without labels of several annotators: "
            "expected dataset.label_columns or dataset.annotators_path; set one"
        )
    if config.image_size is not None and not 1 <= config.image_size <= MOST_PIXELS:
        raise InputError(
            f"dataset.image_size={config.image_size}: expected 1 to {MOST_PIXELS}; "
            "give another"
        )
    if config.workers is not None and config.workers < 0:
        raise InputError(f"dataset.workers={config.workers}: expected 0 or more")


def _check_same(train: Split, test: Split):
    if (train.input_shape, train.input_dtype) != (test.input_shape, test.input_dtype):
        raise InputError(
            f"test inputs are {_form(test)} and training inputs {_form(train)}: "
            "expected the same; convert them, or set dataset.image_size and "
            "dataset.channels of images"
        )


def _form(split: Split) -> str:
    if split.input_dtype != np.uint8 or len(split.input_shape) != 3:
        return f"{split.input_dtype} {list(split.input_shape)}"
    height, width, channels = split.input_shape
    return f"{width} x {height} pixels with {channels} channel{'s' * (channels > 1)}"
