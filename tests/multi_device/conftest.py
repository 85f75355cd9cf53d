import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_with_devices():
    """Runs code in a process of its own that has so many CPU devices.

    The number of devices is fixed once JAX has started, which pytest's process has.
    Returns what the code prints; an error in it fails the test with its traceback.
    """

    def run(code: str, num_devices: int) -> str:
        flag = f"--xla_force_host_platform_device_count={num_devices}"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
