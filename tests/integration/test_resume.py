"""A run that stops goes on where it stopped, as if nothing had been."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dal_jax.training import experiment as experiments
from dal_jax.training import summary
from dal_jax.training.workdir import Workdir

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

# 5 steps an epoch.
SMALL = (
    "--config.model.name=mlp",
    "--config.dataset.train_size=320",
    "--config.num_epochs=4",
    "--config.checkpoint_every=1",
)


@pytest.fixture
def finished(command, tmp_path):
    workdir = tmp_path / "reference"
    assert command(f"--workdir={workdir}", *SMALL).status == 0
    return workdir


@pytest.fixture
def signalled(monkeypatch):
    """Sends this process a signal in the middle of the n-th call of the device.

    Of the calls of the step, or of those of the evaluation of a split.
    """

    def arrange(number, call, of="step"):
        build, calls = experiments.build, []

        def with_signal(function):
            def called(*arguments):
                calls.append(None)
                if len(calls) == call:
                    os.kill(os.getpid(), number)
                return function(*arguments)

            return called

        def build_with_signal(config, prepared):
            experiment = build(config, prepared)
            runner = experiment.run_train
            if of == "step":
                runner = dataclasses.replace(runner, run=with_signal(runner.run))
                return dataclasses.replace(experiment, run_train=runner)
            evaluate = experiment.evaluations[of]

            def evaluate_with_signal(state, before_call):
                return evaluate(state, with_signal(before_call))

            evaluations = experiment.evaluations | {of: evaluate_with_signal}
            return dataclasses.replace(experiment, evaluations=evaluations)

        # One step a call, so that a call may end in the middle of an epoch.
        monkeypatch.setattr("dal_jax.training.feed._CALL_SECONDS", 0.0)
        monkeypatch.setattr(experiments, "build", build_with_signal)

    return arrange


def contents(workdir):
    return {
        path.relative_to(workdir): (path.stat().st_mtime_ns, path.read_bytes())
        for path in workdir.rglob("*")
        if path.is_file()
    }


def test_a_run_writes_what_is_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "noise.npz", "metrics.jsonl", "summary.json"} <= names
    config = json.loads((finished / "config.json").read_text())
    assert config["num_epochs"] == 4
    assert config["dataset"]["train_size"] == 320
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["step"] for entry in entries] == [5, 10, 15, 20]
    for name in ("q", "bootstrap_weight", "learning_rate", "train_loss"):
        assert all(np.isfinite(entry[name]) for entry in entries), name
    for name in ("test_accuracy", "memorized", "corrected"):
        assert all(0 <= entry[name] <= 1 for entry in entries), name
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test_accuracy_last"] == entries[-1]["test_accuracy"]


def test_a_finished_run_says_so_and_changes_nothing(finished, command):
    before = contents(finished)
    outcome = command(f"--workdir={finished}", *SMALL)
    assert outcome.status == 0
    assert outcome.err.splitlines() == [
        f"already finished; nothing changed in {finished}"
    ]
    assert "test accuracy" in outcome.out
    assert contents(finished) == before


def test_another_configuration_is_refused_by_its_fields(finished, command):
    before = contents(finished)
    outcome = command(
        f"--workdir={finished}", *SMALL, "--config.noise.rate=0.2", "--config.seed=1"
    )
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    for word in ("noise.rate was 0.4, now 0.2", "seed was 0, now 1", "--overwrite"):
        assert word in outcome.err
    assert "batch_size" not in outcome.err
    assert contents(finished) == before


def test_overwrite_starts_anew(finished, command, tmp_path, read_run, check_same_run):
    other = (*SMALL, "--config.noise.rate=0.2", "--config.num_epochs=2")
    outcome = command(f"--workdir={finished}", "--overwrite", *other)
    assert outcome.status == 0
    assert command(f"--workdir={tmp_path / 'fresh'}", *other).status == 0
    check_same_run(read_run(finished), read_run(tmp_path / "fresh"))


def test_no_epochs_prepare_only_and_may_be_repeated(command, tmp_path):
    workdir = tmp_path / "run"
    arguments = (f"--workdir={workdir}", *SMALL, "--config.num_epochs=0")
    outcome = command(*arguments)
    assert outcome.status == 0
    assert str(workdir / "noise.npz") in outcome.err
    assert outcome.out == ""
    files = {path.name for path in workdir.iterdir()}
    assert files - {".lock", ".dal_jax"} == {"config.json", "noise.npz"}
    noise = (workdir / "noise.npz").read_bytes()
    assert command(*arguments).status == 0
    assert (workdir / "noise.npz").read_bytes() == noise
    refused = command(f"--workdir={workdir}", *SMALL)
    assert refused.status == 2
    assert "num_epochs was 0, now 4" in refused.err


def test_the_prepared_noise_is_that_of_the_run(finished, command, tmp_path):
    workdir = tmp_path / "prepared"
    command(f"--workdir={workdir}", *SMALL, "--config.num_epochs=0")
    prepared = (workdir / "noise.npz").read_bytes()
    assert prepared == (finished / "noise.npz").read_bytes()


def test_a_directory_of_other_files_is_refused(command, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    outcome = command(f"--workdir={tmp_path}", *SMALL)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "thesis.tex" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_overwrite_leaves_other_files_alone(command, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    arguments = (*SMALL, "--config.num_epochs=0", "--overwrite")
    assert command(f"--workdir={tmp_path}", *arguments).status == 0
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_second_run_at_the_same_time_is_refused(command, tmp_path):
    workdir = tmp_path / "run"
    with Workdir(workdir).locked():
        for more in ((), ("--overwrite",)):
            outcome = command(f"--workdir={workdir}", *SMALL, *more)
            assert outcome.status == 2
            assert outcome.err.count("\n") == 1
            assert "in use by another run" in outcome.err
        assert {path.name for path in workdir.iterdir()} == {".lock"}
    assert command(f"--workdir={workdir}", *SMALL, "--config.num_epochs=0").status == 0


def test_a_run_killed_before_its_first_file_may_begin_again(command, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.writing").write_text('{"seed"')
    arguments = (*SMALL, "--config.num_epochs=0")
    assert command(f"--workdir={tmp_path}", *arguments).status == 0


def test_what_killed_writers_left_is_removed(command, tmp_path):
    arguments = (f"--workdir={tmp_path}", *SMALL, "--config.num_epochs=0")
    assert command(*arguments).status == 0
    leftover = {".noise.npz.4711", ".noise.npz.1a2b.partial", "config.json.writing"}
    for name in (*leftover, ".noise.npz.mine"):
        (tmp_path / name).write_bytes(b"PK")
    assert command(*arguments).status == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & leftover
    assert ".noise.npz.mine" in left  # no run's


@pytest.mark.parametrize("damage", [b"", b'{"seed": ', b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_refused(damage, finished, command):
    (finished / "config.json").write_bytes(damage)
    before = contents(finished)
    outcome = command(f"--workdir={finished}", *SMALL)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert str(finished / "config.json") in outcome.err
    assert "--overwrite" in outcome.err
    assert contents(finished) == before


def test_labels_that_have_changed_are_refused(command, tmp_path, signalled):
    labels, workdir = tmp_path / "labels.npy", tmp_path / "run"
    clean = load_digits().target
    wrong = np.arange(len(clean)) % 4 == 0
    np.save(labels, (clean + wrong) % 10)
    arguments = (
        f"--workdir={workdir}",
        *SMALL,
        "--config.noise.kind=file",
        f"--config.noise.path={labels}",
    )
    signalled(signal.SIGTERM, 7)
    assert command(*arguments).status == 143
    before = contents(workdir)
    np.save(labels, (clean + 2 * wrong) % 10)
    outcome = command(*arguments)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "noise.npz" in outcome.err
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("number", "call", "step"),
    [
        (signal.SIGTERM, 1, 1),
        (signal.SIGTERM, 8, 8),
        (signal.SIGINT, 10, 10),  # the last of an epoch, which is not evaluated yet
        (signal.SIGTERM, 19, 19),
        (signal.SIGTERM, 20, 20),  # the last of all
    ],
)
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(
    number, call, step, finished, command, signalled, tmp_path, read_run, check_same_run
):
    workdir = tmp_path / "run"
    signalled(number, call)
    outcome = command(f"--workdir={workdir}", *SMALL)
    assert outcome.status == 128 + number
    last = outcome.err.splitlines()[-1]
    assert last == (
        f"error: stopped at step {step} of 20 and saved; "
        "the same command goes on from here"
    )
    assert (workdir / "checkpoints" / str(step)).is_dir()
    assert not (workdir / "summary.json").exists()
    outcome = command(f"--workdir={workdir}", *SMALL)
    assert outcome.status == 0
    assert f"going on at step {step} of 20" in outcome.err
    check_same_run(read_run(workdir), read_run(finished))


@pytest.mark.parametrize(
    ("loss", "kept"), [("elr", "loss_memory"), ("nlnl", "opt_state")]
)
def test_what_a_loss_remembers_and_draws_goes_on(
    loss, kept, command, signalled, tmp_path, read_run, check_same_run
):
    arguments = (*SMALL, f"--config.loss.name={loss}")
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    assert command(f"--workdir={reference}", *arguments).status == 0
    signalled(signal.SIGTERM, 7)
    assert command(f"--workdir={workdir}", *arguments).status == 143
    assert command(f"--workdir={workdir}", *arguments).status == 0
    run = read_run(workdir)
    assert any(np.ptp(run.arrays[name]) > 0 for name in run.arrays if kept in name)
    check_same_run(run, read_run(reference))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_in_the_middle_of_an_epoch(
    workers, command, signalled, tmp_path, read_run, check_same_run
):
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = tmp_path / "images" / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < 320:
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    arguments = (
        "--config.model.name=mlp",
        "--config.num_epochs=3",
        "--config.dataset.name=folder",
        f"--config.dataset.train_path={tmp_path / 'images'}",
        "--config.dataset.storage=stream",
        f"--config.dataset.workers={workers}",
    )
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    assert command(f"--workdir={reference}", *arguments).status == 0
    signalled(signal.SIGTERM, 8)
    assert command(f"--workdir={workdir}", *arguments).status == 143
    outcome = command(f"--workdir={workdir}", *arguments)
    assert outcome.status == 0
    assert "going on at step 8 of 15" in outcome.err
    check_same_run(read_run(workdir), read_run(reference))


def test_a_checkpoint_of_another_configuration_is_refused(
    finished, stopped_at_12, command, tmp_path, read_run, check_same_run
):
    """One that was copied here, say: its digest of the configuration tells."""
    other = tmp_path / "other"
    assert command(f"--workdir={other}", *SMALL, "--config.seed=1").status == 0
    stranger = stopped_at_12 / "checkpoints" / "15"
    shutil.copytree(other / "checkpoints" / "15", stranger)
    before = contents(stopped_at_12)
    outcome = command(f"--workdir={stopped_at_12}", *SMALL)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "checkpoint 15 in " in outcome.err
    assert "of a run with another configuration" in outcome.err
    assert contents(stopped_at_12) == before
    shutil.move(stranger, tmp_path / "elsewhere")
    outcome = command(f"--workdir={stopped_at_12}", *SMALL)
    assert outcome.status == 0
    assert "going on at step 12 of 20" in outcome.err
    check_same_run(read_run(stopped_at_12), read_run(finished))


@pytest.mark.parametrize(("call", "step"), [(2, 4), (5, 9), (6, 10)])
def test_a_signal_between_programs_of_fixed_length(
    call, step, command, signalled, monkeypatch, tmp_path, read_run, check_same_run
):
    """As on GPU and TPU: an epoch of 5 steps is programs of 2, 2 and 1."""
    monkeypatch.setattr("dal_jax.training.feed.scans", lambda: True)
    monkeypatch.setattr("dal_jax.training.feed._MOST_ROWS", 2)
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    # On an otherwise quick machine a call is all of an epoch.
    assert command(f"--workdir={reference}", *SMALL).status == 0
    signalled(signal.SIGTERM, call)
    assert command(f"--workdir={workdir}", *SMALL).status == 143
    outcome = command(f"--workdir={workdir}", *SMALL)
    assert outcome.status == 0
    assert f"going on at step {step} of 20" in outcome.err
    check_same_run(read_run(workdir), read_run(reference))


# An evaluation of 320 training and 500 test examples, 100 in a call.
LONG_EVALUATION = (*SMALL, "--config.eval_batch_size=100")


@pytest.mark.parametrize(
    ("split", "call", "step"),
    [
        ("train", 1, 5),
        ("train", 4, 5),
        ("test", 9, 10),
        ("test", 18, 20),
    ],
)
def test_a_signal_during_an_evaluation_saves_and_the_evaluation_comes_later(
    split, call, step, command, signalled, tmp_path, read_run, check_same_run
):
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    assert command(f"--workdir={reference}", *LONG_EVALUATION).status == 0
    signalled(signal.SIGTERM, call, split)
    outcome = command(f"--workdir={workdir}", *LONG_EVALUATION)
    assert outcome.status == 143
    assert outcome.err.splitlines()[-1] == (
        f"error: stopped at step {step} of 20 and saved; "
        "the same command goes on from here"
    )
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == list(range(5, step, 5))
    assert (workdir / "checkpoints" / str(step)).is_dir()
    outcome = command(f"--workdir={workdir}", *LONG_EVALUATION)
    assert outcome.status == 0
    assert f"going on at step {step} of 20" in outcome.err
    check_same_run(read_run(workdir), read_run(reference))


def test_a_signal_after_all_is_evaluated_finds_the_run_finished(
    finished, command, monkeypatch, tmp_path, read_run, check_same_run
):
    append = Workdir.append_metrics

    def append_with_signal(files, entry):
        if entry["step"] == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        append(files, entry)

    monkeypatch.setattr(Workdir, "append_metrics", append_with_signal)
    assert command(f"--workdir={tmp_path / 'run'}", *SMALL).status == 0
    check_same_run(read_run(tmp_path / "run"), read_run(finished))


def test_a_signal_when_only_every_other_epoch_is_evaluated_and_the_best_is_kept(
    command, signalled, tmp_path, read_run, check_same_run
):
    arguments = (
        *SMALL,
        "--config.dataset.validation_fraction=0.2",
        "--config.eval_every=2",
        "--config.keep_checkpoints=1",
    )
    reference, workdir = tmp_path / "reference", tmp_path / "run"
    assert command(f"--workdir={reference}", *arguments).status == 0
    signalled(signal.SIGTERM, 6)
    assert command(f"--workdir={workdir}", *arguments).status == 143
    assert command(f"--workdir={workdir}", *arguments).status == 0
    run = read_run(workdir)
    assert [entry["epoch"] for entry in run.metrics] == [2, 4]
    assert all("validation_accuracy" in entry for entry in run.metrics)
    check_same_run(run, read_run(reference))


def test_the_best_is_kept_though_its_evaluation_was_cut_short(
    command, signalled, tmp_path, monkeypatch
):
    arguments = (
        *SMALL,
        "--config.dataset.validation_fraction=0.2",
        "--config.keep_checkpoints=1",
    )
    measure, accuracies = summary.accuracies, iter([0.9, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        summary,
        "accuracies",
        lambda sums: measure(sums) | {"validation_accuracy": next(accuracies)},
    )
    workdir = tmp_path / "run"
    signalled(signal.SIGTERM, 1, "train")
    assert command(f"--workdir={workdir}", *arguments).status == 143
    assert command(f"--workdir={workdir}", *arguments).status == 0
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {4, 16}


@pytest.fixture
def stopped_at_12(command, signalled, tmp_path):
    """A run with checkpoints at steps 10 and 12."""
    workdir = tmp_path / "run"
    signalled(signal.SIGTERM, 12)
    assert command(f"--workdir={workdir}", *SMALL).status == 143
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [10, 12]
    return workdir


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _empty(path):
    path.write_bytes(b"")


def _data_files(checkpoint):
    """Returns the files that hold the arrays, the largest first."""
    files = [p for p in (checkpoint / "arrays").rglob("d/*") if p.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty, os.remove])
def test_a_damaged_checkpoint_is_passed_over(
    damage, stopped_at_12, finished, command, read_run, check_same_run
):
    damage(_data_files(stopped_at_12 / "checkpoints" / "12")[0])
    outcome = command(f"--workdir={stopped_at_12}", *SMALL)
    assert outcome.status == 0
    said = [line for line in outcome.err.splitlines() if "checkpoint 12" in line]
    assert len(said) == 1
    assert said[0].startswith("checkpoint 12 is damaged (")
    assert "going on at step 10 of 20" in outcome.err
    check_same_run(read_run(stopped_at_12), read_run(finished))


def test_a_checkpoint_without_its_arrays_is_passed_over(
    stopped_at_12, finished, command, read_run, check_same_run
):
    shutil.rmtree(stopped_at_12 / "checkpoints" / "12" / "arrays")
    outcome = command(f"--workdir={stopped_at_12}", *SMALL)
    assert outcome.status == 0
    assert "going on at step 10 of 20" in outcome.err
    check_same_run(read_run(stopped_at_12), read_run(finished))


def test_without_a_whole_checkpoint_the_run_stops(
    stopped_at_12, finished, command, read_run, check_same_run
):
    metrics = (stopped_at_12 / "metrics.jsonl").read_bytes()
    for step in ("10", "12"):
        _truncate(_data_files(stopped_at_12 / "checkpoints" / step)[0])
    for first in (True, False):
        outcome = command(f"--workdir={stopped_at_12}", *SMALL)
        assert outcome.status == 1
        assert ("checkpoint 12 is damaged" in outcome.err) == first
        assert ("checkpoint 10 is damaged" in outcome.err) == first
        assert "can be restored" in outcome.err.splitlines()[-1]
        assert (stopped_at_12 / "metrics.jsonl").read_bytes() == metrics
    damaged = stopped_at_12 / "damaged_checkpoints"
    assert {path.name for path in damaged.iterdir()} == {"12_0", "10_1"}
    assert command(f"--workdir={stopped_at_12}", *SMALL, "--overwrite").status == 0
    check_same_run(read_run(stopped_at_12), read_run(finished))


@pytest.mark.parametrize(
    "tail",
    [
        b'{"epoch": 3, "step": 15, "train',  # torn
        b'{"epoch": 3, "step": 15, "train_loss": 9.0}\n',  # later than the checkpoint
        b"\x00\x00\x00",  # what some file systems leave after a crash
    ],
)
def test_a_metrics_line_beyond_the_checkpoint_is_removed(
    tail, stopped_at_12, finished, command, read_run, check_same_run
):
    with (stopped_at_12 / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert command(f"--workdir={stopped_at_12}", *SMALL).status == 0
    check_same_run(read_run(stopped_at_12), read_run(finished))
