"""Vision transformers, and what fine-tuning asks of every network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dal_jax import models
from dal_jax.errors import InputError
from dal_jax.models import layers, resnet, vit


def filled(construct, **options):
    """Creates a network and draws its numbers with numpy: nothing to compile."""

    def create():
        return construct(**options, num_classes=5, rngs=nnx.Rngs(0))

    generator = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(create))

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        offset = "scale" in name or "var" in name
        drawn = 0.1 * generator.uniform(-1, 1, leaf.shape) + offset
        return jnp.asarray(drawn.astype(np.float32))

    return nnx.merge(graph, jax.tree.map_with_path(draw, state))


def vision_transformer(image_shape=(32, 32, 3), **options):
    """One block of few features."""
    construct = functools.partial(vit.VisionTransformer, 12, 3, 1)
    return filled(construct, image_shape=image_shape, **options)


def residual_network(**options):
    """One block."""
    construct = functools.partial(
        resnet.ResNet, resnet.BasicBlock, (1,), small_images=True
    )
    return filled(construct, image_shape=(8, 8, 3), **options)


@nnx.jit(static_argnames="train")
def logits_of(module, images, train=False):
    return module(images, train)


def images_for(create, batch):
    shape = (32, 32, 3) if create is vision_transformer else (8, 8, 3)
    return np.random.default_rng(1).normal(size=(batch, *shape)).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_and_logits_are_float32(dtype):
    network = models.functionalize(vision_transformer(dtype=dtype))
    params, model_state = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), dtype)
    logits, _ = jax.eval_shape(
        lambda *args: network.apply(*args, True), params, model_state, images
    )
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_bfloat16_is_close_to_float32():
    images = images_for(vision_transformer, 4)
    exact, rounded = (
        np.asarray(logits_of(vision_transformer(dtype=dtype), images))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert 0 < np.abs(exact - rounded).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((15, 64, 3), "images of 15x64 are smaller than a patch of 16x16"),
        ((40, 50, 3), "40x50 do not divide into patches .* as 32x48$"),
    ],
)
def test_images_that_are_no_patches(shape, message):
    with pytest.raises(InputError, match=message) as error:
        vit.patch_grid(shape)
    assert "\n" not in str(error.value)


def test_resized_positions_keep_the_class_token_and_straight_lines():
    rows, columns = np.meshgrid(np.arange(6.0), np.arange(5.0), indexing="ij")
    grid = np.stack([rows, columns], -1).reshape(1, 30, 2)
    positions = np.concatenate([np.full((1, 1, 2), 9.0), grid], axis=1)
    resized = np.asarray(
        jax.jit(vit.resize_positions, static_argnums=(1, 2))(
            positions.astype(np.float32), (6, 5), (12, 15)
        )
    )
    np.testing.assert_array_equal(resized[:, 0], positions[:, 0])
    inner = resized[0, 1:].reshape(12, 15, 2)[4:8, 6:9]
    # Where no edge is near: pixel centres at (i + 1/2) / 2 - 1/2 and likewise by 3.
    np.testing.assert_allclose(
        inner[:, 0, 0], (np.arange(4, 8) + 0.5) / 2 - 0.5, rtol=1e-5
    )
    np.testing.assert_allclose(
        inner[0, :, 1], (np.arange(6, 9) + 0.5) / 3 - 0.5, rtol=1e-5
    )


def gradients(module, images, labels):
    """The gradients and new state, and how many numbers are kept to get them."""
    network = models.functionalize(module)
    params, model_state = network.init(jax.random.key(0))

    @jax.jit
    def forward(params):
        def loss(params):
            logits, new_state = network.apply(params, model_state, images, True)
            return jnp.sum(jnp.sin(logits) * labels), new_state

        _, backward, new_state = jax.vjp(loss, params, has_aux=True)
        return backward, new_state

    backward, new_state = forward(params)
    size = sum(leaf.size for leaf in jax.tree.leaves(backward))
    return (jax.jit(lambda backward: backward(1.0))(backward), new_state), size


@pytest.mark.parametrize("create", [vision_transformer, residual_network])
def test_remat_changes_what_is_kept_and_nothing_else(create):
    images = images_for(create, 8)
    labels = np.random.default_rng(2).normal(size=(8, 5)).astype(np.float32)
    plain, size = gradients(create(), images, labels)
    again, smaller_size = gradients(create(remat=True), images, labels)
    assert smaller_size < 0.8 * size
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        again,
        plain,
    )


def test_a_frozen_backbone_is_in_evaluation_mode_and_has_no_gradient():
    module = residual_network()
    module.norm.mean[...] = np.linspace(-1, 1, 64, dtype=np.float32)
    network = models.functionalize(module)
    params, model_state = network.init(jax.random.key(0))
    images = images_for(residual_network, 8)

    def outputs(network, params, train):
        logits, new_state = network.apply(params, model_state, images, train)
        return jnp.sum(jnp.sin(logits)), (logits, new_state)

    gradient_of = jax.grad(outputs, 1, has_aux=True)
    frozen = models.freeze_backbone(network)

    @jax.jit
    def run(params):
        return (
            gradient_of(network, params, False),
            [gradient_of(frozen, params, train) for train in (True, False)],
            network.apply(params, model_state, images, True)[0],
        )

    (expected, (logits, _)), runs, trained_logits = run(params)
    for gradient, (frozen_logits, new_state) in runs:
        np.testing.assert_allclose(frozen_logits, logits, rtol=1e-5, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, new_state, model_state)
        for (path, leaf), reference in zip(
            jax.tree.leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
        ):
            assert np.asarray(reference).any()
            if models.is_head(path):
                np.testing.assert_allclose(leaf, reference, rtol=1e-5, atol=1e-6)
            else:
                assert not np.asarray(leaf).any()
    assert np.abs(np.asarray(trained_logits) - np.asarray(logits)).max() > 0.01


@pytest.mark.parametrize("create", [vision_transformer, residual_network])
def test_the_head_is_a_layer_on_the_features(create):
    images = images_for(create, 2)

    @nnx.jit
    def both(module):
        features = module.features(images)
        return features, module.head(features), module(images)

    features, expected, logits = both(create())
    assert features.ndim == 2
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_perceptrons_take_inputs_of_any_shape():
    inputs = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    create = functools.partial(models.create, image_shape=(5,), num_classes=3)

    @jax.jit
    def computed():
        linear = create("linear", rngs=nnx.Rngs(0))
        logits = linear(inputs), linear.head.kernel[...], linear.head.bias[...]
        normalised = create("mlp", hidden=(8,), layer_norm=True, rngs=nnx.Rngs(0))
        dense = normalised.dense["dense0"]
        dense.bias[...] = jnp.full(8, 100.0)
        expected = jax.nn.relu(layers.LayerNorm(8)(dense(inputs)))
        return logits, normalised.features(inputs), expected

    (logits, kernel, bias), features, expected = computed()
    np.testing.assert_allclose(logits, inputs @ kernel + bias, rtol=1e-5)
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"dropout is 1.0: expected 0 <= dropout < 1"):
        create("mlp", dropout=1.0, rngs=nnx.Rngs(0))


def test_dropout_leaves_out_its_share_in_training_alone():
    inputs = np.ones((1, 4), np.float32)

    @jax.jit
    def computed():
        module = models.create(
            "mlp",
            image_shape=(4,),
            num_classes=3,
            hidden=(4096,),
            dropout=0.25,
            rngs=nnx.Rngs(0),
        )
        trained = [module.features(inputs, train=True) for _ in range(2)]
        return module.features(inputs), *trained

    whole, dropped, again = map(np.asarray, computed())
    active = whole > 0
    share = (dropped[active] == 0).mean()
    assert 0.2 < share < 0.3
    kept = active & (dropped > 0)
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-5)
    assert (again != dropped).any()


def test_layer_norm_is_its_definition():
    x = np.random.default_rng(0).normal(5, 2, size=(3, 4, 6)).astype(np.float32)
    norm = layers.LayerNorm(6, epsilon=0.1)
    norm.scale[...] = np.arange(6, dtype=np.float32)
    norm.bias[...] = np.full(6, 3, np.float32)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt(x.var(-1, keepdims=True) + 0.1) * np.arange(6) + 3
    normalised = nnx.jit(lambda norm: norm(x))(norm)
    np.testing.assert_allclose(normalised, expected, rtol=1e-4, atol=1e-5)
    rounded = nnx.eval_shape(lambda: layers.LayerNorm(6, dtype=jnp.bfloat16)(x))
    assert rounded.dtype == jnp.bfloat16
