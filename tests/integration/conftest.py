"""The training command, in a process of its own or in this one."""

import contextlib
import dataclasses
import functools
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def start_training(start_script) -> Any:
    """Starts ``train.py`` in a process of its own."""

    def start(*arguments: str, script: Path = ROOT / "train.py", **options: Any) -> Any:
        return start_script(script, *arguments, **options)

    return start


@pytest.fixture
def run_training(start_training) -> Callable[..., Outcome]:
    """Runs ``train.py`` in a process of its own to its end."""

    def run(*arguments: str, **options: Any) -> Outcome:
        process = start_training(*arguments, **options)
        return Outcome(process.wait(), process.out, process.err)

    return run


@pytest.fixture(scope="session")
def command(compilation_cache) -> Callable[..., Outcome]:
    """Runs the training command in this process."""
    from dal_jax.commands.train import main

    def run(*arguments: str) -> Outcome:
        status, out, err = 0, io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
            # What ends the command at once must not end the tests.
            leaving = SimpleNamespace(_exit=sys.exit)
            patch.setattr("dal_jax.commands.train.os", leaving)
            try:
                main()
            except SystemExit as error:
                status = error.code or 0
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def reference(command, tmp_path_factory) -> Callable[..., Path]:
    """Returns a finished run that nothing has disturbed, the same for all who ask.

    Nobody may change it: see ``finished``.
    """
    known: dict[tuple[str, ...], Path] = {}

    def train(*arguments: str) -> Path:
        if arguments not in known:
            workdir = tmp_path_factory.mktemp("reference") / "run"
            outcome = command(f"--workdir={workdir}", *arguments)
            assert outcome.status == 0, outcome.err
            known[arguments] = workdir
        return known[arguments]

    return train


@pytest.fixture(scope="session")
def check_same_run(reference, read_run) -> Callable[..., None]:
    """Holds a run to the undisturbed one of the same arguments, bit for bit."""
    known: dict[tuple[str, ...], Any] = {}

    def check(workdir: Path, *arguments: str) -> None:
        if arguments not in known:
            known[arguments] = read_run(reference(*arguments))
        run, expected = read_run(workdir), known[arguments]
        assert run.metrics == expected.metrics
        assert run.summary == expected.summary
        assert run.arrays.keys() == expected.arrays.keys()
        assert any("params" in name for name in run.arrays)
        for name, values in expected.arrays.items():
            np.testing.assert_array_equal(run.arrays[name], values, err_msg=name)
        assert run.noise == expected.noise

    return check


@pytest.fixture
def signalled(monkeypatch) -> Callable[..., None]:
    """Sends this process a signal in the middle of the n-th call of the device.

    Of the calls of the step, or of those of the evaluation of a split.
    """
    return functools.partial(arrange_signal, monkeypatch)


def arrange_signal(
    patch: pytest.MonkeyPatch, number: int, call: int, of: str = "step"
) -> None:
    from dal_jax.training import experiment as experiments

    build, calls = experiments.build, []

    def with_signal(function):
        def called(*arguments):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return function(*arguments)

        return called

    def build_with_signal(*arguments):
        experiment = build(*arguments)
        runner = experiment.run_train
        if of == "step":
            runner = dataclasses.replace(runner, run=with_signal(runner.run))
            return dataclasses.replace(experiment, run_train=runner)
        evaluate = experiment.evaluations[of]

        def evaluate_with_signal(state, before_call):
            return evaluate(state, with_signal(before_call))

        evaluations = experiment.evaluations | {of: evaluate_with_signal}
        return dataclasses.replace(experiment, evaluations=evaluations)

    # However busy the machine is, nobody shall end the tests' own process.
    patch.setattr("dal_jax.training.stopping.PATIENCE", 600.0)
    # One step a call, so that a call may end in the middle of an epoch.
    patch.setattr("dal_jax.training.feed._CALL_SECONDS", 0.0)
    patch.setattr(experiments, "build", build_with_signal)


# 5 steps an epoch. The training images are not evaluated: a program less to compile.
SMALL = (
    "--config.model.name=mlp",
    "--config.model.hidden=64",
    "--config.dataset.train_size=320",
    "--config.train_eval_size=0",
    "--config.eval_batch_size=100",
    "--config.num_epochs=4",
    "--config.checkpoint_every=2",
)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """The arguments of a run of 4 epochs of 5 steps, with checkpoints at 10 and 20."""
    return SMALL


@pytest.fixture
def finished(reference, tmp_path) -> Path:
    """A finished run of the small configuration, to do with as one likes."""
    return shutil.copytree(reference(*SMALL), tmp_path / "finished")


@pytest.fixture(scope="session")
def _stopped_at_12(command, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        arrange_signal(patch, signal.SIGTERM, 12)
        assert command(f"--workdir={workdir}", *SMALL).status == 143
    return workdir


@pytest.fixture
def stopped_at_12(_stopped_at_12, tmp_path) -> Path:
    """A run of the small configuration with checkpoints at steps 10 and 12."""
    return shutil.copytree(_stopped_at_12, tmp_path / "run")
