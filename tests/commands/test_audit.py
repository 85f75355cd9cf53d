"""``dal-jax audit``: what it writes, keeps and refuses; labels to train on again."""

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dal_jax.analysis import rank_quality
from dal_jax.commands.audit import main
from dal_jax.config import (
    DatasetConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    TrainConfig,
)
from dal_jax.noise import NoiseRecord
from dal_jax.recipe import identity_of, ingredients, prepare
from dal_jax.training import fit

NAMES = ("naught", "one", "two", "three")
COLUMNS = "rank,index,name,given_label,suggested_label,score,is_issue,corrected_label"
WRITTEN = {"label_issues.csv", "audit.json", "label_issues.html"}


class Photos:
    """Digits as image files with a list, a fifth of its labels wrong, and a run."""

    def __init__(self, directory: Path):
        digits = load_digits(n_class=4)
        rng = np.random.default_rng(0)
        self.clean = digits.target[:300]
        moved = rng.random(300) < 0.2
        self.given = (self.clean + moved * rng.integers(1, 4, 300)) % 4
        self.paths = [str(directory / f"{i:03d}.png") for i in range(300)]
        for path, image in zip(self.paths, digits.images, strict=False):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
        rows = zip(self.paths, self.given, self.clean, strict=True)
        lines = [f"{path},{NAMES[y]},{NAMES[t]}" for path, y, t in rows]
        table = directory / "photos.csv"
        table.write_text("\n".join(["path,label,clean_label", *lines]))
        self.config = TrainConfig(
            dataset=DatasetConfig(
                name="list",
                train_path=str(table),
                channels=1,
                validation_fraction=0.1,
                cache_dir="",
            ),
            noise=NoiseConfig(kind="none"),
            loss=LossConfig("dal"),
            model=ModelConfig(name="mlp", hidden=(32,)),
            num_epochs=20,
            batch_size=30,
            eval_every=20,
            checkpoint_every=20,
            train_eval_size=0,
        )
        # The classes of a list are in alphabetical order.
        self.number = {name: k for k, name in enumerate(sorted(NAMES))}
        self.workdir = directory / "run"
        self.result = fit(
            **ingredients(self.config, prepare(self.config)),
            workdir=self.workdir,
            identity=identity_of(self.config),
        )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return Photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def workdir(photos, tmp_path):
    """A copy of the run, to change."""
    unneeded = shutil.ignore_patterns("checkpoints", *WRITTEN)
    shutil.copytree(photos.workdir, tmp_path / "run", ignore=unneeded)
    return tmp_path / "run"


@pytest.fixture
def audit(workdir, capsys):
    def run(*arguments, workdir=workdir):
        try:
            main(["dal-jax audit", f"--workdir={workdir}", *map(str, arguments)])
            status = 0
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def rows_of(workdir):
    text = (workdir / "label_issues.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    return list(csv.DictReader(io.StringIO(text)))


def correct(workdir, corrections, **dialect):
    """Fills in the last column as a person would, by rows from the top."""
    rows = rows_of(workdir)
    for row, label in corrections.items():
        rows[row]["corrected_label"] = label
    with (workdir / "label_issues.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS.split(","), **dialect)
        writer.writeheader()
        writer.writerows(reversed(rows))
    return rows


def test_writes_the_table_the_figures_and_the_page(photos, audit, workdir):
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    status, printed, errors = audit()
    assert (status, errors) == (0, "")
    after = {path.name: path.read_bytes() for path in workdir.iterdir()}
    assert after.keys() - before.keys() == WRITTEN
    assert before.items() <= after.items()

    rows, issues = rows_of(workdir), photos.result.label_issues()
    index = np.array([int(row["index"]) for row in rows])
    record = NoiseRecord.load(workdir / "noise.npz")
    np.testing.assert_array_equal(index, record.index[issues.order])
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 271)]
    assert [row["name"] for row in rows] == [photos.paths[i] for i in index]
    assert [row["given_label"] for row in rows] == [
        NAMES[photos.given[i]] for i in index
    ]
    suggested = [photos.number[row["suggested_label"]] for row in rows]
    np.testing.assert_array_equal(suggested, issues.suggested[issues.order])
    score = np.array([float(row["score"]) for row in rows])
    np.testing.assert_allclose(score, issues.score[issues.order], atol=1e-6)
    assert [int(row["is_issue"]) for row in rows] == [
        i < issues.num_issues for i in range(270)
    ]
    assert {row["corrected_label"] for row in rows} == {""}

    figures = json.loads((workdir / "audit.json").read_text())
    wrong = (photos.given != photos.clean)[index]
    found = rank_quality(-np.arange(270), wrong, issues.num_issues)
    assert figures["num_issues"] == issues.num_issues
    assert figures["class_names"] == sorted(NAMES)
    assert figures["auroc"] == pytest.approx(found.auroc, abs=1e-6)
    assert figures["average_precision"] == pytest.approx(
        found.average_precision, abs=1e-6
    )
    assert figures["precision_at_num_issues"] == pytest.approx(
        found.precision, abs=1e-6
    )
    np.testing.assert_allclose(
        figures["transition_matrix"], issues.transition_matrix, atol=1e-6
    )
    assert found.auroc > 0.9
    assert f"{issues.num_issues} of 270 labels are likely wrong" in printed


def test_the_page_shows_the_most_suspicious(audit, workdir):
    assert audit("--top=5")[0] == 0
    html = (workdir / "label_issues.html").read_text()
    rows = rows_of(workdir)
    for row in rows[:5]:
        assert f'id="rank-{row["rank"]}"' in html
        assert Path(row["name"]).name in html
    assert html.count("data:image/png;base64,") == html.count('<li class="card')
    assert html.count('<li class="card') <= 10
    assert f"--workdir={workdir} " in html
    assert "--config.noise.kind=file" in html
    assert "dal-jax train --config=" in html


def test_a_second_audit_writes_the_same(audit, workdir):
    audit()
    first = {name: (workdir / name).read_bytes() for name in WRITTEN}
    assert audit()[2] == ""
    assert first == {name: (workdir / name).read_bytes() for name in WRITTEN}


def test_a_changed_table_is_kept(audit, workdir):
    audit()
    correct(workdir, {0: "one"})
    before = (workdir / "label_issues.csv").read_bytes()
    status, _, errors = audit()
    assert status == 0
    assert "kept" in errors
    assert len(errors.splitlines()) == 1
    assert (workdir / "label_issues.csv").read_bytes() == before


@pytest.mark.parametrize("action", ["relabel", "remove"])
def test_labels_to_train_on_again(photos, audit, workdir, tmp_path, action):
    out = tmp_path / "labels.npy"
    status, printed, _ = audit(f"--write_labels={out}", f"--action={action}")
    assert status == 0
    assert str(out) in printed
    labels = np.load(out)
    issues = [row for row in rows_of(workdir) if row["is_issue"] == "1"]
    expected = np.array([photos.number[NAMES[y]] for y in photos.given])
    for row in issues:
        relabelled = photos.number[row["suggested_label"]]
        expected[int(row["index"])] = -1 if action == "remove" else relabelled
    np.testing.assert_array_equal(labels, expected)

    again = dataclasses.replace(
        photos.config, noise=NoiseConfig(kind="file", path=str(out))
    )
    prepared = prepare(again)
    used = np.concatenate([prepared.record.index, prepared.validation.index])
    np.testing.assert_array_equal(np.sort(used), np.flatnonzero(labels >= 0))
    assert len(prepared.train.inputs) == len(prepared.record.index)
    np.testing.assert_array_equal(prepared.train.labels, labels[prepared.train.index])
    np.testing.assert_array_equal(
        prepared.record.clean_labels, prepared.train.clean_labels
    )


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("action", ["corrected", "relabel"])
def test_what_a_person_corrected_counts(photos, audit, workdir, action, delimiter):
    audit()
    rows = correct(workdir, {0: "naught", 1: "-1", 269: "two"}, delimiter=delimiter)
    out = workdir.parent / "labels.npy"
    status, printed, _ = audit(f"--write_labels={out}", f"--action={action}")
    assert status == 0
    assert "3 labels by label_issues.csv" in printed
    labels = np.load(out)
    number = photos.number
    for place, row in enumerate(rows):
        label = number[row["given_label"]]
        if action == "relabel" and row["is_issue"] == "1":
            label = number[row["suggested_label"]]
        label = {0: number["naught"], 1: -1, 269: number["two"]}.get(place, label)
        assert labels[int(row["index"])] == label


def test_without_clean_labels_there_are_no_figures_of_them(audit, workdir):
    record = NoiseRecord.load(workdir / "noise.npz")
    dataclasses.replace(record, clean_labels=None).save(workdir / "noise.npz")
    assert audit()[0] == 0
    assert "auroc" not in json.loads((workdir / "audit.json").read_text())
    assert "AUROC" not in (workdir / "label_issues.html").read_text()


def test_without_the_data_there_are_no_pictures(photos, audit, workdir, tmp_path):
    values = json.loads((workdir / "config.json").read_text())
    values["dataset"]["train_path"] = str(tmp_path / "gone.csv")
    (workdir / "config.json").write_text(json.dumps(values))
    out = tmp_path / "labels.npy"
    status, _, errors = audit(f"--write_labels={out}", "--action=relabel")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "gone.csv" in errors
    assert not WRITTEN & {path.name for path in workdir.iterdir()}
    status, _, errors = audit()
    assert (status, len(errors.splitlines())) == (0, 1)
    assert "the page shows no inputs" in errors
    html = (workdir / "label_issues.html").read_text()
    assert "data:image" not in html
    # Names are the run's own.
    assert rows_of(workdir)[0]["name"] in photos.paths


def test_images_in_another_order_are_noticed(photos, audit, workdir, tmp_path):
    header, *lines = Path(photos.config.dataset.train_path).read_text().splitlines()
    table = tmp_path / "turned.csv"
    table.write_text("\n".join([header, *reversed(lines)]))
    values = json.loads((workdir / "config.json").read_text())
    values["dataset"]["train_path"] = str(table)
    (workdir / "config.json").write_text(json.dumps(values))
    status, _, errors = audit(f"--write_labels={tmp_path / 'x.npy'}", "--action=remove")
    assert status == 2
    assert "has changed since the run" in errors
    assert audit()[0] == 0
    assert "data:image" not in (workdir / "label_issues.html").read_text()


def test_a_run_of_objects(audit, workdir, tmp_path):
    (workdir / "config.json").write_text('{"objects": {}}')
    status, _, errors = audit()
    assert status == 0
    assert "arrays that a program held" in errors
    status, _, errors = audit(f"--write_labels={tmp_path / 'x.npy'}", "--action=remove")
    assert status == 2
    assert "FitResult.label_issues()" in errors


def _remove(name):
    return lambda workdir: (workdir / name).unlink()


def _cut(name):
    return lambda workdir: (workdir / name).write_bytes(
        (workdir / name).read_bytes()[:-500]
    )


def _claim(workdir):
    mark = json.loads((workdir / ".dal_jax").read_text())
    mark["names"].remove("label_issues.html")
    (workdir / ".dal_jax").write_text(json.dumps(mark))
    (workdir / "label_issues.html").write_text("somebody's")


def _table(text):
    return lambda workdir: (workdir / "label_issues.csv").write_text(text)


def _nothing(workdir):
    del workdir


LABELS = ["--write_labels=OUT.npy", "--action=relabel"]
REFUSED = {
    "no run": (_remove("config.json"), [], "holds no run"),
    "not finished": (_remove("summary.json"), [], "has not finished"),
    "an older run": (_remove("dynamics.npz"), [], "no dynamics.npz"),
    "damaged": (_cut("dynamics.npz"), [], "cannot be read"),
    "somebody's file": (_claim, [], "no run of this program wrote"),
    "action": (
        _nothing,
        ["--write_labels=OUT.npy", "--action=relable"],
        "did you mean 'relabel'?",
    ),
    "file alone": (_nothing, ["--write_labels=OUT.npy"], "go together"),
    "action alone": (_nothing, ["--action=remove"], "go together"),
    "top": (_nothing, ["--top=0"], "top"),
    "no npy": (_nothing, ["--write_labels=OUT.csv", "--action=remove"], ".npy"),
    "no directory": (
        _nothing,
        ["--write_labels=OUT/of/here.npy", "--action=remove"],
        "does not exist: expected one to write",
    ),
    "nothing corrected": (
        _nothing,
        ["--write_labels=OUT.npy", "--action=corrected"],
        "no corrected label",
    ),
    "no class": (
        _table("index,corrected_label\n3,\n2,dog\n"),
        LABELS,
        "line 3 has the corrected_label 'dog'",
    ),
    "no index": (_table("index,corrected_label\n900,one\n"), LABELS, "not in this run"),
    "twice": (_table("index,corrected_label\n2,one\n2,two\n"), LABELS, "twice"),
    "no column": (_table("a,b\n"), LABELS, "no column index"),
}


@pytest.mark.parametrize(
    ("change", "arguments", "words"), REFUSED.values(), ids=REFUSED
)
def test_bad_input_is_one_line_and_nothing_is_written(
    audit, workdir, tmp_path, change, arguments, words
):
    change(workdir)
    before = {path.name: path.read_bytes() for path in workdir.iterdir()}
    arguments = [part.replace("OUT", str(tmp_path / "out")) for part in arguments]
    status, printed, errors = audit(*arguments)
    assert (status, printed) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_output_that_exists_stays(audit, workdir, tmp_path):
    (tmp_path / "labels.npy").write_text("precious")
    status, _, errors = audit(
        f"--write_labels={tmp_path / 'labels.npy'}", "--action=relabel"
    )
    assert status == 2
    assert "exists" in errors
    assert (tmp_path / "labels.npy").read_text() == "precious"
    assert not WRITTEN & {path.name for path in workdir.iterdir()}


def test_a_workdir_that_is_not_there(audit, tmp_path):
    status, _, errors = audit(workdir=tmp_path / "nowhere")
    assert status == 2
    assert "holds no run" in errors
    assert not (tmp_path / "nowhere").exists()
