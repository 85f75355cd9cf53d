"""Creates this package's networks by name."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import InputError, unknown_name
from dal_jax.models import resnet, vit
from dal_jax.models.cnn import CNN
from dal_jax.models.mlp import MLP, linear
from dal_jax.models.pretrained import Description, as_rngs, describe, pretrained

_CONSTRUCTORS: dict[str, Callable[..., nnx.Module]] = {
    "linear": linear,
    "mlp": MLP,
    "cnn": CNN,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "preact_resnet18": resnet.preact_resnet18,
    "resnet50": resnet.resnet50,
    "vit_tiny": vit.vit_tiny,
    "vit_small": vit.vit_small,
    "vit_base": vit.vit_base,
}
_OF_ANY_SHAPE = ("linear", "mlp")
_OF_ALL = ("image_shape", "num_classes", "dtype", "axis_name", "rngs")


def names() -> tuple[str, ...]:
    """Returns the names that :func:`create` knows, sorted.

    Example:
      >>> "cnn" in names()
      True
    """
    return tuple(sorted(_CONSTRUCTORS))


def options(name: str) -> tuple[str, ...]:
    """Returns a network's own options, without those that all networks have.

    Example:
      >>> options("cnn")
      ('channels', 'hidden')
    """
    if name not in _CONSTRUCTORS:
        raise unknown_name("model", name, _CONSTRUCTORS)
    constructor = _CONSTRUCTORS[name]
    # The metaclass of NNX modules hides the signature of the class.
    function = constructor.__init__ if isinstance(constructor, type) else constructor
    parameters = inspect.signature(function).parameters.values()
    named = (p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    return tuple(option for option in named if option not in _OF_ALL)


def create(
    name: str,
    *,
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    rngs: nnx.Rngs | jax.Array | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    **given: Any,
) -> nnx.Module:
    """Creates a network; ``module(images, train=False)`` returns float32 logits.

    Args:
      name: one of :func:`names`.
      image_shape: ``(height, width, channels)`` of one image; ``linear`` and ``mlp``
        take inputs of any shape.
      num_classes: the number of logits. With ``weights``, ``None`` keeps the file's
        last layer, and a number other than the file's makes a new one.
      weights: a .safetensors file to start from, with names as in timm, torchvision,
        transformers or ``save_weights``. A ResNet gets the stem of the file; learned
        positions are interpolated.
      rngs: the source of the initial parameters, under the name ``params``, or a key
        of ``jax.random``. It may be ``None`` if all parameters come from the file.
      dtype: the type in which convolutions and matrix products are computed.
        Parameters, batch statistics and logits are always float32.
      axis_name: the mapped axis (of ``pmap`` or ``shard_map``) over which batch norm
        takes its statistics; ``None`` takes those of the batch it is given.
      **given: the network's own, see :func:`options`.

    Returns:
      The module; ``images`` are ``[batch, height, width, channels]``.

    Raises:
      InputError: an unknown name or option, images too small for the network, or
        weights that are not those of this network.

    Example:
      >>> model = create("cnn", image_shape=(8, 8, 1), num_classes=10,
      ...                channels=(8, 16), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1)), train=False).shape
      (2, 10)
    """
    if len(image_shape) != 3 and name in _CONSTRUCTORS and name not in _OF_ANY_SHAPE:
        raise InputError(
            f"model {name!r} takes images [height, width, channels], and an input has "
            f"the shape {list(image_shape)}: expected one of {', '.join(_OF_ANY_SHAPE)}"
            " for it; set model.name"
        )
    construct = _constructor(
        name, given, image_shape=image_shape, dtype=dtype, axis_name=axis_name
    )
    if weights is not None:
        return pretrained(
            construct,
            weights,
            num_classes=num_classes,
            rngs=rngs,
            stem_as_in_file=_stem_is_open(name, given),
        )
    if num_classes is None or rngs is None:
        raise InputError(
            f"model {name!r} without weights needs num_classes and rngs, such as "
            "rngs=nnx.Rngs(0)"
        )
    return construct(num_classes=num_classes, rngs=as_rngs(rngs))


def describe_weights(
    name: str, weights: str | os.PathLike[str], **given: Any
) -> Description:
    """Returns what a file of weights says about itself.

    Args:
      name: the network that it is for.
      weights: a .safetensors file.
      **given: the network's own options.

    Raises:
      InputError: a file that cannot be read, or that is of another network.
    """
    # Large enough for every network: the names depend on no shape.
    construct = _constructor(name, given, image_shape=(64, 64, 3))
    return describe(construct, weights, stem_as_in_file=_stem_is_open(name, given))


def _constructor(
    name: str, given: dict[str, Any], **common: Any
) -> Callable[..., nnx.Module]:
    known = options(name)
    for option in given:
        if option not in known:
            raise InputError(
                f"model {name!r} has no option {option!r}: it accepts "
                f"{', '.join(known) or 'none'}"
            )
    return functools.partial(_CONSTRUCTORS[name], **common, **given)


def _stem_is_open(name: str, given: dict[str, Any]) -> bool:
    """Whether a file decides the form of a ResNet's stem."""
    return "small_images" in options(name) and "small_images" not in given
