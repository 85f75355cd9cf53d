"""What every data source hands on: images, given labels, original indices.

Images are either one uint8 array ``[N, H, W, C]`` in memory or a random-access
source that decodes one image at a time; everything else about an example is small
and always an array.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from dal_jax.errors import InputError


@runtime_checkable
class ImageSource(Protocol):
    """Random access to decoded images that do not fit in memory together.

    ``shape`` is that of ONE image, ``(H, W, C)``; ``source[i]`` is a uint8 array of
    that shape. Several threads may ask at once.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(H, W, C)`` of one image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images of a source at some positions, in that order."""

    source: ImageSource
    positions: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.source.shape

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.source[int(self.positions[position])]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set, every example with its original index.

    Attributes:
      images: uint8 ``[N, H, W, C]`` in memory, or an :class:`ImageSource`.
      labels: int32 ``[N]``, the labels as the source gives them.
      index: int64 ``[N]``, each example's index in the original order of its source,
        whatever order it is stored in and whatever has been left out.
      clean_labels: int32 ``[N]``, or None where the source does not know them.
      index_is_original: False where the source records no original order, so that
        ``index`` is only the position in storage; a label file must then be refused.
      source_size: how many examples the source has, before anything was left out: the
        length that a label file in the original order must have.

    Example:
      >>> split = Split(np.zeros([3, 2, 2, 1], np.uint8), np.array([0, 1, 1], np.int32),
      ...               np.array([7, 8, 9]), None, source_size=10)
      >>> len(split), split.image_shape, split.take([2, 0]).index.tolist()
      (3, (2, 2, 1), [9, 7])
    """

    images: np.ndarray | ImageSource
    labels: np.ndarray
    index: np.ndarray
    clean_labels: np.ndarray | None
    index_is_original: bool = True
    source_size: int = 0

    def __post_init__(self):
        if len(self.images) != len(self.labels) or len(self.labels) != len(self.index):
            raise InputError(
                f"a split has {len(self.images)} images, {len(self.labels)} labels and "
                f"{len(self.index)} indices: expected as many of each; check the data"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> bool:
        """Whether all images are one array."""
        return isinstance(self.images, np.ndarray)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape ``(H, W, C)`` of one image."""
        if isinstance(self.images, np.ndarray):
            return self.images.shape[1:]
        return tuple(self.images.shape)

    def take(self, positions) -> "Split":
        """Returns the examples at ``positions`` (ints ``[M]``), in that order."""
        positions = np.asarray(positions, np.int64)
        if isinstance(self.images, np.ndarray):
            images = self.images[positions]
        elif isinstance(self.images, Subset):
            images = Subset(self.images.source, self.images.positions[positions])
        else:
            images = Subset(self.images, positions)
        return dataclasses.replace(
            self,
            images=images,
            labels=self.labels[positions],
            index=self.index[positions],
            clean_labels=(
                None if self.clean_labels is None else self.clean_labels[positions]
            ),
        )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training split, a test split where there is one, and the classes' names.

    Attributes:
      name: what it was loaded by, e.g. ``"digits"`` or ``"tfds/cifar10"``.
      train: the training examples.
      test: the test examples; None where the user gave none.
      class_names: the name of every class, in the order of the integer labels.
      skipped: what names the images that did not decode and were left out by
        ``on_unreadable="skip"``, e.g. their paths.
    """

    name: str
    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)
