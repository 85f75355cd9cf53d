"""The sums as GPU and TPU take them, with classes on several devices."""

import pytest


@pytest.mark.parametrize("types", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    ("platform", "classes"), [("default", 1000), ("cuda", 1000), ("cuda", 1004)]
)
def test_numbers_of_rows_travel_and_logits_do_not(
    run_with_devices, platform, classes, types
):
    code = f"""
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dal_jax import dal_objective

rng = np.random.default_rng(0)
# In float32 a GPU's columns have two classes; each device has 250 and then 251.
logits = jnp.asarray(rng.normal(0, 3, (16, {classes})), jnp.float32)
labels = jnp.asarray(rng.integers({classes}, size=16), jnp.int32)

def both(z, y):
    return jax.value_and_grad(lambda z: dal_objective(z, y, 1.3, 0.5).mean())(z)

expected = jax.jit(both)(logits, labels)
jax.clear_caches()
jax.lax.platform_dependent = lambda *given, **forms: forms["{platform}"](*given)
mesh = jax.make_mesh((2, 4), ("data", "class"), axis_types=(AxisType.{types},) * 2)
put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
placed = put(logits, P("data", "class")), put(labels, P("data"))
with jax.set_mesh(mesh):
    compiled = jax.jit(both).lower(*placed).compile()
    actual = compiled(*placed)
for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7)
assert actual[1].sharding.is_equivalent_to(placed[0].sharding, 2)
kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
found = re.findall(rf"= (.*?) (?:{{kinds}})(?:-start)?\\(", compiled.as_text())
sizes = [int(np.prod([int(n) for n in s.split(",") if n], initial=1))
         for kind in found for s in re.findall(r"\\w+\\[([\\d,]*)\\]", kind)]
assert sizes and max(sizes) <= 8 * 4 * 4, sizes
print("ok")
"""
    assert run_with_devices(code, 8).strip() == "ok"
