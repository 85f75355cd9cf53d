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

SHAPES = {
    "linear": (5,),
    "mlp": (8, 8, 1),
    "cnn": (8, 8, 1),
    "resnet18": (8, 8, 3),
    "resnet34": (8, 8, 3),
    "resnet50": (32, 32, 3),
    "preact_resnet18": (8, 8, 3),
    "vit_tiny": (224, 224, 3),
    "vit_small": (224, 224, 3),
    "vit_base": (224, 224, 3),
}


@functools.cache
def shapes_of(name):
    """The parameters' shapes, for 1,000 classes."""

    def construct(rngs):
        return models.create(
            name, image_shape=SHAPES[name], num_classes=1000, rngs=rngs
        )

    params, _ = jax.eval_shape(models.functionalize(construct).init, jax.random.key(0))
    return params


def filled(construct, **options):
    """Creates a network and draws its numbers with numpy: nothing to compile."""

    def create():
        return construct(**options, num_classes=5, rngs=nnx.Rngs(0))

    generator = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(create))

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        offset = "scale" in name or "var" in name
        return jnp.asarray(
            0.1 * generator.uniform(-1, 1, leaf.shape) + offset, jnp.float32
        )

    return nnx.merge(graph, jax.tree.map_with_path(draw, state))


def vision_transformer(image_shape=(32, 32, 3), **options):
    """One block of few features."""
    construct = functools.partial(vit.VisionTransformer, 12, 3, 1)
    return filled(construct, image_shape=image_shape, **options)


def residual_network(**options):
    """Two blocks."""
    construct = functools.partial(
        resnet.ResNet, resnet.BasicBlock, (1, 1), small_images=True
    )
    return filled(construct, image_shape=(8, 8, 3), **options)


@nnx.jit(static_argnames="train")
def logits_of(module, images, train=False):
    return module(images, train)


@pytest.mark.parametrize(
    ("name", "expected"),
    # As timm counts them, with 1,000 classes and 224x224 pixels.
    [("vit_tiny", 5_717_416), ("vit_small", 22_050_664), ("vit_base", 86_567_656)],
)
def test_number_of_parameters(name, expected):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(name))) == expected


def test_every_network_has_a_head_of_one_layer():
    assert set(models.names()) == set(SHAPES)
    for name in SHAPES:
        leaves = jax.tree.leaves_with_path(shapes_of(name))
        heads = {leaf.shape for path, leaf in leaves if models.is_head(path)}
        assert len(heads) == 2
        assert {shape[-1] for shape in heads} == {1000}
        assert len(leaves) == 2 or not all(models.is_head(path) for path, _ in leaves)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_and_logits_are_float32(dtype):
    network = models.functionalize(vision_transformer(dtype=dtype))
    params, model_state = network.init(jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), dtype)
    logits, _ = jax.eval_shape(
        lambda *args: network.apply(*args, True), params, model_state, images
    )
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_bfloat16_is_close_to_float32():
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    exact = logits_of(vision_transformer(), images)
    rounded = logits_of(vision_transformer(dtype=jnp.bfloat16), images)
    assert 0 < jnp.abs(exact - rounded).max() < 0.01 * jnp.abs(exact).max()


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
    rows, columns = jnp.meshgrid(jnp.arange(6.0), jnp.arange(5.0), indexing="ij")
    grid = jnp.stack([rows, columns], -1).reshape(1, 30, 2)
    positions = jnp.concatenate([jnp.full((1, 1, 2), 9.0), grid], axis=1)
    resized = vit.resize_positions(positions, (6, 5), (12, 15))
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
    network = models.functionalize(module)
    params, model_state = network.init(jax.random.key(0))

    def loss(params):
        logits, new_state = network.apply(params, model_state, images, True)
        return jnp.sum(jnp.sin(logits) * labels), new_state

    kept = jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], params)
    size = sum(leaf.size for leaf in jax.tree.leaves(kept))
    return jax.jit(jax.grad(loss, has_aux=True))(params), size


@pytest.mark.parametrize("create", [vision_transformer, residual_network])
def test_remat_changes_what_is_kept_and_nothing_else(create):
    shape = (8, 32, 32, 3) if create is vision_transformer else (8, 8, 8, 3)
    images = jax.random.normal(jax.random.key(1), shape)
    labels = jax.random.normal(jax.random.key(2), (8, 5))
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
    module.norm.mean[...] = jnp.linspace(-1, 1, 64)
    network = models.functionalize(module)
    params, model_state = network.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))

    def outputs(network, params, train):
        logits, new_state = network.apply(params, model_state, images, train)
        return jnp.sum(jnp.sin(logits)), (logits, new_state)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def run(network, params, train):
        return jax.grad(outputs, 1, has_aux=True)(network, params, train)

    expected, (logits, _) = run(network, params, False)
    frozen = models.freeze_backbone(network)
    for train in (True, False):
        gradient, (frozen_logits, new_state) = run(frozen, params, train)
        np.testing.assert_allclose(frozen_logits, logits, rtol=1e-5, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, new_state, model_state)
        for (path, leaf), reference in zip(
            jax.tree.leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
        ):
            assert reference.any()
            if models.is_head(path):
                np.testing.assert_allclose(leaf, reference, rtol=1e-5, atol=1e-6)
            else:
                assert not leaf.any()
    _, (trained_logits, _) = run(network, params, True)
    assert jnp.abs(trained_logits - logits).max() > 0.01


@pytest.mark.parametrize("create", [vision_transformer, residual_network])
def test_the_head_is_a_layer_on_the_features(create):
    module = create()
    shape = (2, 32, 32, 3) if create is vision_transformer else (2, 8, 8, 3)
    images = jax.random.normal(jax.random.key(1), shape)
    features = nnx.jit(lambda module: module.features(images))(module)
    assert features.ndim == 2
    logits = logits_of(module, images)
    np.testing.assert_allclose(module.head(features), logits, rtol=1e-5, atol=1e-6)


def test_perceptrons_take_inputs_of_any_shape():
    inputs = jax.random.normal(jax.random.key(1), (6, 5))
    create = functools.partial(
        models.create, image_shape=(5,), num_classes=3, rngs=nnx.Rngs(0)
    )
    linear = create("linear")
    kernel, bias = linear.head.kernel[...], linear.head.bias[...]
    np.testing.assert_allclose(linear(inputs), inputs @ kernel + bias, rtol=1e-5)
    normalised = create("mlp", hidden=(8,), layer_norm=True)
    normalised.dense["dense0"].bias[...] = jnp.full(8, 100.0)
    np.testing.assert_allclose(
        normalised.features(inputs),
        jax.nn.relu(layers.LayerNorm(8)(normalised.dense["dense0"](inputs))),
        rtol=1e-5,
    )
    with pytest.raises(InputError, match=r"dropout is 1.0: expected 0 <= dropout < 1"):
        create("mlp", dropout=1.0)


def test_dropout_leaves_out_its_share_in_training_alone():
    module = models.create(
        "mlp",
        image_shape=(4,),
        num_classes=3,
        hidden=(4096,),
        dropout=0.25,
        rngs=nnx.Rngs(0),
    )
    inputs = jnp.ones((1, 4))
    whole, dropped = module.features(inputs), module.features(inputs, train=True)
    active = whole > 0
    share = float((dropped[active] == 0).mean())
    assert 0.2 < share < 0.3
    kept = active & (dropped > 0)
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-5)
    assert (module.features(inputs, train=True) != dropped).any()


def test_layer_norm_is_its_definition():
    x = np.random.default_rng(0).normal(5, 2, size=(3, 4, 6)).astype(np.float32)
    norm = layers.LayerNorm(6, epsilon=0.1)
    norm.scale[...] = jnp.arange(6.0)
    norm.bias[...] = jnp.full(6, 3.0)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt(x.var(-1, keepdims=True) + 0.1) * np.arange(6) + 3
    np.testing.assert_allclose(norm(x), expected, rtol=1e-4, atol=1e-5)
    assert layers.LayerNorm(6, dtype=jnp.bfloat16)(x).dtype == jnp.bfloat16
