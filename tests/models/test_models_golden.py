"""Layers and residual blocks equal what PyTorch computes (golden/models.npz)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dal_jax.models import layers, resnet

GOLDEN = Path(__file__).parent.parent / "golden" / "models.npz"
COMMON = {"dtype": jnp.float32, "axis_name": None, "initialization": layers.TORCH}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


MODULES = {
    "batch_norm": lambda rngs: layers.BatchNorm(4),
    "basic": lambda rngs: resnet.BasicBlock(4, 6, 2, rngs=rngs, **COMMON),
    "bottleneck": lambda rngs: resnet.BottleneckBlock(4, 2, 2, rngs=rngs, **COMMON),
    "pre_activation": lambda rngs: resnet.PreActivationBlock(
        4, 6, 2, rngs=rngs, **COMMON
    ),
}


def flat(state):
    leaves = jax.tree.leaves_with_path(state)
    return {"/".join(key.key for key in path): value for path, value in leaves}


def load(case, arrays):
    """A module's structure, and its state from the file."""

    def value(path, _):
        name = "/".join(key.key for key in path)
        return arrays[f"{case}::before/{name}"]

    module = nnx.eval_shape(lambda: MODULES[case](nnx.Rngs(0)))
    graph, state = nnx.split(module)
    return graph, jax.tree.map_with_path(value, nnx.to_pure_dict(state))


@pytest.mark.parametrize("case", list(MODULES))
def test_training_statistics_and_evaluation(case, golden):
    graph, state = load(case, golden)

    @jax.jit
    def train(state, images, weights):
        def weighted(images):
            module = nnx.merge(graph, state, copy=True)
            output = module(images, True)
            return jnp.sum(output * weights), (output, nnx.state(module))

        gradient, (output, new_state) = jax.grad(weighted, has_aux=True)(images)
        return gradient, output, nnx.to_pure_dict(new_state)

    for step in range(2):
        images, weights = (
            golden[f"{case}::{name}{step}"] for name in ("images", "weights")
        )
        gradient, output, state = train(state, images, weights)
        np.testing.assert_allclose(
            output, golden[f"{case}::output{step}"], rtol=1e-4, atol=2e-5
        )
        np.testing.assert_allclose(
            gradient, golden[f"{case}::gradient{step}"], rtol=1e-3, atol=1e-4
        )
    assert flat(state)
    for name, value in flat(state).items():
        expected = golden[f"{case}::after/{name}"]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    evaluate = jax.jit(lambda state: nnx.merge(graph, state, copy=True)(images, False))
    np.testing.assert_allclose(
        evaluate(state), golden[f"{case}::evaluated"], rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("case", ["max_pool", "overlapping_max_pool", "convolution7"])
def test_functions(case, golden):
    if case == "convolution7":
        kernel = golden["convolution7::before/kernel"]

        def function(images):
            return layers.convolution(images, kernel, 2)

    else:
        function = getattr(layers, case)

    @jax.jit
    def both(images, weights):
        output, backward = jax.vjp(function, images)
        return output, backward(weights)[0]

    output, gradient = both(golden[f"{case}::images0"], golden[f"{case}::weights0"])
    np.testing.assert_allclose(output, golden[f"{case}::output0"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        gradient, golden[f"{case}::gradient0"], rtol=1e-5, atol=1e-5
    )
