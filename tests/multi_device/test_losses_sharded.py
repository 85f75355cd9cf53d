"""The loss on several devices equals the loss on one."""

import pytest

SETUP = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dal_jax import dal_objective

rng = np.random.default_rng(0)
logits = jnp.asarray(rng.normal(0, 3, (16, 1000)), jnp.float32)
labels = jnp.asarray(rng.integers(1000, size=16), jnp.int32)
direction = jnp.asarray(rng.normal(0, 3, (16, 1000)), jnp.float32)

def losses(z, y):
    soft = dal_objective(z, y, 1.3, 0.5)
    return soft + dal_objective(z, y, 1.3, 0.5, bootstrap="hard")

def everything(z, y, d):
    mean = lambda z: losses(z, y).mean()
    gradient, product = jax.jvp(jax.grad(mean), (z,), (d,))
    return losses(z, y), gradient, product

expected = jax.jit(everything)(logits, labels, direction)

def compare(actual):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7)
    assert np.abs(expected[2]).max() > 1e-4
"""


def test_pmap_on_eight_devices(run_with_devices):
    code = (
        SETUP
        + """
per_device = lambda x: x.reshape(8, 2, *x.shape[1:])
def step(z, y, d):
    value, gradient, product = everything(z, y, d)
    assert jax.lax.axis_size("devices") == 8
    # The mean over a device's two examples becomes that over all sixteen.
    return value, gradient / 8, product / 8
actual = jax.pmap(step, "devices")(*map(per_device, (logits, labels, direction)))
compare([a.reshape(16, *a.shape[2:]) for a in actual])
print(jax.device_count())
"""
    )
    assert run_with_devices(code, 8).strip() == "8"


@pytest.mark.parametrize("types", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", ["P(None, 'class')", "P('data', 'class')"])
def test_class_axis_sharded_over_four(run_with_devices, types, spec):
    code = (
        SETUP
        + f"""
spec = {spec}
mesh = jax.make_mesh((2, 4), ("data", "class"), axis_types=(AxisType.{types},) * 2)
put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
arguments = put(logits, spec), put(labels, P(spec[0])), put(direction, spec)
with jax.set_mesh(mesh):
    compiled = jax.jit(everything).lower(*arguments).compile()
    actual = compiled(*arguments)
compare(actual)
assert actual[1].sharding.spec == spec, actual[1].sharding
# Rows of a thousand classes are never put together; maxima and sums of them are.
lines = compiled.as_text().splitlines()
print(any("all-gather" in line and ",1000]" in line for line in lines))
"""
    )
    assert run_with_devices(code, 8).strip() == "False"


def test_shard_map_over_the_batch(run_with_devices):
    code = (
        SETUP
        + """
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
sharded = jax.shard_map(losses, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
def sharded_everything(z, y, d):
    mean = lambda z: sharded(z, y).mean()
    return sharded(z, y), *jax.jvp(jax.grad(mean), (z,), (d,))
compare(jax.jit(sharded_everything)(logits, labels, direction))
print("ok")
"""
    )
    assert run_with_devices(code, 8).strip() == "ok"
