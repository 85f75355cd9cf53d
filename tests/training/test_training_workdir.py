"""A run's directory: what is another's is not touched, what is its own not lost."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dal_jax.errors import InputError
from dal_jax.noise import NoiseRecord
from dal_jax.training import workdir
from dal_jax.training.storing import StorageError
from dal_jax.training.workdir import Workdir

OF_0_1_0 = Path(__file__).parents[1] / "golden" / "run_0_1_0.zip"
IDENTITY = {"loss": {"name": "gce", "q": 0.7}, "noise": {"rate": 0.4}, "seed": 0}


def begin(path, identity=IDENTITY, defaults=IDENTITY, record=None, overwrite=False):
    files = Workdir(path)
    with files.locked():
        files.begin(identity, defaults, record, overwrite=overwrite)
    return files


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def visible(directory):
    return {path.name for path in directory.iterdir() if path.name[0] != "."}


def record(labels):
    return NoiseRecord.count(
        np.array(labels),
        np.zeros(len(labels), int),
        np.arange(len(labels)),
        num_classes=3,
        nominal_rate=0.4,
        kind="symmetric",
        options={},
    )


@pytest.fixture
def run(tmp_path):
    """A directory with all that a run leaves."""
    files = begin(tmp_path / "run", record=record([0, 1, 2]))
    (files.checkpoints / "4").mkdir(parents=True)
    (files.checkpoints / "4" / "arrays").write_bytes(b"\x01")
    files.append_metrics({"step": 4, "train_loss": 0.5})
    files.write_summary({"steps": 4})
    files.write_json("preprocessing.json", {"mean": [0.5]})
    return files.path


@pytest.fixture
def of_0_1_0(tmp_path):
    with zipfile.ZipFile(OF_0_1_0) as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


# What other programs write under the names that a run uses.
STRANGERS = {
    "a model": {"config.json": '{"architectures": ["ResNet"], "seed": 0}'},
    "a list": {"config.json": "[1, 2]"},
    "a torn one": {"config.json": '{"seed'},
    "checkpoints": {"checkpoints/500/_METADATA": "{}"},
    "both": {"config.json": '{"model": {}}', "checkpoints/500/_METADATA": "{}"},
    "figures": {"report.html": "<html>", "thesis.tex": "mine"},
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_strangers_directory_is_refused_and_left_alone(kind, overwrite, tmp_path):
    for name, text in STRANGERS[kind].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = contents(tmp_path)
    for attempt in (
        lambda: Workdir(tmp_path).check(IDENTITY, IDENTITY, overwrite=overwrite),
        lambda: Workdir(tmp_path).begin(IDENTITY, IDENTITY, None, overwrite=overwrite),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        line = str(caught.value)
        assert next(iter(STRANGERS[kind])).split("/")[0] in line
        assert "--overwrite" not in line
        assert "another --workdir" in line
    assert contents(tmp_path) == before


def test_overwrite_removes_a_run_and_nothing_else(run):
    (run / "thesis.tex").write_text("mine")
    other = IDENTITY | {"seed": 1}
    begin(run, other, record=record([2, 1, 0]), overwrite=True)
    assert visible(run) == {"config.json", "noise.npz", "thesis.tex"}
    assert json.loads((run / "config.json").read_text()) == other
    assert NoiseRecord.load(run / "noise.npz").noisy_labels.tolist() == [2, 1, 0]


def test_overwrite_knows_a_run_of_0_1_0_by_its_configuration(of_0_1_0):
    begin(of_0_1_0, overwrite=True)
    assert visible(of_0_1_0) == {"config.json"}


def test_a_name_that_0_1_0_did_not_write_is_a_strangers(of_0_1_0):
    (of_0_1_0 / "report.html").write_text("mine")
    before = contents(of_0_1_0)
    with pytest.raises(InputError, match=r"report\.html"):
        begin(of_0_1_0, overwrite=True)
    assert contents(of_0_1_0) == before
    # The run goes on, and leaves it alone.
    old = json.loads((of_0_1_0 / "config.json").read_text())
    files = begin(of_0_1_0, old, {})
    with pytest.raises(InputError, match=r"report\.html"):
        files.write_json("report.html", {})
    assert (of_0_1_0 / "report.html").read_text() == "mine"
    with pytest.raises(InputError, match=r"report\.html"):
        begin(of_0_1_0, overwrite=True)


@pytest.mark.parametrize("which", ["run", "of_0_1_0"])
@pytest.mark.parametrize("at", range(5))
def test_an_overwrite_that_is_killed_can_be_repeated(at, which, request, monkeypatch):
    path, steps = request.getfixturevalue(which), []
    sync = workdir.sync_directory

    def killed(directory):
        sync(directory)
        steps.append(None)
        if len(steps) > at:
            raise KeyboardInterrupt

    other = IDENTITY | {"seed": 1}
    with monkeypatch.context() as patch:
        patch.setattr(workdir, "sync_directory", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(path, other, overwrite=True)
    left = contents(path)
    # Without the flag nothing mixes with what is left.
    if visible(path):
        with pytest.raises(InputError, match="without its config"):
            begin(path, other)
        assert contents(path) == left
    begin(path, other, overwrite=True)
    assert visible(path) == {"config.json"}
    assert not Workdir(path).mark.has_checkpoints


def test_a_run_that_is_begun_anew_has_no_checkpoints_yet(run):
    Workdir(run).mark.note_checkpoint()
    begin(run)
    assert Workdir(run).mark.has_checkpoints
    begin(run, overwrite=True)
    assert not Workdir(run).mark.has_checkpoints


def test_a_copy_without_hidden_files_goes_on_and_is_the_runs(run):
    (run / ".dal_jax").unlink()
    (run / ".lock").unlink()
    before = contents(run)
    begin(run)
    after = contents(run)
    assert {name: after[name] for name in before} == before
    assert Workdir(run).mark.strangers() == ["preprocessing.json"]


def test_the_configuration_is_compared_field_by_field(run):
    given = {"loss": {"name": "gce", "q": 0.5}, "noise": {"rate": 0.4}, "seed": 1}
    before = contents(run)
    with pytest.raises(InputError) as caught:
        begin(run, given)
    line = str(caught.value)
    for words in ("loss.q was 0.7, now 0.5", "seed was 0, now 1", "--overwrite"):
        assert words in line
    assert "rate" not in line
    assert contents(run) == before


@pytest.mark.parametrize("value", [None, 7, (1, 2)])
def test_a_field_that_came_later_counts_as_its_default(value, run):
    later = IDENTITY | {"later": {"field": value}}
    before, digest = contents(run), Workdir(run).digest
    files = begin(run, later, defaults=later)
    after = contents(run)
    assert {name: after[name] for name in before} == before
    assert files.digest == digest
    with pytest.raises(InputError, match=r"later\.field was .*, now 8"):
        begin(run, IDENTITY | {"later": {"field": 8}}, defaults=later)


def test_a_hyperparameter_that_was_null_was_not_given(tmp_path):
    old = {"loss": {"name": "gce", "q": None, "beta": None}, "seed": 0}
    begin(tmp_path, old)
    begin(tmp_path, {"loss": {"name": "gce"}, "seed": 0}, {})
    with pytest.raises(InputError, match=r"loss\.q was None, now 0\.7"):
        begin(tmp_path, {"loss": {"name": "gce", "q": 0.7}, "seed": 0}, {})


def test_other_labels_are_refused(run):
    before = contents(run)
    with pytest.raises(InputError, match="noisy_labels"):
        begin(run, record=record([0, 1, 1]))
    assert contents(run) == before


@pytest.mark.parametrize(
    "tail",
    [
        b'{"step": 8, "train',
        b'{"step": 12}\n',
        b"\x00\x00\xff\xfe",
        b"[]\n",
        b"7",
    ],
)
def test_lines_that_are_torn_or_beyond_the_checkpoint_are_removed(tail, run):
    path = run / "metrics.jsonl"
    (run / "summary.json").unlink()
    line = path.read_bytes()
    path.write_bytes(line + tail)
    assert Workdir(run).read_metrics(8) == [{"step": 4, "train_loss": 0.5}]
    assert path.read_bytes() == line


def test_a_finished_run_keeps_its_lines_whichever_checkpoint_is_left(run):
    before = contents(run)
    assert Workdir(run).read_metrics(0) == [{"step": 4, "train_loss": 0.5}]
    assert contents(run) == before


def test_lines_that_are_whole_are_not_even_written_again(run):
    path = run / "metrics.jsonl"
    before = path.stat()
    assert len(Workdir(run).read_metrics(4)) == 1
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_a_full_disk_is_one_line_and_the_files_are_as_before(run, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (run / "summary.json").unlink()
    files, before = Workdir(run), contents(run)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for write in (
            lambda: files.write_summary({"steps": 8}),
            lambda: files.write_npz("dynamics.npz", {"margin": np.ones(3)}),
            lambda: files.read_metrics(0),
        ):
            with pytest.raises(StorageError) as caught:
                write()
            line = str(caught.value)
            assert line.startswith(f"cannot write to {run} (No space left on device)")
            assert "goes on from there" in line
    assert contents(run) == before
    files.write_npz("dynamics.npz", {"margin": np.ones(3)})
    with np.load(run / "dynamics.npz") as arrays:
        np.testing.assert_array_equal(arrays["margin"], np.ones(3))


def test_what_killed_writers_left_is_removed(run):
    leftover = ("..dal_jax.1a.partial", ".noise.npz.7", "config.json.writing")
    others = (".noise.npz.mine", "thesis.tex.writing", ".thesis.tex.1a.partial")
    for name in (*leftover, *others):
        (run / name).touch()
    begin(run)
    left = {path.name for path in run.iterdir()}
    assert left >= set(others)
    assert not left & set(leftover)


def test_a_run_killed_before_its_configuration_was_written_begins(tmp_path):
    begin(tmp_path)
    shutil.copy(tmp_path / "config.json", tmp_path / ".config.json.1a.partial")
    (tmp_path / "config.json").unlink()
    begin(tmp_path, IDENTITY | {"seed": 1})
    assert visible(tmp_path) == {"config.json"}
