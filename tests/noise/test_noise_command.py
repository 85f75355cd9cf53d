"""``dal-jax noise``: what it writes, prints and refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dal_jax.commands.noise import describe, main
from dal_jax.noise import NoiseRecord
from dal_jax.noise.picture import save_picture

ROOT = Path(__file__).parents[2]
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
# ml_collections loads the config file in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["noise", DIGITS, *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_writes_the_labels_and_the_picture(command, tmp_path):
    out = tmp_path / "study" / "symmetric40"
    status, printed, errors = command(f"--out={out}", "--config.seed=3")
    assert (status, errors) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        "noise.npz",
        "transition_matrix.png",
    }
    record = NoiseRecord.load(out / "noise.npz")
    assert record.kind == "symmetric"
    assert record.noisy_labels.shape == (1297,)
    assert record.options == {"seed": 3}
    assert f"{100 * record.realised_rate:.3f} %" in printed
    assert str(out / "noise.npz") in printed
    assert (out / "transition_matrix.png").read_bytes().startswith(PNG)


def test_nothing_is_held_out_of_the_file(command, tmp_path):
    """So that the same labels fit any validation fraction."""
    whole, split = tmp_path / "whole", tmp_path / "split"
    command(f"--out={whole}")
    command(f"--out={split}", "--config.dataset.validation_fraction=0.2")
    assert (whole / "noise.npz").read_bytes() == (split / "noise.npz").read_bytes()


def test_the_record_can_be_given_back_as_a_file(command, tmp_path):
    command(f"--out={tmp_path / 'a'}", "--config.noise.kind=asymmetric")
    status, _, errors = command(
        f"--out={tmp_path / 'b'}",
        "--config.noise.kind=file",
        f"--config.noise.path={tmp_path / 'a' / 'noise.npz'}",
    )
    assert (status, errors) == (0, "")
    first = NoiseRecord.load(tmp_path / "a" / "noise.npz")
    second = NoiseRecord.load(tmp_path / "b" / "noise.npz")
    assert first.options["class_map"] == "digits"
    np.testing.assert_array_equal(first.noisy_labels, second.noisy_labels)
    np.testing.assert_array_equal(first.index, second.index)
    assert first.realised_rate == second.realised_rate


def test_overwrites_only_when_told(command, tmp_path):
    command(f"--out={tmp_path}")
    before = (tmp_path / "noise.npz").read_bytes()
    status, printed, errors = command(f"--out={tmp_path}", "--config.noise.rate=0.2")
    assert (status, printed) == (2, "")
    assert "already holds noise.npz and transition_matrix.png" in errors
    assert "--overwrite" in errors
    assert (tmp_path / "noise.npz").read_bytes() == before
    status, _, _ = command(
        f"--out={tmp_path}", "--config.noise.rate=0.2", "--overwrite"
    )
    assert status == 0
    assert NoiseRecord.load(tmp_path / "noise.npz").nominal_rate == 0.2


REFUSED = {
    "rate": (["--config.noise.rate=1.5"], "noise rate 1.5 is outside [0, 1]"),
    "kind": (["--config.noise.kind=symetric"], "did you mean 'symmetric'?"),
    "field": (["--config.noise.rat=0.4"], "did you mean 'noise.rate'?"),
    "map": (
        ["--config.noise.kind=asymmetric", "--config.noise.class_map=cifar100"],
        "'cifar100' is for 100 classes and the data set has 10",
    ),
    "file": (
        ["--config.noise.kind=file", "--config.noise.path=nowhere.npy"],
        "there is no file nowhere.npy",
    ),
    "seed": (["--config.noise.seed=-1"], "at least 0, got -1"),
    "no number": (["--config.noise.rate=nan"], "noise rate nan is outside [0, 1]"),
    "no matrix": (
        ["--config.noise.kind=transition_matrix", f"--config.noise.path={__file__}"],
        "cannot be read (no plain array of numpy is in it): expected numbers saved",
    ),
    "argument": (["stray"], "expected only --flags and overrides"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    command, tmp_path, arguments, message
):
    status, printed, errors = command(f"--out={tmp_path / 'out'}", *arguments)
    assert (status, printed) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_needs_somewhere_to_write(command, tmp_path):
    status, _, errors = command()
    assert status == 2
    assert "--out=DIR" in errors
    (tmp_path / "taken").write_text("")
    status, _, errors = command(f"--out={tmp_path / 'taken'}")
    assert status == 2
    assert "is a file" in errors


def test_as_a_command(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "dal_jax", "noise", f"--out={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1297 labels, noise symmetric" in done.stdout


def test_unknown_clean_labels_are_said_to_be_unknown():
    labels = np.array([0, 1])
    record = NoiseRecord.count(
        labels,
        None,
        np.arange(2),
        num_classes=2,
        nominal_rate=0.4,
        kind="symmetric",
        options={},
    )
    assert "not known how many are wrong" in describe(record)


@pytest.mark.parametrize(
    "names",
    [["$a$b", "c$"], ["猫", "собака"], ["x" * 300, "y"]],
    ids=["dollars", "scripts", "long"],
)
def test_any_class_name_can_be_drawn(tmp_path, names):
    labels = np.array([0, 1, 1])
    record = NoiseRecord.count(
        labels,
        np.array([0, 1, 0]),
        np.arange(3),
        num_classes=2,
        nominal_rate=float("nan"),
        kind="file",
        options={},
    )
    save_picture(record, tmp_path / "matrix.png", names)
    assert (tmp_path / "matrix.png").read_bytes().startswith(PNG)
    assert len(list(tmp_path.iterdir())) == 1
