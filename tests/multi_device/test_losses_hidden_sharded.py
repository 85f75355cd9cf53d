"""Losses from hidden states on several devices: as on one, and no logits travel."""

import pytest

CODE = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dal_jax import losses

ROWS, FEATURES, CLASSES = 96, 8, 176
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
hidden, kernel, bias = draw(ROWS, FEATURES), draw(FEATURES, CLASSES), draw(CLASSES)
labels = jnp.asarray(rng.integers(CLASSES, size=ROWS), jnp.int32)
weights = draw(ROWS)
loss = losses.make("dal", total_steps=10)
blocks = losses.from_hidden(loss, rows_per_block=32)
mean = losses.mean_from_hidden(loss, rows_per_block=32)

def step(hidden, kernel, bias, labels, weights):
    def total(hidden, kernel, bias):
        value = blocks(hidden, kernel, labels, 8, bias=bias) * weights
        return value.sum() + mean(hidden, kernel, labels, 8, bias=bias)
    return jax.value_and_grad(total, (0, 1, 2))(hidden, kernel, bias)

arguments = hidden, kernel, bias, labels, weights
expected = jax.jit(step)(*arguments)

def compare(actual):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.parametrize("types", ["Auto", "Explicit"])
def test_rows_and_classes_on_eight_devices(run_with_devices, types):
    code = (
        CODE
        + f"""
def check(data, model):
    mesh = jax.make_mesh((data, model), ("data", "class"),
                         axis_types=(AxisType.{types},) * 2)
    specs = P("data"), P(None, "class"), P("class"), P("data"), P("data")
    placed = [jax.device_put(x, NamedSharding(mesh, spec))
              for x, spec in zip(arguments, specs)]
    with jax.set_mesh(mesh):
        compiled = jax.jit(step).lower(*placed).compile()
        actual = compiled(*placed)
    compare(actual)
    assert actual[1][1].sharding.is_equivalent_to(placed[1].sharding, 2)
    # What travels: numbers of rows, hidden states and, between the devices that hold
    # other rows, gradients of their own classes. A block's logits have 32 / data rows
    # of 176 / model classes; nothing of that size, and no array of all classes but the
    # bias's.
    text = compiled.as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (.*?) (?:{{kinds}})(?:-start)?\\(", text)
    shapes = [tuple(map(int, filter(None, s.split(","))))
              for kind in found for s in re.findall(r"\\w+\\[([\\d,]*)\\]", kind)]
    assert shapes
    own = FEATURES * CLASSES // model
    for shape in shapes:
        size = int(np.prod(shape, initial=1))
        gradient = data > 1 and size == own
        assert gradient or size <= ROWS * FEATURES, shape
        assert model == 1 or CLASSES not in shape or len(shape) == 1, shape

for shape in ((1, 8), (2, 4), (8, 1)):
    check(*shape)
    print(shape)
"""
    )
    assert run_with_devices(code, 8).splitlines() == ["(1, 8)", "(2, 4)", "(8, 1)"]


def test_shard_map_over_the_rows(run_with_devices):
    code = (
        CODE
        + """
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
def of_device(hidden, kernel, bias, labels, weights):
    kernel, bias = (jax.lax.pcast(x, "data", to="varying") for x in (kernel, bias))
    value = blocks(hidden, kernel, labels, 8, bias=bias) * weights
    own = value.sum() + mean(hidden, kernel, labels, 8, bias=bias) / 8
    return jax.lax.psum(own, "data")
total = jax.shard_map(of_device, mesh=mesh, out_specs=P(),
                      in_specs=(P("data"), P(), P(), P("data"), P("data")))
compare(jax.jit(jax.value_and_grad(total, (0, 1, 2)))(*arguments))
print("ok")
"""
    )
    assert run_with_devices(code, 8).strip() == "ok"
