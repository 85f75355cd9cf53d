"""Whether the data of a run and its network fit together."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data import Split
from dal_jax.data.augment import Preprocess
from dal_jax.data.blocks import check_finite, has_blocks
from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import StatefulLoss
from dal_jax.models import Functional


def as_split(data: Any) -> Split:
    """Returns a pair of inputs and labels as a split, a split as it is."""
    if isinstance(data, Split):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return Split(*data)
    raise InputError(
        f"data is a {type(data).__name__}: expected (inputs, labels) or a data.Split"
    )


def network_inputs(preprocess: Preprocess, split: Split) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of what the network is given for two examples.

    Raises:
      InputError: inputs that are no numbers.
    """
    if not any(jnp.issubdtype(split.input_dtype, x) for x in (jnp.number, jnp.bool_)):
        raise InputError(
            f"inputs are {split.input_dtype} [{len(split)}, ...]: expected numbers; "
            "convert them"
        )
    dtype = jax.dtypes.canonicalize_dtype(split.inputs.dtype)
    batch = jax.ShapeDtypeStruct((2, *split.input_shape), dtype)
    return jax.eval_shape(preprocess.evaluate, batch)


def number_of_classes(
    network: Functional, inputs: jax.ShapeDtypeStruct, labels: np.ndarray
) -> int:
    """Returns how many logits the network gives for each label.

    Raises:
      InputError: logits that are no real numbers or have no class axis, or labels that
        do not fit them.
    """

    def logits(inputs):
        params, model_state = network.init(jax.random.key(0))
        return network.apply(params, model_state, inputs, False)[0]

    found = jax.eval_shape(logits, inputs)
    shape, given = found.shape, np.shape(labels)[1:]
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(
            f"the network gives {found.dtype} logits for {inputs.dtype} inputs: "
            "expected floating point numbers"
        )
    if len(shape) < 2 or shape[0] != 2:
        raise InputError(
            f"the network gives logits of shape {list(shape)} for two inputs: expected "
            "[2, ..., num_classes]"
        )
    if given not in (shape[1:-1], shape[1:]):
        raise InputError(
            f"an example has labels of shape {list(given)} and logits of shape "
            f"{list(shape[1:])}: expected labels of shape {list(shape[1:-1])}"
        )
    return shape[-1]


def check_split(
    split: Split, what: str, num_classes: int, input_shape: Sequence[int]
) -> None:
    """Raises InputError where a split does not fit the network or the training set.

    Inputs that are an array, mapped from a file or not, must be finite. Those that a
    source makes on access are not looked at: that could take as long as an epoch.

    Args:
      split: the examples.
      what: the split's name, for the message.
      num_classes: the network's number of logits.
      input_shape: that of a training example.
    """
    if split.input_shape != input_shape:
        raise InputError(
            f"{what} inputs have the shape {list(split.input_shape)} and training "
            f"inputs {list(input_shape)}: expected the same"
        )
    if has_blocks(split.inputs):
        check_finite(split.inputs, f"{what} inputs")
    shares = split.label_distributions
    if shares is not None and shares.shape[1] != num_classes:
        raise InputError(
            f"{what} label distributions are over {shares.shape[1]} classes and the "
            f"network has {num_classes} logits: expected the same number"
        )
    given = {"labels": split.labels, "clean labels": split.clean_labels}
    for name, labels in given.items():
        largest = -1 if labels is None else class_numbers(labels).max(initial=-1)
        if largest >= num_classes:
            raise InputError(
                f"{what} {name} go up to {largest} and the network has {num_classes} "
                f"logits: expected classes 0 to {num_classes - 1}"
            )


def check_classes(labels: np.ndarray, num_classes: int) -> None:
    """Raises InputError where an example to train on has a label that is no class.

    Of several labels an example those below 0 may be no classes, as of padding.
    """
    if labels.ndim == 1 and labels.min() < 0:
        raise InputError(
            f"training labels go down to {labels.min()}: expected classes 0 to "
            f"{num_classes - 1}; number them so, and leave other examples out"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raises InputError for what is no optax gradient transformation."""
    if not all(callable(getattr(optimizer, x, None)) for x in ("init", "update")):
        named = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise InputError(
            f"the optimizer is {named}: expected an optax gradient transformation such "
            "as optax.sgd(0.1)"
        )


def check_seeds(seeds: Mapping[str, int], known: Sequence[str]) -> None:
    """Raises InputError for a seed that has no use, or out of range."""
    for name, seed in seeds.items():
        if name not in known:
            raise unknown_name("seed", name, known)
        if not 0 <= seed < 2**32:
            raise InputError(
                f"the seed of {name} is {seed}: expected 0 to 4294967295; give another"
            )


def check_one_label(labels: np.ndarray, what: str) -> None:
    """Raises InputError where an example has several labels."""
    if labels.ndim != 1:
        raise InputError(
            f"{what} with labels of shape {list(labels.shape[1:])} each: expected one "
            f"class an example; leave {what} out"
        )


def check_mixes(
    inputs: jax.ShapeDtypeStruct, loss: StatefulLoss, loss_name: str
) -> None:
    """Raises InputError where examples cannot be mixed."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise InputError(
            f"mixup of {inputs.dtype} inputs: expected floating point numbers, for "
            "which mixtures mean something; leave mixup out"
        )
    if jax.tree.leaves(jax.eval_shape(loss.init)):
        raise InputError(
            f"loss {loss_name!r} remembers what is predicted for every example, and "
            "mixup trains on mixtures of them: expected a loss without a memory; leave "
            "mixup out, or choose another loss"
        )


def check_takes_distributions(
    loss: StatefulLoss, loss_name: str, num_classes: int
) -> None:
    """Raises InputError for a loss that only takes class numbers."""
    rows = jax.ShapeDtypeStruct((2, num_classes), np.float32)
    place = jax.ShapeDtypeStruct((2,), np.int32)
    step = jax.ShapeDtypeStruct((), np.int32)
    try:
        jax.eval_shape(
            lambda *given: loss.apply(*given[:3], loss.init(), given[3])[0],
            *(rows, rows, step, place),
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"loss {loss_name!r} takes no distributions over the classes, which "
            "mixup and annotators' shares are: expected a loss that does, such as dal "
            "or gce; choose one, or leave these out"
        ) from error


def class_numbers(labels: np.ndarray) -> np.ndarray:
    """Returns class numbers as they are, and of distributions the likeliest class."""
    return labels.argmax(-1) if labels.dtype.kind == "f" else labels
