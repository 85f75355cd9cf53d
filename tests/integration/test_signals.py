"""A run that was asked to stop goes on where it stopped, as if nothing had been."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dal_jax.training import summary
from dal_jax.training.workdir import Workdir

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


@pytest.fixture
def stop_and_go_on(command, signalled, tmp_path):
    """Stops one run time and again, then lets it end; returns its directory.

    A stop is the signal, in which call of the device since the run began or went on, of
    what, and the step that the run must then be at.
    """

    def run(arguments, *stops, last=20):
        workdir, before = tmp_path / "run", None
        for number, call, of, step in stops:
            signalled(number, call, of)
            handlers = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
            outcome = command(f"--workdir={workdir}", *arguments)
            assert handlers == [
                signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)
            ]
            assert outcome.status == 128 + number, outcome.err
            said = outcome.err.splitlines()
            assert said[-1] == (
                f"error: stopped at step {step} of {last} and saved; "
                "the same command goes on from here"
            )
            assert before is None or f"going on at step {before} of {last}" in said
            assert (workdir / "checkpoints" / str(step)).is_dir()
            assert not (workdir / "summary.json").exists()
            lines = (workdir / "metrics.jsonl").read_text().splitlines()
            evaluated = step if of == "step" and step % 5 else step - 1
            assert [json.loads(line)["step"] for line in lines] == list(
                range(5, evaluated + 1, 5)
            )
            before = step
        outcome = command(f"--workdir={workdir}", *arguments)
        assert outcome.status == 0, outcome.err
        assert f"going on at step {before} of {last}" in outcome.err
        return workdir

    return run


@pytest.fixture
def evaluating_all(small):
    """The arguments of a run that evaluates the training examples as well.

    An evaluation is 4 calls for these and 5 for the test images.
    """
    return (*small, "--config.train_eval_size=320")


def test_signals_between_steps_and_during_evaluations(
    stop_and_go_on, evaluating_all, check_same_run
):
    workdir = stop_and_go_on(
        evaluating_all,
        (signal.SIGTERM, 1, "step", 1),
        (signal.SIGTERM, 1, "train", 5),
        (signal.SIGINT, 4, "test", 5),  # where it had stopped before
        (signal.SIGINT, 5, "step", 10),  # an epoch's last, which is not evaluated yet
        (signal.SIGTERM, 10, "step", 20),  # the last of all
    )
    check_same_run(workdir, *evaluating_all)


def test_signals_between_programs_of_fixed_length(
    stop_and_go_on, small, monkeypatch, reference, check_same_run
):
    """As on GPU and TPU: an epoch of 5 steps is programs of 2, 2 and 1."""
    monkeypatch.setattr("dal_jax.training.feed.scans", lambda: True)
    monkeypatch.setattr("dal_jax.training.feed._MOST_ROWS", 2)
    # A run of its own to compare with, which no other test asks for: undisturbed, and
    # on an otherwise quick machine, a call is all of an epoch.
    arguments = (*small, "--config.eval_batch_size=500")
    reference(*arguments)
    workdir = stop_and_go_on(arguments, (signal.SIGTERM, 5, "step", 9))
    check_same_run(workdir, *arguments)


@pytest.mark.parametrize(
    ("loss", "kept"), [("elr", "loss_memory"), ("nlnl", "opt_state")]
)
def test_what_a_loss_remembers_and_draws_goes_on(
    loss, kept, stop_and_go_on, small, read_run, check_same_run
):
    arguments = (*small, "--config.checkpoint_every=4", f"--config.loss.name={loss}")
    workdir = stop_and_go_on(arguments, (signal.SIGTERM, 7, "step", 7))
    arrays = read_run(workdir).arrays
    assert any(np.ptp(arrays[name]) > 0 for name in arrays if kept in name)
    check_same_run(workdir, *arguments)


def test_a_stream_goes_on_in_the_middle_of_an_epoch(
    stop_and_go_on, tmp_path, check_same_run
):
    digits = load_digits()
    for i in range(320):
        path = tmp_path / "images" / str(digits.target[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).save(path)
    arguments = (
        "--config.model.name=mlp",
        "--config.model.hidden=16",
        "--config.num_epochs=3",
        "--config.dataset.name=folder",
        f"--config.dataset.train_path={tmp_path / 'images'}",
        "--config.dataset.storage=stream",
    )
    workdir = stop_and_go_on(arguments, (signal.SIGTERM, 8, "step", 8), last=15)
    check_same_run(workdir, *arguments)


def test_a_signal_after_all_is_evaluated_finds_the_run_finished(
    command, monkeypatch, tmp_path, check_same_run, evaluating_all
):
    append = Workdir.append_metrics

    def append_with_signal(files, entry):
        if entry["step"] == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        append(files, entry)

    monkeypatch.setattr("dal_jax.training.stopping.PATIENCE", 600.0)
    monkeypatch.setattr(Workdir, "append_metrics", append_with_signal)
    assert command(f"--workdir={tmp_path / 'run'}", *evaluating_all).status == 0
    check_same_run(tmp_path / "run", *evaluating_all)


def test_a_signal_when_only_every_other_epoch_is_evaluated_and_the_best_is_kept(
    command, signalled, tmp_path, read_run, check_same_run, small
):
    arguments = (
        *small,
        "--config.dataset.validation_fraction=0.2",
        "--config.eval_every=2",
        "--config.checkpoint_every=1",
        "--config.keep_checkpoints=1",
    )
    workdir = tmp_path / "run"
    signalled(signal.SIGTERM, 6)
    assert command(f"--workdir={workdir}", *arguments).status == 143
    assert command(f"--workdir={workdir}", *arguments).status == 0
    metrics = read_run(workdir).metrics
    assert [entry["epoch"] for entry in metrics] == [2, 4]
    assert all("validation_accuracy" in entry for entry in metrics)
    check_same_run(workdir, *arguments)


def test_the_best_is_kept_though_its_evaluation_was_cut_short(
    command, signalled, tmp_path, monkeypatch, small
):
    arguments = (
        *small,
        "--config.dataset.validation_fraction=0.2",
        "--config.checkpoint_every=1",
        "--config.keep_checkpoints=1",
    )
    measure, accuracies = summary.accuracies, iter([0.9, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        summary,
        "accuracies",
        lambda sums: measure(sums) | {"validation_accuracy": next(accuracies)},
    )
    workdir = tmp_path / "run"
    signalled(signal.SIGTERM, 1, "validation")
    assert command(f"--workdir={workdir}", *arguments).status == 143
    assert command(f"--workdir={workdir}", *arguments).status == 0
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {4, 16}
