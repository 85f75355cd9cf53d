import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dal_jax import models
from dal_jax.errors import InputError
from dal_jax.models import layers, resnet

SHAPES = {
    "mlp": (8, 8, 1),
    "cnn": (8, 8, 1),
    "resnet18": (8, 8, 3),
    "resnet34": (8, 8, 3),
    "preact_resnet18": (8, 8, 3),
    "resnet50": (32, 32, 3),
}


def network(name, num_classes=10, **kwargs):
    def construct(rngs):
        given = {"image_shape": SHAPES[name]} | kwargs
        return models.create(name, num_classes=num_classes, rngs=rngs, **given)

    return models.functionalize(construct)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        # 64 pixels -> 128 -> 10
        ("mlp", 10, 64 * 128 + 128 + 128 * 10 + 10),
        # 1 -> 32 -> 64 channels, 2x2 pixels left, 128, 10
        ("cnn", 10, 9 * 32 + 32 + 9 * 32 * 64 + 64 + 256 * 128 + 128 + 1290),
        ("resnet18", 10, 11_173_962),  # as the usual PyTorch CIFAR code prints
        ("resnet18", 100, 11_220_132),
        ("resnet34", 10, 21_282_122),
        # The usual code's 11,171,146 and a final batch norm of 512 channels.
        ("preact_resnet18", 10, 11_171_146 + 2 * 512),
        ("resnet50", 1000, 25_557_032),  # torchvision
        ("resnet50", 50, 25_557_032 - 950 * 2049),
    ],
)
def test_number_of_parameters(name, num_classes, expected):
    params, _ = jax.eval_shape(network(name, num_classes).init, jax.random.key(0))
    assert count(params) == expected


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_structure_and_dtypes_stay(name, dtype):
    functional = network(name, dtype=dtype)
    before = jax.eval_shape(functional.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *SHAPES[name]), dtype)
    for train in (True, False):
        logits, model_state = jax.eval_shape(
            lambda *args, train=train: functional.apply(*args, train), *before, images
        )
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
        assert model_state == before[1]
    for path, leaf in jax.tree.leaves_with_path(before):
        assert leaf.dtype == jnp.float32
        assert all(isinstance(getattr(key, "key", 0), str | int) for key in path)


def test_bfloat16_is_close_to_float32():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    logits = []
    for dtype in (jnp.float32, jnp.bfloat16):
        functional = network("cnn", dtype=dtype)
        state = jax.jit(functional.init)(jax.random.key(0))
        apply = jax.jit(functional.apply, static_argnums=3)
        logits.append(apply(*state, images, False)[0])
    difference = float(jnp.abs(logits[0] - logits[1]).max())
    assert 0 < difference < 0.05


def test_initialisation_depends_on_the_key_alone():
    init = jax.jit(network("cnn").init)
    first, again, other = (init(jax.random.key(seed))[0] for seed in (0, 0, 1))
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), first, again)
    assert all(jax.tree.leaves(equal))
    kernels = [p["classifier"]["head"]["kernel"] for p in (first, other)]
    assert not (kernels[0] == kernels[1]).any()


@pytest.mark.parametrize(
    ("initialization", "deviation", "bound"),
    [
        # fan_in is 9 * 32, fan_out 9 * 64
        (layers.TORCH, (3 * 288) ** -0.5, 288**-0.5),
        (layers.HE_FAN_OUT, (2 / 576) ** 0.5, None),
        (layers.LECUN, 288**-0.5, None),
    ],
)
def test_initial_kernels(initialization, deviation, bound):
    kernel = initialization.kernel(jax.random.key(0), (3, 3, 32, 64))
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.02)
    assert abs(kernel.mean()) < 0.05 * deviation
    bias = initialization.bias(288)(jax.random.key(0), (4096,))
    if bound is None:
        assert not bias.any()
    else:
        assert 0.99 * bound < jnp.abs(kernel).max() <= bound
        assert 0.99 * bound < jnp.abs(bias).max() <= bound


@pytest.mark.parametrize("initialization", [layers.TORCH, layers.HE_FAN_OUT])
def test_resnets_start_as_their_pytorch_counterparts(initialization):
    model = resnet.ResNet(
        resnet.BasicBlock,
        (1,),
        small_images=True,
        image_shape=(8, 8, 3),
        num_classes=100,
        initialization=initialization,
        rngs=nnx.Rngs(0),
    )
    block = model.blocks["stage0_block0"]
    kernel = block.convolution1.kernel[...]
    if initialization is layers.TORCH:
        assert 0.99 * 576**-0.5 < jnp.abs(kernel).max() <= 576**-0.5
    else:
        np.testing.assert_allclose(kernel.std(), (2 / 576) ** 0.5, rtol=0.02)
    for parameter in (model.head.kernel[...], model.head.bias[...]):
        assert 0.9 / 8 < jnp.abs(parameter).max() <= 1 / 8
    assert (block.norm1.scale[...] == 1).all()
    assert (block.norm1.bias[...] == 0).all()
    assert (block.norm1.var[...] == 1).all()
    assert not block.norm1.mean[...].any()


def test_batch_norm_is_synchronised_over_a_mapped_axis():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 5)) + 2

    def run(axis_name, x):
        norm = layers.BatchNorm(5, axis_name=axis_name)
        output = norm(x, True)
        return output, norm.mean[...], norm.var[...]

    def mapped(axis_name):
        return jax.jit(jax.vmap(lambda x: run(axis_name, x), axis_name="data"))

    whole, mean, var = run(None, x.reshape(6, 4, 4, 5))
    parts, means, variances = mapped("data")(x)
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for i in range(2):
        np.testing.assert_allclose(means[i], mean, rtol=1e-5)
        np.testing.assert_allclose(variances[i], var, rtol=1e-5)
    alone, _, _ = mapped(None)(x)
    assert jnp.abs(alone.reshape(whole.shape) - whole).max() > 1e-3


def test_batch_norm_keeps_precision_far_from_zero():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 5))
    norm = layers.BatchNorm(5)
    norm.mean[...] = jnp.full(5, 999.0)
    output = norm(jnp.asarray(x + 1000, jnp.float32), True)
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_batch_norm_of_bfloat16_computes_in_float32():
    x = jax.random.normal(jax.random.key(0), (512, 5)).astype(jnp.bfloat16)
    norm = layers.BatchNorm(5, dtype=jnp.bfloat16)
    assert norm(x, True).dtype == jnp.bfloat16
    expected = 0.1 * np.asarray(x, np.float32).mean(0)
    np.testing.assert_allclose(norm.mean[...], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 2), (3, 2)])
def test_max_pools_are_windowed_maxima(height, width):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, height, width, 3)).astype(np.float32)
    pooled = layers.max_pool(x)
    overlapping = layers.overlapping_max_pool(x)
    assert pooled.shape == (2, height // 2, width // 2, 3)
    assert overlapping.shape == (2, -(-height // 2), -(-width // 2), 3)
    for row, column in np.ndindex(pooled.shape[1:3]):
        window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_allclose(pooled[:, row, column], window.max((1, 2)), 1e-6)
    for row, column in np.ndindex(overlapping.shape[1:3]):
        top, left = max(2 * row - 1, 0), max(2 * column - 1, 0)
        window = x[:, top : 2 * row + 2, left : 2 * column + 2]
        np.testing.assert_allclose(
            overlapping[:, row, column], window.max((1, 2)), 1e-6
        )


def learn(construct, image_shape, steps=12, learning_rate=0.05):
    """Loss before and after some steps on eight images with random labels."""
    functional = models.functionalize(construct)
    params, model_state = jax.jit(functional.init)(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, *image_shape))
    labels = jnp.arange(8)

    def loss(params, model_state):
        logits, model_state = functional.apply(params, model_state, images, True)
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return values.mean(), model_state

    @jax.jit
    def step(params, model_state):
        (value, model_state), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, model_state
        )
        params = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
        return params, model_state, value

    values = []
    for _ in range(steps):
        params, model_state, value = step(params, model_state)
        values.append(float(value))
    return values


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mlp", {"hidden": (32,)}), ("cnn", {"channels": (8, 16), "hidden": (32,)})],
)
def test_small_networks_learn(name, sizes):
    def construct(rngs):
        return models.create(
            name, image_shape=SHAPES[name], num_classes=10, rngs=rngs, **sizes
        )

    values = learn(construct, SHAPES[name], steps=40, learning_rate=0.2)
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize(
    ("block", "small_images", "dtype"),
    [
        (resnet.BasicBlock, True, jnp.bfloat16),
        pytest.param(
            *(resnet.PreActivationBlock, True, jnp.float32), marks=pytest.mark.slow
        ),
        pytest.param(
            *(resnet.BottleneckBlock, False, jnp.float32), marks=pytest.mark.slow
        ),
    ],
)
def test_resnets_learn(block, small_images, dtype):
    """With two stages of one block: what is deeper repeats them."""
    image_shape = (8, 8, 3) if small_images else (32, 32, 3)

    def construct(rngs):
        return resnet.ResNet(
            block,
            (1, 1),
            small_images=small_images,
            image_shape=image_shape,
            num_classes=10,
            dtype=dtype,
            rngs=rngs,
        )

    values = learn(construct, image_shape)
    assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize(
    ("name", "image_shape"), [("cnn", (3, 8, 1)), ("resnet18", (8, 7, 3))]
)
def test_images_too_small(name, image_shape):
    with pytest.raises(InputError, match="too small") as error:
        network(name, image_shape=image_shape)
    assert "\n" not in str(error.value)


def test_unknown_network():
    with pytest.raises(InputError, match="unknown model 'resnet19': did you mean"):
        models.create(
            "resnet19", image_shape=(8, 8, 3), num_classes=10, rngs=nnx.Rngs(0)
        )
