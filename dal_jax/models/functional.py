"""Any network as two pure functions over plain pytrees.

Flax modules hold their arrays or variables inside; everything else here (``jit``,
``vmap``, ``scan``, ``pmap``, optax, Orbax) needs them outside. This module separates
networks from their arrays and puts them together again.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx

from dal_jax.errors import InputError

PyTree = Any


class Functional(NamedTuple):
    """A network without arrays in it.

    ``init(key) -> (params, model_state)`` and ``apply(params, model_state, inputs,
    train) -> (logits, model_state)``. ``params`` is what an optimizer updates,
    ``model_state`` what the forward pass does (batch norm's running statistics, the
    counters of dropout). Both are pytrees of arrays that keep their structure and
    dtypes. ``train`` is a Python bool.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, jax.Array, bool], tuple[jax.Array, PyTree]]


def functionalize(model: Any, inputs: Any = None) -> Functional:
    """Returns a network as pure functions.

    Args:
      model: one of

        - an ``nnx.Module``; training starts from its parameters, and the module itself
          is not changed,
        - a function ``(rngs: nnx.Rngs) -> nnx.Module``,
        - a ``flax.linen.Module``,
        - a :class:`Functional`, or a plain pair ``(init, apply)`` like it.

        If the module's call has a ``train`` argument, it is passed by keyword. An NNX
        module without one is switched with its ``train()`` and ``eval()`` methods.
      inputs: a batch, or its shape and dtype as ``jax.ShapeDtypeStruct``; Linen
        modules take their parameters' shapes from it.

    Raises:
      InputError: ``model`` is not a network.

    Example:
      >>> network = functionalize(lambda rngs: nnx.Linear(4, 10, rngs=rngs))
      >>> params, model_state = network.init(jax.random.key(0))
      >>> logits, model_state = network.apply(params, model_state, jnp.zeros((2, 4)),
      ...                                     True)
      >>> logits.shape
      (2, 10)
    """
    if isinstance(model, Functional):
        return model
    if isinstance(model, nnx.Module):
        return _from_nnx_module(model)
    if isinstance(model, linen.Module):
        if inputs is None:
            raise InputError("a Linen module needs the shape of its inputs; pass them")
        return _from_linen(model, inputs)
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return Functional(*model)
    if callable(model):
        return _from_constructor(cast(Callable[[nnx.Rngs], nnx.Module], model))
    raise InputError(
        f"the model is a {type(model).__name__}: expected an nnx.Module, a function "
        "(rngs) -> nnx.Module, a flax.linen.Module or a pair (init, apply)"
    )


def _from_constructor(construct: Callable[[nnx.Rngs], nnx.Module]) -> Functional:
    abstract = nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
    if not isinstance(abstract, nnx.Module):
        raise InputError(
            f"the model's function returned a {type(abstract).__name__}: expected an "
            "nnx.Module; pass (rngs) -> nnx.Module"
        )
    graph, _, _ = nnx.split(abstract, nnx.Param, ...)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        rngs = nnx.Rngs(jax.random.fold_in(key, 1), params=key)
        _, params, model_state = nnx.split(construct(rngs), nnx.Param, ...)
        return nnx.to_pure_dict(params), _without_keys(nnx.to_pure_dict(model_state))

    return Functional(init, _nnx_apply(graph, abstract))


def _from_nnx_module(module: nnx.Module) -> Functional:
    graph, params, model_state = nnx.split(module, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    model_state = _without_keys(nnx.to_pure_dict(model_state))
    copied = jax.tree.map(jnp.copy, (params, model_state))
    return Functional(lambda key: copied, _nnx_apply(graph, module))


def _nnx_apply(graph: Any, module: nnx.Module) -> Callable[..., Any]:
    takes_train = _takes_train(module)
    keys = _key_paths(nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param))))

    def apply(
        params: PyTree, model_state: PyTree, inputs: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        # Without copy=True the module would share Variables with what was passed in
        # and could not be built inside a transformation.
        model_state = _with_keys(model_state, keys)
        model: Any = nnx.merge(graph, params, model_state, copy=True)
        if takes_train:
            logits = model(inputs, train=train)
        else:
            model.train() if train else model.eval()
            logits = model(inputs)
        new_state = nnx.state(model, nnx.Not(nnx.Param))
        return logits, _without_keys(nnx.to_pure_dict(new_state))

    return apply


def _from_linen(module: linen.Module, inputs: Any) -> Functional:
    takes_train = _takes_train(module)
    example = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)

    def mode(train: bool) -> dict[str, Any]:
        return {"train": train} if takes_train else {}

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        zeros = jnp.zeros(example.shape, example.dtype)
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        variables = dict(module.init(rngs, zeros, **mode(False)))
        params = variables.pop("params", {})
        dropout = jax.random.key_data(jax.random.fold_in(key, 2))
        return params, {"collections": variables, "dropout": dropout}

    def apply(
        params: PyTree, model_state: PyTree, inputs: jax.Array, train: bool
    ) -> tuple[jax.Array, PyTree]:
        collections, dropout = model_state["collections"], model_state["dropout"]
        variables = {"params": params, **collections}
        if not train:
            logits = cast(jax.Array, module.apply(variables, inputs, **mode(False)))
            return logits, model_state
        key, following = jax.random.split(jax.random.wrap_key_data(dropout))
        logits, changed = module.apply(
            variables,
            inputs,
            **mode(True),
            mutable=list(collections),
            rngs={"dropout": key},
        )
        return logits, {
            "collections": {**collections, **changed},
            "dropout": jax.random.key_data(following),
        }

    return Functional(init, apply)


def _takes_train(module: Any) -> bool:
    return "train" in inspect.signature(type(module).__call__).parameters


# Random keys of NNX modules become plain numbers, so everything that is checkpointed,
# averaged over devices or compared has a plain dtype.


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_paths(tree: PyTree) -> frozenset[Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return frozenset(path for path, leaf in leaves if _is_key(leaf))


def _without_keys(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree
    )


def _with_keys(tree: PyTree, keys: frozenset[Any]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.random.wrap_key_data(leaf) if path in keys else leaf,
        tree,
    )
