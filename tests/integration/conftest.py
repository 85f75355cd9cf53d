"""The training command, in a process of its own or in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# Seconds after which a command that should have ended has hung.
PATIENCE = 240


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def user_cache(tmp_path_factory) -> Path:
    """One directory of compiled programs for all tests and their processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return base / "user_cache"


@pytest.fixture
def environment(user_cache) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(user_cache),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_FLAGS": "",
    }


@pytest.fixture
def start_training(environment) -> Any:
    """Starts ``train.py`` in a process of its own; what still runs is killed."""
    started: list[subprocess.Popen] = []

    def start(
        *arguments: str,
        devices: int = 1,
        script: Path = ROOT / "train.py",
        **options: Any,
    ) -> subprocess.Popen:
        flags = f"--xla_force_host_platform_device_count={devices}"
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=ROOT,
            env=environment | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_training(start_training) -> Callable[..., Outcome]:
    """Runs ``train.py`` in a process of its own to its end."""

    def run(*arguments: str, **options: Any) -> Outcome:
        process = start_training(*arguments, **options)
        out, err = process.communicate(timeout=PATIENCE)
        return Outcome(process.returncode, out, err)

    return run


@pytest.fixture
def command(monkeypatch, capsys, user_cache) -> Callable[..., Outcome]:
    """Runs the training command in this process."""
    from dal_jax.training.command import main

    def run(*arguments: str) -> Outcome:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        # What ends the command at once must not end the tests.
        leaving = SimpleNamespace(_exit=sys.exit)
        monkeypatch.setattr("dal_jax.training.command.os", leaving)
        status = 0
        try:
            main("test")
        except SystemExit as error:
            status = error.code or 0
        printed = capsys.readouterr()
        return Outcome(status, printed.out, printed.err)

    return run


class Run(NamedTuple):
    """What a finished run left, without the fields that hold a time or a speed."""

    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    noise: bytes


def _untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if "second" not in key}


@pytest.fixture
def read_run() -> Callable[[Path], Run]:
    """Reads a run's results, the newest checkpoint's arrays among them."""

    def read(workdir: Path) -> Run:
        import orbax.checkpoint as ocp

        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(
                workdir / "checkpoints" / str(max(steps)) / "arrays"
            )
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return Run(
            [_untimed(json.loads(line)) for line in lines],
            _untimed(json.loads((workdir / "summary.json").read_text())),
            {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
            (workdir / "noise.npz").read_bytes(),
        )

    return read


@pytest.fixture
def check_same_run() -> Callable[[Run, Run], None]:
    """Holds two runs to the same results, bit for bit."""

    def check(run: Run, reference: Run) -> None:
        assert run.metrics == reference.metrics
        assert run.summary == reference.summary
        assert run.arrays.keys() == reference.arrays.keys()
        assert any("params" in name for name in run.arrays)
        for name, values in reference.arrays.items():
            np.testing.assert_array_equal(run.arrays[name], values, err_msg=name)
        assert run.noise == reference.noise

    return check
