"""A finished run as a classifier of new inputs."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from dal_jax import export
from dal_jax.data.augment import Preprocess
from dal_jax.data.form import InputForm
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.models import Functional, functionalize
from dal_jax.training.finished import FinishedRun
from dal_jax.training.plan import default_preprocess
from dal_jax.training.predict import make_predict_logits

PyTree = Any


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
    form = InputForm.of_run(run.inputs)
    model, preprocess = _objects(run, form, model, preprocess)
    dtype = jax.dtypes.canonicalize_dtype(form.dtype)
    example = jax.ShapeDtypeStruct((2, *form.shape), dtype)
    network = functionalize(model, jax.eval_shape(preprocess.evaluate, example))
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    params, model_state = run.predictor(checkpoint, abstract)
    class_names = tuple(run.inputs["class_names"])
    return Classifier(network, preprocess, params, model_state, form, class_names)


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
      form: of one input, as the run was trained on.
      class_names: one per class.
    """

    def __init__(
        self,
        network: Functional,
        preprocess: Preprocess,
        params: PyTree,
        model_state: PyTree,
        form: InputForm,
        class_names: tuple[str, ...],
    ):
        """Takes a network as pure functions, its arrays, and what its inputs are."""
        self.form: InputForm = form
        self.class_names: tuple[str, ...] = class_names
        self._network, self._preprocess = network, preprocess
        self._variables = jax.device_put((params, model_state))

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
        for positions, batch, unreadable in self.form.batches(inputs):
            good += len(batch)
            reason = reason or next(iter(unreadable.values()), "")
            yield Batch(positions, self._logits_of(positions, batch), unreadable)
        if not good:
            raise InputError(
                f"none of the inputs can be read (the first: {reason}): expected "
                f"{self.form}; give others"
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
          InputError: the file exists or cannot be written, or the network cannot be
            written in that format.
        """
        path = Path(path)
        beside = path.with_name(f"{path.name}.json")
        export.check_format(format)
        for file in (path, beside):
            if file.exists() or file.is_symlink():
                raise InputError(f"{file} exists: expected a new file; give another")
        if not path.parent.is_dir():
            raise InputError(
                f"no directory {path.parent}: expected one to write {path.name} to; "
                "create it or give another path"
            )
        content = export.serialize(
            self._probabilities, self.form.shape, self.form.dtype, format
        )
        described = {
            "format": format,
            "input_shape": ["batch", *self.form.shape],
            "input_dtype": str(self.form.dtype),
            "size": self.form.size,
            "channels": self.form.channels,
            "output": "probabilities",
            "class_names": list(self.class_names),
        }
        text = json.dumps(described, indent=2) + "\n"
        try:
            write_atomically(path, lambda file: file.write(content))
            write_atomically(beside, lambda file: file.write(text.encode()))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise InputError(
                f"cannot write {path} ({error.strerror}): expected a directory that "
                "you may write to, with room in it; give another path"
            ) from error

    def _logits(self, inputs: Any) -> np.ndarray:
        logits = []
        for batch in self.in_batches(inputs):
            for position, why in batch.unreadable.items():
                raise InputError(
                    f"input {position} cannot be read ({why}): expected "
                    f"{self.form}; fix it or leave it out"
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
        params, model_state = self._variables
        logits, _ = self._network.apply(params, model_state, inputs, False)
        return jax.nn.softmax(logits.astype(jnp.float32))

    @functools.cached_property
    def _predict_logits(self) -> Callable[[np.ndarray], np.ndarray]:
        return make_predict_logits(
            self._network,
            self._preprocess,
            self._variables[0],
            self._variables[1],
            input_shape=self.form.shape,
            batch_size=self.form.batch_size,
        )


def _objects(
    run: FinishedRun, form: InputForm, model: Any, preprocess: Preprocess | None
) -> tuple[Any, Preprocess]:
    """Returns the network and the preprocessing of a run."""
    if "objects" not in run.config:
        if model is not None or preprocess is not None:
            raise InputError(
                f"the run in {run.path} is one of names and knows its own network and "
                "preprocessing: leave out model and preprocess"
            )
        from dal_jax import recipe

        return recipe.of_finished_run(run.config, run.inputs)
    if model is None:
        raise InputError(
            f"the run in {run.path} is one of objects, not of names: expected the "
            "network that it trained; give model= to dal_jax.load"
        )
    if preprocess is None and run.inputs.get("preprocess") != "default":
        raise InputError(
            f"the run in {run.path} preprocessed its inputs in a way of its own: "
            "expected the same; give preprocess= to dal_jax.load"
        )
    return model, preprocess or default_preprocess(form.shape, form.dtype)
