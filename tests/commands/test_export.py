"""``dal-jax export``: files that run elsewhere and predict the same."""

import errno
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import dal_jax
from dal_jax.commands.export import main
from dal_jax.data import digits

IMAGES = digits.load().test.inputs[:70]


@pytest.fixture
def command(trained, capsys):
    def run(**flags):
        arguments = {"workdir": trained} | flags
        status = 0
        try:
            main(["dal-jax export", *(f"--{k}={v}" for k, v in arguments.items())])
        except SystemExit as error:
            status = error.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def expected(trained):
    return dal_jax.load(trained).predict_proba(IMAGES)


ELSEWHERE = """
import sys
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    run = export.deserialize(bytearray(file.read()))
images = np.load(sys.argv[2])
for count in (1, 7, 70):
    np.save(f"{sys.argv[3]}{count}.npy", run.call(images[:count]))
assert not [name for name in sys.modules if name.startswith(("dal_jax", "flax"))]
print(*run.platforms)
"""


def test_stablehlo_runs_in_a_process_without_the_package(command, expected, tmp_path):
    out = tmp_path / "digits.stablehlo"
    status, printed, errors = command(out=out)
    assert (status, errors) == (0, "")
    assert printed == f"wrote {out} and {out}.json\n"
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [out, tmp_path / "images.npy", tmp_path / "probabilities"]
    platforms = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert platforms.split() == ["cpu", "cuda", "tpu"]
    for count in (1, 7, 70):
        probabilities = np.load(tmp_path / f"probabilities{count}.npy")
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    described = json.loads((tmp_path / "digits.stablehlo.json").read_text())
    assert described["class_names"] == list("0123456789")
    assert described["input_shape"] == ["batch", 8, 8, 1]
    assert described["input_dtype"] == "uint8"


# Importing jax2onnx says that things of Flax are old.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_runs_in_onnxruntime(command, trained, expected, tmp_path, caplog):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "digits.onnx"
    status, _, _ = command(out=out, format="onnx", checkpoint="last")
    assert status == 0
    assert not caplog.records  # what jax2onnx has to say is of no use to a person
    session = onnxruntime.InferenceSession(out)
    for count in (1, 7, 70):
        (probabilities,) = session.run(["probabilities"], {"inputs": IMAGES[:count]})
        np.testing.assert_allclose(probabilities, expected[:count], atol=1e-5)
    described = json.loads((tmp_path / "digits.onnx.json").read_text())
    assert described["class_names"] == list("0123456789")
    # What was converted still computes here what it did before.
    after = dal_jax.load(trained).predict_proba(IMAGES)
    np.testing.assert_array_equal(after, expected)


def test_onnx_asks_for_the_extra_where_it_is_missing(command, monkeypatch, tmp_path):
    def missing(name, *arguments):
        raise ImportError(name)

    monkeypatch.setattr("dal_jax.export.importlib.import_module", missing)
    status, _, errors = command(out=tmp_path / "out", format="onnx")
    assert status == 2
    assert "pip install 'dal_jax[onnx]'" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnx_has_no_words_for_is_refused_in_a_line(
    command, monkeypatch, tmp_path
):
    def to_onnx(function, **options):
        raise NotImplementedError("no plugin\nfor eigh")

    stub = SimpleNamespace(to_onnx=to_onnx)
    monkeypatch.setattr("dal_jax.export._jax2onnx", lambda: stub)
    status, _, errors = command(out=tmp_path / "out", format="onnx")
    assert status == 2
    assert "NotImplementedError: no plugin for eigh" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_said_in_a_line(command, monkeypatch, tmp_path):
    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dal_jax.inference.write_atomically", full)
    status, _, errors = command(out=tmp_path / "out")
    assert status == 2
    assert "No space left on device" in errors
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "format": ({"format": "onx"}, "did you mean 'onnx'"),
    "workdir": ({"workdir": "."}, "is no run of dal_jax"),
    "no out": ({"out": ""}, "no --out"),
    "out below a file": ({"out": "there/o"}, "no directory there"),
    "long": ({"out": "x" * 300}, "File name too long"),
    "workdir a file": ({"workdir": "there"}, "is no run of dal_jax"),
    "argument": ({"top": "3"}, "Unknown command line flag 'top'"),
    "no folder": ({"out": "a/b"}, "no directory a"),
    "exists": ({"out": "there"}, "there exists"),
    "described": ({"out": "beside"}, "beside.json exists"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    command, monkeypatch, tmp_path, flags, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("there", "beside.json"):
        (tmp_path / name).write_text("mine")
    status, printed, errors = command(**({"out": "out"} | flags))
    assert (status, printed) == (2, "")
    assert message in errors
    assert len(errors.splitlines()) == 1
    content = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert content == {"there": "mine", "beside.json": "mine"}
