"""A finished run as a classifier of new inputs."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from dal_jax import export
from dal_jax.data.augment import Preprocess
from dal_jax.data.batches import readable
from dal_jax.data.images import (
    ArrayImages,
    EncodedImages,
    FileImages,
    with_channel_axis,
)
from dal_jax.data.unlabelled import find
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.models import Functional, functionalize
from dal_jax.training.finished import FinishedRun
from dal_jax.training.plan import default_preprocess
from dal_jax.training.predict import make_predict_logits

PyTree = Any

# A batch takes about so many bytes of inputs: some 40 images of 256 x 256.
_BATCH_BYTES = 2**23
_LARGEST_BATCH = 512


class Batch(NamedTuple):
    """What was predicted of some inputs.

    Attributes:
      positions: ints ``[B]`` of the inputs that could be read.
      logits: float32 ``[B, ..., num_classes]``.
      unreadable: the others' positions, and what is wrong with them.
    """

    positions: np.ndarray
    logits: np.ndarray
    unreadable: dict[int, str]


def load(
    workdir: str | os.PathLike[str],
    checkpoint: str = "last",
    *,
    model: Any = None,
    preprocess: Preprocess | None = None,
) -> "Classifier":
    """Returns what a finished run has learnt, to classify new inputs with.

    The directory is only read. A run by names is all in it; of a run of objects, by
    :func:`dal_jax.training.fit`, the network must be given again.

    Args:
      workdir: of the run.
      checkpoint: ``"last"``, or ``"best"`` by accuracy on the noisy validation
        examples that the run held out.
      model: the network that was given to ``fit``; only of a run of objects.
      preprocess: likewise, if one was given.

    Raises:
      InputError: there is no finished run, no such checkpoint, or it is damaged or of
        another network.

    Example:
      >>> import tempfile, optax
      >>> from flax import nnx
      >>> from dal_jax import losses, training
      >>> network = lambda rngs: nnx.Linear(3, 2, rngs=rngs)
      >>> inputs, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])
      >>> workdir = tempfile.mkdtemp()
      >>> result = training.fit(network, (inputs, labels), workdir=workdir,
      ...                       loss=losses.make("ce"), optimizer=optax.sgd(1.0),
      ...                       num_epochs=5, batch_size=3)
      >>> load(workdir, model=network).predict(inputs).tolist()
      [0, 1, 1]
    """
    run = FinishedRun(workdir)
    shape, dtype = tuple(run.inputs["input_shape"]), np.dtype(run.inputs["input_dtype"])
    if "objects" in run.config:
        preprocess = preprocess or _default_preprocess(run, shape, dtype)
        if model is None:
            raise InputError(
                f"the run in {run.path} is one of objects, not of names: expected the "
                "network that it trained; give model="
            )
    elif model is not None or preprocess is not None:
        raise InputError(
            f"the run in {run.path} is one of names and knows its own network and "
            "preprocessing: leave out model and preprocess"
        )
    else:
        from dal_jax import recipe

        named = recipe.of_finished_run(run.config, run.inputs)
        model, preprocess = named["model"], named["preprocess"]
    example = jax.ShapeDtypeStruct((2, *shape), jax.dtypes.canonicalize_dtype(dtype))
    network = functionalize(model, jax.eval_shape(preprocess.evaluate, example))
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    return Classifier(
        network,
        preprocess,
        *run.predictor(checkpoint, abstract),
        class_names=tuple(run.inputs["class_names"]),
        input_shape=shape,
        input_dtype=dtype,
        size=run.inputs.get("size"),
        channels=run.inputs.get("channels"),
    )


class Classifier:
    """A trained network, with what is done to its inputs.

    Inputs are, wherever a method takes some,

    - an array ``[N, *input_shape]`` as the run was trained on. Where the run resized
      its images or changed their channels (``dataset.image_size``,
      ``dataset.channels``) uint8 images ``[N, H, W]`` or ``[N, H, W, C]`` of any size
      are treated likewise;
    - a path or a list of paths of image files, which are decoded as the run decoded
      its own; or the path of a folder, of a ``.csv``, an ``.npy`` or an ``.npz``, see
      :func:`dal_jax.data.unlabelled.find`.

    Attributes:
      class_names: one a class.
      input_shape: of one input, as the run was trained on.
      input_dtype: likewise.
    """

    def __init__(
        self,
        network: Functional,
        preprocess: Preprocess,
        params: PyTree,
        model_state: PyTree,
        *,
        class_names: tuple[str, ...],
        input_shape: tuple[int, ...],
        input_dtype: np.dtype,
        size: int | None,
        channels: int | None,
    ):
        """Takes a network as pure functions, its arrays, and what its inputs are."""
        self.class_names = class_names
        self.input_shape, self.input_dtype = input_shape, input_dtype
        self._network, self._preprocess = network, preprocess
        self._variables = jax.device_put((params, model_state))
        self._size, self._channels = size, channels

    def predict(self, inputs: Any) -> np.ndarray:
        """Returns the numbers of the predicted classes, ints ``[N]``.

        Raises:
          InputError: an input that does not decode, or does not fit.
        """
        return self._logits(inputs).argmax(-1)

    def predict_proba(self, inputs: Any) -> np.ndarray:
        """Returns the probabilities of the classes, float32 ``[N, num_classes]``.

        Raises:
          InputError: as :meth:`predict`.
        """
        return softmax(self._logits(inputs), axis=-1)

    def in_batches(self, inputs: Any) -> Iterator[Batch]:
        """Yields what is predicted, batch by batch in the order of the inputs.

        Image files are decoded ahead. One that does not decode is reported in its
        batch, and the others go on.

        Raises:
          InputError: arrays that do not fit, or none that does.
        """
        good, reason = 0, ""
        for positions, batch, unreadable in self._read(self._source(inputs)):
            good, reason = (
                good + len(batch),
                reason or next(iter(unreadable.values()), ""),
            )
            yield Batch(positions, self._logits_of(positions, batch), unreadable)
        if not good:
            raise InputError(
                f"none of the inputs can be read (the first: {reason}): expected "
                f"{self._expected}; give others"
            )

    def export(self, path: str | os.PathLike[str], format: str = "stablehlo") -> None:
        """Writes the classifier as a file that runs without this package.

        It maps inputs ``[N, *input_shape]``, as the run was trained on, to
        probabilities ``[N, num_classes]``; preprocessing is included, any ``N`` will
        do. Beside it ``PATH.json`` names the classes and says what the inputs are.

        Args:
          path: of the file, which must not exist.
          format: ``"stablehlo"``, read by ``jax.export.deserialize``, or ``"onnx"``.

        Raises:
          InputError: the file exists, or the format cannot be written.
        """
        path = Path(path)
        beside = path.with_name(f"{path.name}.json")
        export.check_format(format)
        for file in (path, beside):
            if file.exists():
                raise InputError(f"{file} exists: expected a new file; give another")
        if not path.parent.is_dir():
            raise InputError(
                f"no directory {path.parent}: expected one to write {path.name} to; "
                "create it or give another path"
            )
        content = export.serialize(
            self._probabilities, self.input_shape, self.input_dtype, format
        )
        described = {
            "format": format,
            "input_shape": ["batch", *self.input_shape],
            "input_dtype": str(self.input_dtype),
            "size": self._size,
            "channels": self._channels,
            "output": "probabilities",
            "class_names": list(self.class_names),
        }
        text = json.dumps(described, indent=2) + "\n"
        write_atomically(beside, lambda file: file.write(text.encode()))
        write_atomically(path, lambda file: file.write(content))

    def _logits(self, inputs: Any) -> np.ndarray:
        logits = []
        for batch in self.in_batches(inputs):
            for position, why in batch.unreadable.items():
                raise InputError(
                    f"input {position} cannot be read ({why}): expected "
                    f"{self._expected}; fix it or leave it out"
                )
            logits.append(batch.logits)
        return np.concatenate(logits)

    def _logits_of(self, positions: np.ndarray, batch: np.ndarray) -> np.ndarray:
        if not len(batch):
            return np.zeros((0, len(self.class_names)), np.float32)
        logits = self._predict_logits(batch).astype(np.float32)
        finite = np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
        if not finite.all():
            raise InputError(
                f"input {positions[~finite][0]} gives logits that are not finite: "
                "expected finite numbers in the inputs; leave it out"
            )
        return logits

    def _probabilities(self, inputs: jax.Array) -> jax.Array:
        inputs = self._preprocess.evaluate(inputs)
        logits, _ = self._network.apply(*self._variables, inputs, False)
        return jax.nn.softmax(logits.astype(jnp.float32))

    @functools.cached_property
    def _predict_logits(self) -> Callable[[np.ndarray], np.ndarray]:
        return make_predict_logits(
            self._network,
            self._preprocess,
            *self._variables,
            input_shape=self.input_shape,
            batch_size=self._batch_size,
        )

    @property
    def _batch_size(self) -> int:
        of_one = int(np.prod(self.input_shape)) * self.input_dtype.itemsize
        fitting = max(_BATCH_BYTES // of_one, 1)
        return min(1 << (fitting.bit_length() - 1), _LARGEST_BATCH)

    def _read(
        self, source: np.ndarray | EncodedImages
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        if isinstance(source, EncodedImages):
            yield from readable(source, self.input_shape, self._batch_size)
            return
        for first in range(0, len(source), self._batch_size):
            batch = np.asarray(source[first : first + self._batch_size])
            yield first + np.arange(len(batch)), batch, {}

    def _source(self, inputs: Any) -> np.ndarray | EncodedImages:
        """Returns an array as in training, or images to be made such."""
        if isinstance(inputs, str | os.PathLike):
            inputs = find(inputs).inputs
        if isinstance(inputs, list | tuple) and inputs and _are_paths(inputs):
            return self._files(inputs)
        return self._array(np.asanyarray(inputs))

    def _files(self, paths: Sequence[str | os.PathLike[str]]) -> EncodedImages:
        if not self._takes_images:
            raise InputError(
                f"the run was trained on {self._expected} and not on images: give an "
                "array"
            )
        paths = tuple(map(os.fspath, paths))
        return FileImages(self._image_channels, self._size, paths)

    def _array(self, array: np.ndarray) -> np.ndarray | EncodedImages:
        if self._takes_images and array.dtype == np.uint8 and array.ndim in (3, 4):
            array = with_channel_axis(array)
            changes = self._size is not None or self._channels is not None
            fits = array.shape[1:] == self.input_shape
            if len(array) and not fits and changes and array.shape[-1] in (1, 3):
                return ArrayImages(self._image_channels, self._size, array)
        same = array.dtype == self.input_dtype or (
            array.dtype.kind == self.input_dtype.kind and array.dtype.kind in "fi"
        )
        if not same or array.shape[1:] != self.input_shape or not len(array):
            raise InputError(
                f"inputs are {array.dtype} {list(array.shape)}: expected "
                f"{self._expected}; convert them"
            )
        return array

    @property
    def _takes_images(self) -> bool:
        return self.input_dtype == np.uint8 and len(self.input_shape) == 3

    @property
    def _image_channels(self) -> int:
        return self._channels or self.input_shape[-1]

    @property
    def _expected(self) -> str:
        shape = ", ".join(map(str, ("N", *self.input_shape)))
        array = f"{self.input_dtype} [{shape}], as in training"
        if not self._takes_images:
            return array
        height, width, _ = self.input_shape
        sides = f" of {width} x {height} pixels" if self._size is None else ""
        return f"image files{sides} or {array}"


def _are_paths(inputs: Sequence[Any]) -> bool:
    return all(isinstance(one, str | os.PathLike) for one in inputs)


def _default_preprocess(
    run: FinishedRun, shape: tuple[int, ...], dtype: np.dtype
) -> Preprocess:
    if run.inputs.get("preprocess") != "default":
        raise InputError(
            f"the run in {run.path} preprocessed its inputs in a way of its own: "
            "expected the same; give preprocess="
        )
    return default_preprocess(shape, dtype)
