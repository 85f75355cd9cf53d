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


def modules():
    rngs = nnx.Rngs(0)
    return {
        "batch_norm": layers.BatchNorm(4),
        "basic": resnet.BasicBlock(4, 6, 2, rngs=rngs, **COMMON),
        "bottleneck": resnet.BottleneckBlock(4, 2, 2, rngs=rngs, **COMMON),
        "pre_activation": resnet.PreActivationBlock(4, 6, 2, rngs=rngs, **COMMON),
    }


def flat(state):
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(state))
    return {"/".join(key.key for key in path): value for path, value in leaves}


def load(module, arrays, case):
    def value(path, _):
        name = "/".join(key.key for key in path)
        return jnp.asarray(arrays[f"{case}::before/{name}"])

    state = nnx.to_pure_dict(nnx.state(module))
    nnx.update(module, jax.tree.map_with_path(value, state))


@pytest.mark.parametrize("case", list(modules()))
def test_training_statistics_and_evaluation(case, golden):
    module = modules()[case]
    load(module, golden, case)
    graph, state = nnx.split(module)
    for step in range(2):
        images, weights = golden[f"{case}::images{step}"], f"{case}::weights{step}"

        def weighted(images, state=state, weights=golden[weights]):
            current = nnx.merge(graph, state, copy=True)
            output = current(images, True)
            return jnp.sum(output * weights), (output, nnx.state(current))

        gradient, (output, state) = jax.grad(weighted, has_aux=True)(images)
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
    evaluated = nnx.merge(graph, state)(images, False)
    np.testing.assert_allclose(
        evaluated, golden[f"{case}::evaluated"], rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("case", ["max_pool", "overlapping_max_pool", "convolution7"])
def test_functions(case, golden):
    if case == "convolution7":
        kernel = golden["convolution7::before/kernel"]

        def function(images):
            return layers.convolution(images, kernel, 2)

    else:
        function = getattr(layers, case)
    output, backward = jax.vjp(function, golden[f"{case}::images0"])
    np.testing.assert_allclose(output, golden[f"{case}::output0"], rtol=1e-5, atol=1e-5)
    (gradient,) = backward(jnp.asarray(golden[f"{case}::weights0"]))
    np.testing.assert_allclose(
        gradient, golden[f"{case}::gradient0"], rtol=1e-5, atol=1e-5
    )
