import functools

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
    "linear": (5,),
    "mlp": (8, 8, 1),
    "cnn": (8, 8, 1),
    "resnet18": (8, 8, 3),
    "resnet34": (8, 8, 3),
    "preact_resnet18": (8, 8, 3),
    "resnet50": (32, 32, 3),
    "vit_tiny": (224, 224, 3),
    "vit_small": (224, 224, 3),
    "vit_base": (224, 224, 3),
}
COUNTS = [
    ("linear", 1000, 6 * 1000),
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
    ("vit_tiny", 1000, 5_717_416),  # timm, as the next two
    ("vit_small", 1000, 22_050_664),
    ("vit_base", 1000, 86_567_656),
]


def create(name, num_classes=10, **kwargs):
    given = {"image_shape": SHAPES[name], "rngs": nnx.Rngs(0)} | kwargs
    return models.create(name, num_classes=num_classes, **given)


@functools.cache
def shapes_of(name, num_classes):
    """The parameters' shapes."""
    module = nnx.eval_shape(lambda: create(name, num_classes))
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@pytest.mark.parametrize(("name", "num_classes", "expected"), COUNTS)
def test_number_of_parameters(name, num_classes, expected):
    leaves = jax.tree.leaves(shapes_of(name, num_classes))
    assert sum(leaf.size for leaf in leaves) == expected


def test_every_network_has_a_head_of_one_layer():
    assert {name for name, _, _ in COUNTS} == set(models.names())
    for name, num_classes, _ in COUNTS:
        leaves = jax.tree.leaves_with_path(shapes_of(name, num_classes))
        heads = {leaf.shape for path, leaf in leaves if models.is_head(path)}
        assert len(heads) == 2
        assert {shape[-1] for shape in heads} == {num_classes}
        assert len(leaves) == 2 or not all(models.is_head(path) for path, _ in leaves)


def few_blocks(block, counts=(1, 1), small_images=True):
    """By default two blocks, the second with a stride: deeper networks repeat them."""
    return functools.partial(resnet.ResNet, block, counts, small_images=small_images)


KINDS = {
    "mlp": (functools.partial(models.create, "mlp"), (8, 8, 1)),
    "cnn": (functools.partial(models.create, "cnn"), (8, 8, 1)),
    "basic": (few_blocks(resnet.BasicBlock), (8, 8, 3)),
    "pre-activation": (few_blocks(resnet.PreActivationBlock), (8, 8, 3)),
    "bottleneck": (few_blocks(resnet.BottleneckBlock, small_images=False), (32, 32, 3)),
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_structure_and_dtypes_stay(kind, dtype):
    construct, image_shape = KINDS[kind]
    functional = models.functionalize(
        lambda rngs: construct(
            image_shape=image_shape, num_classes=10, dtype=dtype, rngs=rngs
        )
    )
    before = jax.eval_shape(functional.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *image_shape), dtype)
    for train in (True, False):
        logits, model_state = jax.eval_shape(
            lambda *args, train=train: functional.apply(*args, train), *before, images
        )
        assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
        assert model_state == before[1]
    for path, leaf in jax.tree.leaves_with_path(before):
        assert leaf.dtype == jnp.float32
        assert all(isinstance(getattr(key, "key", 0), str | int) for key in path)


@pytest.fixture(scope="module")
def init():
    """Draws the parameters of a cnn, in one compiled program."""
    return jax.jit(models.functionalize(lambda rngs: create("cnn", rngs=rngs)).init)


def test_bfloat16_is_close_to_float32(init):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    cnns = [
        models.functionalize(
            lambda rngs, dtype=dtype: create("cnn", rngs=rngs, dtype=dtype)
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    ]

    @jax.jit
    def apply(params, model_state):
        return [cnn.apply(params, model_state, images, False)[0] for cnn in cnns]

    exact, rounded = map(np.asarray, apply(*init(jax.random.key(0))))
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_initialisation_depends_on_the_key_alone(init):
    first, again, other = (init(jax.random.key(seed))[0] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernels = [np.asarray(p["classifier"]["head"]["kernel"]) for p in (first, other)]
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
    @jax.jit
    def draw(key):
        kernel = initialization.kernel(key, (3, 3, 32, 64))
        return kernel, initialization.bias(288)(key, (4096,))

    kernel, bias = map(np.asarray, draw(jax.random.key(0)))
    np.testing.assert_allclose(kernel.std(), deviation, rtol=0.02)
    assert abs(kernel.mean()) < 0.05 * deviation
    if bound is None:
        assert not bias.any()
    else:
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert 0.99 * bound < np.abs(bias).max() <= bound


@pytest.mark.parametrize("initialization", [layers.TORCH, layers.HE_FAN_OUT])
def test_resnets_start_as_their_pytorch_counterparts(initialization):
    @jax.jit
    def created():
        model = few_blocks(resnet.BasicBlock, (1,))(
            image_shape=(8, 8, 3),
            num_classes=100,
            initialization=initialization,
            rngs=nnx.Rngs(0),
        )
        return nnx.to_pure_dict(nnx.state(model))

    model = jax.tree.map(np.asarray, created())
    block = model["blocks"]["stage0_block0"]
    kernel = block["convolution1"]["kernel"]
    if initialization is layers.TORCH:
        assert 0.99 * 576**-0.5 < np.abs(kernel).max() <= 576**-0.5
    else:
        np.testing.assert_allclose(kernel.std(), (2 / 576) ** 0.5, rtol=0.02)
    for parameter in (model["head"]["kernel"], model["head"]["bias"]):
        assert 0.9 / 8 < np.abs(parameter).max() <= 1 / 8
    norm = block["norm1"]
    assert (norm["scale"] == 1).all()
    assert (norm["bias"] == 0).all()
    assert (norm["var"] == 1).all()
    assert not norm["mean"].any()


def test_batch_norm_is_synchronised_over_a_mapped_axis():
    x = np.random.default_rng(0).normal(2, 1, (2, 3, 4, 4, 5)).astype(np.float32)

    def run(axis_name, x):
        norm = layers.BatchNorm(5, axis_name=axis_name)
        output = norm(x, True)
        return output, norm.mean[...], norm.var[...]

    def mapped(axis_name, x):
        return jax.vmap(lambda x: run(axis_name, x), axis_name="data")(x)

    @jax.jit
    def all_three(x):
        whole = run(None, x.reshape(6, 4, 4, 5))
        return whole, mapped("data", x), mapped(None, x)

    (whole, mean, var), (parts, means, variances), (alone, _, _) = all_three(x)
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for i in range(2):
        np.testing.assert_allclose(means[i], mean, rtol=1e-5)
        np.testing.assert_allclose(variances[i], var, rtol=1e-5)
    assert np.abs(np.reshape(alone, whole.shape) - np.asarray(whole)).max() > 1e-3


@nnx.jit
def train_on(norm, x):
    return norm(x, True)


def test_batch_norm_keeps_precision_far_from_zero():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 5))
    norm = layers.BatchNorm(5)
    norm.mean[...] = jnp.full(5, 999.0)
    output = train_on(norm, (x + 1000).astype(np.float32))
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_batch_norm_of_bfloat16_computes_in_float32():
    x = np.random.default_rng(0).normal(size=(512, 5)).astype(jnp.bfloat16)
    norm = layers.BatchNorm(5, dtype=jnp.bfloat16)
    assert train_on(norm, x).dtype == jnp.bfloat16
    expected = 0.1 * np.asarray(x, np.float32).mean(0)
    np.testing.assert_allclose(norm.mean[...], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (2, 2), (3, 2)])
def test_max_pools_are_windowed_maxima(height, width):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, height, width, 3)).astype(np.float32)
    pooled, overlapping = jax.jit(
        lambda x: (layers.max_pool(x), layers.overlapping_max_pool(x))
    )(x)
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
    images = np.random.default_rng(0).normal(size=(8, *image_shape)).astype(np.float32)
    labels = np.arange(8)

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
        return create(name, rngs=rngs, **sizes)

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
    image_shape = (8, 8, 3) if small_images else (32, 32, 3)

    def construct(rngs):
        return few_blocks(block, small_images=small_images)(
            image_shape=image_shape, num_classes=10, dtype=dtype, rngs=rngs
        )

    values = learn(construct, image_shape)
    assert values[-1] < 0.3 * values[0]


@pytest.mark.parametrize(
    ("name", "image_shape"), [("cnn", (3, 8, 1)), ("resnet18", (8, 7, 3))]
)
def test_images_too_small(name, image_shape):
    with pytest.raises(InputError, match="too small") as error:
        create(name, image_shape=image_shape)
    assert "\n" not in str(error.value)


def test_unknown_network():
    with pytest.raises(InputError, match="unknown model 'resnet19': did you mean"):
        models.create(
            "resnet19", image_shape=(8, 8, 3), num_classes=10, rngs=nnx.Rngs(0)
        )
