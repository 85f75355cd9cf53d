"""The real command, stopped from outside: killed, signalled, out of room."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_five_kills_leave_no_trace(start_training, tmp_path, check_same_run, small):
    arguments = (*small, "--config.num_epochs=16", "--config.checkpoint_every=1")
    workdir = tmp_path / "run"

    def saving():
        return [*(workdir / "checkpoints").glob("*tmp*")]

    def evaluated():
        return len(lines(workdir / "metrics.jsonl"))

    for seconds in (0.0, 0.01, 0.02):
        process = start_training(f"--workdir={workdir}", *arguments)
        left = saving()
        process.wait_until(lambda left=left: set(saving()) - set(left))
        time.sleep(seconds)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    for seconds in (0.0, 0.05):
        process = start_training(f"--workdir={workdir}", *arguments)
        before = evaluated()
        process.wait_until(lambda before=before: evaluated() > before)
        time.sleep(seconds)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    process = start_training(f"--workdir={workdir}", *arguments)
    assert process.wait() == 0, process.err
    assert "going on at step" in process.err
    check_same_run(workdir, *arguments)


def test_signals_in_the_middle_of_an_epoch(
    start_training, command, tmp_path, check_same_run
):
    # 1,297 steps an epoch, and some epochs, so that a signal meets it in one.
    arguments = (
        "--config.model.name=mlp",
        "--config.model.hidden=16",
        "--config.batch_size=1",
        "--config.train_eval_size=0",
        "--config.num_epochs=10",
        "--config.optimizer.learning_rate=0.001",
    )
    workdir = tmp_path / "run"
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_training(f"--workdir={workdir}", *arguments)
        before = len(lines(workdir / "metrics.jsonl"))
        process.wait_until(
            lambda before=before: len(lines(workdir / "metrics.jsonl")) > before
        )
        process.send(signal.SIGSTOP)  # while another command tries its luck
        refused = command(f"--workdir={workdir}", *arguments)
        assert refused.status == 2
        assert "in use by another run" in refused.err
        process.send(signal.SIGCONT)
        process.send(number)
        assert process.wait() == 128 + number, process.err
        assert process.out == ""
        assert "Traceback" not in process.err
        last = process.err.splitlines()[-1]
        assert re.fullmatch(
            r"error: stopped at step \d+ of 12970 and saved; "
            "the same command goes on from here",
            last,
        )
    assert command(f"--workdir={workdir}", *arguments).status == 0
    check_same_run(workdir, *arguments)


# The training command that never ends what it does at one place: doing it call by call,
# or where Python cannot hear of a signal, as in a compiler.
STUCK = """
import ctypes, dataclasses, sys, time
from dal_jax import noise
from dal_jax.commands import train as command
from dal_jax.training import experiment, stopping

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
    noise.apply = lambda *arguments, **options: never_end()
else:
    build = experiment.build
    experiment.build = lambda *arguments: changed(build(*arguments))
command.main()
"""


@pytest.mark.parametrize(
    ("place", "way", "number", "line"),
    [
        ("noise", "busy", signal.SIGINT, "stopped while preparing"),
        ("noise", "deaf", signal.SIGTERM, "stopped while preparing"),
        ("first call", "deaf", signal.SIGINT, "stopped before the first step"),
        ("evaluation", "busy", signal.SIGINT, "stopped at step 5 of 20 and saved"),
        ("evaluation", "deaf", signal.SIGTERM, "stopped at step 5 of 20 and saved"),
    ],
)
def test_a_signal_is_answered_whatever_takes_long(
    place, way, number, line, start_training, command, tmp_path, check_same_run, small
):
    workdir = tmp_path / "run"
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    process = start_training(place, way, f"--workdir={workdir}", *small, script=script)
    process.wait_until(lambda: process.out == "here\n")
    process.send(number)
    assert process.wait() == 128 + number, process.err
    assert process.out == "here\n"
    assert "Traceback" not in process.err
    last = process.err.splitlines()[-1]
    assert last.startswith(f"error: {line}")
    assert "the same command" in last
    assert lines(workdir / "metrics.jsonl") == []
    outcome = command(f"--workdir={workdir}", *small)
    assert outcome.status == 0
    assert ("going on at step 5 of 20" in outcome.err) == ("and saved" in line)
    check_same_run(workdir, *small)


def test_a_full_disk_stops_in_one_line_and_the_last_checkpoint_is_whole(
    start_training, signalled, command, tmp_path, check_same_run, small
):
    workdir = tmp_path / "run"
    signalled(signal.SIGTERM, 7)
    assert command(f"--workdir={workdir}", *small).status == 143
    whole = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert whole == {"7"}
    # No file may grow beyond this, and none of a checkpoint's arrays is smaller.
    process = start_training(
        f"--workdir={workdir}", "--nocompilation_cache", *small, file_limit=12_000
    )
    assert process.wait() == 1, process.err
    assert process.out == ""
    said = [x for x in process.err.replace("\r", "\n").splitlines() if "%|" not in x]
    expected = ("training examples a class", "going on")
    errors = [line for line in said if line and not line.startswith(expected)]
    assert len(errors) == 1, process.err
    assert errors[0].startswith(f"error: cannot write to {workdir}")
    assert "goes on" in errors[0]
    left = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert whole <= left
    assert command(f"--workdir={workdir}", *small).status == 0
    check_same_run(workdir, *small)


def test_the_command_is_quiet_and_repeats_itself(run_training, tmp_path, small):
    def untimed(name):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        return {k: v for k, v in summary.items() if "second" not in k}

    # In a fresh process, with nothing of the tests' but the flags of the compiler.
    done = subprocess.run(
        [sys.executable, "train.py", f"--workdir={tmp_path / 'run'}", *small],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stderr.replace("\r", "\n").splitlines()
    assert shown[0].startswith("training examples a class: 0 ")
    assert all("%|" in line for line in shown[1:] if line), done.stderr
    assert "test accuracy, last epoch" in done.stdout
    assert str(tmp_path / "run") in done.stdout
    assert untimed("run")["epochs"] == 4
    assert list((tmp_path / "cache").rglob("*-cache"))
    # Again, with programs that were compiled before: the numbers do not move.
    outcome = run_training(f"--workdir={tmp_path / 'again'}", *small)
    assert outcome.status == 0, outcome.err
    assert untimed("again") == untimed("run")


def test_help_lists_the_fields(command):
    outcome = command("--help")
    assert outcome.status == 0
    for word in ("--workdir", "overwrite", "noise.rate", "optimizer.learning_rate"):
        assert word in outcome.out
