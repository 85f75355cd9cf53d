"""Objects in, a run out: every kind of object, the same bits as by names."""

import json
import re
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from dal_jax import data, losses, models, recipe, training
from dal_jax.config import DatasetConfig, ModelConfig, TrainConfig
from dal_jax.errors import InputError
from dal_jax.noise import NoiseRecord
from dal_jax.training.state import TrainState
from dal_jax.training.step import update_average

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
EXAMPLES = dict(
    re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_s_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = EXAMPLES[name]
    assert len(code.splitlines()) < 30
    names = {}
    exec(compile(code, name, "exec"), names)
    result = names["result"]
    # The labels of the first example are noisy, and its test labels are not.
    figure, least = {
        "nnx": ("test_accuracy", 0.8),
        "linen": ("train_accuracy", 0.5),
        "tokens": ("train_accuracy", 0.99),
        "loss": ("train_accuracy", 0.9),
        "adamw": ("validation_accuracy", 0.95),
    }[name]
    assert result.metrics[-1][figure] >= least


def test_the_page_covers_every_kind_of_object():
    assert set(EXAMPLES) == {"nnx", "linen", "tokens", "loss", "adamw"}


def make_data(count=64):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    inputs = np.eye(3, 5)[labels] * 3 + rng.normal(size=(count, 5))
    return inputs.astype(np.float32), labels


def linear(rngs):
    return nnx.Linear(5, 3, rngs=rngs)


def fit(**changed):
    given = {
        "model": linear,
        "train": make_data(),
        "loss": losses.make("ce"),
        "optimizer": optax.sgd(0.1),
        "num_epochs": 3,
        "batch_size": 16,
    }
    return training.fit(**given | changed)


def untimed(entries):
    return [{k: v for k, v in e.items() if "second" not in k} for e in entries]


@pytest.fixture(scope="module")
def plain():
    """What ``fit`` returns without further arguments, which nothing may change."""
    return fit()


def test_objects_and_names_end_with_the_same_bits(tmp_path):
    config = TrainConfig(
        dataset=DatasetConfig(train_size=96, test_size=40, validation_fraction=0.25),
        model=ModelConfig("mlp", hidden=(16,)),
        num_epochs=2,
        batch_size=24,
        train_eval_size=0,
    )
    by_names = training.train_and_evaluate(config, tmp_path / "names")
    prepared = recipe.prepare(config)
    steps = config.num_epochs * 3
    rate = optax.cosine_decay_schedule(0.05, steps)
    objects = recipe.ingredients(config, prepared)
    result = training.fit(
        lambda rngs: models.create(
            "mlp", image_shape=(8, 8, 1), num_classes=10, hidden=(16,), rngs=rngs
        ),
        prepared.train,
        validation=prepared.validation,
        test=(prepared.test.inputs, prepared.test.labels),
        loss=losses.make("dal", total_steps=steps, steps_per_epoch=3),
        optimizer=optax.chain(
            optax.add_decayed_weights(0.0),
            optax.trace(0.9),
            optax.scale_by_learning_rate(rate),
        ),
        preprocess=objects["preprocess"],
        num_epochs=2,
        batch_size=24,
        train_eval_size=0,
    )
    for name in ("train_loss", "test_accuracy_last", "validation_accuracy_last"):
        assert result.summary[name] == by_names[name]
    assert result.summary["steps"] == by_names["steps"] == steps


def test_a_module_s_own_parameters_are_the_beginning_and_stay():
    module = linear(nnx.Rngs(5))
    before = np.array(module.kernel[...])
    begun = fit(model=module, num_epochs=0)
    np.testing.assert_array_equal(begun.params["kernel"], before)
    trained = fit(model=module, num_epochs=1, train_eval_size=0)
    assert (np.asarray(trained.params["kernel"]) != before).any()
    np.testing.assert_array_equal(module.kernel[...], before)


def test_a_pair_and_a_linen_module_of_the_same_maths_agree():
    class Linear(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, kernel_init=linen.initializers.zeros)(x)

    def init(key):
        return {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)}, ()

    def apply(params, state, inputs, train):
        return inputs @ params["kernel"] + params["bias"], state

    of_linen, of_pair = (
        fit(model=model, train_eval_size=0) for model in (Linear(), (init, apply))
    )
    for one, other in zip(of_linen.metrics, of_pair.metrics, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
    inputs = make_data()[0]
    np.testing.assert_allclose(
        of_linen.predict_logits(inputs), of_pair.predict_logits(inputs), atol=1e-5
    )


def test_predictions_are_those_of_the_evaluation_whatever_the_batch():
    inputs, labels = make_data()
    result = fit(eval_batch_size=20)
    logits = result.predict_logits(inputs)
    assert np.mean(logits.argmax(-1) == labels) == result.metrics[-1]["train_accuracy"]
    for count in (1, 3, 21):
        part = result.predict_logits(inputs[:count])
        np.testing.assert_allclose(part, logits[:count], rtol=1e-6, atol=1e-6)


class Source:
    """The inputs, one at a time."""

    def __init__(self):
        self._inputs = make_data()[0]
        self.shape, self.dtype = self._inputs.shape[1:], self._inputs.dtype

    def __len__(self):
        return len(self._inputs)

    def __getitem__(self, position):
        return self._inputs[position]


def test_streamed_inputs_train_as_those_in_memory(plain):
    streamed = fit(train=data.Split(Source(), make_data()[1]))
    for one, other in zip(plain.metrics, streamed.metrics, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)


def test_without_grain_a_stream_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(InputError, match="grain, which is not installed"):
        fit(train=data.Split(Source(), make_data()[1]), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_examples_with_several_labels_have_clean_ones(tmp_path):
    inputs, labels = make_data(60)
    given = data.Split(
        inputs.reshape(20, 3, 5),
        labels.reshape(20, 3),
        clean_labels=(labels.reshape(20, 3) + np.array([0, 0, 1])) % 3,
    )
    # Labels below 0 are padding.
    given.labels[:, 0] = -1

    def loss(logits, labels, step):
        kept = labels >= 0
        return losses.ce(logits, jnp.maximum(labels, 0), where=kept)

    result = fit(train=given, loss=loss, num_epochs=1, workdir=tmp_path)
    matrix = NoiseRecord.load(tmp_path / "noise.npz").transition_matrix
    np.testing.assert_array_equal(matrix, result.plan.record.transition_matrix)
    shown = given.labels[:, 1:], given.clean_labels[:, 1:]
    for i in range(3):
        of_class = shown[0][shown[1] == i]
        np.testing.assert_allclose(
            matrix[i], np.bincount(of_class, minlength=3) / len(of_class)
        )


def test_a_workdir_goes_on_with_the_same_objects_and_refuses_others(tmp_path, plain):
    class Left(Exception):
        pass

    given = {"workdir": tmp_path, "checkpoint_every": 1}
    # An interrupt is as ordinary as any other exception.
    for error, last in ((Left, 2), (KeyboardInterrupt, 3)):

        def leave(entry, error=error, last=last):
            if entry["epoch"] == last:
                raise error

        with pytest.raises(error):
            fit(on_evaluation=leave, **given)
    inputs, labels = make_data()
    others = (
        {"loss": losses.make("mae")},
        {"optimizer": optax.sgd(0.2)},
        {"train": (inputs + 1, labels)},
        {"train": (inputs, (labels + 1) % 3)},
        {"seed": 1},
    )
    for other in others:
        with pytest.raises(InputError, match="another configuration"):
            fit(**given | other)
    said = []
    rest = fit(say=said.append, **given)
    assert said == ["going on at step 8 of 12"]
    assert untimed(rest.metrics) == untimed(plain.metrics)
    jax.tree.map(np.testing.assert_array_equal, rest.params, plain.params)
    for name in ("config.json", "noise.npz", "metrics.jsonl", "summary.json"):
        assert (tmp_path / name).exists()


def test_a_mapped_run_of_objects_with_batch_norm_goes_on(tmp_path):
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(5, axis_name="data", rngs=rngs)
            self.linear = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x):
            return self.linear(self.norm(x))

    given = {"model": Network, "parallel": "pmap", "workdir": tmp_path}
    given["train_eval_size"] = 0
    first = fit(**given)
    assert fit(**given).summary == first.summary
    with pytest.raises(InputError, match="another configuration"):
        fit(**given | {"loss": losses.make("mae")})


def owned():
    return (
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
    )


class Finished(NamedTuple):
    """A run, and what the process owned before, at each evaluation, and after."""

    workdir: Path
    result: training.FitResult
    owned: list[tuple[object, ...]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    seen, workdir = [owned()], tmp_path_factory.mktemp("finished")
    result = fit(workdir=workdir, on_evaluation=lambda entry: seen.append(owned()))
    return Finished(workdir, result, [*seen, owned()])


def test_a_library_call_leaves_the_process_alone(finished):
    assert finished.owned == [finished.owned[0]] * 5


def test_a_finished_run_is_given_back_as_it_is(finished, tmp_path):
    first = finished.result
    shutil.copytree(finished.workdir, tmp_path, dirs_exist_ok=True)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    said = []
    again = fit(workdir=tmp_path, say=said.append)
    assert "already finished" in " ".join(said)
    assert again.summary == json.loads((tmp_path / "summary.json").read_text())
    assert untimed(again.metrics) == untimed(first.metrics)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    assert written == {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()
    }
    inputs = json.loads((tmp_path / "preprocessing.json").read_text())
    named = ("class_names", "input_shape", "input_dtype")
    assert inputs.keys() >= {*named, "size", "channels", "mean", "std"}
    # One that a crash has torn is written again.
    (tmp_path / "summary.json").write_text(json.dumps(first.summary)[:-30])
    assert untimed([fit(workdir=tmp_path).summary]) == untimed([first.summary])
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 12


def test_a_callback_ends_the_run(tmp_path):
    seen = []

    def end(entry):
        seen.append(entry["epoch"])
        # What is no truth value ends nothing.
        return np.True_ if entry["epoch"] == 2 else "seen"

    result = fit(on_evaluation=end, workdir=tmp_path)
    assert seen == [1, 2]
    assert result.summary["epochs"] == 2
    assert (tmp_path / "checkpoints" / "8").is_dir()


def test_an_average_of_the_parameters_is_what_is_evaluated(plain):
    result = fit(ema_decay=0.9)
    # The trajectory is the same; what is given back is its average.
    jax.tree.map(np.testing.assert_array_equal, result.state.params, plain.params)
    assert (np.asarray(result.params["bias"]) != plain.params["bias"]).any()
    logits = result.predict_logits(make_data()[0])
    accuracy = np.mean(logits.argmax(-1) == make_data()[1])
    assert accuracy == result.metrics[-1]["train_accuracy"]


def test_the_average_by_hand():
    """Two steps of a state of one number that goes 1, 2, 4."""
    average = np.float32(1)
    state = TrainState(jnp.int32(0), {"w": average}, {"n": 5}, (), (), (), ())
    state = state.replace(average=({"w": average}, {"n": jnp.int32(5)}))
    new = state.replace(params={"w": jnp.float32(2)}, model_state={"n": jnp.int32(6)})
    first = update_average(state, new, 0.15)
    # The decay is 1/10 first, for the run is young, and 0.15 then.
    assert float(first.average[0]["w"]) == pytest.approx(0.1 * 1 + 0.9 * 2)
    assert int(first.average[1]["n"]) == 6
    newer = first.replace(params={"w": jnp.float32(4)})
    second = update_average(first.replace(step=jnp.int32(1)), newer, 0.15)
    assert float(second.average[0]["w"]) == pytest.approx(0.15 * 1.9 + 0.85 * 4)


def test_the_training_set_s_evaluation_can_be_thinned_out(plain):
    inputs, labels = make_data()
    some, none = (fit(train_eval_size=n) for n in (10, 0))
    jax.tree.map(np.testing.assert_array_equal, plain.params, some.params)
    assert "train_accuracy" not in none.metrics[-1]
    assert none.summary["train_accuracy"] is None
    chosen = np.arange(10) * 64 // 10
    predicted = some.predict_logits(inputs[chosen]).argmax(-1)
    assert some.metrics[-1]["train_accuracy"] == pytest.approx(
        np.mean(predicted == labels[chosen])
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, "the model is a int"),
        ({"loss": "dal"}, "the loss is a str"),
        ({"optimizer": optax.sgd}, "the optimizer is sgd: expected an optax grad"),
        ({"seed": -1}, "the seed of initialization is -1: expected 0 to 4294967295"),
        ({"train": (make_data()[0].astype(str), make_data()[1])}, "inputs are <U"),
        ({"train": (make_data()[0] * 1j, make_data()[1])}, "gives complex64 logits"),
        ({"train": ([[1.0, 2.0], [3.0]], [0, 1])}, "inputs are no array"),
        ({"train": (make_data()[0], make_data()[1] - 1)}, "labels go down to -1"),
        ({"train": 3}, r"data is a int: expected \(inputs, labels\)"),
        ({"batch_size": 65}, "batch_size=65 is larger than the training set of 64"),
        ({"num_epochs": -1}, "num_epochs=-1 is out of range"),
        ({"train": (make_data()[0], make_data()[1] + 1)}, "labels go up to 3"),
        (
            {"test": (np.zeros((2, 4), np.float32), [0, 1])},
            "test inputs have the shape",
        ),
        ({"class_names": ("a", "b")}, "3 logits and there are 2 class names"),
        ({"train": (make_data()[0], np.zeros((64, 2), int))}, "has labels of shape"),
        ({"seeds": {"data_ordr": 1}}, "did you mean 'data_order'"),
        ({"on_nonfinite": "ignore"}, "unknown on_nonfinite"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is out of range"),
    ],
)
def test_wrong_objects_are_one_line_before_anything_is_written(
    changed, message, tmp_path
):
    with pytest.raises(InputError, match=message) as error:
        fit(workdir=tmp_path / "run", **changed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
