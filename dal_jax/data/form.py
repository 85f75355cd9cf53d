"""What the inputs of a run are, and how others are made such."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dal_jax.data.batches import readable
from dal_jax.data.images import (
    ArrayImages,
    EncodedImages,
    FileImages,
    with_channel_axis,
)
from dal_jax.data.unlabelled import find
from dal_jax.errors import InputError

# A batch takes about so many bytes of inputs: some 40 images of 256 x 256.
_BATCH_BYTES = 2**23
_LARGEST_BATCH = 512
# Image files that one thread decodes: few, so that small folders are shared out too.
FILES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class InputForm:
    """The form of a run's inputs.

    Attributes:
      shape: of one input.
      dtype: of the inputs.
      size: the side that the run resized its images to; ``None`` if it did not.
      channels: what it converted them to; ``None`` if it did not.
      columns: of tables, those that the inputs come from, in their order.

    Example:
      >>> form = InputForm((2,), np.dtype("float32"))
      >>> [batch.shape for _, batch, _ in form.batches(np.zeros((3, 2), np.float32))]
      [(3, 2)]
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int | None = None
    channels: int | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, inputs: Mapping[str, Any]) -> "InputForm":
        """Returns the form that a run's ``preprocessing.json`` tells."""
        return cls(
            tuple(inputs["input_shape"]),
            np.dtype(inputs["input_dtype"]),
            size=inputs.get("size"),
            channels=inputs.get("channels"),
            columns=tuple(inputs.get("columns", ())),
        )

    @property
    def batch_size(self) -> int:
        """How many inputs are predicted together at most, a power of two."""
        fitting = max(_BATCH_BYTES // (math.prod(self.shape) * self.dtype.itemsize), 1)
        return min(1 << (fitting.bit_length() - 1), _LARGEST_BATCH)

    def __str__(self) -> str:
        shape = ", ".join(map(str, ("N", *self.shape)))
        array = f"{self.dtype} [{shape}], as in training"
        if not self.is_image:
            return array
        height, width, _ = self.shape
        sides = f" of {width} x {height} pixels" if self.size is None else ""
        return f"image files{sides} or {array}"

    def batches(
        self, inputs: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        """Yields inputs of this form in batches; files are decoded ahead.

        Args:
          inputs: an array, a path or several of them, see
            :class:`dal_jax.inference.Classifier`.

        Yields:
          Of each batch the positions ``[B]`` that can be read, the inputs there, and
          the others' positions with what is wrong with them.

        Raises:
          InputError: arrays of another form, or a path with no inputs.
        """
        source = self._source(inputs)
        if isinstance(source, EncodedImages):
            at_once = min(FILES_AT_ONCE, self.batch_size)
            yield from readable(source, self.shape, at_once)
            return
        for first in range(0, len(source), self.batch_size):
            batch = np.asarray(source[first : first + self.batch_size])
            yield first + np.arange(len(batch)), batch, {}

    def _source(self, inputs: Any) -> np.ndarray | EncodedImages:
        if isinstance(inputs, str | os.PathLike):
            inputs = find(inputs, self.columns or None).inputs
        if isinstance(inputs, list | tuple) and inputs and _are_paths(inputs):
            return self._files(inputs)
        return self._array(np.asanyarray(inputs))

    def _files(self, paths: Sequence[str | os.PathLike[str]]) -> EncodedImages:
        if not self.is_image:
            raise InputError(
                f"the run was trained on {self} and not on images: give an array"
            )
        return FileImages(
            self._image_channels, self.size, tuple(os.fspath(path) for path in paths)
        )

    def _array(self, array: np.ndarray) -> np.ndarray | EncodedImages:
        if self.is_image and array.dtype == np.uint8 and array.ndim in (3, 4):
            array = with_channel_axis(array)
            changes = self.size is not None or self.channels is not None
            fits = array.shape[1:] == self.shape
            if len(array) and not fits and changes and array.shape[-1] in (1, 3):
                return ArrayImages(self._image_channels, self.size, array)
        same = array.dtype == self.dtype or (
            array.dtype.kind == self.dtype.kind and array.dtype.kind in "fi"
        )
        if not same or array.shape[1:] != self.shape or not len(array):
            raise InputError(
                f"inputs are {array.dtype} {list(array.shape)}: expected {self}; "
                "convert them"
            )
        return array

    @property
    def is_image(self) -> bool:
        """Whether an input is a picture, uint8 ``[height, width, channels]``."""
        return self.dtype == np.uint8 and len(self.shape) == 3

    @property
    def _image_channels(self) -> int:
        return self.channels or self.shape[-1]


def _are_paths(inputs: Sequence[Any]) -> bool:
    return all(isinstance(one, str | os.PathLike) for one in inputs)
