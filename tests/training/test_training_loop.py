"""How often the loop compiles, evaluates and saves."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dal_jax.config import DatasetConfig, ModelConfig, TrainConfig
from dal_jax.errors import InputError
from dal_jax.schedules import dal_schedule
from dal_jax.training import step as steps
from dal_jax.training import train_and_evaluate
from dal_jax.training.storage import Directory


def make_config(**fields):
    """A run of 5 epochs of 4 steps, whose programs are the same in most tests."""
    config = TrainConfig(
        **{
            "dataset": DatasetConfig(train_size=100, test_size=50),
            "model": ModelConfig("mlp", hidden=(16,)),
            "num_epochs": 5,
            "batch_size": 32,
            "eval_batch_size": 16,
            "train_eval_size": 0,
        }
        | fields
    )
    config.loss.q_start, config.loss.q_end, config.loss.per_epoch = 0.5, 2.0, False
    return config


class Run(NamedTuple):
    """A run, and what happened while it was trained.

    ``traces`` counts how often the step had been traced by each line of metrics.
    """

    config: TrainConfig
    workdir: Path
    summary: dict[str, Any]
    said: list[str]
    traces: list[int]
    written: list[tuple[str, int]]

    def metrics(self):
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def saved(self):
        return {int(path.name) for path in (self.workdir / "checkpoints").iterdir()}


def train(config, workdir):
    make_train_step, append, save = (
        steps.make_train_step,
        Directory.append,
        Directory.save,
    )
    said, calls, traces, written = [], [], [], []

    def make_counted_step(*args, **kwargs):
        step = make_train_step(*args, **kwargs)

        def traced(state, batch):
            calls.append(None)
            return step(state, batch)

        return traced

    def append_noted(storage, entry):
        append(storage, entry)
        written.append(("line", entry["step"]))
        traces.append(len(calls))

    def save_noted(storage, step, *arguments):
        written.append(("checkpoint", step))
        save(storage, step, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "make_train_step", make_counted_step)
        patch.setattr(Directory, "append", append_noted)
        patch.setattr(Directory, "save", save_noted)
        summary = train_and_evaluate(config, workdir, say=said.append)
    return Run(config, workdir, summary, said, traces, written)


@pytest.fixture(scope="module")
def five_epochs(tmp_path_factory):
    """A run that saves after each epoch."""
    config = make_config(checkpoint_every=1, keep_checkpoints=2)
    return train(config, tmp_path_factory.mktemp("five"))


def test_epochs_compile_nothing_new(five_epochs):
    first, *later = five_epochs.traces
    assert first > 0
    assert later == [first] * 4


def test_evaluations_and_checkpoints_come_when_asked_and_at_the_end(tmp_path):
    config = make_config(eval_every=3, checkpoint_every=2, keep_checkpoints=9)
    run = train(config, tmp_path)
    assert [entry["epoch"] for entry in run.metrics()] == [3, 5]
    assert run.saved() == {8, 16, 20}


def test_a_line_of_metrics_has_the_coefficients_of_its_last_step(five_epochs):
    schedule = dal_schedule(20, q_start=0.5, q_end=2.0)
    for entry, step in zip(five_epochs.metrics(), (3, 7, 11, 15, 19), strict=True):
        found = entry["q"], entry["bootstrap_weight"]
        np.testing.assert_allclose(found, schedule(step), rtol=1e-6)


def test_only_the_newest_checkpoints_are_kept(five_epochs):
    assert five_epochs.saved() == {16, 20}


def test_the_best_by_noisy_validation_is_kept_as_well(tmp_path):
    config = make_config(checkpoint_every=1, keep_checkpoints=1)
    config.dataset.validation_fraction = 0.2
    config.dataset.train_size = 125
    run = train(config, tmp_path)
    accuracies = {e["step"]: e["validation_accuracy"] for e in run.metrics()}
    assert max(accuracies) in run.saved()
    assert max(accuracies.values()) in {accuracies[step] for step in run.saved()}
    assert len(run.saved()) <= 2


def test_what_is_said(five_epochs):
    (line,) = five_epochs.said
    assert line.startswith("training examples a class: 0 ")
    again = train(five_epochs.config, five_epochs.workdir)
    assert again.said == [f"already finished; nothing changed in {again.workdir}"]
    assert again.summary == five_epochs.summary


def test_wrong_input_is_an_input_error_before_anything_is_written(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match="batch_size=101"):
        train_and_evaluate(make_config(batch_size=101), workdir)
    assert not workdir.exists()


def test_a_line_of_metrics_is_written_before_its_checkpoint(five_epochs):
    """Else a run that is killed between them would go on without the line."""
    kinds, ends = ("line", "checkpoint"), (4, 8, 12, 16, 20)
    assert five_epochs.written == [(kind, step) for step in ends for kind in kinds]
