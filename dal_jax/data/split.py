"""What every data source returns: inputs, given labels, original indices.

Inputs are either one array ``[N, ...]`` of any shape and dtype (uint8 images, float
features, int tokens) or a random-access source that returns one input at a time.
Everything else about an example is small and always in an array.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from dal_jax.errors import InputError


@runtime_checkable
class InputSource(Protocol):
    """Random access to inputs that do not fit in memory together.

    ``shape`` and ``dtype`` describe ONE input, e.g. ``(H, W, C)`` and uint8;
    ``source[i]`` is an array of that shape and dtype. Several threads may read at once.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The dtype of one input."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Subset:
    """The inputs of a source, or of an array, at some positions, in that order."""

    source: np.ndarray | InputSource
    positions: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return shape_of_one(self.source)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of one input."""
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.source[int(self.positions[position])]


def shape_of_one(inputs: np.ndarray | InputSource) -> tuple[int, ...]:
    """Returns the shape of one input."""
    shape = tuple(inputs.shape)
    return shape[1:] if isinstance(inputs, np.ndarray) else shape


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set, every example with its original index.

    Attributes:
      inputs: an array ``[N, ...]`` of any shape and dtype, or an
        :class:`InputSource`. A ``np.memmap`` is never copied whole.
      labels: the given labels, integers ``[N]``, or ``[N, ...]`` if an input has
        several, as tokens do.
      index: int64 ``[N]``, each example's index in the original order of its source,
        whatever the order of storage and whatever was left out. Default: its position.
      clean_labels: integers of the shape of ``labels``, or None if unknown.
      index_is_original: False if the source records no original order, so that
        ``index`` is only the position in storage; then no ``.npy`` label file fits.
      source_size: the number of examples in the source before anything was left out,
        which is the length of a label file in the original order. Default: ``N``.
      label_distributions: float32 ``[N, K]``, what the loss is given in place of
        ``labels``, or None. Noise, metrics and the audit still take ``labels``.
      names: the name by which a user knows each example, e.g. the path of its image: an
        array ``[N]`` of strings; None if the source has no names.

    Raises:
      InputError: if the lengths differ, or labels are not integers.

    Example:
      >>> split = Split(np.zeros([3, 5], np.float32), np.array([0, 1, 1]))
      >>> len(split), split.input_shape, split.take([2, 0]).index.tolist()
      (3, (5,), [2, 0])
    """

    inputs: np.ndarray | InputSource
    labels: np.ndarray
    # The two that are None only until they are filled in, below.
    index: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    clean_labels: np.ndarray | None = None
    index_is_original: bool = True
    source_size: int = None  # pyright: ignore[reportAssignmentType]
    names: np.ndarray | None = None
    label_distributions: np.ndarray | None = None

    def __post_init__(self) -> None:
        def fill(field: str, value):
            object.__setattr__(self, field, value)  # the dataclass is frozen

        if hasattr(self.inputs, "__array__") or isinstance(self.inputs, list | tuple):
            fill("inputs", _array("inputs", self.inputs))
        fill("labels", np.asarray(_array("labels", self.labels)))
        if self.index is None:
            fill("index", np.arange(len(self.labels)))
        if self.source_size is None:
            fill("source_size", len(self.labels))
        if len(self.inputs) != len(self.labels) or len(self.labels) != len(self.index):
            raise InputError(
                f"a split has {len(self.inputs)} inputs, {len(self.labels)} labels and "
                f"{len(self.index)} indices: expected the same number; check the data"
            )
        _check_labels("labels", self.labels)
        if self.clean_labels is not None:
            fill("clean_labels", np.asarray(self.clean_labels))
            _check_labels("clean labels", self.clean_labels)
            if self.clean_labels.shape != self.labels.shape:
                raise InputError(
                    f"labels have the shape {list(self.labels.shape)} and clean labels "
                    f"{list(self.clean_labels.shape)}: expected the same; check which "
                    "belong together"
                )

        if self.label_distributions is not None:
            fill("label_distributions", np.asarray(self.label_distributions))
            _check_distributions(self.label_distributions, self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether all inputs are one array in memory, not mapped from a file."""
        return isinstance(self.inputs, np.ndarray) and not isinstance(
            self.inputs, np.memmap
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, e.g. ``(H, W, C)``."""
        return shape_of_one(self.inputs)

    @property
    def input_dtype(self) -> np.dtype:
        """The dtype of the inputs."""
        return np.dtype(self.inputs.dtype)

    def take(self, positions: ArrayLike) -> "Split":
        """Returns the examples at ``positions`` (ints ``[M]``), in that order."""
        positions = np.asarray(positions, np.int64)
        if isinstance(self.inputs, np.ndarray) and self.in_memory:
            inputs = self.inputs[positions]
        elif isinstance(self.inputs, Subset):
            inputs = Subset(self.inputs.source, self.inputs.positions[positions])
        else:
            inputs = Subset(self.inputs, positions)
        return dataclasses.replace(
            self,
            inputs=inputs,
            labels=self.labels[positions],
            index=self.index[positions],
            clean_labels=(
                None if self.clean_labels is None else self.clean_labels[positions]
            ),
            names=None if self.names is None else self.names[positions],
            label_distributions=(
                None
                if self.label_distributions is None
                else self.label_distributions[positions]
            ),
        )


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asanyarray(values)
    except ValueError as error:  # rows of several lengths
        raise InputError(
            f"{name} are no array ({error}): expected [N, ...], every example of the "
            "same shape; fill them up or leave some out"
        ) from None


def _check_labels(name: str, labels: np.ndarray):
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{name} are {labels.dtype} {list(labels.shape)}: expected integers, the "
            "number of each example's class; convert them"
        )


def _check_distributions(given: np.ndarray, labels: np.ndarray):
    fits = given.ndim == 2 and len(given) == len(labels) and given.dtype.kind == "f"
    if not fits or labels.ndim != 1:
        raise InputError(
            f"label distributions are {given.dtype} {list(given.shape)} for "
            f"{list(labels.shape)} labels: expected floats [N, K] for [N] labels; "
            "convert them"
        )
    bad = ~((given >= 0).all(axis=1) & (abs(given.sum(axis=1) - 1) < 1e-3))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} label distributions are none, the first is row "
            f"{int(np.argmax(bad))}: expected numbers of at least 0 whose sum is 1; "
            "divide each row by its sum"
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training split, a test split if there is one, and the classes' names.

    Attributes:
      name: what it was loaded by, e.g. ``"digits"`` or ``"tfds/cifar10"``.
      train: the training examples.
      test: the test examples; None if there are none.
      class_names: the name of every class, in the order of the integer labels.
      skipped: names (e.g. paths) of images that did not decode and were left out by
        ``on_unreadable="skip"``.
      columns: of a table, those that the inputs come from, in their order.
      notes: lines about the data that a person would want to know.
    """

    name: str
    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)
