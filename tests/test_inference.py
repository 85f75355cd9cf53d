"""A finished run as a classifier: what it predicts, takes, refuses and leaves alone."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image
from scipy.special import softmax

import dal_jax
from dal_jax import losses, recipe, training
from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
)
from dal_jax.data import digits
from dal_jax.data.augment import Preprocess
from dal_jax.data.decode import decode
from dal_jax.data.form import InputForm
from dal_jax.errors import InputError
from dal_jax.inference import Classifier
from dal_jax.models import Functional
from dal_jax.training.plan import default_preprocess

TEST = digits.load().test


@pytest.fixture(scope="module")
def classifier(trained):
    return dal_jax.load(trained)


def accuracy(predicted):
    return float((predicted == TEST.labels).mean())


def entries(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_predicts_with_the_accuracy_that_the_run_reported(
    trained, classifier, test_images, tmp_path
):
    reported = json.loads((trained / "summary.json").read_text())["test_accuracy_last"]
    np.save(tmp_path / "test.npy", TEST.inputs)
    np.savez(tmp_path / "test.npz", images=TEST.inputs, labels=TEST.labels)
    for inputs in (
        TEST.inputs,
        TEST.inputs[..., 0],
        test_images,
        tmp_path / "test.npy",
        tmp_path / "test.npz",
    ):
        assert accuracy(classifier.predict(inputs)) == reported


def test_a_workdir_may_be_relative(trained, classifier, monkeypatch):
    monkeypatch.chdir(trained.parent)
    relative = dal_jax.load(trained.name)
    np.testing.assert_array_equal(
        relative.predict(TEST.inputs), classifier.predict(TEST.inputs)
    )


def test_the_best_checkpoint_is_the_best_on_noisy_validation(trained):
    best = max(entries(trained), key=lambda entry: entry["validation_accuracy"])
    last = entries(trained)[-1]
    assert best["test_accuracy"] != last["test_accuracy"]  # the two can be told apart
    predicted = dal_jax.load(trained, "best").predict(TEST.inputs)
    assert accuracy(predicted) == best["test_accuracy"]


def test_probabilities_are_those_of_the_prediction(classifier):
    probabilities = classifier.predict_proba(TEST.inputs)
    assert probabilities.shape == (500, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    predicted = classifier.predict(TEST.inputs)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), predicted)
    assert classifier.class_names == tuple("0123456789")


def test_an_input_is_predicted_alike_in_any_company(classifier, test_images):
    together = classifier.predict_proba(TEST.inputs[:70])
    paths = [test_images / "part0" / f"{i:03d}.png" for i in range(70)]
    for alone in (
        classifier.predict_proba(TEST.inputs[3:4]),
        classifier.predict_proba(TEST.inputs[3:70])[:1],
        classifier.predict_proba(paths[3]),
        classifier.predict_proba(paths[3:5])[:1],
        classifier.predict_proba(list(map(str, paths)))[3:4],
    ):
        np.testing.assert_allclose(alone, together[3:4], atol=1e-5)


def test_a_list_names_images_relative_to_itself(classifier, test_images):
    listed = test_images / "listed.csv"
    listed.write_text("label,path\n1,part0/004.png\n2,part1/499.png\n")
    of_list = classifier.predict_proba(listed)
    listed.unlink()
    expected = classifier.predict_proba(TEST.inputs[[4, 499]])
    np.testing.assert_allclose(of_list, expected, rtol=1e-5)


def test_the_directory_is_only_read(trained):
    def state():
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in (trained, *trained.rglob("*"))
        }

    before = state()
    for checkpoint in ("last", "best"):
        dal_jax.load(trained, checkpoint).predict(TEST.inputs[:1])
    assert state() == before


# Runs of objects.

FEATURES = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABELS = (FEATURES[:, 0] > 0).astype(int)


def linear(rngs):
    return nnx.Linear(3, 2, rngs=rngs)


def fit(workdir, **options):
    return training.fit(
        linear,
        (FEATURES, LABELS),
        loss=losses.make("ce"),
        optimizer=optax.sgd(0.5),
        num_epochs=2,
        batch_size=20,
        workdir=workdir,
        class_names=("left", "right"),
        **options,
    )


@pytest.fixture(scope="module")
def of_objects(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("objects") / "run"
    # With an average over time, which is not what the optimizer left.
    return workdir, fit(workdir, ema_decay=0.9)


def test_a_run_of_objects_predicts_as_its_result_did(of_objects, read_run):
    workdir, result = of_objects
    classifier = dal_jax.load(workdir, model=linear)
    expected = softmax(result.predict_logits(FEATURES), axis=1)
    probabilities = classifier.predict_proba(FEATURES)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert classifier.class_names == ("left", "right")
    as_double = classifier.predict_proba(FEATURES.astype(float))
    np.testing.assert_array_equal(as_double, probabilities)
    arrays = read_run(workdir).arrays
    last = (
        FEATURES @ arrays["[0]['params']['kernel']"] + arrays["[0]['params']['bias']"]
    )
    assert not np.allclose(softmax(last, axis=1), expected)


def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "predict.md").read_text()
    (code,) = re.findall(r"<!-- test: objects -->\n```python\n(.*?)```", page, re.S)
    exec(code, {})
    assert float(capsys.readouterr().out) > 0.9


def test_a_run_of_objects_asks_for_them(of_objects, tmp_path):
    workdir, _ = of_objects
    with pytest.raises(InputError, match=r"one of objects.* give model="):
        dal_jax.load(workdir)
    with pytest.raises(InputError, match=r"does not fit .*float32\[2\].*float32\[5\]"):
        dal_jax.load(workdir, model=lambda rngs: nnx.Linear(3, 5, rngs=rngs))
    double = Preprocess(lambda keys, inputs: 2 * inputs, lambda inputs: 2 * inputs)
    result = fit(tmp_path / "run", preprocess=double)
    with pytest.raises(InputError, match=r"in a way of its own.*give preprocess="):
        dal_jax.load(tmp_path / "run", model=linear)
    loaded = dal_jax.load(tmp_path / "run", model=linear, preprocess=double)
    np.testing.assert_allclose(
        loaded.predict_proba(FEATURES),
        softmax(result.predict_logits(FEATURES), axis=1),
        rtol=1e-5,
    )


def test_a_run_of_names_knows_its_own_network(trained):
    with pytest.raises(InputError, match="leave out model and preprocess"):
        dal_jax.load(trained, model=linear)


# From names to objects without the data.


def test_a_configuration_comes_back_from_its_file():
    config = TrainConfig(
        model=ModelConfig(channels=(3, 5)),
        loss=LossConfig("dal", q_end=2.0),
        augmentation=AugmentationConfig(mean=(0.1,), std=(2.0,)),
    )
    values = json.loads(json.dumps(recipe.identity_of(config).values))
    assert recipe.config_of(values) == config
    del values["optimizer"]  # as an earlier version may have left it
    assert recipe.config_of(values) == config
    with pytest.raises(InputError, match="has the field 'depth'"):
        recipe.config_of({"model": {"depth": 3}})


def test_network_and_preprocessing_are_made_without_the_data():
    config = TrainConfig(
        dataset=DatasetConfig(train_size=100, test_size=5, image_size=10, channels=3),
        augmentation=AugmentationConfig(random_resized_crop=6),
        model=ModelConfig("mlp", hidden=(4,)),
    )
    prepared = recipe.prepare(config)
    trained = recipe.ingredients(config, prepared)
    described = trained["preprocess"].description
    assert (described["size"], described["channels"]) == (10, 3)
    inputs = json.loads(
        json.dumps(
            {
                "class_names": list("0123456789"),
                "input_shape": [10, 10, 3],
                "input_dtype": "uint8",
                **described,
            }
        )
    )
    values = json.loads(json.dumps(recipe.identity_of(config).values))
    model, preprocess = recipe.of_finished_run(values, inputs)
    images = prepared.test.inputs
    again, expected = jax.jit(
        lambda: [p.evaluate(images) for p in (preprocess, trained["preprocess"])]
    )()
    np.testing.assert_array_equal(again, expected)

    def shapes(construct):
        module = nnx.eval_shape(lambda: construct(nnx.Rngs(0)))
        return nnx.to_pure_dict(nnx.state(module))

    assert shapes(model) == shapes(trained["model"])


# What is done to images before they are inputs.


def resizing(size, channels, shape=(4, 4, 1)):
    """Returns a classifier whose logits are the pixels of its inputs."""
    network = Functional(
        lambda key: ((), ()),
        lambda params, state, x, train: (x.reshape(len(x), -1), state),
    )
    return Classifier(
        network,
        default_preprocess(shape, np.uint8),
        (),
        (),
        InputForm(shape, np.dtype(np.uint8), size, channels),
        tuple(map(str, range(np.prod(shape)))),
    )


COLOURED = np.random.default_rng(1).integers(0, 256, (3, 9, 7, 3), np.uint8)


def test_images_are_resized_as_the_run_resized_its_own(tmp_path):
    for number, image in enumerate(COLOURED):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    pixels = np.stack([decode(image, 1, 4).ravel() for image in COLOURED]) / 255
    expected = softmax(pixels.astype(np.float32), axis=1)
    classifier = resizing(4, 1)
    for inputs in (COLOURED, tmp_path):
        probabilities = classifier.predict_proba(inputs)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_images_of_another_size_are_refused_where_the_run_resized_none(tmp_path):
    classifier = resizing(None, None)
    with pytest.raises(InputError, match=r"\[3, 9, 7, 3\]: expected .*\[N, 4, 4, 1\]"):
        classifier.predict(COLOURED)
    with pytest.raises(InputError, match=r"\[3, 4, 4, 3\]: expected"):
        classifier.predict(COLOURED[:, :4, :4])
    Image.fromarray(COLOURED[0]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="7 x 9 pixels, expected 4 x 4"):
        classifier.predict(tmp_path)
    # Files are decoded to grey or colour, whatever they are.
    Image.fromarray(COLOURED[0, :4, :4]).save(tmp_path / "a.png")
    assert len(classifier.predict(tmp_path)) == 1


def test_a_file_that_does_not_decode_is_named_by_its_place(tmp_path):
    Image.fromarray(COLOURED[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    classifier = resizing(4, 1)
    with pytest.raises(InputError, match=r"input 1 .*not an image in a known format"):
        classifier.predict(tmp_path)
    (batch,) = classifier.in_batches([tmp_path / "b.png", tmp_path / "a.png"])
    assert batch.positions.tolist() == [1]
    assert list(batch.unreadable) == [0]
    alone = classifier.predict_proba(tmp_path / "a.png")
    np.testing.assert_array_equal(softmax(batch.logits, axis=1), alone)


WRONG_INPUTS = {
    "dtype": (TEST.inputs / np.float32(255), "inputs are float32"),
    "wide": (TEST.inputs.astype(np.uint16), "inputs are uint16"),
    "shape": (TEST.inputs[:, :5], r"\[500, 5, 8, 1\]"),
    "none": (TEST.inputs[:0], r"\[0, 8, 8, 1\]"),
    "missing": ("nowhere/at/all", "no file or folder nowhere/at/all"),
}


@pytest.mark.parametrize(("inputs", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused(classifier, inputs, message):
    with pytest.raises(InputError, match=message):
        classifier.predict(inputs)


def test_numbers_that_are_not_finite_are_refused(of_objects):
    classifier = dal_jax.load(of_objects[0], model=linear)
    features = FEATURES.copy()
    features[7, 1] = np.nan
    with pytest.raises(InputError, match="input 7 gives logits that are not finite"):
        classifier.predict(features)
    with pytest.raises(InputError, match=r"trained on float32.*and not on images"):
        classifier.predict(["a.png"])


# Runs that cannot be loaded.


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def newest(workdir):
    steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
    return workdir / "checkpoints" / str(max(steps))


def damage(workdir):
    files = [path for path in (newest(workdir) / "arrays").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def hold_nothing_out(workdir):
    kept = [
        {key: value for key, value in entry.items() if "validation" not in key}
        for entry in entries(workdir)
    ]
    (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, kept)))


def change_seed(workdir):
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"seed": 5}))


BROKEN = {
    "no run": (lambda run: (run / "config.json").unlink(), "last", "no run of dal_jax"),
    "unfinished": (lambda run: (run / "summary.json").unlink(), "last", "not finished"),
    "older": (
        lambda run: (run / "preprocessing.json").unlink(),
        "last",
        "no preprocessing.json",
    ),
    "damaged": (damage, "last", "is damaged"),
    "lost": (lambda run: shutil.rmtree(newest(run)), "last", "has no checkpoint"),
    "strange": (change_seed, "last", "of a run with another configuration"),
    "no validation": (hold_nothing_out, "best", "held out no validation"),
    "unknown": (lambda run: None, "lats", "did you mean 'last'"),
}


@pytest.mark.parametrize(
    ("break_it", "checkpoint", "message"), BROKEN.values(), ids=BROKEN
)
def test_what_is_no_finished_run_is_refused(copy, break_it, checkpoint, message):
    break_it(copy)
    with pytest.raises(InputError, match=message):
        dal_jax.load(copy, checkpoint)
