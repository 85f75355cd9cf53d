"""The last layer, which fine-tuning treats differently from the backbone."""

from collections.abc import Iterable
from typing import Any

import jax

from dal_jax.models.functional import Functional


def is_head(path: str | Iterable[Any]) -> bool:
    """Whether a parameter belongs to the last layer.

    Args:
      path: the keys that lead to it in the parameters: strings, JAX's key objects (as
        ``jax.tree.map_with_path`` passes them), or one string with dots.

    Example:
      >>> is_head(("classifier", "head", "kernel")), is_head("stem.kernel")
      (True, False)
    """
    keys = path.split(".") if isinstance(path, str) else path
    return "head" in [getattr(key, "key", key) for key in keys]


def freeze_backbone(network: Functional) -> Functional:
    """Returns a network in which only the last layer learns.

    The backbone stays in evaluation mode during training: batch norm uses its running
    statistics and does not change them. The gradient below the last layer is zero and
    is not computed. If the optimizer decays weights, exclude the backbone yourself
    (``optax.masked`` with :func:`is_head`).

    Example:
      >>> from dal_jax.models import create, functionalize
      >>> network = functionalize(lambda rngs: create(
      ...     "mlp", image_shape=(4, 4, 1), num_classes=3, rngs=rngs))
      >>> params, model_state = network.init(jax.random.key(0))
      >>> def total(params):
      ...     images = jax.numpy.ones((2, 4, 4, 1))
      ...     logits, _ = freeze_backbone(network).apply(
      ...         params, model_state, images, True)
      ...     return logits.sum()
      >>> gradient = jax.grad(total)(params)
      >>> bool(gradient["head"]["kernel"].any())
      True
      >>> bool(gradient["dense"]["dense0"]["kernel"].any())
      False
    """

    def apply(params: Any, model_state: Any, inputs: Any, train: bool):
        del train  # the last layer is the same in both modes

        def held(path: Any, parameter: jax.Array) -> jax.Array:
            return parameter if is_head(path) else jax.lax.stop_gradient(parameter)

        params = jax.tree.map_with_path(held, params)
        return network.apply(params, model_state, inputs, False)

    return Functional(network.init, apply)
