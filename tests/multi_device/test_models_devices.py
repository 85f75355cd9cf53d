"""A residual network on several devices equals the same on one."""

CODE = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dal_jax.models import convolution, resnet

# Small enough that the gradient of a kernel is summed over parts of the batch.
convolution._CHUNK_BYTES = 2**14

def construct(axis_name=None):
    # One block, of the second stage: with a stride and a projection.
    model = resnet.ResNet(
        resnet.BasicBlock, (0, 1), small_images=True, image_shape=(8, 8, 3),
        num_classes=4, axis_name=axis_name, rngs=nnx.Rngs(0),
    )
    return nnx.split(model, nnx.Param, ...)

params, rest = jax.jit(lambda: tuple(map(nnx.to_pure_dict, construct()[1:])))()

def gradient_of_loss(axis_name):
    graph = nnx.eval_shape(lambda: construct(axis_name))[0]

    def loss(params, images):
        model = nnx.merge(graph, params, rest, copy=True)
        logits = model(images, train=True)
        state = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return jnp.square(logits - jnp.arange(4.0)).mean(), state

    return jax.value_and_grad(loss, has_aux=True)

images = np.random.default_rng(0).normal(1, 2, (16, 8, 8, 3)).astype(np.float32)
step = gradient_of_loss(None)
expected = jax.jit(step)(params, images)

def compare(actual):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=2e-5)

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

# jit over a mesh
batch = jax.device_put(images, NamedSharding(mesh, P("data")))
everywhere = jax.device_put(params, NamedSharding(mesh, P()))
compare(jax.jit(step)(everywhere, batch))

# pmap
step = gradient_of_loss("data")
mean = lambda *args: jax.lax.pmean(step(*args), "data")
parts = jax.pmap(mean, "data", in_axes=(None, 0))(params, images.reshape(8, 2, 8, 8, 3))
compare(jax.tree.map(lambda x: np.asarray(x)[3], parts))

# shard_map
def shard(params, images):
    (value, state), gradient = step(params, images)
    # shard_map has summed the gradients of shared parameters over the devices.
    return (jax.lax.pmean(value, "data"), state), jax.tree.map(
        lambda g: g / 8, gradient
    )

mapped = jax.shard_map(shard, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
compare(jax.jit(mapped)(params, images))
print(jax.device_count())
"""


def test_eight_devices_equal_one(run_with_devices):
    assert run_with_devices(CODE, 8).strip() == "8"
