"""Networks of this package by name."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import InputError, unknown_name
from dal_jax.models import resnet
from dal_jax.models.cnn import CNN
from dal_jax.models.mlp import MLP

_CONSTRUCTORS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "preact_resnet18": resnet.preact_resnet18,
    "resnet50": resnet.resnet50,
}
_OF_ALL = ("image_shape", "num_classes", "dtype", "axis_name", "rngs")


def names() -> tuple[str, ...]:
    """Returns the names that :func:`create` knows, sorted.

    Example:
      >>> "cnn" in names()
      True
    """
    return tuple(sorted(_CONSTRUCTORS))


def options(name: str) -> tuple[str, ...]:
    """Returns the options that a network has besides those that all have.

    Example:
      >>> options("cnn")
      ('channels', 'hidden')
    """
    if name not in _CONSTRUCTORS:
        raise unknown_name("model", name, _CONSTRUCTORS)
    constructor = _CONSTRUCTORS[name]
    # A class would show its metaclass's call.
    signed = constructor.__init__ if isinstance(constructor, type) else constructor
    parameters = inspect.signature(signed).parameters.values()
    named = (p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return tuple(option for option in named if option not in _OF_ALL)


def create(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    rngs: nnx.Rngs,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    **given: Any,
) -> nnx.Module:
    """Creates a network; ``module(images, train=False)`` gives float32 logits.

    Args:
      name: one of :func:`names`.
      image_shape: ``(height, width, channels)`` of one image.
      num_classes: the number of logits.
      rngs: the source of the initial parameters, under the name ``params``.
      dtype: what convolutions and matrix products compute in. Parameters, batch
        statistics and logits are float32 whatever it is.
      axis_name: the mapped axis (of ``pmap`` or ``shard_map``) over which batch norm
        takes its statistics; ``None`` takes those of the batch it is given.
      **given: the network's own, see :func:`options`.

    Returns:
      The module; ``images`` are ``[batch, height, width, channels]``.

    Raises:
      InputError: an unknown name or option, or images too small for the network.

    Example:
      >>> model = create("cnn", image_shape=(8, 8, 1), num_classes=10,
      ...                channels=(8, 16), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1)), train=False).shape
      (2, 10)
    """
    known = options(name)
    for option in given:
        if option not in known:
            raise InputError(
                f"model {name!r} has no option {option!r}: it accepts "
                f"{', '.join(known) or 'none'}"
            )
    return _CONSTRUCTORS[name](
        image_shape=image_shape,
        num_classes=num_classes,
        dtype=dtype,
        axis_name=axis_name,
        rngs=rngs,
        **given,
    )
