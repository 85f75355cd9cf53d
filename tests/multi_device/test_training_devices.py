"""Training on many devices and in two processes ends where one device does."""

import json
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

SCRIPT = Path(__file__).with_name("train_cases.py")
QUICK, SLOW = ["cnn", "streamed"], ["mixed", "residual"]
# Each in two ways, and one with the classes shared as well.
RUNS = [(case, way) for case in QUICK for way in ("jit", "pmap")]
RUNS += [("cnn", "jit, classes shared by 2")]
RUNS += [
    pytest.param(case, way, marks=pytest.mark.slow)
    for case in SLOW
    for way in ("jit", "pmap")
]
# Sums in another order differ in the last bits, and steps make more of that.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where all runs of this file are written, and the images that some read."""
    out = tmp_path_factory.mktemp("devices")
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    for i in range(340):
        kind, name = "train" if i < 240 else "test", str(digits.target[i])
        path = out / "images" / kind / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    return out


@pytest.fixture(scope="module")
def trained(request, out, start_shared_script):
    """Every case that a test asks for, on 1 device, and on 4 in every way."""
    of_tests = (getattr(item, "callspec", None) for item in request.session.items)
    asked = {of_test.params.get("case") for of_test in of_tests if of_test}
    cases = ",".join(case for case in (*QUICK, *SLOW) if case in asked)
    scripts = [
        start_shared_script(
            SCRIPT, what, out / what, out / "images", cases, devices=devices
        )
        for what, devices in (("one", 1), ("many", 4))
    ]
    for script in scripts:
        assert script.wait() == 0, script.err
    return out


@pytest.fixture(scope="module")
def start_two(start_shared_script):
    """Starts a script twice, with two devices each, and tells both where to meet."""

    def start(script, *arguments, flags=("{}", "{}")):
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            address = f"localhost:{listener.getsockname()[1]}"
        meeting = [flag.format for flag in flags]
        return [
            start_shared_script(
                script, *arguments, meeting[0](address), meeting[1](i), devices=2
            )
            for i in range(2)
        ]

    return start


@pytest.fixture(scope="module")
def killed(out, start_two):
    """A run of two processes that was stopped, went on and was killed.

    Returns a copy of what the kill left, and the process that was not killed.
    """
    workdir = out / "two processes"
    metrics = workdir / "metrics.jsonl"

    def start():
        return start_two(
            SCRIPT,
            "command",
            f"--config={SCRIPT}",
            f"--workdir={workdir}",
            "--nocompilation_cache",
            "--num_processes=2",
            flags=("--coordinator={}", "--process_id={}"),
        )

    def evaluations():
        return metrics.read_text().count("\n") if metrics.exists() else 0

    pair = start()
    pair[0].wait_until(evaluations)
    pair[1].send(signal.SIGTERM)
    for process in pair:
        assert process.wait() == 143, process.err
        assert "error: stopped at step " in process.err
    evaluated = evaluations()
    pair = start()
    pair[0].wait_until(lambda: evaluations() > evaluated)
    pair[1].send(signal.SIGKILL)
    assert pair[1].wait() == -signal.SIGKILL
    pair[0].send(signal.SIGSTOP)
    left = shutil.copytree(workdir, out / "two" / "killed")
    pair[0].send(signal.SIGCONT)
    assert "going on at step" in pair[0].err
    assert not (left / "summary.json").exists()
    return left, pair[0]


@pytest.fixture(scope="module")
def two_said(killed, out, start_two):
    """What two processes said that were refused, stopped, and went on."""
    pair = start_two(SCRIPT, "two", out / "two", out / "images")
    for process in pair:
        assert process.wait() == 0, process.err
    # Where they meet, a library prints lines of its own, and pieces of lines.
    ours = ("refused: ", "stopped at ")
    return [
        [line for line in process.out.splitlines() if line.startswith(ours)]
        for process in pair
    ]


def largest_difference(run, reference):
    """Returns the largest difference of a parameter, relative to the largest one."""
    assert run.arrays.keys() == reference.arrays.keys()
    names = [name for name in reference.arrays if "params" in name]
    assert len(names) >= 4
    scale = max(np.abs(reference.arrays[name]).max() for name in names)
    pairs = ((run.arrays[name], reference.arrays[name]) for name in names)
    return max(np.abs(x - expected).max() for x, expected in pairs) / scale


def check_same(run, reference):
    assert largest_difference(run, reference) < TOLERANCE
    assert len(run.metrics) == len(reference.metrics)
    for entry, expected in zip(run.metrics, reference.metrics, strict=True):
        assert entry["step"] == expected["step"]
        assert entry["train_loss"] == pytest.approx(
            expected["train_loss"], rel=10 * TOLERANCE
        )
    assert run.noise == reference.noise


@pytest.mark.parametrize(("case", "way"), RUNS)
def test_four_devices_end_where_one_does(case, way, trained, read_run):
    reference = read_run(trained / "one" / f"{case}, jit")
    check_same(read_run(trained / "many" / f"{case}, {way}"), reference)


@pytest.mark.parametrize(
    ("case", "kept"),
    [
        pytest.param("residual", "model_state", marks=pytest.mark.slow),
        ("cnn", "loss_memory"),
    ],
)
def test_statistics_and_memories_are_those_of_the_global_batch(
    case, kept, trained, read_run
):
    reference = read_run(trained / "one" / f"{case}, jit").arrays
    names = [name for name in reference if kept in name]
    assert names
    for way in ("jit", "pmap"):
        arrays = read_run(trained / "many" / f"{case}, {way}").arrays
        for name in names:
            np.testing.assert_allclose(
                arrays[name], reference[name], rtol=1e-3, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize(("case", "way"), RUNS)
def test_what_is_seen_of_every_example_is_the_same_on_all_devices(
    case, way, trained, read_run
):
    reference = read_run(trained / "one" / f"{case}, jit").arrays
    found = read_run(trained / "many" / f"{case}, {way}").arrays
    gathered = [name for name in reference if "dynamics" in name]
    # The times that each example was seen, which is in every epoch, come first.
    (sums,) = [name for name in gathered if "sums" in name]
    assert reference[sums][..., 0].sum() >= reference[sums].shape[1]
    np.testing.assert_array_equal(found[sums][..., 0], reference[sums][..., 0])
    for name in gathered:
        if np.issubdtype(reference[name].dtype, np.floating):
            np.testing.assert_allclose(
                found[name], reference[name], rtol=1e-2, atol=1e-2, err_msg=name
            )


@pytest.mark.parametrize(("case", "way"), RUNS)
def test_what_is_predicted_of_every_test_example_is_the_same(case, way, trained):
    """For the report: each has a prediction, at its own place."""
    with (
        np.load(trained / "one" / f"{case}, jit" / "predictions.npz") as reference,
        np.load(trained / "many" / f"{case}, {way}" / "predictions.npz") as found,
    ):
        assert str(found["split"]) == "test"
        assert found["predicted"].min() >= 0
        for name in ("index", "label"):
            np.testing.assert_array_equal(found[name], reference[name])
        same = found["predicted"] == reference["predicted"]
        # Where two classes are as likely, the last bits decide.
        assert same.mean() >= 0.98
        np.testing.assert_allclose(
            found["probability"], reference["probability"], rtol=2e-2
        )
        # They differ by more than that.
        assert np.ptp(reference["probability"]) > 0.04 * reference["probability"].mean()


@pytest.mark.parametrize(
    "case", [*QUICK, pytest.param("mixed", marks=pytest.mark.slow)]
)
def test_training_changes_the_parameters_by_more_than_the_tolerance(
    case, trained, read_run
):
    """Else the comparisons above would hold for runs that do nothing."""
    first, *_, last = read_run(trained / "one" / f"{case}, jit").metrics
    assert abs(first["train_loss"] - last["train_loss"]) > 0.003


@pytest.mark.parametrize(
    ("case", "way"), [("cnn", "pmap"), ("streamed", "jit"), ("killed", "")]
)
def test_two_processes_that_were_stopped_end_where_one_does(
    case, way, trained, two_said, read_run
):
    name = f"{case}, {way}" if way else case
    check_same(read_run(trained / "two" / name), read_run(trained / "many" / name))


def test_two_processes_stop_together_when_one_is_asked(two_said):
    line = "stopped at step 3 of 16 and saved; the same command goes on from here"
    for said in two_said:
        assert said[1:] == [line, line]


def test_two_processes_refuse_together(two_said):
    first, second = (said[0] for said in two_said)
    assert first.startswith("refused: ")
    assert "0.png" in first
    assert second.startswith("refused: another process of this run failed or was")


def test_a_process_does_not_wait_for_a_killed_one_for_ever(killed, two_said):
    _, survivor = killed
    assert survivor.wait() != 0
    workdir = killed[0].parents[1] / "two processes"
    assert not (workdir / "summary.json").exists()
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
