"""A run whose loss or gradient overflows: it stops and says why, or it skips."""

import json
import shutil

import numpy as np
import pytest

from dal_jax.config import DatasetConfig, ModelConfig, OptimizerConfig, TrainConfig
from dal_jax.training import NonFiniteError, train_and_evaluate


def make_config(**optimizer):
    config = TrainConfig(
        dataset=DatasetConfig(train_size=128, test_size=50),
        model=ModelConfig("mlp", hidden=(4,)),
        optimizer=OptimizerConfig(**{"learning_rate": 1e38} | optimizer),
        num_epochs=2,
        batch_size=32,
        checkpoint_every=1,
        train_eval_size=0,
    )
    config.loss.name = "ce"
    return config


def read(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The directory of a run that overflowed, and its error; only to read."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.raises(NonFiniteError) as caught:
        train_and_evaluate(make_config(), workdir)
    return workdir, caught.value


def test_it_stops_with_where_and_what_to_do(stopped):
    workdir, error = stopped
    line = str(error)
    assert "\n" not in line
    for word in ("'ce'", "at step ", "learning_rate", "clip_norm", "on_nonfinite=skip"):
        assert word in line
    step = int(line.split("at step ")[1].split(";")[0])
    assert 1 <= step < 8
    low, high = (float(x) for x in line.split("[")[1].split("]")[0].split(","))
    assert low <= high
    assert np.isfinite([low, high]).all()
    # What is not finite is not saved.
    assert read(workdir) == []
    assert not list((workdir / "checkpoints").iterdir())
    assert not (workdir / "summary.json").exists()


def test_the_same_command_stops_again_and_another_goes_through(stopped, tmp_path):
    workdir, error = stopped
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    with pytest.raises(NonFiniteError) as again:
        train_and_evaluate(make_config(), tmp_path)
    assert str(again.value) == str(error)
    config = make_config(learning_rate=0.05)
    summary = train_and_evaluate(config, tmp_path, overwrite=True)
    assert summary["epochs"] == 2


def test_it_skips_and_counts_by_option(tmp_path):
    config = make_config()
    config.on_nonfinite = "skip"
    summary = train_and_evaluate(config, tmp_path)
    entries = read(tmp_path)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    # The first step overflows the parameters' products, so that all others skip.
    assert 0 < entries[0]["skipped_steps"] < 4
    assert entries[1]["skipped_steps"] == 4
    assert np.isfinite(entries[0]["train_loss"])
    # No example counted: there is no mean, rather than one of 0.
    assert entries[1]["train_loss"] is None
    assert summary["steps"] == 8


def test_a_good_run_skips_nothing(tmp_path):
    config = make_config(learning_rate=0.05)
    config.on_nonfinite = "skip"
    train_and_evaluate(config, tmp_path)
    assert [entry["skipped_steps"] for entry in read(tmp_path)] == [0, 0]


def test_clipping_keeps_a_wild_run_finite(tmp_path):
    # With clipping a step moves the parameters by at most rate times norm.
    config = make_config(learning_rate=1e3, clip_norm=1e-5, momentum=0.0)
    summary = train_and_evaluate(config, tmp_path)
    assert np.isfinite(summary["train_loss"])
    assert summary["train_loss"] < 5.0
