"""What a measurement was made on: the machine, the versions, the command."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

CORES = len(os.sched_getaffinity(0))
# On one core, shared with others, the process's own time, which they do not lengthen.
clock = time.process_time if CORES == 1 else time.perf_counter

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def describe() -> dict[str, Any]:
    """Returns machine, versions, commit and command as plain values."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": CORES,
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "command": " ".join(["python", *sys.argv]),
    }


def markdown(description: dict[str, Any]) -> str:
    """Returns a description as a markdown list."""
    return "\n".join(f"- {k.replace('_', ' ')}: {v}" for k, v in description.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return next(named, platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
