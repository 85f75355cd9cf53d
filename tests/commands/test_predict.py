"""``dal-jax predict``: what it writes, names and refuses."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import dal_jax
from dal_jax.commands.predict import main
from dal_jax.data import digits

TEST = digits.load().test


@pytest.fixture
def command(trained, capsys):
    def run(**flags):
        arguments = {"workdir": trained} | flags
        argv = ["dal-jax predict", *(f"--{k}={v}" for k, v in arguments.items() if v)]
        status = 0
        try:
            main(argv)
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_predicted_with_the_accuracy_of_the_run(
    command, trained, test_images, tmp_path
):
    out = tmp_path / "predictions.csv"
    status, printed, errors = command(inputs=test_images, out=out)
    assert (status, errors) == (0, "")
    assert printed == f"wrote {out}: 500 of 500 inputs\n"
    lines = rows(out)
    assert list(lines[0]) == [
        *("name", "predicted", "probability"),
        *("class_2", "probability_2", "class_3", "probability_3"),
    ]
    assert [line["name"] for line in lines] == [
        f"part{i // 250}/{i:03d}.png" for i in range(500)
    ]
    right = [
        line["predicted"] == str(label)
        for line, label in zip(lines, TEST.labels, strict=True)
    ]
    summary = json.loads((trained / "summary.json").read_text())
    assert np.mean(right) == summary["test_accuracy_last"]


def test_a_line_holds_the_leading_classes_and_their_probabilities(
    command, trained, tmp_path
):
    np.save(tmp_path / "some.npy", TEST.inputs[:5])
    out = tmp_path / "predictions.csv"
    status, _, _ = command(
        inputs=tmp_path / "some.npy", out=out, checkpoint="best", top=99
    )
    assert status == 0
    probabilities = dal_jax.load(trained, "best").predict_proba(TEST.inputs[:5])
    for number, line in enumerate(rows(out)):
        assert line["name"] == str(number)
        classes = [line["predicted"], *(line[f"class_{i}"] for i in range(2, 11))]
        shares = [
            line["probability"],
            *(line[f"probability_{i}"] for i in range(2, 11)),
        ]
        order = np.argsort(-probabilities[number])
        assert classes == [str(c) for c in order]
        np.testing.assert_allclose(
            np.array(shares, float), probabilities[number][order], atol=1e-6
        )
    command(inputs=tmp_path / "some.npy", out=tmp_path / "one.csv", top=1)
    assert list(rows(tmp_path / "one.csv")[0]) == ["name", "predicted", "probability"]


def test_what_cannot_be_read_is_named_and_left_out(command, test_images, tmp_path):
    for name in ("000.png", "001.png"):
        shutil.copy(test_images / "part0" / name, tmp_path)
    (tmp_path / "0000.png").write_bytes(b"no image")
    Image.new("L", (9, 5)).save(tmp_path / "large.png")
    out = tmp_path / "predictions.csv"
    status, printed, errors = command(inputs=tmp_path, out=out)
    assert status == 3
    assert errors.splitlines() == [
        "left out 0000.png: not an image in a known format",
        "left out large.png: 9 x 5 pixels, expected 8 x 8",
    ]
    assert printed == f"wrote {out}: 2 of 4 inputs\n"
    assert [line["name"] for line in rows(out)] == ["000.png", "001.png"]


@pytest.fixture
def wrong(tmp_path):
    """Inputs that cannot be predicted from."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("file\na.png\n")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "other.npy", np.zeros((2, 6, 8, 1), np.uint8))
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "good.npy", TEST.inputs[:2])
    np.save(tmp_path / "none.npy", TEST.inputs[:0])
    np.save(tmp_path / "nan.npy", np.full((2, 8, 8, 1), np.nan, np.float32))
    (tmp_path / "zero.csv").write_bytes(b"path\na\0b.png\n")
    (tmp_path / "latin.csv").write_bytes("path\nö.png\n".encode("latin1"))
    os.mkfifo(tmp_path / "pipe.npy")
    return tmp_path


REFUSED = {
    "no out": ({"inputs": "good.npy", "out": ""}, "no --out"),
    "no folder": ({"inputs": "good.npy", "out": "a/b.csv"}, "a does not exist"),
    "no inputs": ({"inputs": ""}, "no --inputs"),
    "missing": ({"inputs": "missing"}, "no file or folder"),
    "empty": ({"inputs": "empty"}, "holds no image"),
    "unreadable": ({"inputs": "bad.png"}, "none of the inputs can be read"),
    "no list": ({"inputs": "list.csv"}, "expected a column path"),
    "no array": ({"inputs": "bad.npy"}, "does not load (no plain array of numpy"),
    "no rows": ({"inputs": "none.npy"}, "expected [N, ...] with at least one input"),
    "nan": ({"inputs": "nan.npy"}, "inputs are float32"),
    "no path": ({"inputs": "zero.csv"}, "embedded null byte"),
    "no UTF-8": ({"inputs": "latin.csv"}, "expected UTF-8 text"),
    "pipe": ({"inputs": "pipe.npy"}, "is no regular file"),
    "long": ({"inputs": "x" * 300}, "(File name too long): expected images"),
    "long out": ({"inputs": "good.npy", "out": "x" * 300}, "File name too long"),
    "out below a file": ({"inputs": "good.npy", "out": "bad.png/o"}, "does not exist"),
    "workdir a file": ({"inputs": "good.npy", "workdir": "bad.png"}, "is no run of"),
    "top": ({"inputs": "good.npy", "top": "-1"}, "expected a positive integer"),
    "shape": ({"inputs": "other.npy"}, "expected image files of 8 x 8 pixels or uint8"),
    "arrays": ({"inputs": "two.npz"}, "has the arrays a, b"),
    "workdir": ({"inputs": "good.npy", "workdir": "empty"}, "is no run of dal_jax"),
    "checkpoint": ({"inputs": "good.npy", "checkpoint": "bst"}, "did you mean 'best'"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(command, wrong, flags, message):
    flags = {"out": "out.csv"} | flags
    for name in ("inputs", "out", "workdir"):
        if flags.get(name):
            flags[name] = wrong / flags[name]
    before = sorted(wrong.rglob("*"))
    status, printed, errors = command(**flags)
    assert (status, printed) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert sorted(wrong.rglob("*")) == before


def test_nothing_is_overwritten(command, wrong):
    (wrong / "out.csv").write_text("mine")
    status, _, errors = command(inputs=wrong / "good.npy", out=wrong / "out.csv")
    assert status == 2
    assert "exists" in errors
    assert (wrong / "out.csv").read_text() == "mine"
