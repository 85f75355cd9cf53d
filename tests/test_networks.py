"""A pretrained backbone in a configuration: frozen, slower, and its file gone."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dal_jax
from dal_jax import models, networks, preprocessing, recipe, training
from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from dal_jax.errors import InputError
from dal_jax.models import resnet

pytestmark = pytest.mark.usefixtures("compilation_cache")
EPOCHS = 3


@functools.cache
def network(num_classes):
    """Created in one compiled program, and only to be read."""
    return nnx.jit(
        lambda: models.create(
            "mlp",
            image_shape=(8, 8, 1),
            num_classes=num_classes,
            hidden=(6,),
            rngs=nnx.Rngs(3),
        )
    )()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The weights of a network of 7 classes, digits have 10."""
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    normalization = models.Normalization((0.25,), (0.5,))
    models.save_weights(network(7), path, normalization=normalization)
    return path


def configured(path, **fields):
    """A short run from a file; fields of the model, unless they are the run's."""
    of_run = {f.name for f in dataclasses.fields(TrainConfig)}
    run = {name: fields.pop(name) for name in of_run & fields.keys()}
    model = {"name": "mlp", "hidden": (6,), "weights": path and str(path)} | fields
    default = {
        "dataset": DatasetConfig(train_size=64, test_size=20),
        "num_epochs": EPOCHS,
        "batch_size": 32,
        "checkpoint_every": 1,
        "keep_checkpoints": EPOCHS,
    }
    return TrainConfig(**default | run, model=ModelConfig(**model))


ADAMW = OptimizerConfig(
    name="adamw", learning_rate=0.05, weight_decay=0.1, ema_decay=0.5, clip_norm=1.0
)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, backbone):
    """A finished run whose backbone is frozen."""
    config = configured(backbone, freeze="backbone", optimizer=ADAMW)
    workdir, said = tmp_path_factory.mktemp("frozen") / "run", []
    training.train_and_evaluate(config, workdir, say=said.append)
    assert said[0] == (
        f"weights {backbone}: its last layer is kept if the data have 7 classes, too; "
        "pixels are normalised by mean 0.25 and deviation 0.5"
    )
    return config, workdir


def test_a_frozen_backbone_stays_to_the_bit_and_costs_no_moments(frozen, read_run):
    arrays = read_run(frozen[1]).arrays
    expected = nnx.to_pure_dict(nnx.state(network(7)))["dense"]["dense0"]
    trained = {name: x for name, x in arrays.items() if "dense0" in name}
    assert len(trained) == 4  # parameters, and their average
    for name, leaf in trained.items():
        which = "kernel" if "kernel" in name else "bias"
        np.testing.assert_array_equal(leaf, expected[which], strict=True)
    moments = [x.shape for name, x in arrays.items() if "opt_state" in name and x.ndim]
    assert sorted(moments) == [(6, 10), (6, 10), (10,), (10,)]
    heads = [x for name, x in arrays.items() if "head" in name and "kernel" in name]
    assert all(x.std() > 0 for x in heads)


def test_pixels_are_normalised_as_in_the_weights_training(frozen):
    inputs = json.loads((frozen[1] / "preprocessing.json").read_text())
    assert (inputs["mean"], inputs["std"]) == ([0.25], [0.5])


def test_a_run_that_has_begun_does_not_need_the_file(frozen, tmp_path, read_run):
    config, finished = frozen
    path, aside = config.model.weights, tmp_path / "aside"
    shutil.copytree(finished, tmp_path / "run")
    for name in ("summary.json", f"checkpoints/{2 * EPOCHS}", "dynamics.npz"):
        gone = tmp_path / "run" / name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    shutil.move(path, aside)
    try:
        said = []
        training.train_and_evaluate(config, tmp_path / "run", say=said.append)
        assert said[1:] == [f"going on at step {2 * EPOCHS - 2} of {2 * EPOCHS}"]
        again = training.train_and_evaluate(config, tmp_path / "run")
        assert again == json.loads((tmp_path / "run/summary.json").read_text())
        classifier = dal_jax.load(tmp_path / "run")
        with pytest.raises(InputError, match="No such file"):
            training.train_and_evaluate(config, tmp_path / "new")
    finally:
        shutil.move(aside, path)
    assert not (tmp_path / "new").exists()
    before, after = read_run(finished), read_run(tmp_path / "run")
    for name, leaf in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], leaf)
    assert classifier.predict(np.zeros((1, 8, 8, 1), np.uint8)).shape == (1,)


def test_another_file_under_the_same_name_is_refused(frozen, backbone, tmp_path):
    config, workdir = frozen
    kept = backbone.read_bytes()
    try:
        models.save_weights(network(8), backbone)
        with pytest.raises(InputError, match=r"model.weights_sha256 was '\w+', now"):
            training.train_and_evaluate(config, workdir)
    finally:
        backbone.write_bytes(kept)
    other = configured(backbone, weights_sha256="ab")
    with pytest.raises(InputError, match=r"expected that of model\.weights_sha256, ab"):
        training.train_and_evaluate(other, tmp_path / "run")


def test_the_backbone_waits_for_the_head_and_learns_more_slowly(backbone):
    steps = {}
    for name, optimizer in {
        "plain": OptimizerConfig(momentum=0.0, schedule="constant"),
        "slow": OptimizerConfig(momentum=0.0, schedule="constant", backbone_rate=0.1),
        "waits": OptimizerConfig(momentum=0.0, schedule="constant", head_epochs=0.5),
    }.items():
        made = recipe.make_optimizer(optimizer, 2, 2)[0]
        params = nnx.to_pure_dict(nnx.state(network(7)))

        @jax.jit
        def first_two(params, made=made):
            state = made.init(params)
            return [made.update(params, state, params, step=n)[0] for n in (0, 1)]

        steps[name] = [
            (np.asarray(update["dense"]["dense0"]["kernel"]), update["head"])
            for update in first_two(params)
        ]
    for name in ("slow", "waits"):
        for step in (0, 1):
            jax.tree.map(
                np.testing.assert_array_equal,
                steps[name][step][1],
                steps["plain"][step][1],
            )
    plain = steps["plain"][0][0]
    np.testing.assert_allclose(steps["slow"][0][0], 0.1 * plain, rtol=1e-6)
    assert not steps["waits"][0][0].any()
    np.testing.assert_array_equal(steps["waits"][1][0], plain)


def test_batch_norm_below_a_frozen_backbone_does_not_move():
    def normed(rngs):
        return resnet.ResNet(
            resnet.BasicBlock,
            (1,),
            small_images=True,
            image_shape=(8, 8, 1),
            num_classes=2,
            rngs=rngs,
        )

    whole = models.functionalize(normed)
    frozen = models.freeze_backbone(whole)
    params, model_state = jax.eval_shape(whole.init, jax.random.key(0))

    def unchanged(apply):
        def of_batch(params, model_state, inputs):
            return apply(params, model_state, inputs, True)[1]

        inputs = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
        traced = jax.make_jaxpr(of_batch)(params, model_state, inputs).jaxpr
        return all(var in traced.invars for var in traced.outvars)

    assert unchanged(frozen.apply)
    assert not unchanged(whole.apply)


def test_an_option_reaches_the_network():
    config = configured(None, name="resnet18", remat=True, small_images=False)
    made = networks.make(config, (32, 32, 3), 2)
    module = nnx.eval_shape(lambda: made(nnx.Rngs(0)))
    assert module.remat
    assert not module.small_images


def test_normalisation_by_name():
    config = TrainConfig(augmentation=AugmentationConfig(normalization="imagenet"))
    recipe.check(config)
    assert preprocessing.statistics(config, None) == models.normalization("imagenet")
    config.augmentation.mean = (0.5,)
    with pytest.raises(InputError, match="expected one of them"):
        recipe.check(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": "backbon"}, "did you mean 'backbone'"),
        ({"freeze": "backbone", "weights": None}, "would leave the backbone random"),
        ({"freeze": "backbone", "optimizer": OptimizerConfig(backbone_rate=0.1)}, "no"),
        ({"optimizer": OptimizerConfig(backbone_rate=0.0)}, "backbone_rate=0.0"),
        ({"optimizer": OptimizerConfig(head_epochs=9)}, "head_epochs=9 .* 0 to num_ep"),
        ({"augmentation": AugmentationConfig(normalization="imagnet")}, "'imagenet'"),
        ({"remat": True}, "model.remat does not fit model.name=mlp"),
        ({"hidden": (7,)}, r"dense0.weight is \[6, 64\], expected \[7, 64\]"),
        ({"name": "cnn"}, "are not those of this network.* left over"),
        ({"name": "vit_tiny", "weights": None}, "smaller than a patch of 16x16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_writes_nothing(fields, message, backbone, tmp_path):
    config = configured(**{"path": fields.pop("weights", backbone)} | fields)
    with pytest.raises(InputError, match=message) as error:
        training.train_and_evaluate(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", ["truncated", "pickle", "extra"])
def test_a_bad_file_writes_nothing(how, backbone, tmp_path):
    path = tmp_path / ("file.pth" if how == "pickle" else "file.safetensors")
    content = backbone.read_bytes()
    path.write_bytes(content[:-4] if how == "truncated" else content)
    if how == "extra":
        from safetensors.numpy import load, save_file

        save_file(load(content) | {"other": np.ones(1, np.float32)}, path)
    words = {"truncated": "truncated", "pickle": "pickle", "extra": "1 left over"}
    with pytest.raises(InputError, match=words[how]):
        training.train_and_evaluate(configured(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
