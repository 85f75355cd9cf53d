"""Features through a configuration: trained, predicted, audited, exported, refused."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dal_jax
from dal_jax import audit, recipe, training
from dal_jax.config import (
    AugmentationConfig,
    DatasetConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    TrainConfig,
)
from dal_jax.errors import InputError

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features of three classes, on scales and with offsets that differ a lot."""
    directory = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 4))
    for name, count in (("train", 240), ("test", 90)):
        labels = rng.integers(0, 3, count)
        inputs = means[labels] + 0.3 * rng.normal(size=(count, 4))
        inputs = (inputs * [1, 100, 0.01, 1] + [0, 1000, 5, -3]).astype(np.float32)
        np.save(directory / f"{name}.npy", inputs)
        np.savez(directory / f"{name}.npz", inputs=inputs, labels=labels)
        columns = dict(zip(NAMES, inputs.T, strict=True))
        # In another order: the run knows its columns by name.
        columns = {"label": labels, **dict(reversed(columns.items()))}
        pq.write_table(pa.table(columns), directory / f"{name}.parquet")
    return directory


def config(files, ending="parquet", **dataset):
    given = {
        "train_path": str(files / f"train.{ending}"),
        "test_path": str(files / f"test.{ending}"),
        "input_columns": "a,b,c,d",
        "validation_fraction": 0.25,
        "standardize": True,
    }
    return TrainConfig(
        dataset=DatasetConfig("arrays", **(given | dataset)),
        model=ModelConfig("mlp", hidden=(16,), layer_norm=True, dropout=0.1),
        noise=NoiseConfig("instance", rate=0.2),
        optimizer=OptimizerConfig(learning_rate=0.2),
        num_epochs=6,
        batch_size=30,
    )


@pytest.fixture(scope="module")
def run(files, tmp_path_factory, compilation_cache):
    workdir = tmp_path_factory.mktemp("features_run") / "run"
    return workdir, training.train_and_evaluate(config(files), workdir)


def test_a_table_is_learnt_and_predicted_from_any_file(run, files, tmp_path):
    workdir, summary = run
    assert summary["test_accuracy_last"] > 0.9
    classifier = dal_jax.load(workdir)
    labels = np.load(files / "test.npz")["labels"]
    expected = classifier.predict_proba(np.load(files / "test.npy"))
    assert (expected.argmax(1) == labels).mean() == pytest.approx(
        summary["test_accuracy_last"]
    )
    for ending in ("npy", "npz", "parquet"):
        path = files / f"test.{ending}"
        if ending == "npz":
            np.savez(tmp_path / "alone.npz", np.load(path)["inputs"])
            path = tmp_path / "alone.npz"
        np.testing.assert_array_equal(classifier.predict_proba(path), expected)
    classifier.export(tmp_path / "x.stablehlo")
    exported = jax.export.deserialize(
        bytearray((tmp_path / "x.stablehlo").read_bytes())
    )
    np.testing.assert_allclose(
        exported.call(np.load(files / "test.npy")), expected, atol=1e-6
    )


def test_statistics_are_those_of_the_training_examples_alone(run, files):
    workdir, _ = run
    kept = json.loads((workdir / "preprocessing.json").read_text())
    prepared = recipe.prepare(config(files))
    assert len(prepared.train) == 180
    inputs = prepared.train.inputs.astype(float)
    np.testing.assert_allclose(kept["mean"], inputs.mean(0))
    np.testing.assert_allclose(kept["std"], inputs.std(0))
    assert kept["columns"] == list(NAMES)


def test_a_stream_of_a_mapped_file_trains_as_arrays_in_memory_do(run, files, tmp_path):
    labels = tmp_path / "labels.npy"
    for name in ("train", "test"):
        np.save(
            labels.with_name(f"{name}.npy"), np.load(files / f"{name}.npz")["labels"]
        )
    streamed = config(
        files,
        "npy",
        train_labels=str(labels.with_name("train.npy")),
        test_labels=str(labels.with_name("test.npy")),
        input_columns=None,
        storage="stream",
    )
    result = training.train_and_evaluate(streamed, tmp_path / "run")
    timed = {"elapsed_seconds"}
    for name in result.keys() - timed:
        assert result[name] == run[1][name], name
    record, other = (
        np.load(workdir / "noise.npz") for workdir in (run[0], tmp_path / "run")
    )
    np.testing.assert_array_equal(record["noisy_labels"], other["noisy_labels"])


def test_the_page_of_the_audit_shows_values(run):
    with audit.audited(run[0]) as audited:
        audit.write_files(audited, top=3)
        worst = audited.record.index[audited.issues.order[0]]
        source = dal_jax.data.listed(audited.config.dataset).train
    page = (run[0] / audit.PAGE).read_text()
    assert f"{source.inputs[worst][1]:.4g}"[:4] in page


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"augmentation": AugmentationConfig(flip=True)}, "augmentation.flip=True is"),
        (
            {"augmentation": AugmentationConfig(mean=(0.5,), std=(1.0,))},
            "dataset.standardize is for inputs that are no images, in place of",
        ),
        ({"model": ModelConfig("cnn")}, "model 'cnn' takes images [height, width"),
        ({"model": ModelConfig("mlp", dropout=1.5)}, "model.dropout is 1.5"),
        (
            {"model": ModelConfig("linear", layer_norm=True)},
            "model.layer_norm does not",
        ),
        ({"noise": NoiseConfig("instance", pixel_scaling="unit")}, "unit is for uint8"),
    ],
)
def test_what_does_not_fit_features(files, tmp_path, changes, expected):
    wrong = config(files)
    for name, value in changes.items():
        setattr(wrong, name, value)
    with pytest.raises(InputError) as caught:
        training.train_and_evaluate(wrong, tmp_path / "run")
    assert expected in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_images_are_not_standardised_feature_by_feature(tmp_path):
    wrong = TrainConfig(dataset=DatasetConfig(standardize=True))
    with pytest.raises(InputError, match="for inputs that are no images"):
        training.train_and_evaluate(wrong, tmp_path / "run")
