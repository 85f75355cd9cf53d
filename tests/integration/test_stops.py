"""The real command, stopped from outside: killed, signalled, out of room."""

import importlib.util
import json
import resource
import signal
import socket
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning"),
]


def wait_until(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def kills(monkeypatch, environment):
    """The benchmark that kills, with the tests' environment."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("JAX_PLATFORMS", "XDG_CACHE_HOME", "PYTHONPATH", "XLA_FLAGS"):
        monkeypatch.setenv(name, environment[name])
    spec = importlib.util.spec_from_file_location(
        "kills", ROOT / "benchmarks" / "kills.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_five_kills_leave_no_trace(
    kills, command, tmp_path, monkeypatch, read_run, check_same_run
):
    monkeypatch.setattr(kills, "MOMENTS", ("while saving", "after an evaluation"))
    arguments = ("--config.num_epochs=40", "--config.checkpoint_every=1")
    assert command(f"--workdir={tmp_path / 'reference'}", *arguments).status == 0
    trainer = kills.Trainer(tmp_path / "killed", 40, kills.random.Random(0))
    assert len(kills.kill(trainer, 5)) == 5
    check_same_run(read_run(tmp_path / "killed"), read_run(tmp_path / "reference"))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_in_the_middle_of_an_epoch(
    number, status, start_training, command, tmp_path, read_run, check_same_run
):
    # 1,297 steps an epoch; another run may not come in meanwhile.
    arguments = (
        "--config.model.name=mlp",
        "--config.batch_size=1",
        "--config.num_epochs=3",
        "--config.optimizer.learning_rate=0.001",
    )
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    # First, so that the command that is refused has nothing to import or to compile,
    # and meets the run in its few seconds.
    assert command(f"--workdir={reference}", *arguments).status == 0
    process = start_training(f"--workdir={workdir}", *arguments)
    wait_until((workdir / "metrics.jsonl").exists, process)
    refused = command(f"--workdir={workdir}", *arguments)
    assert refused.status == 2
    assert "in use by another run" in refused.err
    wait_until(lambda: (workdir / "metrics.jsonl").stat().st_size > 0, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("error: stopped at step ")
    assert last.endswith("the same command goes on from here")
    assert "Traceback" not in err
    assert command(f"--workdir={workdir}", *arguments).status == 0
    check_same_run(read_run(workdir), read_run(reference))


# The training command that never ends what it does at one place: doing it call by call,
# or where Python cannot hear of a signal, as in a compiler.
STUCK = """
import ctypes, dataclasses, sys, time
from dal_jax.training import command, experiment, prepare, stopping

place, way = sys.argv[1:3]
del sys.argv[1:3]
stopping.PATIENCE = 0.5

def never_end(before_call=lambda: time.sleep(0.01)):
    print("here", flush=True)
    while way == "busy":
        before_call()
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)

def changed(experiment):
    def run(*arguments):
        never_end()

    def evaluate(state, before_call):
        never_end(before_call)

    if place == "first call":
        runner = dataclasses.replace(experiment.run_train, run=run)
        return dataclasses.replace(experiment, run_train=runner)
    evaluations = experiment.evaluations | {"test": evaluate}
    return dataclasses.replace(experiment, evaluations=evaluations)

if place == "noise":
    prepare.noise.apply = lambda *arguments, **options: never_end()
else:
    build = experiment.build
    experiment.build = lambda *arguments: changed(build(*arguments))
command.main("test")
"""


@pytest.mark.parametrize(
    ("place", "way", "number", "line"),
    [
        ("noise", "busy", signal.SIGINT, "stopped while preparing"),
        ("noise", "deaf", signal.SIGTERM, "stopped while preparing"),
        ("first call", "deaf", signal.SIGINT, "stopped before the first step"),
        ("evaluation", "busy", signal.SIGINT, "stopped at step 5 of 15 and saved"),
        ("evaluation", "deaf", signal.SIGTERM, "stopped at step 5 of 15 and saved"),
    ],
)
def test_a_signal_is_answered_whatever_takes_long(
    place,
    way,
    number,
    line,
    start_training,
    command,
    tmp_path,
    read_run,
    check_same_run,
):
    arguments = (
        "--config.model.name=mlp",
        "--config.dataset.train_size=320",
        "--config.num_epochs=3",
    )
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    process = start_training(
        place, way, f"--workdir={workdir}", *arguments, script=script
    )
    assert process.stdout.readline() == "here\n"
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert time.monotonic() - began < 20
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {line}")
    assert "the same command" in last
    metrics = workdir / "metrics.jsonl"
    assert not metrics.exists() or metrics.read_text() == ""
    assert command(f"--workdir={workdir}", *arguments).status == 0
    assert command(f"--workdir={reference}", *arguments).status == 0
    check_same_run(read_run(workdir), read_run(reference))


def test_a_signal_to_one_of_two_processes_stops_both(start_training, tmp_path):
    workdir = tmp_path / "run"

    def start_two():
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        return [
            start_training(
                f"--workdir={workdir}",
                f"--coordinator=localhost:{port}",
                "--num_processes=2",
                f"--process_id={i}",
                "--nocompilation_cache",
                "--config.model.name=mlp",
                "--config.batch_size=8",
                "--config.num_epochs=12",
                "--config.dataset.train_size=320",
                "--config.dataset.test_size=40",
                devices=2,
            )
            for i in range(2)
        ]

    pair = start_two()
    wait_until((workdir / "metrics.jsonl").exists, pair[0])
    wait_until(lambda: (workdir / "metrics.jsonl").stat().st_size > 0, pair[0])
    pair[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=200)[1] for process in pair]
    assert [process.returncode for process in pair] == [143, 143], errors
    for err in errors:
        assert "error: stopped at step " in err
    pair = start_two()
    errors = [process.communicate(timeout=200)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    assert "going on at step" in errors[0]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 13))


def test_a_full_disk_stops_in_one_line_and_the_last_checkpoint_is_whole(
    start_training, command, tmp_path, read_run, check_same_run
):
    arguments = (
        "--config.model.name=mlp",
        "--config.model.hidden=64,64",
        "--config.dataset.train_size=320",
        "--config.checkpoint_every=1",
        "--config.num_epochs=200",
    )
    workdir, reference = tmp_path / "run", tmp_path / "reference"
    process = start_training(f"--workdir={workdir}", *arguments)
    wait_until((workdir / "checkpoints" / "5").exists, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == 143
    whole = {path.name for path in (workdir / "checkpoints").iterdir()}

    process = start_training(
        f"--workdir={workdir}", "--nocompilation_cache", *arguments
    )
    # No file may grow beyond this, and none of a checkpoint's arrays is smaller.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (12_000, 12_000))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert out == ""
    lines = [x for x in err.replace("\r", "\n").splitlines() if "%|" not in x]
    errors = [line for line in lines if line and not line.startswith("going on")]
    assert len(errors) == 1, err
    assert errors[0].startswith(f"error: cannot write to {workdir}")
    assert "goes on" in errors[0]
    left = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert whole <= left
    assert command(f"--workdir={workdir}", *arguments).status == 0
    assert command(f"--workdir={reference}", *arguments).status == 0
    check_same_run(read_run(workdir), read_run(reference))


def test_the_default_command_is_quiet(run_training, tmp_path):
    workdir = tmp_path / "run"
    outcome = run_training(f"--workdir={workdir}", "--config.num_epochs=2")
    assert outcome.status == 0, outcome.err
    shown = outcome.err.replace("\r", "\n").splitlines()
    assert all("%|" in line for line in shown if line), outcome.err
    assert "test accuracy, last epoch" in outcome.out
    assert str(workdir) in outcome.out
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["epochs"] == 2
    # The same again, from the compilation cache: the numbers do not move.
    again = tmp_path / "again"
    assert run_training(f"--workdir={again}", "--config.num_epochs=2").status == 0
    second = json.loads((again / "summary.json").read_text())
    timed = {key for key in summary if "second" in key}
    assert {k: v for k, v in summary.items() if k not in timed} == {
        k: v for k, v in second.items() if k not in timed
    }


def test_help_lists_the_fields(run_training):
    outcome = run_training("--help")
    assert outcome.status == 0
    for word in ("--workdir", "--overwrite", "noise.rate", "optimizer.learning_rate"):
        assert word in outcome.out
