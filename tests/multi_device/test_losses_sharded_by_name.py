"""Every loss with its classes sharded over devices equals itself on one device."""

import json

import pytest

from dal_jax import losses

CODE = """
import json, math, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dal_jax import losses

rng = np.random.default_rng(0)
logits = jnp.asarray(rng.normal(0, 3, (64, 1000)), jnp.float32)
labels = jnp.asarray(rng.integers(1000, size=64), jnp.int32)
index = jnp.asarray(rng.permutation(64))
mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def put(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))

def compile_sharded(function, *arguments):
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arguments).compile()

def moves_rows(compiled):
    # Devices may exchange a number or two a row, no logits.
    moves = re.findall(
        r"= (.+) (?:all-gather|all-to-all|collective-permute)\\(", compiled.as_text()
    )
    shapes = re.findall(r"\\[([\\d,]*)\\]", " ".join(moves))
    sizes = [math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes]
    return any(size > 4 * len(labels) for size in sizes)

sharded = put(logits, "data", "model"), put(labels, "data")
for moving in (jnp.sort, jnp.fliplr, lambda z: jnp.cumsum(z, -1)):
    assert moves_rows(compile_sharded(moving, sharded[0]))
for name in losses.names():
    options = {"noise_rate": 0.4} if "noise_rate" in losses.accepted(name) else {}
    loss = losses.make_stateful(
        name, num_examples=64, num_classes=1000, total_steps=10, **options
    )

    def everything(logits, labels, memory):
        def apply(logits):
            return loss.apply(logits, labels, 9, memory, index)[0]

        value, back = jax.vjp(apply, logits)
        return value, back(jnp.ones_like(value))[0]

    memory = loss.init()
    expected = jax.jit(everything)(logits, labels, memory)
    shared = jax.tree.map(lambda x: put(x, None, "model"), memory)
    compiled = compile_sharded(everything, *sharded, shared)
    actual = compiled(*sharded, shared)
    print(json.dumps({
        "name": name,
        "errors": [
            float(np.abs(a - np.asarray(e)).max() / np.abs(e).max())
            for a, e in zip(map(np.asarray, actual), expected, strict=True)
        ],
        "gradient is sharded": actual[1].sharding.spec == P("data", "model"),
        "moves rows": moves_rows(compiled),
    }))
"""


@pytest.fixture(scope="module")
def results(run_with_devices):
    lines = run_with_devices(CODE, 8).splitlines()
    return {result["name"]: result for result in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.names())
def test_sharded_classes_change_nothing(results, name):
    result = results[name]
    assert max(result["errors"]) < 1e-5
    assert result["gradient is sharded"]
    assert not result["moves rows"]
