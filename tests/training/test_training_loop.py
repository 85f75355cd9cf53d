"""How often the loop compiles, evaluates and saves."""

import json

import numpy as np
import pytest

from dal_jax.config import DatasetConfig, ModelConfig, TrainConfig
from dal_jax.errors import InputError
from dal_jax.schedules import dal_schedule
from dal_jax.training import step as steps
from dal_jax.training import train_and_evaluate
from dal_jax.training.storage import Directory


def make_config(**fields):
    return TrainConfig(
        **{
            "dataset": DatasetConfig(train_size=100, test_size=50),
            "model": ModelConfig("mlp", hidden=(16,)),
            "batch_size": 32,
            "eval_batch_size": 16,
        }
        | fields
    )


def evaluated(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def test_epochs_compile_nothing_new(tmp_path, monkeypatch):
    make_train_step, traces = steps.make_train_step, []

    def counting(*args, **kwargs):
        step = make_train_step(*args, **kwargs)

        def traced(state, batch):
            traces.append(None)
            return step(state, batch)

        return traced

    monkeypatch.setattr(steps, "make_train_step", counting)
    train_and_evaluate(make_config(num_epochs=1), tmp_path / "one")
    of_one = len(traces)
    traces.clear()
    train_and_evaluate(make_config(num_epochs=5), tmp_path / "five")
    assert len(traces) == of_one
    assert of_one > 0


def test_evaluations_and_checkpoints_come_when_asked_and_at_the_end(tmp_path):
    config = make_config(
        num_epochs=7, eval_every=3, checkpoint_every=2, keep_checkpoints=9
    )
    train_and_evaluate(config, tmp_path)
    assert evaluated(tmp_path) == [3, 6, 7]
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {8, 16, 24, 28}


def test_a_line_of_metrics_has_the_coefficients_of_its_last_step(tmp_path):
    config = make_config(num_epochs=3)
    config.loss.q_start, config.loss.q_end, config.loss.per_epoch = 0.5, 2.0, False
    train_and_evaluate(config, tmp_path)
    schedule = dal_schedule(12, q_start=0.5, q_end=2.0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    for line, step in zip(map(json.loads, lines), (3, 7, 11), strict=True):
        found = line["q"], line["bootstrap_weight"]
        np.testing.assert_allclose(found, schedule(step), rtol=1e-6)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    config = make_config(num_epochs=5, checkpoint_every=1, keep_checkpoints=2)
    train_and_evaluate(config, tmp_path)
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {16, 20}


def test_the_best_by_noisy_validation_is_kept_as_well(tmp_path):
    config = make_config(num_epochs=6, checkpoint_every=1, keep_checkpoints=1)
    config.dataset.validation_fraction = 0.3
    config.dataset.train_size = 120
    train_and_evaluate(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    best = max(entry["validation_accuracy"] for entry in entries)
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert entries[-1]["step"] in saved
    accuracies = {e["step"]: e["validation_accuracy"] for e in entries}
    assert best in {accuracies[step] for step in saved}
    assert len(saved) <= 2


def test_what_is_said(tmp_path):
    said = []
    config = make_config(num_epochs=1)
    first = train_and_evaluate(config, tmp_path, say=said.append)
    assert len(said) == 1
    assert said.pop().startswith("training examples a class: 0 ")
    again = train_and_evaluate(config, tmp_path, say=said.append)
    assert said == [f"already finished; nothing changed in {tmp_path}"]
    assert again == first


def test_wrong_input_is_an_input_error_before_anything_is_written(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match="batch_size=101"):
        train_and_evaluate(make_config(batch_size=101), workdir)
    assert not workdir.exists()


def test_a_line_of_metrics_is_written_before_its_checkpoint(tmp_path, monkeypatch):
    """Else a run that is killed between them would go on without the line."""
    written = []
    append, save = Directory.append, Directory.save

    def append_noted(storage, entry):
        append(storage, entry)
        written.append(("line", entry["step"]))

    def save_noted(storage, step, *arguments):
        written.append(("checkpoint", step))
        save(storage, step, *arguments)

    monkeypatch.setattr(Directory, "append", append_noted)
    monkeypatch.setattr(Directory, "save", save_noted)
    train_and_evaluate(make_config(num_epochs=2, checkpoint_every=1), tmp_path)
    kinds = ("line", "checkpoint")
    assert written == [(kind, step) for step in (4, 8) for kind in kinds]
