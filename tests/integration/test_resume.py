"""A run that stops goes on where it stopped, as if nothing had been."""

import json
import shutil
import signal

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dal_jax.training.workdir import Workdir

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


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
    # As of each epoch's last step: q rises from 0.6 to 1.5 over 20 steps, and from the
    # moment at which it is 1 the weight to 1; the rate falls along a cosine.
    taken = np.array([4, 9, 14, 19]) / 20
    q = 0.6 + 0.9 * taken
    expected = {
        "q": q,
        "bootstrap_weight": np.maximum(0, (q - 1) / 0.5),
        "learning_rate": 0.05 * (1 + np.cos(np.pi * taken)) / 2,
    }
    for name, values in expected.items():
        found = [entry[name] for entry in entries]
        np.testing.assert_allclose(found, values, atol=1e-6, err_msg=name)
    losses = [entry["train_loss"] for entry in entries]
    assert losses[0] > losses[1]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test_accuracy_last"] == entries[-1]["test_accuracy"]
    # A whole number of the 500 test examples, and some of them are right.
    right = 500 * summary["test_accuracy_last"]
    assert right == pytest.approx(round(right))
    assert 0 < right < 500


def test_a_finished_run_says_so_and_changes_nothing(finished, command, small):
    before = contents(finished)
    outcome = command(f"--workdir={finished}", *small)
    assert outcome.status == 0
    assert outcome.err.splitlines() == [
        f"already finished; nothing changed in {finished}"
    ]
    assert "test accuracy" in outcome.out
    assert contents(finished) == before


def test_another_configuration_is_refused_by_its_fields(finished, command, small):
    before = contents(finished)
    outcome = command(
        f"--workdir={finished}", *small, "--config.noise.rate=0.2", "--config.seed=1"
    )
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    for word in ("noise.rate was 0.4, now 0.2", "seed was 0, now 1", "--overwrite"):
        assert word in outcome.err
    assert "batch_size" not in outcome.err
    assert contents(finished) == before


@pytest.fixture
def other(small):
    """The arguments of another run."""
    return (*small, "--config.noise.rate=0.2")


def test_overwrite_starts_anew(finished, command, check_same_run, other):
    outcome = command(f"--workdir={finished}", "--overwrite", *other)
    assert outcome.status == 0
    check_same_run(finished, *other)


def test_no_epochs_prepare_only_and_may_be_repeated(command, tmp_path, small):
    workdir = tmp_path / "run"
    arguments = (f"--workdir={workdir}", *small, "--config.num_epochs=0")
    outcome = command(*arguments)
    assert outcome.status == 0
    assert str(workdir / "noise.npz") in outcome.err
    assert outcome.out == ""
    files = {path.name for path in workdir.iterdir()}
    assert files - {".lock", ".dal_jax"} == {
        "config.json",
        "noise.npz",
        "preprocessing.json",
    }
    noise = (workdir / "noise.npz").read_bytes()
    assert command(*arguments).status == 0
    assert (workdir / "noise.npz").read_bytes() == noise
    refused = command(f"--workdir={workdir}", *small)
    assert refused.status == 2
    assert "num_epochs was 0, now 4" in refused.err


def test_the_prepared_noise_is_that_of_the_run(finished, command, tmp_path, small):
    workdir = tmp_path / "prepared"
    command(f"--workdir={workdir}", *small, "--config.num_epochs=0")
    prepared = (workdir / "noise.npz").read_bytes()
    assert prepared == (finished / "noise.npz").read_bytes()


def test_a_directory_of_other_files_is_refused(command, tmp_path, small):
    (tmp_path / "thesis.tex").write_text("mine")
    outcome = command(f"--workdir={tmp_path}", *small)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "thesis.tex" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_overwrite_leaves_other_files_alone(command, tmp_path, small):
    (tmp_path / "thesis.tex").write_text("mine")
    arguments = (*small, "--config.num_epochs=0", "--overwrite")
    assert command(f"--workdir={tmp_path}", *arguments).status == 0
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_second_run_at_the_same_time_is_refused(command, tmp_path, small):
    workdir = tmp_path / "run"
    with Workdir(workdir).locked():
        for more in ((), ("--overwrite",)):
            outcome = command(f"--workdir={workdir}", *small, *more)
            assert outcome.status == 2
            assert outcome.err.count("\n") == 1
            assert "in use by another run" in outcome.err
        assert {path.name for path in workdir.iterdir()} == {".lock"}
    assert command(f"--workdir={workdir}", *small, "--config.num_epochs=0").status == 0


def test_a_run_killed_before_its_first_file_may_begin_again(command, tmp_path, small):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.writing").write_text('{"seed"')
    arguments = (*small, "--config.num_epochs=0")
    assert command(f"--workdir={tmp_path}", *arguments).status == 0


def test_what_killed_writers_left_is_removed(command, tmp_path, small):
    arguments = (f"--workdir={tmp_path}", *small, "--config.num_epochs=0")
    assert command(*arguments).status == 0
    leftover = {".noise.npz.4711", ".noise.npz.1a2b.partial", "config.json.writing"}
    for name in (*leftover, ".noise.npz.mine"):
        (tmp_path / name).write_bytes(b"PK")
    assert command(*arguments).status == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & leftover
    assert ".noise.npz.mine" in left  # no run's


@pytest.mark.parametrize("damage", [b"", b'{"seed": ', b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_refused(damage, finished, command, small):
    (finished / "config.json").write_bytes(damage)
    before = contents(finished)
    outcome = command(f"--workdir={finished}", *small)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert str(finished / "config.json") in outcome.err
    assert "--overwrite" in outcome.err
    assert contents(finished) == before


def test_labels_that_have_changed_are_refused(command, tmp_path, signalled, small):
    labels, workdir = tmp_path / "labels.npy", tmp_path / "run"
    clean = load_digits().target
    wrong = np.arange(len(clean)) % 4 == 0
    np.save(labels, (clean + wrong) % 10)
    arguments = (
        f"--workdir={workdir}",
        *small,
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


def test_a_checkpoint_of_another_configuration_is_refused(
    stopped_at_12, command, tmp_path, reference, check_same_run, small, other
):
    """One that was copied here, say: its digest of the configuration tells."""
    stranger = stopped_at_12 / "checkpoints" / "20"
    shutil.copytree(reference(*other) / "checkpoints" / "20", stranger)
    before = contents(stopped_at_12)
    outcome = command(f"--workdir={stopped_at_12}", *small)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "checkpoint 20 in " in outcome.err
    assert "of a run with another configuration" in outcome.err
    assert contents(stopped_at_12) == before
    shutil.move(stranger, tmp_path / "elsewhere")
    outcome = command(f"--workdir={stopped_at_12}", *small)
    assert outcome.status == 0
    assert "going on at step 12 of 20" in outcome.err
    check_same_run(stopped_at_12, *small)
    # What goes on ends with a report of the whole run.
    assert f"see {stopped_at_12 / 'report.html'}" in outcome.out
    assert "test accuracy after 4 epochs" in (stopped_at_12 / "report.html").read_text()


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _data_files(checkpoint):
    """Returns the files that hold the arrays, the largest first."""
    files = [p for p in (checkpoint / "arrays").rglob("d/*") if p.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_a_damaged_checkpoint_is_passed_over(
    stopped_at_12, command, check_same_run, small
):
    _truncate(_data_files(stopped_at_12 / "checkpoints" / "12")[0])
    outcome = command(f"--workdir={stopped_at_12}", *small)
    assert outcome.status == 0
    said = [line for line in outcome.err.splitlines() if "checkpoint 12" in line]
    assert len(said) == 1
    assert said[0].startswith("checkpoint 12 is damaged (")
    assert "going on at step 10 of 20" in outcome.err
    check_same_run(stopped_at_12, *small)


def test_without_a_whole_checkpoint_the_run_stops(
    stopped_at_12, command, check_same_run, small
):
    metrics = (stopped_at_12 / "metrics.jsonl").read_bytes()
    for step in ("10", "12"):
        _truncate(_data_files(stopped_at_12 / "checkpoints" / step)[0])
    for first in (True, False):
        outcome = command(f"--workdir={stopped_at_12}", *small)
        assert outcome.status == 1
        assert ("checkpoint 12 is damaged" in outcome.err) == first
        assert ("checkpoint 10 is damaged" in outcome.err) == first
        assert "can be restored" in outcome.err.splitlines()[-1]
        assert (stopped_at_12 / "metrics.jsonl").read_bytes() == metrics
    damaged = stopped_at_12 / "damaged_checkpoints"
    assert {path.name for path in damaged.iterdir()} == {"12_0", "10_1"}
    assert command(f"--workdir={stopped_at_12}", *small, "--overwrite").status == 0
    check_same_run(stopped_at_12, *small)


def test_metrics_lines_beyond_the_checkpoint_are_removed(
    stopped_at_12, command, check_same_run, small
):
    with (stopped_at_12 / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 15, "train_loss": 9.0}\n{"epoch": 4, "st')
    assert command(f"--workdir={stopped_at_12}", *small).status == 0
    check_same_run(stopped_at_12, *small)
