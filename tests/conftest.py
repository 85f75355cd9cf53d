"""What all tests share: quick compilation, a cache and processes of their own."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Seconds after which a process that should have ended has hung.
PATIENCE = 240

# Programs here are small and run a few times: optimising them costs more than it saves.
_QUICK = "--xla_backend_optimization_level=0"
if _QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()
# Accelerators are not shared by the processes that tests run in and start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process and those that it starts a cache directory of their own.

    Not one for all of pytest's processes: JAX writes a compiled program in place, where
    another process may read half of it.
    """
    directory = tempfile.mkdtemp(prefix="dal_jax_tests_")
    os.environ["XDG_CACHE_HOME"] = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


@pytest.fixture(scope="session")
def compilation_cache() -> None:
    """Programs that this process compiles are kept for whoever compiles them again."""
    from dal_jax import cli

    cli.use_compilation_cache()


# Runs in the new process. What JAX and others do as Python exits is part of a script,
# and multiprocessing leaves it out.
_RUN = """
import atexit, os, resource, runpy, sys
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
os.chdir(root)
os.environ.update(environment)
if file_limit is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
sys.argv = argv
try:
    runpy.run_path(argv[0], run_name="__main__")
finally:
    atexit._run_exitfuncs()
"""


class Script:
    """A script in a process of its own."""

    def __init__(self, directory: Path, argv: list[str], **options: Any):
        self._out, self._err = directory / "out", directory / "err"
        given = {"out": str(self._out), "err": str(self._err), "argv": argv} | options
        self._process = _context().Process(target=exec, args=(_RUN, given))
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def send(self, number: int) -> None:
        """Sends a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Returns the exit status, once there is one."""
        self._process.join(seconds)
        assert self.status is not None, "still running"
        return self.status

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Waits for something that happens while the script runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.status is None, self.err
            assert time.monotonic() < end, self.err
            time.sleep(0.002)

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.join()


def _context() -> Any:
    # Forks processes that have imported everything already, and started nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dal_jax.recipe",
            "dal_jax.training.command",
            "jax.experimental.multihost_utils",
            "orbax.checkpoint",
            "sklearn.datasets",
        ]
    )
    return context


@pytest.fixture
def start_script(tmp_path_factory) -> Any:
    """Starts a Python script in a process of its own; what still runs is killed.

    The new process has everything imported that training needs, which takes a fresh one
    seconds, and is otherwise as a fresh one.
    """
    started: list[Script] = []

    def start(
        script: Path,
        *arguments: object,
        devices: int = 1,
        file_limit: int | None = None,
    ) -> Script:
        count = f"--xla_force_host_platform_device_count={devices}"
        process = Script(
            tmp_path_factory.mktemp("script"),
            [str(script), *map(str, arguments)],
            root=str(ROOT),
            environment={"XLA_FLAGS": f"{_QUICK} {count}"},
            file_limit=file_limit,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
