"""Weights from files: equal to timm, torchvision and transformers, and bad files."""

import functools
import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from dal_jax import models
from dal_jax.errors import InputError
from dal_jax.models import resnet, vit
from dal_jax.models.pretrained import pretrained

GOLDEN = Path(__file__).parent.parent / "golden"


def script():
    """tests/golden/make_weights.py, which draws the tensors of a case."""
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = script()
with np.load(GOLDEN / "weights.npz") as file:
    LOGITS = dict(file)
TENSORS = json.loads(LOGITS.pop("tensors").tobytes())
SQUARE = (2, MAKE.FILE_SIZE, MAKE.FILE_SIZE, 3)
IMAGES = {
    "resnet18/timm/small": MAKE.SMALL_IMAGES,
    "vit_tiny/torchvision": SQUARE,
    "vit_tiny/transformers": SQUARE,
    "vit_tiny/timm/larger": MAKE.LARGER_IMAGES,
}


@functools.cache
def tensors(case):
    return {name: MAKE.draw(name, tuple(s)) for name, s in TENSORS[case].items()}


def tensors_of_few_blocks(case):
    """Those of the first block, of a ResNet in each stage."""
    later = r"(layer\d\.|blocks\.|encoder\.layer\.|encoder_layer_)[1-9]"
    return {
        name: MAKE.draw(name, tuple(shape))
        for name, shape in TENSORS[case].items()
        if not re.search(later, name)
    }


def write(path, tensors):
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    return path


def images_of(case):
    resnet = case.startswith("resnet")
    default = MAKE.RESNET_IMAGES if resnet else MAKE.VIT_IMAGES
    return MAKE.draw("images", IMAGES.get(case, default))


def load(case, path, **options):
    name = case.split("/")[0]
    shape = images_of(case).shape[1:]
    return models.create(name, image_shape=shape, weights=path, **options)


# What the names and shapes of one block are, those of the others are.
FEW_BLOCKS = {
    "resnet18": functools.partial(
        resnet.ResNet, resnet.BasicBlock, (1, 1, 1, 1), small_images=True
    ),
    "vit_tiny": functools.partial(vit.VisionTransformer, 192, 3, 1),
}


def restore(construct, path, *, num_classes=None, rngs=None):
    """What models.create does with weights, for any network."""
    return pretrained(
        construct, path, num_classes=num_classes, rngs=rngs, stem_as_in_file=False
    )


def load_few_blocks(case, path, *, image_shape=None, **options):
    shape = image_shape or images_of(case).shape[1:]
    few_blocks = FEW_BLOCKS[case.split("/")[0]]
    return restore(functools.partial(few_blocks, image_shape=shape), path, **options)


@functools.partial(jax.jit, static_argnums=(0, 3))
def forward(graph, state, images, train):
    module = nnx.merge(graph, state, copy=True)
    return module(images, train), nnx.state(module)


def parameters(module):
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(module)))
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def assert_equal(first, second, *, but=()):
    first, second = parameters(first), parameters(second)
    assert set(first) == set(second)
    different = {n for n in first if not np.array_equal(first[n], second[n])}
    assert different == set(but)


def cases():
    """Every reference; networks that differ from another in width alone are slow."""
    for case in TENSORS:
        wide = case.split("/")[0] in ("resnet34", "vit_small", "vit_base")
        yield pytest.param(case, marks=[pytest.mark.slow] if wide else [])


@pytest.mark.parametrize("case", list(cases()))
def test_logits_are_the_references(case, tmp_path):
    graph, state = nnx.split(load(case, write(tmp_path / "file", tensors(case))))
    images = images_of(case)
    expected = LOGITS[f"{case}::evaluated"]
    if f"{case}::trained" in LOGITS:
        logits, state = forward(graph, state, images, True)
        np.testing.assert_allclose(
            logits, LOGITS[f"{case}::trained"], rtol=1e-4, atol=1e-4
        )
        # By statistics that are mostly the file's, and by a tenth those of training.
        expected = LOGITS[f"{case}::after"]
    # Two images suffice: in evaluation none has to do with the others.
    logits, _ = forward(graph, state, images[:2], False)
    np.testing.assert_allclose(logits, expected[:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["resnet18/timm/small", "vit_tiny/timm"])
def test_files_are_written_under_timms_names(case, tmp_path):
    expected = {
        name: tensor
        for name, tensor in tensors_of_few_blocks(case).items()
        if not name.endswith("num_batches_tracked")
    }
    module = load_few_blocks(case, write(tmp_path / "file", expected))
    models.save_weights(module, tmp_path / "again.safetensors")
    written = safetensors.numpy.load_file(tmp_path / "again.safetensors")
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(written[name], tensor, strict=True)


def drawn(construct):
    """A network whose every number is drawn, faster than by its own initialisation."""
    graph, state = nnx.split(nnx.eval_shape(lambda: construct(rngs=nnx.Rngs(0))))

    def draw(path, leaf):
        return jnp.asarray(MAKE.draw(jax.tree_util.keystr(path), leaf.shape))

    return nnx.merge(graph, jax.tree.map_with_path(draw, state))


ROUND_TRIPS = {
    "linear": functools.partial(models.create, "linear", image_shape=(5,)),
    "mlp": functools.partial(
        models.create, "mlp", image_shape=(3, 4), layer_norm=True, hidden=(8, 8)
    ),
    "cnn": functools.partial(models.create, "cnn", image_shape=(8, 8, 1)),
    "preact_resnet18": functools.partial(
        resnet.ResNet,
        resnet.PreActivationBlock,
        (1, 1),
        small_images=True,
        image_shape=(8, 8, 3),
    ),
    # As many patches as a square image has.
    "vit_tiny": functools.partial(FEW_BLOCKS["vit_tiny"], image_shape=(32, 128, 3)),
}


@pytest.mark.parametrize("name", list(ROUND_TRIPS))
def test_round_trip_to_the_bit(name, tmp_path):
    construct = ROUND_TRIPS[name]
    module = drawn(functools.partial(construct, num_classes=3))
    path = tmp_path / "file.safetensors"
    models.save_weights(module, path)
    assert_equal(module, restore(construct, path))


def small(**kwargs):
    """A network of 2x2 images with a hidden layer of 5 units."""
    default = {"image_shape": (2, 2, 1), "hidden": (5,)}
    return models.create("mlp", **(default | kwargs))


HEAD = ("head/kernel", "head/bias")


@pytest.fixture
def saved(tmp_path):
    module = small(num_classes=3, rngs=nnx.Rngs(0))
    models.save_weights(module, tmp_path / "file.safetensors")
    return module, tmp_path / "file.safetensors"


def test_the_last_layer_is_kept_or_made_anew(saved):
    module, path = saved
    assert_equal(module, small(weights=path))
    assert_equal(module, small(weights=path, num_classes=3, rngs=nnx.Rngs(1)))
    new = [
        small(weights=path, num_classes=4, rngs=rngs)
        for rngs in (jax.random.key(1), nnx.Rngs(params=jax.random.key(1)), nnx.Rngs(2))
    ]
    for one in new:
        assert_equal(module, one, but=HEAD)
        assert one.head.kernel.shape == (5, 4)
    assert new[0].head.kernel[...].std() > 0.1
    assert_equal(new[0], new[2], but=HEAD[:1])  # biases begin at zero
    with pytest.raises(InputError, match=r"leave the last layer.* open: give rngs"):
        small(weights=path, num_classes=4)


def test_a_key_draws_what_rngs_draw():
    key = jax.random.key(3)
    first = small(num_classes=4, rngs=key)
    assert_equal(first, small(num_classes=4, rngs=nnx.Rngs(params=key)))


def test_a_file_without_the_last_layer(saved):
    module, path = saved
    models.save_weights(module, path, head=False)
    assert set(safetensors.numpy.load_file(path)) == {
        "dense.dense0.weight",
        "dense.dense0.bias",
    }
    with pytest.raises(InputError, match="have no last layer: give num_classes"):
        small(weights=path)
    restored = small(weights=path, num_classes=3, rngs=nnx.Rngs(1))
    assert_equal(module, restored, but=HEAD[:1])


def test_trained_parameters_are_written_in_place_of_the_modules(saved):
    module, path = saved
    network = models.functionalize(module)
    params, model_state = network.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 1, params)
    models.save_weights(module, path, params=params, model_state=model_state)
    written = parameters(small(weights=path))
    for name, leaf in parameters(module).items():
        np.testing.assert_array_equal(written[name], leaf + 1)


def test_dropout_draws_its_numbers_from_rngs(saved):
    module, path = saved
    with pytest.raises(InputError, match="dropout's random numbers, open: give rngs"):
        small(weights=path, dropout=0.5)
    restored = small(weights=path, dropout=0.5, rngs=nnx.Rngs(1))
    images = np.ones((64, 2, 2, 1), np.float32)
    whole, expected, dropped = nnx.jit(
        lambda restored, module: (
            restored(images),
            module(images),
            restored(images, train=True),
        )
    )(restored, module)
    np.testing.assert_array_equal(whole, expected)
    assert np.std(dropped, axis=0).min() > 0


def test_names_of_networks_without_last_layer_and_of_older_files(tmp_path):
    path, case = tmp_path / "file", "vit_tiny/transformers"
    stored = tensors_of_few_blocks(case)
    whole = load_few_blocks(case, write(path, stored))
    bare = {
        name.removeprefix("vit."): tensor
        for name, tensor in stored.items()
        if not name.startswith("classifier.")
    }
    bare["pooler.dense.weight"] = np.zeros((192, 192), np.float32)
    write(path, bare)
    restored = load_few_blocks(case, path, num_classes=7, rngs=nnx.Rngs(0))
    assert_equal(whole, restored, but=HEAD)

    case = "vit_tiny/torchvision"
    stored = tensors_of_few_blocks(case)
    whole = load_few_blocks(case, write(path, stored))
    older = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): leaf
        for name, leaf in stored.items()
    }
    assert_equal(whole, load_few_blocks(case, write(path, older)))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floating_types_become_float32(dtype, saved):
    _, path = saved
    stored = {
        name: tensor.astype(dtype)
        for name, tensor in safetensors.numpy.load_file(path).items()
    }
    kernel = small(weights=write(path, stored)).head.kernel[...]
    assert kernel.dtype == jnp.float32
    expected = stored["head.weight"].T.astype(np.float32)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize("length", [b"\x80\x01", b"PK"])
def test_a_header_as_long_as_a_pickle_begins(length, saved):
    module, path = saved
    stored = safetensors.numpy.load_file(path)
    header = int.from_bytes(safetensors.numpy.save(stored, {"": ""})[:8], "little")
    padding = int.from_bytes(length, "little") - header
    path.write_bytes(safetensors.numpy.save(stored, {"": " " * padding}))
    assert path.read_bytes().startswith(length)
    assert_equal(module, small(weights=path))


def corrupted(path, how):
    """Writes a bad file and returns its path."""
    stored = safetensors.numpy.load_file(path)
    if how == "directory":
        return path.parent
    if how == "absent":
        return path.with_name("absent.safetensors")
    if how == "pickle by name":
        return path.rename(path.with_suffix(".pth"))
    if how == "pickle":
        path.write_bytes(b"\x80\x02}q\x00.")
    elif how == "zip":
        path.write_bytes(b"PK\x03\x04" + bytes(64))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "cut in the header":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "extra":
        write(path, stored | {"ema": np.ones(2)})
    elif how == "missing":
        write(path, {n: t for n, t in stored.items() if n != "dense.dense0.bias"})
    elif how == "half a last layer":
        write(path, {n: t for n, t in stored.items() if n != "head.bias"})
    elif how == "shape":
        write(path, stored | {"dense.dense0.weight": np.ones((5, 3))})
    elif how == "scalar":
        write(path, stored | {"head.weight": np.array(1.0)})
    elif how == "integers":
        write(path, stored | {"head.bias": np.ones(3, np.int8)})
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("directory", "expected a .safetensors file"),
        ("absent", "No such file or directory; give the path of a .safetensors file"),
        ("pickle by name", "pickle runs code .* refused"),
        ("pickle", "pickle runs code .* refused"),
        ("zip", "pickle runs code .* refused"),
        ("empty", "truncated or no safetensors file"),
        ("truncated", "truncated or no safetensors file"),
        ("cut in the header", "truncated or no safetensors file"),
        ("extra", r"1 left over \(ema\); give those"),
        ("missing", r"1 missing \(dense.dense0.bias\); give those"),
        ("half a last layer", r"1 missing \(head.bias\); give those"),
        ("shape", r"dense0.weight is \[5, 3\], expected \[5, 4\]"),
        ("scalar", r"head.weight is \[\], expected"),
        ("integers", "head.bias is int8, expected one of float16"),
    ],
)
def test_bad_files(how, message, saved):
    _, path = saved
    path = corrupted(path, how)
    with pytest.raises(InputError, match=message) as error:
        small(weights=path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_files_of_other_networks(tmp_path):
    path = tmp_path / "file"
    # Names are compared before shapes.
    write(path, {name: np.zeros(1, np.float32) for name in TENSORS["resnet34/timm"]})
    with pytest.raises(
        InputError,
        match=r"of timm and torchvision: \d+ left over \(layer1.2.bn1.bias, .*\); give",
    ):
        load("resnet18/timm", path)
    with pytest.raises(InputError, match=r"20 missing .*; 182 left over \(bn1.bias,"):
        load_few_blocks("vit_tiny/timm", path)
    write(path, tensors_of_few_blocks("vit_small/timm"))
    with pytest.raises(InputError, match=r"of another shape \(.* is .*, expected .*, "):
        load_few_blocks("vit_tiny/timm", path)
    write(path, tensors_of_few_blocks("resnet18/timm/small"))
    with pytest.raises(InputError, match=r"conv1.weight is \[64, 3, 3, 3\], expected"):
        load_few_blocks("resnet18/timm/small", path, image_shape=(32, 32, 1))
    write(path, tensors("resnet18/timm"))
    with pytest.raises(InputError, match=r"expected \[64, 3, 3, 3\]"):
        load("resnet18/timm", path, small_images=True)


def test_positions_for_images_that_are_not_square(tmp_path):
    path = write(tmp_path / "file", tensors_of_few_blocks("vit_tiny/timm"))
    with pytest.raises(InputError, match=r"pos_embed is \[1, 7, 192\], expected"):
        load_few_blocks("vit_tiny/timm", path, image_shape=(48, 48, 3))


def test_what_a_network_without_weights_needs():
    for kwargs in ({"num_classes": 3}, {"rngs": nnx.Rngs(0)}):
        with pytest.raises(InputError, match="without weights needs num_classes and"):
            small(**kwargs)


def test_normalization():
    assert models.normalization("imagenet").std == (0.229, 0.224, 0.225)
    with pytest.raises(InputError, match="unknown normalization 'imagnet': did you"):
        models.normalization("imagnet")
