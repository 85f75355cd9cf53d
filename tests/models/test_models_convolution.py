from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dal_jax.models import convolution as module
from dal_jax.models.convolution import convolution
from dal_jax.training.parallel import make_parallel

SHAPES = [
    # height, width, side, stride
    (8, 8, 3, 1),
    (9, 6, 3, 1),
    (8, 8, 3, 2),
    (9, 8, 3, 2),
    (14, 13, 7, 2),
    (8, 7, 1, 1),
    (9, 8, 1, 2),
    (2, 1, 3, 1),
    (1, 2, 7, 2),
]


def plain_convolution(images, kernel, stride):
    """The definition: a sum over the window, zero outside the image."""
    side, half = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
    rows, columns = (-(-size // stride) for size in images.shape[1:3])
    outputs = np.zeros((images.shape[0], rows, columns, kernel.shape[-1]))
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            window = padded[:, top : top + side, left : left + side]
            outputs[:, row, column] = np.tensordot(window, kernel, 3)
    return outputs


def draw(height, width, side, batch=4, dtype=np.float64):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, height, width, 3)).astype(dtype)
    kernel = generator.normal(size=(side, side, 3, 5)).astype(dtype)
    return images, kernel


@pytest.mark.parametrize("shape", SHAPES)
def test_value_is_the_definition(shape):
    height, width, side, stride = shape
    images, kernel = draw(height, width, side)
    with jax.enable_x64(True):
        outputs = jax.jit(convolution, static_argnums=2)(images, kernel, stride)
    np.testing.assert_allclose(
        outputs, plain_convolution(images, kernel, stride), atol=1e-12
    )


@pytest.mark.parametrize("chunk_bytes", [2**20, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_transposed_convolution(shape, chunk_bytes, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    height, width, side, stride = shape
    images, kernel = draw(height, width, side)
    generator = np.random.default_rng(1)
    cotangent = generator.normal(size=plain_convolution(images, kernel, stride).shape)

    @jax.jit
    def gradients(images, kernel, cotangent):
        _, backward = jax.vjp(lambda *args: convolution(*args, stride), images, kernel)
        return backward(cotangent)

    with jax.enable_x64(True):
        images_gradient, kernel_gradient = map(
            np.asarray, gradients(images, kernel, cotangent)
        )
    # <cotangent, conv(v, kernel)> = <images_gradient, v> for every v, likewise for
    # the kernel: the convolution is linear in each.
    for _ in range(3):
        v = generator.normal(size=images.shape)
        expected = np.sum(cotangent * plain_convolution(v, kernel, stride))
        np.testing.assert_allclose(np.sum(images_gradient * v), expected, rtol=1e-9)
        w = generator.normal(size=kernel.shape)
        expected = np.sum(cotangent * plain_convolution(images, w, stride))
        np.testing.assert_allclose(np.sum(kernel_gradient * w), expected, rtol=1e-9)


def test_both_platforms_gradients_agree():
    images, kernel = draw(9, 8, 3)
    cotangent = np.random.default_rng(1).normal(size=(4, 5, 4, 5))
    with jax.enable_x64(True):
        canonical, derived = jax.jit(
            lambda *arguments: (
                module._gradients_canonical(*arguments, stride=2),
                module._gradients_derived(*arguments, stride=2),
            )
        )(images, kernel, cotangent)
    for one, other in zip(canonical, derived, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-11)


def test_gradient_of_gradient():
    """By images and kernel, each through the gradient by either."""
    arguments = draw(5, 4, 3)

    def norm(*arguments):
        def cubes(*arguments):
            return jnp.sum(convolution(*arguments) ** 3)

        gradients = jax.grad(cubes, (0, 1))(*arguments)
        return sum(jnp.sum(gradient**2) for gradient in gradients)

    with jax.enable_x64(True):
        value_and_slopes = jax.jit(jax.value_and_grad(norm, (0, 1)))
        rng = np.random.default_rng(2)
        steps = [1e-6 * rng.normal(size=x.shape) for x in arguments]
        ahead, behind = (
            value_and_slopes(
                *(x + s * sign for x, s in zip(arguments, steps, strict=True))
            )[0]
            for sign in (1, -1)
        )
        _, slopes = value_and_slopes(*arguments)
        actual = sum(np.sum(slope * s) for slope, s in zip(slopes, steps, strict=True))
        np.testing.assert_allclose(actual, (ahead - behind) / 2, rtol=1e-5)


def loss(images, kernel):
    return jnp.sum(jnp.sin(convolution(images, kernel)))


@pytest.fixture
def small_chunks(monkeypatch):
    # Small enough that the loop over chunks runs on a test's few images.
    monkeypatch.setattr(module, "_CHUNK_BYTES", 2**12)


@pytest.mark.usefixtures("small_chunks")
def test_vmap_over_kernels():
    gradient = jax.jit(jax.grad(loss, 1))
    images, kernel = draw(6, 6, 3, dtype=np.float32)
    kernels = np.stack([kernel, 2 * kernel])
    mapped = jax.jit(jax.vmap(jax.grad(loss, 1), (None, 0)))(images, kernels)
    for i in range(2):
        # Each is a sum of 216 products, and some of the sums cancel.
        expected = np.asarray(gradient(images, kernels[i]))
        atol = 1e-5 * float(np.max(np.abs(expected)))
        np.testing.assert_allclose(mapped[i], expected, rtol=1e-4, atol=atol)


@pytest.mark.usefixtures("small_chunks")
def test_shard_map_and_jit_over_a_mesh():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    images, kernel = draw(6, 6, 3, dtype=np.float32)
    expected = jax.jit(jax.grad(loss, 1))(images, kernel)
    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        jax.grad(lambda k, x: jax.lax.psum(loss(x, k), "data")),
        mesh=mesh,
        in_specs=(PartitionSpec(), spec),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(jax.jit(mapped)(kernel, images), expected, rtol=1e-4)
    sharded = jax.device_put(images, NamedSharding(mesh, spec))
    actual = jax.jit(jax.grad(loss, 1))(sharded, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_only_one_platforms_gradient_is_compiled():
    images, kernel = draw(8, 8, 3, dtype=np.float32)
    text = jax.jit(jax.grad(loss, 1)).lower(images, kernel).compile().as_text()
    # The value and the gradient of the kernel; that of the images is not asked for.
    # Had the choice between platforms survived, there would be a conditional.
    assert text.count(" convolution(") == 2
    assert "conditional" not in text


def test_bfloat16_stays_bfloat16():
    images, kernel = draw(6, 6, 3, dtype=np.float32)
    images, kernel = images.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    summed = jax.value_and_grad(
        lambda *args: jnp.sum(convolution(*args).astype(jnp.float32)), (0, 1)
    )
    value, gradients = jax.jit(summed)(images, kernel)
    assert np.isfinite(value)
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2


def test_works_in_a_loop_with_a_traced_length():
    images, kernel = draw(6, 6, 3, dtype=np.float32)

    @jax.jit
    def descend(count, kernel):
        def body(_, kernel):
            return kernel - 0.01 * jax.grad(loss, 1)(images, kernel)

        return jax.lax.fori_loop(0, count, body, kernel)

    gradient = jax.jit(jax.grad(loss, 1))
    expected = kernel
    for _ in range(3):
        expected = expected - 0.01 * np.asarray(gradient(images, expected))
    np.testing.assert_allclose(descend(3, kernel), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    jax.default_backend() != "cpu" or metadata.version("jaxlib") != "0.10.2",
    reason="of one release of jaxlib, on the CPU",
)
def test_no_convolution_is_left_to_the_library_that_uses_one_core():
    def squares(kernel, images):
        return jnp.sum(convolution(images, kernel) ** 2)

    # Smaller ones are never left to it.
    images, kernel = (
        np.ones(shape, np.float32) for shape in ((16, 16, 16, 32), (3, 3, 32, 32))
    )
    step = jax.value_and_grad(squares)
    as_it_is = jax.jit(step).lower(kernel, images).compile().as_text()
    assert "ynn_fusion" in as_it_is
    trained = make_parallel("jit", 1).compile(step)
    assert "ynn_fusion" not in trained.lower(kernel, images).compile().as_text()
