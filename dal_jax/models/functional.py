"""A network as two pure functions over plain pytrees.

Flax NNX modules hold their arrays; everything else here (``jit``, ``vmap``, ``scan``,
``pmap``, optax, Orbax) wants them outside. This module is the one place that takes
them apart and puts them together again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import unknown_name
from dal_jax.models import resnet
from dal_jax.models.cnn import CNN
from dal_jax.models.mlp import MLP

if TYPE_CHECKING:
    from dal_jax.config import ModelConfig

PyTree = Any


class Functional(NamedTuple):
    """A network without arrays in it.

    ``init(key) -> (params, model_state)`` and ``apply(params, model_state, images,
    train) -> (logits, model_state)``. ``params`` is what an optimizer updates,
    ``model_state`` what the forward pass does (batch norm's running statistics);
    both are nested dicts with string keys and arrays at the leaves, and keep their
    structure and dtypes. ``train`` is a Python bool.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, jax.Array, bool], tuple[jax.Array, PyTree]]


def _mlp(config: ModelConfig, **kwargs) -> nnx.Module:
    return MLP(hidden=config.hidden, **kwargs)


def _cnn(config: ModelConfig, **kwargs) -> nnx.Module:
    return CNN(channels=config.channels, hidden=config.hidden, **kwargs)


def _resnet(constructor: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    return lambda config, **kwargs: constructor(**kwargs)


_BUILDERS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet18": _resnet(resnet.resnet18),
    "resnet34": _resnet(resnet.resnet34),
    "preact_resnet18": _resnet(resnet.preact_resnet18),
    "resnet50": _resnet(resnet.resnet50),
}


def names() -> tuple[str, ...]:
    """Returns the names that ``model.name`` may take, sorted.

    Example:
      >>> "cnn" in names()
      True
    """
    return tuple(sorted(_BUILDERS))


def build(
    config: ModelConfig,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Builds a network; ``model(images, train)`` gives float32 logits.

    Args:
      config: the network's name and its sizes.
      image_shape: ``(height, width, channels)`` of one image.
      num_classes: the number of logits.
      dtype: what convolutions and matrix products compute in. Parameters, batch
        statistics and logits are float32 whatever it is.
      axis_name: the mapped axis (of ``pmap`` or ``shard_map``) over which batch norm
        takes its statistics; ``None`` takes those of the batch it is given.
      rngs: the source of the initial parameters, under the name ``params``.

    Returns:
      The module; ``images`` are ``[batch, height, width, channels]``.

    Raises:
      InputError: an unknown name, or images too small for the network.

    Example:
      >>> from dal_jax.config import ModelConfig
      >>> model = build(ModelConfig("cnn"), image_shape=(8, 8, 1), num_classes=10,
      ...               rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 8, 8, 1)), train=False).shape
      (2, 10)
    """
    if config.name not in _BUILDERS:
        raise unknown_name("model", config.name, _BUILDERS)
    return _BUILDERS[config.name](
        config,
        image_shape=image_shape,
        num_classes=num_classes,
        dtype=dtype,
        axis_name=axis_name,
        rngs=rngs,
    )


def functionalize(
    config: ModelConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> Functional:
    """Returns the network as pure functions; arguments as of :func:`build`.

    Example:
      >>> from dal_jax.config import ModelConfig
      >>> network = functionalize(ModelConfig("mlp"), (8, 8, 1), num_classes=10)
      >>> params, model_state = network.init(jax.random.key(0))
      >>> images = jnp.zeros((2, 8, 8, 1))
      >>> logits, model_state = network.apply(params, model_state, images, True)
      >>> logits.shape, logits.dtype.name
      ((2, 10), 'float32')
    """

    def module(rngs: nnx.Rngs) -> nnx.Module:
        return build(
            config,
            image_shape=image_shape,
            num_classes=num_classes,
            dtype=dtype,
            axis_name=axis_name,
            rngs=rngs,
        )

    graph, _, _ = nnx.split(nnx.eval_shape(lambda: module(nnx.Rngs(0))), nnx.Param, ...)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, params, model_state = nnx.split(module(nnx.Rngs(params=key)), nnx.Param, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)

    def apply(
        params: PyTree, model_state: PyTree, images: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        # Without copy=True the module would share Variables with what was passed in
        # and could not be built inside a transformation.
        model: Any = nnx.merge(graph, params, model_state, copy=True)
        logits = model(images, train=train)
        new_state = nnx.state(model, nnx.Not(nnx.Param))
        return logits, nnx.to_pure_dict(new_state)

    return Functional(init, apply)
